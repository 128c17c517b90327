"""What the ground is at each point: zones, their labels and their look.

A `Profile` is a cross-section (bands of d) plus crossings, zebras, arrows ... at given s. Zones
are painted in order, later over earlier. Not here: things that stand on the ground.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from .camera import Array
from .colours import CLASS_INDEX


class Zone(IntEnum):
    """What a pixel shows where no face covers it; a higher number wins when pixels are merged."""

    SKY = 0
    HILLS = 1
    SKYLINE = 2
    FIELD = 3
    GRASS = 4
    ASPHALT = 5
    WORN_ASPHALT = 6
    COBBLES = 7
    PARKING = 8
    SIDEWALK = 9
    ISLAND = 10
    RESTRICTED = 11
    CURB = 12
    ZEBRA = 13
    DASHED = 14
    SOLID = 15
    ARROW = 16


ZONE_LOOKS: dict[Zone, tuple[str, tuple[float, float, float]]] = {
    Zone.SKY: ("Sky", (0.6, 0.7, 0.85)),
    Zone.HILLS: ("Nature object", (0.24, 0.32, 0.2)),
    Zone.SKYLINE: ("Buildings", (0.5, 0.47, 0.45)),
    Zone.FIELD: ("Nature object", (0.55, 0.47, 0.28)),
    Zone.GRASS: ("Nature object", (0.38, 0.44, 0.2)),
    Zone.ASPHALT: ("RD normal street", (0.43, 0.43, 0.435)),
    Zone.WORN_ASPHALT: ("RD normal street", (0.5, 0.495, 0.48)),
    Zone.COBBLES: ("Drivable cobblestone", (0.46, 0.44, 0.42)),
    Zone.PARKING: ("Parking area", (0.46, 0.44, 0.42)),
    Zone.SIDEWALK: ("Sidewalk", (0.62, 0.6, 0.57)),
    Zone.ISLAND: ("Non-drivable street", (0.5, 0.48, 0.45)),
    Zone.RESTRICTED: ("RD restricted area", (0.43, 0.43, 0.43)),
    Zone.CURB: ("Curbstone", (0.66, 0.65, 0.62)),
    Zone.ZEBRA: ("Zebra crossing", (0.43, 0.43, 0.43)),
    Zone.DASHED: ("Dashed line", (0.85, 0.85, 0.82)),
    Zone.SOLID: ("Solid line", (0.85, 0.85, 0.82)),
    Zone.ARROW: ("Painted driv. instr.", (0.82, 0.82, 0.8)),
}
"""Label class and base colour (RGB 0..1) of each zone."""

ZONE_LABELS = np.array([CLASS_INDEX[ZONE_LOOKS[zone][0]] for zone in Zone])
"""(zones,) position in `colours.CLASS_NAMES`."""

ZONE_COLOURS = np.array([ZONE_LOOKS[zone][1] for zone in Zone])
"""(zones, 3) RGB in 0..1."""


@dataclass(frozen=True, slots=True)
class Band:
    """A zone between two lateral offsets in metres, over all s."""

    start: float
    end: float
    zone: Zone


@dataclass(frozen=True, slots=True)
class Dashes:
    """A broken line at d with marks of `mark` metres every `period` metres."""

    d: float
    width: float
    mark: float
    period: float


@dataclass(frozen=True, slots=True)
class Patch:
    """A rectangle s0..s1, d0..d1 of one zone, in metres."""

    s0: float
    s1: float
    d0: float
    d1: float
    zone: Zone


@dataclass(frozen=True, slots=True)
class Arrow:
    """An arrow on the lane at d, its tip at s; `turn` -1 left, 0 straight, 1 right."""

    s: float
    d: float
    turn: int


Profile = Sequence[Band | Dashes]
"""The cross-section that holds for a whole drive."""


def zones_at(s: Array, d: Array, profile: Profile, patches: Sequence[Patch | Arrow]) -> Array:
    """Return the zone (uint8) at road coordinates s, d (any equal shapes, metres)."""
    zone = np.full(d.shape, int(Zone.GRASS), dtype=np.uint8)
    for part in profile:
        if isinstance(part, Band):
            zone[(d >= part.start) & (d < part.end)] = part.zone
        else:
            on_line = np.abs(d - part.d) < part.width / 2
            zone[on_line & (np.mod(s, part.period) < part.mark)] = Zone.DASHED
    for patch in patches:
        if isinstance(patch, Patch):
            inside = (s >= patch.s0) & (s < patch.s1) & (d >= patch.d0) & (d < patch.d1)
            zone[inside] = patch.zone
        else:
            zone[_on_arrow(s - patch.s, d - patch.d, patch.turn)] = Zone.ARROW
    return zone


def _on_arrow(s: Array, d: Array, turn: int) -> Array:
    """Return where an arrow with its tip at (0, 0), 5 m long, covers the ground."""
    if turn == 0:
        shaft = (s > -5.0) & (s < -1.5) & (np.abs(d) < 0.12)
        head = (s >= -2.0) & (s < 0.0) & (np.abs(d) < -s * 0.25)
        return shaft | head
    side = d * turn
    shaft = (s > -5.0) & (s < -1.2) & (np.abs(side + 0.25) < 0.12)
    bend = (s >= -1.8) & (s < -1.2) & (side > -0.37) & (side < 0.2)
    head = (np.abs(s + 1.5) < (0.75 - side) * 1.6) & (side >= 0.2) & (side < 0.75)
    return shaft | bend | head
