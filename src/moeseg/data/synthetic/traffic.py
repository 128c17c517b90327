"""Who moves: lanes of vehicles, bicycles and pedestrians at constant speed.

Every slot of a lane is drawn from its own seed, so any moment of a drive can be built alone. Not
here: what they look like (`vehicles`, `people`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np

from .mesh import Mesh, moved
from .people import bicycle, motorcycle, pedestrian
from .vehicles import car, truck, van

Maker = Callable[[np.random.Generator], Mesh]

MAKERS: dict[str, Maker] = {
    "car": car,
    "van": van,
    "truck": truck,
    "pedestrian": pedestrian,
    "bicycle": bicycle,
    "parked bicycle": partial(bicycle, ridden=False),
    "motorcycle": motorcycle,
}
CLEARANCE = 11.0
"""Metres before and behind the camera that its own lane keeps free."""
_OFFSET = 1 << 20  # makes slot numbers positive, as seeds must be


@dataclass(frozen=True, slots=True)
class Lane:
    """A row of moving things.

    Attributes:
        d: lateral offset in metres.
        speed: in m/s along s; negative comes towards the camera.
        spacing: mean distance of slots in metres.
        share: 0..1, how many slots are taken.
        kinds: names in `MAKERS` with their weights, which sum to 1.
        ego: whether the camera drives in it.
    """

    d: float
    speed: float
    spacing: float
    share: float
    kinds: tuple[tuple[str, float], ...]
    ego: bool = False


def movers(
    lanes: Sequence[Lane], seed: int, time: float, ego_s: float, reach: tuple[float, float]
) -> list[Mesh]:
    """Return what moves at `time` (s) from `reach[0]` to `reach[1]` metres ahead of the camera.

    The meshes stand in road coordinates (x = d, z = s).
    """
    found = []
    for number, lane in enumerate(lanes):
        base = ego_s - lane.speed * time
        first = math.floor((base + reach[0]) / lane.spacing)
        last = math.ceil((base + reach[1]) / lane.spacing)
        for slot in range(first, last + 1):
            rng = np.random.default_rng([seed, number, slot + _OFFSET])
            taken, shift, sway = rng.random(3)
            s = (slot + 0.35 * shift) * lane.spacing + lane.speed * time
            near = lane.ego and abs(s - ego_s) < CLEARANCE
            if taken > lane.share or near or not reach[0] <= s - ego_s <= reach[1]:
                continue
            yaw = 0.0 if lane.speed >= 0 else math.pi
            mesh = _build(lane.kinds, seed, number, slot)
            found.append(moved(mesh, lane.d + 0.5 * (sway - 0.5), s, yaw))
    return found


@lru_cache(maxsize=1024)
def _build(kinds: tuple[tuple[str, float], ...], seed: int, number: int, slot: int) -> Mesh:
    """Build what fills a slot; cached because it is seen in many frames of a drive."""
    rng = np.random.default_rng([seed, number, slot + _OFFSET, 1])
    names, weights = zip(*kinds, strict=True)
    return MAKERS[str(rng.choice(names, p=weights))](rng)
