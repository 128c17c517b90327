"""From numbers a pixel to a photo: light, shadows, sky, haze, wet road, lens and sensor.

Works at twice the picture's side and averages; `raster` says what is seen where. Not here: textures
(`materials`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from .camera import Array, Camera
from .ground import ZONE_COLOURS, Zone
from .materials import TEXTURES, Surface, ground_texture
from .mesh import Mesh
from .raster import FACES, GroundView, Planes
from .weather import TILE, Weather, noise_tiles

CAST_DEPTH = 0.85
"""Share of sunlight that a thrown shadow takes."""
CONTACT_DEPTH = 0.6
"""Share of all light missing under a car."""


@dataclass(frozen=True, slots=True)
class Sensor:
    """The imaging chain behind the lens.

    Attributes:
        exposure: factor on brightness.
        blur: standard deviation in pixels at 320 pixels of width.
        vignette: share of light lost in the corners.
        noise: standard deviation of shot noise at full brightness (0..1).
    """

    exposure: float
    blur: float
    vignette: float
    noise: float


def light_faces(mesh: Mesh, plane: Planes, weather: Weather, sun: Array) -> Array:
    """Return (F, 3) lit colours; `sun` is the (3,) unit vector to the sun in the level frame."""
    normal = plane.normal
    facing = normal @ sun
    facing = np.where(mesh.two_sided, np.abs(facing) * 0.6 + 0.2, np.maximum(facing, 0))
    upward = 0.8 + 0.2 * normal[:, 1]
    light = upward[:, None] * np.array(weather.ambient) + facing[:, None] * np.array(
        weather.sunlight
    )
    lit = mesh.colours * light
    glow = (mesh.glow * (0.35 + 0.65 * weather.lamps))[:, None]
    bright = np.minimum(mesh.colours * 1.35, 1.0)
    return np.asarray(np.maximum(lit, bright * glow))


def sky(camera: Camera, weather: Weather, bearing: float) -> Array:
    """Return the sky (H, W, 3) in all pixels of a picture; clouds lie on a plane overhead."""
    height, width = camera.size
    v, u = (np.arange(height) + 0.5)[:, None], (np.arange(width) + 0.5)[None, :]
    x, y, z = camera.slopes(u, v)
    length = np.sqrt(x * x + y * y + z * z)
    rise = np.clip(y / length, 0.0, 1.0)
    share = (1 - np.exp(-rise * 4.0))[..., None]
    colour = np.array(weather.horizon) * (1 - share) + np.array(weather.zenith) * share
    sin, cos = np.sin(bearing), np.cos(bearing)
    flat_x, flat_z = x * cos + z * sin, z * cos - x * sin
    overhead = 1.0 / (np.maximum(y, 0) + 0.07)
    cloudy, _ = noise_tiles()
    at = [(flat_z * overhead * 11.0) % TILE, (flat_x * overhead * 11.0) % TILE]
    field = map_coordinates(cloudy, at, order=1, mode="grid-wrap")
    cover = np.clip((field - 0.72 + 0.45 * weather.clouds) * 6.0, 0, 1) * np.clip(rise * 9, 0, 1)
    tone = np.clip(1.12 - 0.5 * (field - 0.4), 0.75, 1.1)
    cloud = np.array(weather.horizon) * (tone * (1.02 if weather.clouds < 0.7 else 0.93))[..., None]
    colour = colour + (cloud - colour) * (0.85 * cover)[..., None]
    sun = np.array(weather.sun)
    toward = (flat_x * sun[0] + y * sun[1] + flat_z * sun[2]) / length
    glare = np.exp((toward - 1) * 30.0)[..., None] * (1 - 0.8 * weather.clouds)
    return np.asarray(colour + glare * np.array(weather.sunlight) * 1.2, dtype=np.float32)


def shade(
    numbers: Array,
    order: Array,
    mesh: Mesh,
    plane: Planes,
    ground: GroundView,
    shadows: tuple[Array, Array],
    camera: Camera,
    weather: Weather,
    sun: Array,
    sky_colours: Array,
) -> Array:
    """Colour every pixel of the doubled picture.

    Args:
        numbers: (2H, 2W) what is seen (`raster`).
        order: painted faces in painting order.
        mesh: in the level frame.
        plane: its planes.
        ground: what lies behind the faces.
        shadows: cast and contact shadow, (H, W).
        camera: of the doubled picture.
        weather: of the drive.
        sun: (3,) unit vector to the sun in the level frame.
        sky_colours: (H, W, 3).

    Returns:
        (2H, 2W, 3) float, not yet clipped.
    """
    picture = sky_colours.repeat(2, axis=0).repeat(2, axis=1).astype(np.float32)
    haze = np.array(weather.horizon, dtype=np.float32)
    flat, seen = picture.reshape(-1, 3), numbers.reshape(-1)
    rays = ground.rays.reshape(-1, 3)

    here = np.flatnonzero((seen > Zone.SKYLINE) & (seen < FACES))
    zone, depth = seen[here], ground.depth.reshape(-1)[here]
    cast, contact = (_doubled(mask).reshape(-1)[here] for mask in shadows)
    texture = ground_texture(zone, ground.s.reshape(-1)[here], ground.d.reshape(-1)[here], depth)
    sunny = (1 - CAST_DEPTH * cast)[:, None] * np.array(weather.sunlight) * max(float(sun[1]), 0)
    light = (sunny + np.array(weather.ambient)) * (1 - CONTACT_DEPTH * contact)[:, None]
    paved = np.where(zone >= Zone.ASPHALT, 1 - 0.4 * weather.wetness, 1.0)
    colour = ZONE_COLOURS[zone] * (texture * paved)[:, None] * light
    flat[here] = _hazed(colour, depth, haze, weather)

    for backdrop, distance in ((Zone.HILLS, 600.0), (Zone.SKYLINE, 350.0)):
        here = np.flatnonzero(seen == backdrop)
        _, grain = noise_tiles()
        mottle = 0.75 + 0.5 * grain.reshape(-1)[(here * 7) % grain.size]
        lit = ZONE_COLOURS[backdrop] * (
            np.array(weather.ambient) + 0.3 * np.array(weather.sunlight)
        )
        flat[here] = _hazed(lit * mottle[:, None], np.full(len(here), distance), haze, weather)

    here = np.flatnonzero(seen >= FACES)
    face = order[seen[here] - FACES]
    lit = light_faces(mesh, plane, weather, sun).astype(np.float32)
    offset = plane.corner - np.array([0.0, camera.height, 0.0])
    up = np.cross(plane.along, plane.normal)
    distance = np.einsum("fk,fk->f", plane.normal, offset)
    material = mesh.materials[face]
    for kind, texture_of in TEXTURES.items():
        mine = np.flatnonzero(material == kind)
        if not len(mine):
            continue
        pixels, faces = here[mine], face[mine]
        ray = rays[pixels]
        slope = _dot(plane.normal[faces], ray)
        slope = np.where(np.abs(slope) < 1e-6, 1e-6, slope)
        depth = np.clip(distance[faces] / slope, 0.0, 600.0)
        start = offset[faces]
        hit = ray * depth[:, None] - start
        surface = Surface(
            colour=lit[faces],
            u=_dot(hit, plane.along[faces]),
            v=_dot(hit, up[faces]),
            depth=depth,
            params=mesh.params[faces],
            face=faces.astype(np.float64),
            weather=weather,
        )
        flat[pixels] = _hazed(texture_of(surface), depth, haze, weather)
    return picture


def _dot(a: Array, b: Array) -> Array:
    return np.asarray(a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1] + a[:, 2] * b[:, 2])


def _doubled(mask: Array) -> Array:
    return np.asarray(gaussian_filter(mask, 0.7).repeat(2, axis=0).repeat(2, axis=1))


def _hazed(colour: Array, depth: Array, haze: Array, weather: Weather) -> Array:
    """Mix the haze's colour in by exp(-depth / visibility)."""
    clear = np.exp(-depth / weather.visibility)[:, None]
    return np.asarray(colour * clear + haze * (1 - clear))


def average(doubled: Array) -> Array:
    """Average 2x2 pixels: (2H, 2W, 3) -> (H, W, 3)."""
    rows = doubled[0::2] + doubled[1::2]
    return np.asarray((rows[:, 0::2] + rows[:, 1::2]) * 0.25)


def mirror(picture: Array, paved: Array, camera: Camera, weather: Weather) -> Array:
    """Let a wet road mirror what stands over it.

    Args:
        picture: (H, W, 3).
        paved: (H, W) 0..1, where the road is seen.
        camera: of the picture.
        weather: of the drive.
    """
    height, width = camera.size
    row = np.arange(height)
    above = np.clip(np.round(2 * camera.horizon - row - 1), 0, height - 1).astype(np.int64)
    blurred = gaussian_filter(picture, (height / 60, width / 200, 0))
    depth = camera.height * camera.focal / np.maximum(row - camera.horizon, 1.0)
    share = weather.wetness * np.clip(0.1 + depth / 60.0, 0, 0.6)
    cloudy, _ = noise_tiles()
    ripple = 0.55 + 0.9 * cloudy[(row[:, None] * 3) % TILE, np.arange(width)[None, :] % TILE]
    weight = (paved * share[:, None] * ripple)[..., None]
    return np.asarray(picture * (1 - weight) + blurred[above] * weight)


def expose(picture: Array, sensor: Sensor, rng: np.random.Generator) -> Array:
    """Turn light into an 8-bit photo: vignette, blur, exposure, shot and read noise.

    Args:
        picture: (H, W, 3) light, about 0..1.
        sensor: the camera's.
        rng: for the noise of this frame.

    Returns:
        (H, W, 3) uint8.
    """
    height, width, _ = picture.shape
    y = (np.arange(height) + 0.5)[:, None] / height - 0.5
    x = (np.arange(width) + 0.5)[None, :] / width - 0.5
    fall = 1 - sensor.vignette * 2 * (x * x + y * y)
    light = gaussian_filter(picture, (sensor.blur * width / 320,) * 2 + (0,))
    light = np.clip(light * fall[..., None] * sensor.exposure, 0, None) ** 0.9
    light = light / (1 + np.maximum(light - 0.8, 0))  # soft shoulder of the highlights
    noise = rng.standard_normal(light.shape, dtype=np.float32)
    light = light + noise * (sensor.noise * (0.25 + np.sqrt(light)))
    return np.asarray(np.clip(light, 0, 1) * 255 + 0.5, dtype=np.uint8)
