"""The parts every road type is described by: style of a drive, and blocks of scenery along it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from .ground import Arrow, Patch, Profile
from .mesh import Mesh
from .road import Road
from .traffic import Lane

BLOCK: Final = 80.0
"""Metres of road in a block."""

Backdrop = Literal["hills", "town"]
"""What closes the view at the horizon."""


@dataclass(frozen=True, slots=True)
class Block:
    """Scenery between s = k * `BLOCK` and the next block, in road coordinates."""

    mesh: Mesh
    patches: tuple[Patch | Arrow, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """All of a drive that does not depend on the frame.

    Attributes:
        road: its course.
        profile: the road's cross-section.
        lanes: moving things.
        ego_d: lateral offset of the camera in metres.
        ego_speed: in m/s.
        backdrop: what stands at the horizon.
        block: scenery of block k, the same at every call.
    """

    road: Road
    profile: Profile
    lanes: tuple[Lane, ...]
    ego_d: float
    ego_speed: float
    backdrop: Backdrop
    block: Callable[[int], Block]
