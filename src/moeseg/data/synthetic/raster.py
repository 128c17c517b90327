"""From faces and ground to one number a pixel: what is seen there.

Numbers below `FACES` are ground zones, others faces in painting order, so that a higher number is
nearer or on top. Both label and photo are made from these numbers. Not here: colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .camera import NEAR, Array, Camera, clip_near
from .ground import Profile, Zone, zones_at
from .mesh import Mesh
from .road import RoadView
from .scene import Backdrop, Block
from .weather import noise_tiles, sample

FACES = 32
"""First number of a face."""
FAR = 260.0
"""Metres beyond which things are not drawn."""
_SHADOWS = 140.0  # metres beyond which nothing throws a shadow
_LIMIT = 8.0  # picture sizes beyond which projected corners are cut off


@dataclass(frozen=True, slots=True)
class Planes:
    """The planes of all faces in the level frame, (F, 3) each: a corner, u axis and normal."""

    corner: Array
    along: Array
    normal: Array


def planes(mesh: Mesh) -> Planes:
    """Return each face's plane from its first three corners."""
    start = np.concatenate([[0], np.cumsum(mesh.counts)[:-1]]).astype(np.int64)
    corner = mesh.vertices[start]
    along = mesh.vertices[start + 1] - corner
    other = mesh.vertices[start + 2] - corner
    return Planes(corner, _unit(along), _unit(np.cross(other, along)))


def _unit(vectors: Array) -> Array:
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(length, 1e-9))


def paint_faces(mesh: Mesh, plane: Planes, camera: Camera, reach: float) -> tuple[Array, Array]:
    """Paint faces from far to near.

    Args:
        mesh: in the level frame.
        plane: its planes.
        camera: of the picture to paint.
        reach: metres beyond which nothing is painted.

    Returns:
        (H, W) int32 with 0 where no face is and else 1 + position in the second array, which
        holds the painted faces' numbers in painting order.
    """
    height, width = camera.size
    lens = camera.to_lens(mesh.vertices)
    stop = np.cumsum(mesh.counts)
    start = stop - mesh.counts
    eye = np.array([0.0, camera.height, 0.0])
    to_eye = np.einsum("fk,fk->f", plane.normal, eye - plane.corner)
    away = np.hypot(mesh.anchors[:, 0], mesh.anchors[:, 2])[mesh.group]
    canvas = Image.new("I", (width, height))
    if not len(mesh.counts):
        return np.zeros((height, width), dtype=np.int32), np.zeros(0, dtype=np.int64)
    near = np.minimum.reduceat(lens[:, 2], start)
    far = np.maximum.reduceat(lens[:, 2], start)
    seen = (mesh.two_sided | (to_eye > 0)) & (far > NEAR) & (away < reach)
    pixels = camera.pixels(np.where(lens[:, 2:] > NEAR, lens, [0.0, 0.0, NEAR])) - 0.5
    whole = near >= NEAR
    for axis, size in ((0, width), (1, height)):
        low = np.minimum.reduceat(pixels[:, axis], start)
        high = np.maximum.reduceat(pixels[:, axis], start)
        seen &= ~whole | ((high > -0.5) & (low < size))
    chosen = np.flatnonzero(seen)
    order = chosen[np.argsort(-away[chosen], kind="stable")]
    pen = ImageDraw.Draw(canvas)
    bound = _LIMIT * max(height, width)
    pixels = np.clip(pixels, -bound, bound)
    for number, face in enumerate(order.tolist(), start=1):
        a, b = int(start[face]), int(stop[face])
        if whole[face]:
            outline = pixels[a:b]
        else:
            clipped = clip_near(lens[a:b])
            if len(clipped) < 3:
                continue
            outline = np.clip(camera.pixels(clipped) - 0.5, -bound, bound)
        pen.polygon(outline.ravel().tolist(), fill=number)
    return np.asarray(canvas, dtype=np.int32), order


@dataclass(frozen=True, slots=True)
class GroundView:
    """What lies behind all faces; (H, W) each.

    Attributes:
        zone: `ground.Zone`.
        s: metres along the road, where there is ground.
        d: metres to its right.
        depth: metres ahead.
        rays: (H, W, 3) level direction of each pixel's ray per metre of optical depth.
    """

    zone: Array
    s: Array
    d: Array
    depth: Array
    rays: Array


def look_at_ground(
    camera: Camera, road: RoadView, profile: Profile, blocks: list[Block], backdrop: Backdrop | None
) -> GroundView:
    """Find the zone of every pixel by inverse projection onto the ground plane."""
    height, width = camera.size
    v = (np.arange(height) + 0.5)[:, None]
    u = (np.arange(width) + 0.5)[None, :]
    x, y, z = camera.slopes(u, v)
    rays = np.empty((height, width, 3), dtype=np.float32)
    rays[..., 0], rays[..., 1], rays[..., 2] = x, y, z
    first = min(max(int(np.floor(camera.horizon + 0.5)) + 1, 0), height)
    zone = np.zeros((height, width), dtype=np.uint8)
    s, d, depth = (np.zeros((height, width), dtype=np.float32) for _ in range(3))
    if first < height:
        ground_x, ground_z = camera.ground(u, v[first:])
        along, across = road.locate(ground_x, ground_z)
        s[first:], d[first:], depth[first:] = along, across, ground_z
        patches = [patch for block in blocks for patch in block.patches]
        zone[first:] = zones_at(s[first:], d[first:], profile, patches)
    if backdrop:
        _add_backdrop(zone[:first], x, y[:first] / z[:first], road.bearing, backdrop)
    return GroundView(zone, s, d, depth, rays)


def _add_backdrop(zone: Array, x: Array, rise: Array, bearing: float, backdrop: Backdrop) -> None:
    """Draw wooded hills, or roofs before them, over the horizon; `rise` is (rows, 1)."""
    cloudy, grain = noise_tiles()
    azimuth = np.arctan(x) + bearing + 10.0  # (1, W) radians, kept positive
    hills = 0.012 + 0.09 * np.maximum(sample(cloudy, azimuth, 0 * azimuth, 2.0) - 0.3, 0)
    hills = hills + 0.012 * sample(grain, azimuth, 0 * azimuth, 2.0)
    zone[(rise < hills)] = Zone.HILLS
    if backdrop == "town":
        house = np.floor(azimuth * 36.0)
        roofs = 0.015 + 0.075 * sample(grain, house, 0 * house + 3.0, 256.0)
        zone[(rise < roofs)] = Zone.SKYLINE


def merge(numbers: Array) -> Array:
    """Take one number per 2x2 pixels (2H, 2W) -> (H, W): the nearest thing that fills half of it.

    That is the second largest of the four.
    """
    a, b = numbers[0::2, 0::2], numbers[0::2, 1::2]
    c, d = numbers[1::2, 0::2], numbers[1::2, 1::2]
    above, below = np.maximum(a, b), np.maximum(c, d)
    lesser = np.maximum(np.minimum(a, b), np.minimum(c, d))
    merged: Array = np.maximum(np.minimum(above, below), lesser)
    return merged


def shadow_masks(mesh: Mesh, camera: Camera, sun: Array, *, thrown: bool) -> tuple[Array, Array]:
    """Draw shadows on the ground: thrown by the sun, and the dark under things.

    Args:
        mesh: in the level frame.
        camera: of the picture.
        sun: (3,) unit vector to the sun in the level frame.
        thrown: whether the sun is strong enough to throw shadows.

    Returns:
        two (H, W) float32 arrays in 0..1.
    """
    near = mesh.casters[:, :, 2].max(axis=1, initial=-1.0)
    chosen = (near > 1.0) & (near < _SHADOWS)
    base, top = mesh.casters[chosen], mesh.heights[chosen]  # (K, 4, 3), (K,)
    low = base[:, 0, 1]
    level = base * [1.0, 0.0, 1.0]
    contact = _fill(camera, level[(low == 0) & (top < 5)])
    if not thrown:
        return np.zeros_like(contact), contact
    shift = -sun / max(float(sun[1]), 0.15) * [1.0, 0.0, 1.0]
    foot = level + low[:, None, None] * shift
    head = level + top[:, None, None] * shift
    # both ends and the four quads between them cover the shadow of a box
    sides = [
        np.stack([foot[:, i], foot[:, i - 1], head[:, i - 1], head[:, i]], 1) for i in range(4)
    ]
    return _fill(camera, np.concatenate([foot, head, *sides])), contact


def _fill(camera: Camera, quads: Array) -> Array:
    """Draw level quads (N, 4, 3) as ones into an (H, W) float32 mask."""
    height, width = camera.size
    mask = Image.new("L", (width, height))
    pen = ImageDraw.Draw(mask)
    bound = _LIMIT * max(camera.size)
    lens = camera.to_lens(quads.reshape(-1, 3)).reshape(-1, 4, 3)
    whole = (lens[..., 2] >= NEAR).all(axis=1)
    outlines = camera.pixels(lens[whole].reshape(-1, 3)).reshape(-1, 4, 2)
    clipped = [clip_near(quad) for quad in lens[~whole]]
    for outline in (*outlines, *(camera.pixels(quad) for quad in clipped if len(quad) >= 3)):
        pen.polygon(np.clip(outline - 0.5, -bound, bound).ravel().tolist(), fill=1)
    return np.asarray(mask, dtype=np.float32)
