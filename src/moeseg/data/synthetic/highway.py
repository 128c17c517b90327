"""The motorway: two carriageways, guard rails, trucks, gantries, bridges, banks, woods.

A style holds what stays the same in a drive; `_block` fills 80 m of road from it. Not here: what
the single things look like.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from .furniture import BLUE, WHITE, board, delineator, gantry, sign
from .ground import Band, Dashes, Patch, Profile, Zone
from .mesh import Mesh, join, moved
from .plants import bush, conifer, tree
from .road import Road
from .scene import BLOCK, Block, Scene
from .structures import CONCRETE, GRASS, bank, bridge, building, guard_rail, wall
from .traffic import Lane

LANE = 3.65
"""Lane width in metres."""
MARGIN = 0.6
"""From the carriageway's inner edge to the solid line, in metres."""

Side = Literal["woods", "bank", "open", "wall"]


@dataclass(frozen=True, slots=True)
class _Style:
    """What stays the same along one drive; offsets in metres from the median's middle."""

    seed: int
    lanes: int
    median: float
    edge: float
    barrier: bool
    rail: bool
    autumn: bool
    conifers: float
    sides: tuple[Side, Side]


def scene(seed: int) -> Scene:
    """Draw a motorway drive."""
    rng = np.random.default_rng([seed, 1])
    lanes = int(rng.choice([2, 3], p=[0.6, 0.4]))
    median = float(rng.uniform(1.3, 2.4))
    shoulder = 2.6 if rng.random() < 0.75 else 0.7
    edge = median + MARGIN + lanes * LANE + shoulder
    kinds: list[Side] = ["woods", "bank", "open", "wall"]
    odds = [0.35, 0.3, 0.2, 0.15]
    style = _Style(
        seed=seed,
        lanes=lanes,
        median=median,
        edge=edge,
        barrier=bool(rng.random() < 0.3),
        rail=bool(rng.random() < 0.75),
        autumn=bool(rng.random() < 0.35),
        conifers=float(rng.uniform(0.1, 0.9)),
        sides=(kinds[int(rng.choice(4, p=odds))], kinds[int(rng.choice(4, p=odds))]),
    )
    ego_lane = int(rng.integers(lanes))
    speed = float(rng.uniform(24, 33))
    road = Road(
        amplitudes=(float(rng.uniform(0.04, 0.26)), float(rng.uniform(0.0, 0.1))),
        wavelengths=(float(rng.uniform(700, 1100)), float(rng.uniform(380, 500))),
        phases=(float(rng.uniform(0, 6.28)), float(rng.uniform(0, 6.28))),
    )
    profile = _profile(style, Zone.WORN_ASPHALT if rng.random() < 0.5 else Zone.ASPHALT)
    return Scene(
        road,
        profile,
        _lanes(rng, style, ego_lane, speed),
        _centre(style, ego_lane),
        speed,
        "hills",
        partial(_block, style),
    )


def _centre(style: _Style, lane: int) -> float:
    """Return the middle of a lane counted from the median."""
    return style.median + MARGIN + (lane + 0.5) * LANE


def _profile(style: _Style, shoulder: Zone) -> Profile:
    parts: list[Band | Dashes] = []
    inner, outer = style.median, style.edge
    for sign_ in (1.0, -1.0):
        solid = inner + MARGIN + style.lanes * LANE
        spans = (
            (inner, outer, Zone.ASPHALT),
            (solid, outer, shoulder),
            (inner + MARGIN - 0.25, inner + MARGIN - 0.05, Zone.SOLID),
            (solid, solid + 0.32, Zone.SOLID),
        )
        for start, end, zone in spans:
            low, high = sorted((sign_ * start, sign_ * end))
            parts.append(Band(low, high, zone))
        for lane in range(1, style.lanes):
            d = sign_ * (inner + MARGIN + lane * LANE)
            parts.append(Dashes(d, 0.18, 6.0, 18.0))
    return parts


def _lanes(
    rng: np.random.Generator, style: _Style, ego_lane: int, speed: float
) -> tuple[Lane, ...]:
    lanes = []
    slow = (("truck", 0.5), ("car", 0.35), ("van", 0.15))
    fast = (("car", 0.86), ("van", 0.1), ("motorcycle", 0.04))
    for lane in range(style.lanes):
        slowest = lane == style.lanes - 1
        kinds = slow if slowest else fast
        gap = 6.0 * (ego_lane - lane)  # m/s faster per lane to the left
        spacing = float(rng.uniform(32, 60))
        share = float(rng.uniform(0.35, 0.8))
        own = lane == ego_lane
        drift = float(rng.uniform(0, 1.2)) if own else 0.0  # who drives ahead pulls away
        lanes.append(Lane(_centre(style, lane), speed + gap + drift, spacing, share, kinds, own))
        back = float(rng.uniform(26, 34))
        lanes.append(Lane(-_centre(style, lane), -back, spacing * 1.1, share, kinds))
    return tuple(lanes)


def _height(style: _Style, side: int, k: int) -> float:
    """Return the bank's height in metres where block k begins."""
    return float(np.random.default_rng([style.seed, 2, side, k + 4096]).uniform(1.0, 5.5))


def _block(style: _Style, k: int) -> Block:
    rng = np.random.default_rng([style.seed, 3, k + 4096])
    z0, z1 = k * BLOCK, (k + 1) * BLOCK
    parts = _median(style, z0, z1)
    for side, kind in zip((-1, 1), style.sides, strict=True):
        parts += _roadside(style, rng, side, kind, k)
    parts += _furniture(style, rng, z0, z1)
    if rng.random() < 0.15:
        reach = 30.0 + 10.0 * style.lanes
        piers = (0.0, -style.edge - 2.0, style.edge + 2.0)
        parts.append(bridge(rng, z0 + float(rng.uniform(20, 60)), piers, reach))
    hatched: list[Patch] = []
    if style.edge - style.median > 10 and rng.random() < 0.15:
        start = style.median + MARGIN + style.lanes * LANE + 0.5
        hatched.append(Patch(z0 + 20, z0 + 60, start, style.edge, Zone.RESTRICTED))
    return Block(join(parts), tuple(hatched))


def _median(style: _Style, z0: float, z1: float) -> list[Mesh]:
    if style.barrier:
        return [wall(-0.25, z0, z1, 0.9, 0.5, CONCRETE, "Road blocks", (4.0, 2.0))]
    return [guard_rail(x, z0, z1) for x in (-style.median + 0.3, style.median - 0.3)]


def _roadside(style: _Style, rng: np.random.Generator, side: int, kind: Side, k: int) -> list[Mesh]:
    z0, z1 = k * BLOCK, (k + 1) * BLOCK
    parts: list[Mesh] = []
    verge = style.edge + 0.8
    if style.rail:
        parts.append(guard_rail(side * verge, z0, z1))
    foot, heights = verge + 2.5, (0.0, 0.0)
    if kind == "bank":
        heights = (_height(style, side + 1, k), _height(style, side + 1, k + 1))
        parts.append(bank(side * foot, side * (foot + 9), z0, z1, heights, GRASS))
    if kind == "wall":
        x = side * (verge + 1.5)
        colour = (0.42, 0.47, 0.4) if style.autumn else (0.55, 0.54, 0.5)
        parts.append(wall(x, z0, z1, 3.6, 0.2 * side, colour, "Grid structure", (4.0, 1.2)))
    rows = {"woods": 46, "bank": 16, "open": 6, "wall": 12}[kind]
    for z in np.sort(rng.uniform(z0, z1, rows)):
        rise = float(np.interp(z, (z0, z1), heights))
        depth = float(rng.uniform(0.0, 11.0)) + (8.0 if kind in {"bank", "open"} else 4.0)
        if rng.random() < style.conifers and kind != "open":
            plant = conifer(rng)
        elif rng.random() < 0.25:
            plant = bush(rng, autumn=style.autumn)
        else:
            plant = tree(rng, autumn=style.autumn, slim=bool(rng.random() < 0.1))
        parts.append(
            moved(plant, side * (foot + depth), float(z), 0.0, rise * min(1, depth / 9) - 0.15)
        )
    if kind in {"open", "wall"} and rng.random() < 0.3:
        far = foot + float(rng.uniform(14, 30))
        span = (side * far, side * (far + 25), z0 + 15, z0 + 60)
        box = (min(span[:2]), max(span[:2]), span[2], span[3])
        parts.append(building(rng, box, int(rng.integers(2, 4)), gable=False))
    return parts


def _furniture(style: _Style, rng: np.random.Generator, z0: float, z1: float) -> list[Mesh]:
    verge = style.edge + 0.4
    parts = [moved(delineator(), verge, z, 0.0) for z in np.arange(z0 + 10, z1, 40.0)]
    parts += [moved(delineator(), -verge, z, 0.0) for z in np.arange(z0 + 30, z1, 40.0)]
    if rng.random() < 0.14:
        parts.append(moved(gantry(rng, 0.0, style.edge + 1.6), 0.0, z0 + 40.0))
    if rng.random() < 0.3:
        colour = BLUE if rng.random() < 0.75 else WHITE
        width = float(rng.uniform(2.2, 4.2))
        parts.append(moved(board(rng, width=width, colour=colour), verge + 3.2, z0 + 62.0))
    if rng.random() < 0.55:
        parts.append(moved(sign(rng), verge + 0.8, z0 + float(rng.uniform(5, 35))))
        parts.append(moved(sign(rng), 0.0, z0 + float(rng.uniform(5, 35))))
    if rng.random() < 0.4:
        parts.append(moved(sign(rng, backwards=True), -verge - 0.8, z0 + 50.0))
    return parts
