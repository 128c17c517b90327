"""Light and weather of a drive, and the noise all textures are made from.

Colours are RGB in 0..1 as a display shows them. Not here: how they are applied (`photo`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
from scipy.ndimage import gaussian_filter

from .camera import Array
from .mesh import Colour

Kind = Literal["clear", "overcast", "fog", "rain", "dusk"]
ODDS: dict[Kind, float] = {"clear": 0.44, "overcast": 0.26, "fog": 0.08, "rain": 0.12, "dusk": 0.1}
"""How often a drive has which weather; sums to 1."""

_Look = tuple[Colour, Colour, Colour, Colour, tuple[float, float], float, float, float]

TILE = 256
"""Side of a noise tile in texels; tiles repeat."""


@dataclass(frozen=True, slots=True)
class Weather:
    """Light and weather.

    Attributes:
        kind: its name.
        sun: unit vector to the sun in the world (x right of heading 0, y up).
        sunlight: what the sun adds on a face turned to it.
        ambient: light from everywhere.
        zenith: colour of the sky overhead.
        horizon: colour of the sky at the horizon, and of haze.
        clouds: 0..1, how much of the sky is covered.
        visibility: metres after which haze takes 63 % of a colour.
        wetness: 0..1, how much the road mirrors.
        lamps: 0..1, how much lamps outshine daylight.
    """

    kind: Kind
    sun: tuple[float, float, float]
    sunlight: Colour
    ambient: Colour
    zenith: Colour
    horizon: Colour
    clouds: float
    visibility: float
    wetness: float
    lamps: float


def draw_weather(rng: np.random.Generator) -> Weather:
    """Draw a drive's weather."""
    kinds = list(ODDS)
    kind = kinds[int(rng.choice(len(kinds), p=list(ODDS.values())))]
    azimuth, jitter = float(rng.uniform(0, 2 * np.pi)), float(rng.uniform(0.9, 1.1))
    elevation = np.deg2rad(float(rng.uniform(6, 14) if kind == "dusk" else rng.uniform(22, 58)))
    sun = (
        float(np.cos(elevation) * np.sin(azimuth)),
        float(np.sin(elevation)),
        float(np.cos(elevation) * np.cos(azimuth)),
    )
    warm = float(rng.uniform(-0.05, 0.05))
    # sunlight, ambient, zenith, horizon, clouds, visibility in m, wetness, lamps
    looks: dict[Kind, _Look] = {
        "clear": ((0.62, 0.57, 0.48), (0.52, 0.56, 0.63), (0.27, 0.48, 0.76), (0.72, 0.82, 0.9),
                  (0.1, 0.85), 1400.0, 0.0, 0.1),
        "overcast": ((0.06, 0.06, 0.06), (0.84, 0.86, 0.88), (0.62, 0.66, 0.71), (0.84, 0.85, 0.86),
                     (0.8, 1.0), 900.0, 0.0, 0.15),
        "fog": ((0.0, 0.0, 0.0), (0.8, 0.82, 0.83), (0.74, 0.76, 0.78), (0.78, 0.8, 0.81),
                (1.0, 1.0), 110.0, 0.25, 0.5),
        "rain": ((0.0, 0.0, 0.0), (0.6, 0.63, 0.67), (0.47, 0.51, 0.56), (0.68, 0.71, 0.74),
                 (0.9, 1.0), 330.0, 0.85, 0.5),
        "dusk": ((0.46, 0.28, 0.15), (0.42, 0.41, 0.49), (0.22, 0.29, 0.47), (0.9, 0.62, 0.42),
                 (0.1, 0.7), 800.0, 0.0, 0.9),
    }  # fmt: skip
    sunlight, ambient, zenith, horizon, clouds, visibility, wetness, lamps = looks[kind]

    def tinted(colour: Colour, warmth: float) -> Colour:
        red, green, blue = colour
        return (red * jitter * (1 + warmth), green * jitter, blue * jitter * (1 - warmth))

    return Weather(
        kind,
        sun,
        tinted(sunlight, warm * 2),
        tinted(ambient, warm),
        tinted(zenith, 0.0),
        tinted(horizon, warm / 2),
        float(rng.uniform(*clouds)),
        visibility * float(rng.uniform(0.7, 1.4)),
        wetness,
        lamps,
    )


@cache
def noise_tiles() -> tuple[Array, Array]:
    """Return two repeating (TILE, TILE) float32 fields in 0..1: cloudy, and fine grain."""
    rng = np.random.default_rng(20310407)
    cloudy = np.zeros((TILE, TILE))
    for sigma in (1, 2, 4, 8, 16, 32):
        layer = gaussian_filter(rng.standard_normal((TILE, TILE)), sigma, mode="wrap")
        cloudy += layer / layer.std() * sigma**0.55
    grain = gaussian_filter(rng.standard_normal((TILE, TILE)), 0.6, mode="wrap")
    return _spread(cloudy), _spread(grain)


def _spread(field: Array) -> Array:
    """Shift and scale to mean 0.5, three standard deviations filling 0..1."""
    spread = np.clip(0.5 + (field - field.mean()) / (6 * field.std()), 0, 1)
    return np.asarray(spread, dtype=np.float32)


def sample(tile: Array, u: Array, v: Array, size: float | Array) -> Array:
    """Read a tile whose side covers `size` metres at (u, v) in metres, nearest texel."""
    scale = TILE / size
    column = (u * scale).astype(np.int32) & (TILE - 1)
    row = (v * scale).astype(np.int32) & (TILE - 1)
    return np.asarray(tile[row, column])
