"""A drive: one scene, weather and camera, and its frames as photo and label.

Everything is drawn from (subset, seed); a frame depends on these, its index and the size alone. Not
here: files (`write`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import numpy as np

from moeseg.errors import UsageError, unknown_name

from . import country, highway, urban
from .camera import Array, Camera
from .colours import CLASS_COLOURS, CLASS_NAMES
from .ground import ZONE_LABELS, Zone
from .mesh import Mesh, Sketch, join, mapped, turned
from .photo import Sensor, average, expose, mirror, shade, sky
from .raster import FACES, FAR, look_at_ground, merge, paint_faces, planes, shadow_masks
from .scene import BLOCK, Block, Scene
from .traffic import movers
from .weather import Weather, draw_weather

Subset = Literal["highway", "urban", "ambiguous"]
SUBSETS: Final[tuple[Subset, ...]] = get_args(Subset)
"""The road types, in the order of the published lists."""

FRAME_TIME: Final = 0.5
"""Seconds between two frames of a drive."""
BEHIND: Final = 16.0
"""Metres behind the camera from where things are drawn."""
SEEN: Final = 2.5
"""Visibilities after which fog hides a thing, 8 % of its contrast being left."""
START: Final = 4000.0
"""s in metres where a drive begins."""

_SCENES: dict[str, Callable[[int], Scene]] = {
    "highway": highway.scene,
    "urban": urban.scene,
    "ambiguous": country.scene,
}


@dataclass
class Drive:
    """A drawn drive; `frame` renders any moment of it.

    Attributes:
        seed: of everything random in it.
        scene: road and scenery.
        weather: light and weather.
        focal: focal length as a share of the picture's width.
        height: of the lens in metres.
        pitch: mean pitch in radians.
        sensor: the imaging chain.
        bonnet: share of the picture's height that the own bonnet hides; 0 for none.
    """

    seed: int
    scene: Scene
    weather: Weather
    focal: float
    height: float
    pitch: float
    sensor: Sensor
    bonnet: float
    _blocks: dict[int, Block] = field(default_factory=dict, repr=False)

    def frame(self, index: int, size: tuple[int, int]) -> tuple[Array, Array]:
        """Render one frame.

        Args:
            index: 0 or more; the next one is `FRAME_TIME` later.
            size: (H, W) in pixels.

        Returns:
            photo and label, (H, W, 3) uint8 each, the label in A2D2 colours.
        """
        rng = np.random.default_rng([self.seed, 5, index])
        time = index * FRAME_TIME
        s = START + self.scene.ego_speed * time
        sway, yaw, bump = rng.normal(0, (0.08, 0.008, 0.0015))
        camera = Camera(size, self.focal * size[1], self.height, self.pitch + bump)
        road = self.scene.road.view(s, self.scene.ego_d + sway, yaw)
        numbers_at = range(int((s - BEHIND) // BLOCK), int((s + FAR) // BLOCK) + 1)
        blocks = [self._block(k) for k in numbers_at]
        moving = movers(self.scene.lanes, self.seed, time, s, (-BEHIND, FAR))
        straight = join([*(block.mesh for block in blocks), *moving])
        mesh = join([mapped(straight, road.bend), self._bonnet(camera)])
        sun = turned(np.array(self.weather.sun), -road.bearing)

        fine = camera.scaled(2)
        plane = planes(mesh)
        reach = min(FAR, SEEN * self.weather.visibility)
        backdrop = self.scene.backdrop if reach == FAR else None
        painted, order = paint_faces(mesh, plane, fine, reach)
        ground = look_at_ground(fine, road, self.scene.profile, blocks, backdrop)
        numbers = np.where(painted > 0, painted + (FACES - 1), ground.zone)
        clear_sky = sky(camera, self.weather, road.bearing)
        shadows = shadow_masks(mesh, camera, sun, thrown=max(self.weather.sunlight) > 0.1)
        doubled = shade(
            numbers, order, mesh, plane, ground, shadows, fine, self.weather, sun, clear_sky
        )
        picture = average(doubled)
        seen = merge(numbers)
        if self.weather.wetness:
            paved = ((seen >= Zone.ASPHALT) & (seen < FACES)).astype(np.float32)
            picture = mirror(picture, paved, camera, self.weather)
        return expose(picture, self.sensor, rng), _label(seen, order, mesh)

    def _block(self, k: int) -> Block:
        if k not in self._blocks:
            self._blocks[k] = self.scene.block(k)
        return self._blocks[k]

    def _bonnet(self, camera: Camera) -> Mesh:
        """Return the own bonnet, fixed to the camera."""
        sketch = Sketch()
        if self.bonnet:
            edge = 1.6  # metres from the lens to the bonnet's front edge
            slope = (0.5 - self.bonnet) * camera.size[0] / camera.focal - math.tan(self.pitch)
            y = camera.height - edge * slope
            x = np.linspace(0.95, -0.95, 13)
            arc = [(a, y - 0.06 * a * a, edge - 0.3 * a * a) for a in x]
            sketch.thing((0.0, 0.0, 0.0))
            outline = [(-0.95, y, 0.5), (0.95, y, 0.5), *arc]
            sketch.face(outline, (0.13, 0.14, 0.16), "Ego car", two_sided=True)
        return sketch.mesh()


def _label(seen: Array, order: Array, mesh: Mesh) -> Array:
    """Colour the numbers (H, W) by class, the k-th nearest visible thing with its k-th colour."""
    zones = np.array([CLASS_COLOURS[CLASS_NAMES[k]][0] for k in ZONE_LABELS], dtype=np.uint8)
    table = np.zeros((FACES + len(order), 3), dtype=np.uint8)
    table[: len(zones)] = zones
    labels, groups = mesh.labels[order], mesh.group[order]
    things = mesh.things[groups]
    table[FACES:] = np.array([CLASS_COLOURS[name][0] for name in CLASS_NAMES])[labels]
    visible = np.unique(seen[seen >= FACES]) - FACES
    for index, name in enumerate(CLASS_NAMES):
        colours = CLASS_COLOURS[name]
        if len(colours) == 1:
            continue
        mine = visible[labels[visible] == index]
        ranked = list(dict.fromkeys(things[mine[::-1]].tolist()))  # painted last is nearest
        for rank, thing in enumerate(ranked):
            table[FACES + mine[things[mine] == thing]] = colours[rank % len(colours)]
    return table[seen]


def draw_drive(subset: str, seed: int) -> Drive:
    """Draw a drive.

    Args:
        subset: one of `SUBSETS`.
        seed: 0 or more.

    Raises:
        UsageError: the subset is not known.
    """
    if subset not in _SCENES:
        raise UsageError(unknown_name("synthetic subset", subset, _SCENES))
    rng = np.random.default_rng([seed, 0])
    weather = draw_weather(rng)
    sensor = Sensor(
        exposure=float(rng.uniform(0.95, 1.2)),
        blur=float(rng.uniform(0.25, 0.6)),
        vignette=float(rng.uniform(0.05, 0.3)),
        noise=float(rng.uniform(0.008, 0.022)) * (1.6 if weather.kind == "dusk" else 1.0),
    )
    return Drive(
        seed=seed,
        scene=_SCENES[subset](seed),
        weather=weather,
        focal=float(rng.uniform(0.8, 0.95)),
        height=float(rng.uniform(1.4, 1.65)),
        pitch=math.radians(float(rng.uniform(0.3, 2.6))),
        sensor=sensor,
        bonnet=float(rng.uniform(0.03, 0.07)) if rng.random() < 0.25 else 0.0,
    )
