"""Polygons in metres: how they are collected, placed and joined.

A `Mesh` is flat arrays over faces. Faces of one *group* are painted together, in their own order;
groups are painted from far to near. Groups of one *thing* (a car, a person) share an instance
number. Coordinates: x right, y up, z forward. Not here: what the things look like.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import IntEnum

import numpy as np

from .camera import Array
from .colours import CLASS_INDEX

Colour = tuple[float, float, float]
"""RGB in 0..1."""


class Material(IntEnum):
    """How a face is textured (`materials`); the two face parameters are named per entry."""

    PLAIN = 0
    FACADE = 1  # window period along the wall in m, storey height in m
    FOLIAGE = 2  # crown radius in m, -
    ROOF = 3  # -, -
    GLASS = 4  # -, -
    RAIL = 5  # -, -
    PLEATED = 6  # pleat width in m, -
    SIGN = 7  # width in m, height in m
    PANELS = 8  # panel width in m, panel height in m


@dataclass(frozen=True, slots=True)
class Mesh:
    """Faces with their looks; F faces, V corners in all, G groups, K shadow casters.

    Attributes:
        vertices: (V, 3) corners of all faces, one after the other, in metres.
        counts: (F,) corners a face.
        group: (F,) position in `anchors`.
        colours: (F, 3) in 0..1.
        labels: (F,) position in `colours.CLASS_NAMES`.
        materials: (F,) `Material`.
        params: (F, 2) for the material.
        two_sided: (F,) whether the back is painted too.
        glow: (F,) 0..1, how much it shines by itself.
        anchors: (G, 3) the points whose distance orders the painting.
        things: (G,) number of the thing a group belongs to.
        casters: (K, 4, 3) footprints at y = 0; a caster's y is its lower edge in metres.
        heights: (K,) upper edge of the casters in metres.
    """

    vertices: Array
    counts: Array
    group: Array
    colours: Array
    labels: Array
    materials: Array
    params: Array
    two_sided: Array
    glow: Array
    anchors: Array
    things: Array
    casters: Array
    heights: Array


_WIDTHS = {"vertices": (3,), "colours": (3,), "params": (2,), "anchors": (3,), "casters": (4, 3)}


def join(meshes: Sequence[Mesh]) -> Mesh:
    """Put meshes side by side, renumbering groups and things."""
    columns: dict[str, list[Array]] = {f.name: [] for f in fields(Mesh)}
    groups = things = 0
    for mesh in meshes:
        for name, column in columns.items():
            shift = {"group": groups, "things": things}.get(name, 0)
            column.append(getattr(mesh, name) + shift if shift else getattr(mesh, name))
        groups += len(mesh.anchors)
        things += int(mesh.things.max(initial=-1)) + 1
    if not meshes:
        return Sketch().mesh()
    return Mesh(**{name: np.concatenate(column) for name, column in columns.items()})


def turned(points: Array, yaw: float) -> Array:
    """Turn points (..., 3) about the vertical; positive yaw takes +z towards +x."""
    sin, cos = math.sin(yaw), math.cos(yaw)
    x, y, z = points[..., 0], points[..., 1], points[..., 2]
    return np.stack([cos * x + sin * z, y, cos * z - sin * x], axis=-1)


def moved(mesh: Mesh, x: float, z: float, yaw: float = 0.0, lift: float = 0.0) -> Mesh:
    """Return the mesh turned by `yaw` (radians) and shifted by (x, `lift`, z) in metres."""
    shift = np.array([x, lift, z])
    return mapped(mesh, lambda points: turned(points, yaw) + shift)


def mapped(mesh: Mesh, change: Callable[[Array], Array]) -> Mesh:
    """Return the mesh with every point (..., 3) changed by a function."""
    return replace(
        mesh,
        vertices=change(mesh.vertices),
        anchors=change(mesh.anchors),
        casters=change(mesh.casters),
    )


@dataclass
class Sketch:
    """Collects faces; `thing` and `group` open what the next faces belong to.

    Quads are given lower left, lower right, upper right, upper left as seen from outside.
    """

    columns: dict[str, list[object]] = field(
        default_factory=lambda: {f.name: [] for f in fields(Mesh)}
    )

    def thing(self, anchor: Sequence[float]) -> None:
        """Open a new thing with its first group at `anchor` (x, y, z)."""
        things = self.columns["things"]
        self.columns["anchors"].append(tuple(anchor))
        things.append(things[-1] + 1 if things else 0)  # type: ignore[operator]

    def group(self, anchor: Sequence[float]) -> None:
        """Open another group of the same thing."""
        self.columns["anchors"].append(tuple(anchor))
        self.columns["things"].append(self.columns["things"][-1])

    def caster(self, footprint: Array, low: float, high: float) -> None:
        """Let the column over a footprint (4, 3) from `low` to `high` metres throw a shadow."""
        base = np.array(footprint, dtype=float)
        base[:, 1] = low
        self.columns["casters"].append(base)
        self.columns["heights"].append(high)

    def face(
        self,
        points: Array | Sequence[Sequence[float]],
        colour: Colour,
        label: str,
        material: Material = Material.PLAIN,
        params: tuple[float, float] = (1.0, 1.0),
        *,
        two_sided: bool = False,
        glow: float = 0.0,
    ) -> Array:
        """Add one polygon (N, 3) and return it; its first edge is the texture's u axis."""
        corners = np.asarray(points, dtype=float)
        columns = self.columns
        columns["vertices"].extend(corners)
        columns["counts"].append(len(corners))
        columns["group"].append(len(columns["anchors"]) - 1)
        columns["colours"].append(colour)
        columns["labels"].append(CLASS_INDEX[label])
        columns["materials"].append(int(material))
        columns["params"].append(params)
        columns["two_sided"].append(two_sided)
        columns["glow"].append(glow)
        return corners

    def decal(
        self,
        quad: Array,
        span: tuple[float, float, float, float],
        colour: Colour,
        label: str,
        material: Material = Material.PLAIN,
        *,
        glow: float = 0.0,
    ) -> Array:
        """Paint the part u0..u1, v0..v1 (shares of the sides, 0..1) of a quad (4, 3) anew."""
        u0, u1, v0, v1 = span
        at = [(u0, v0), (u1, v0), (u1, v1), (u0, v1)]
        corners = [
            (1 - u) * (1 - v) * quad[0]
            + u * (1 - v) * quad[1]
            + u * v * quad[2]
            + (1 - u) * v * quad[3]
            for u, v in at
        ]
        return self.face(np.array(corners), colour, label, material, glow=glow)

    def frustum(
        self,
        bottom: tuple[float, float, float, float],
        top: tuple[float, float, float, float],
        heights: tuple[float, float] | tuple[float, float, float],
        colour: Colour,
        label: str,
        material: Material = Material.PLAIN,
        params: tuple[float, float] = (1.0, 1.0),
        *,
        sides: str = "rear front left right top",
    ) -> dict[str, Array]:
        """Add a body between two rectangles (x0, x1, z0, z1) and return its quads by side.

        Args:
            bottom: lower rectangle in metres.
            top: upper rectangle in metres.
            heights: y of the lower one, of the upper one, and of its front edge if that differs.
            colour: of all sides.
            label: of all sides.
            material: of all sides.
            params: for the material.
            sides: which of rear, front, left, right, top, bottom to add.
        """
        low, high = heights[0], heights[1]
        nose = heights[-1]
        a, b, c, d = (np.array(p) for p in _corners(bottom, low, low))
        e, f, g, h = (np.array(p) for p in _corners(top, high, nose))
        quads = {
            "rear": (a, b, f, e),
            "front": (c, d, h, g),
            "left": (d, a, e, h),
            "right": (b, c, g, f),
            "top": (e, f, g, h),
            "bottom": (d, c, b, a),
        }
        return {
            side: self.face(np.array(quads[side]), colour, label, material, params)
            for side in sides.split()
        }

    def disc(
        self, centre: Sequence[float], radius: float, side: int, colour: Colour, label: str
    ) -> None:
        """Add an upright 12-gon in the y-z plane that faces +x (`side` 1) or -x (-1)."""
        turn = np.arange(12) * (2 * math.pi / 12) * side
        ring = np.zeros((12, 3)) + np.asarray(centre)
        ring[:, 1] += radius * np.sin(turn)
        ring[:, 2] += radius * np.cos(turn)
        self.face(ring, colour, label)

    def mesh(self) -> Mesh:
        """Return what was collected."""
        arrays = {}
        for name, values in self.columns.items():
            whole = name in {"counts", "group", "labels", "materials", "things"}
            kind = np.int64 if whole else bool if name == "two_sided" else np.float64
            shape = (len(values), *_WIDTHS.get(name, ()))
            arrays[name] = np.array(values, dtype=kind).reshape(shape)
        return Mesh(**arrays)


def _corners(
    rectangle: tuple[float, float, float, float], rear: float, front: float
) -> list[tuple[float, float, float]]:
    x0, x1, z0, z1 = rectangle
    return [(x0, rear, z0), (x1, rear, z0), (x1, front, z1), (x0, front, z1)]


def rectangle(x0: float, x1: float, z0: float, z1: float) -> Array:
    """Return the ground rectangle as (4, 3) corners."""
    return np.array(_corners((x0, x1, z0, z1), 0.0, 0.0))
