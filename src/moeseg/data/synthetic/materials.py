"""What faces and ground look like close up: texture per pixel from metres on the surface.

Each texture takes the lit colour (N, 3) and returns it textured; nothing here knows of pixels. Not
here: light (`photo`), sky.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .camera import Array
from .ground import Zone
from .mesh import Material
from .weather import Weather, noise_tiles, sample


@dataclass(frozen=True, slots=True)
class Surface:
    """N pixels of faces of one material.

    Attributes:
        colour: (N, 3) lit colour.
        u: (N,) metres along the face's first edge.
        v: (N,) metres upwards from it.
        depth: (N,) metres from the lens.
        params: (N, 2) of the material.
        face: (N,) number of the face, to vary looks.
        weather: of the drive.
    """

    colour: Array
    u: Array
    v: Array
    depth: Array
    params: Array
    face: Array
    weather: Weather


def _fraction(x: Array) -> Array:
    return x - np.floor(x)


def _plain(at: Surface) -> Array:
    cloudy, _ = noise_tiles()
    return at.colour * (0.9 + 0.2 * sample(cloudy, at.u, at.v, 9.0))[:, None]


def _facade(at: Surface) -> Array:
    """Windows in a grid, doors and shop windows on the ground floor, ledges, stained plaster."""
    cloudy, grain = noise_tiles()
    column, storey = at.u / at.params[:, 0], at.v / at.params[:, 1]
    x, y = _fraction(column), _fraction(storey)
    cell = sample(grain, np.floor(column) * 7 + at.face * 3.7, np.floor(storey) * 5, 256.0)
    style = sample(grain, at.face * 11.3, at.face * 5.1, 256.0)
    plaster = 0.82 + 0.34 * sample(cloudy, at.u, at.v, 30.0) - 0.1 * (y < 0.05)
    colour = at.colour * plaster[:, None]
    ground = storey < 1
    half = np.where(ground & (style > 0.52), 0.4, 0.2 + 0.1 * style)
    low = np.where(ground & (style > 0.52), 0.12, 0.3)
    frame = (np.abs(x - 0.5) < half + 0.05) & (y > low - 0.06) & (y < 0.85)
    pane = (np.abs(x - 0.5) < half) & (y > low) & (y < 0.8) & (np.abs(x - 0.5) > 0.02)
    door = ground & (cell > 0.62) & (np.abs(x - 0.5) < 0.24) & (y < 0.74)
    colour[frame] = colour[frame] * 0.5 + 0.45 * np.array(at.weather.ambient)
    sky = np.array(at.weather.horizon)
    glass = 0.1 + (0.06 + 0.5 * np.maximum(cell - 0.5, 0) + 0.1 * y)[:, None] * sky
    lit = at.weather.lamps * (cell > 0.56)
    glass = glass + (0.75 * lit)[:, None] * np.array([0.95, 0.75, 0.4])
    colour[pane] = glass[pane]
    colour[door] = (at.colour * np.array([0.42, 0.32, 0.28]))[door]
    return colour


def _foliage(at: Surface) -> Array:
    """Clumps of leaves with dark gaps; coarser for wide crowns."""
    cloudy, grain = noise_tiles()
    size = np.where(at.params[:, 0] < 1.0, 16.0, 26.0)
    clumps = sample(cloudy, at.u + at.face * 3.1, at.v + at.face * 1.7, size)
    leaves = sample(grain, at.u, at.v, 26.0)
    detail = np.clip(40.0 / (at.depth + 1.0), 0.25, 1.0)
    strength = np.clip(0.25 + 1.15 * clumps + detail * 0.9 * (leaves - 0.5), 0.15, 1.7)
    return at.colour * strength[:, None]


def _roof(at: Surface) -> Array:
    cloudy, _ = noise_tiles()
    rows = 0.9 + 0.1 * (_fraction(at.v / 0.38) > 0.3)
    return at.colour * (rows * (0.75 + 0.5 * sample(cloudy, at.u, at.v, 20.0)))[:, None]


def _glass(at: Surface) -> Array:
    """Dark below, mirroring the sky towards the top."""
    shine = np.clip(0.12 + 0.5 * at.v, 0.05, 0.45)[:, None]
    return np.asarray(at.colour * (1 - shine) + shine * np.array(at.weather.horizon) * 0.75)


def _rail(at: Surface) -> Array:
    return at.colour * (0.72 + 0.3 * np.cos(at.v * (4 * np.pi / 0.34)))[:, None]


def _pleated(at: Surface) -> Array:
    """Tarpaulin with pleats and a band of lettering."""
    _, grain = noise_tiles()
    pleats = 0.94 + 0.06 * np.sin(2 * np.pi * at.u / at.params[:, 0])
    colour = at.colour * pleats[:, None]
    letters = sample(grain, np.floor(at.u * 2.2) + at.face, np.floor(at.v * 2.0), 256.0) > 0.42
    band = (at.v > 1.0) & (at.v < 1.9) & (at.u > 2.0) & letters
    light = at.colour.mean(axis=1) > 0.5
    colour[band & light] *= np.array([0.25, 0.35, 0.6])
    colour[band & ~light] += 0.45
    return colour


def _sign(at: Surface) -> Array:
    """A border and rows of text in white (or black on a light sign)."""
    _, grain = noise_tiles()
    width, height = at.params[:, 0], at.params[:, 1]
    margin = np.minimum(at.u, width - at.u)
    border = np.minimum(margin, np.minimum(at.v, height - at.v))
    row = at.v / height * 3.5
    written = sample(grain, np.floor(at.u * 4.0) + at.face * 9, np.floor(row) * 3, 256.0) > 0.45
    text = written & (np.abs(_fraction(row) - 0.5) < 0.2) & (margin > 0.13 * width)
    ink = ((border > 0.05) & (border < 0.12)) | text
    colour = at.colour.copy()
    light = at.colour.mean(axis=1) > 0.45
    colour[ink & ~light] = np.array(at.weather.ambient) * 0.95
    colour[ink & light] *= 0.15
    return colour


def _panels(at: Surface) -> Array:
    """Boards or slabs with joints, stained and each of its own tint."""
    cloudy, grain = noise_tiles()
    x, y = at.u / at.params[:, 0], at.v / at.params[:, 1]
    tint = sample(grain, np.floor(x) * 5 + at.face, np.floor(y) * 3, 256.0)
    joint = (_fraction(x) < 0.04) | (_fraction(y) < 0.05)
    stain = sample(cloudy, at.u, at.v * 0.3, 14.0)
    return at.colour * ((0.72 + 0.25 * tint + 0.3 * stain) * np.where(joint, 0.6, 1.0))[:, None]


TEXTURES: dict[Material, Callable[[Surface], Array]] = {
    Material.PLAIN: _plain,
    Material.FACADE: _facade,
    Material.FOLIAGE: _foliage,
    Material.ROOF: _roof,
    Material.GLASS: _glass,
    Material.RAIL: _rail,
    Material.PLEATED: _pleated,
    Material.SIGN: _sign,
    Material.PANELS: _panels,
}


def ground_texture(zone: Array, s: Array, d: Array, depth: Array) -> Array:
    """Return the brightness factor (N,) of ground pixels.

    Args:
        zone: (N,) `Zone`.
        s: (N,) metres along the road.
        d: (N,) metres to its right.
        depth: (N,) metres ahead of the camera.
    """
    cloudy, grain = noise_tiles()
    near = np.clip(14.0 / depth, 0.0, 1.0)
    patchy = sample(cloudy, d, s, 40.0)
    fine = sample(grain, d, s, 11.0) - 0.5
    factor = 0.8 + 0.4 * patchy + 0.28 * near * fine
    road = (zone == Zone.ASPHALT) | (zone == Zone.WORN_ASPHALT)
    seam = np.abs(sample(cloudy, d * 0.35, s * 0.1, 30.0) - 0.52) < 0.004
    factor = np.where(road & seam & (depth < 40), factor * 0.75, factor)
    grass = (zone == Zone.GRASS) | (zone == Zone.FIELD)
    tufts = 0.55 + 0.9 * sample(cloudy, d, s, 17.0) + 0.9 * near * fine
    furrow = 0.9 + 0.12 * np.sin(d * 4.0) * np.clip(60.0 / depth, 0, 1)
    factor = np.where(grass, tufts * np.where(zone == Zone.FIELD, furrow, 1.0), factor)
    for kind, length, width, joint in (
        (Zone.COBBLES, 0.2, 0.2, 0.62),
        (Zone.SIDEWALK, 0.5, 0.5, 0.8),
        (Zone.PARKING, 0.25, 0.25, 0.78),
        (Zone.CURB, 1.0, 10.0, 0.7),
    ):
        gap = (_fraction(s / length) < 0.14) | (_fraction(d / width) < 0.14)
        sharp = np.clip(20.0 * length / depth, 0, 1)
        factor = np.where((zone == kind) & gap, factor * (1 - (1 - joint) * sharp), factor)
    factor = np.where(zone == Zone.COBBLES, factor * (0.85 + 0.5 * fine + 0.15), factor)
    stripe = (zone == Zone.ZEBRA) & (_fraction(d) < 0.5)
    factor = np.where(stripe, factor * 2.2, factor)
    hatch = (zone == Zone.RESTRICTED) & (_fraction((d + s) / 3.0) < 0.3)
    return np.where(hatch, factor * 2.2, factor)
