"""Gate training: four variants from the cache against four end to end, and what the cache takes.

Two frozen DeepLabv3+ ResNet-101 experts, batch 4, 240x240, 38 classes. End to end, each variant
is trained by itself, the experts run at every step and the loss takes all pixels; from the cache
all four are trained in one pass. Takes about 4 minutes on two cores.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from measure import figure, folder_bytes, interleaved, parse, parser, ratios, report, scaled
from moeseg.config import ArchitectureConfig, CacheConfig, GateConfig
from moeseg.models import Expert, Mixture
from moeseg.training.cache import (
    CachedOutputs,
    GateSource,
    LiveOutputs,
    build_cache,
    plan_cache,
)
from moeseg.training.cost import forward_flops, planned_expert
from moeseg.training.gate import train_gates
from moeseg.types import Size
from subjects import RandomFrames, four_mixtures, random_experts

A2D2_FRAMES, A2D2_SIZE = 12_264, (912, 912)


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    backbone: Literal["resnet18", "resnet101"] = "resnet101"
    channels: int = 256
    experts: int = 2
    classes: int = 38
    size: Size = (240, 240)
    frames: int = 16
    batch: int = 4
    pixels: int = 1024
    repeats: int = 3


SMOKE = Settings("resnet18", 16, 2, 5, (32, 32), 4, 2, 16, 2)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(parser("gate_cache", __doc__), argv)
    at = SMOKE if options.smoke else Settings()
    experts = random_experts(at.experts, at.backbone, at.channels, at.classes)
    mixtures = four_mixtures(experts, at.size)
    frames = RandomFrames(at.frames, at.size, at.classes)
    live = LiveOutputs(experts, frames, at.batch)

    with tempfile.TemporaryDirectory() as scratch:
        whole, points, again = (Path(scratch) / name for name in ("whole", "points", "again"))
        build(experts, frames, whole, at)
        build(experts, frames, points, at, limit_gb=1e-9)
        whole_bytes, points_bytes = (folder_bytes(f) / at.frames for f in (whole, points))
        cached = CachedOutputs(whole, at.batch)
        cached_points = CachedOutputs(points, at.batch)
        seconds = interleaved(
            {
                "build the cache": lambda: rebuild(experts, frames, again, at),
                "end to end, four times": lambda: one_by_one(mixtures, live),
                "cached, sampled": lambda: epoch(mixtures, cached, at.pixels),
                "cached, all pixels": lambda: epoch(mixtures, cached, "all"),
                "cached points only": lambda: epoch(mixtures, cached_points, at.pixels),
            },
            at.repeats,
            warmups=0,  # building the two caches above warmed the experts up
        )

    built, slow, sampled, full, kept = (scaled(s, 1 / at.frames) for s in seconds.values())
    where = f"at {at.size[0]}x{at.size[1]}"
    big = planned(at)
    flops = forward_flops(big[0], A2D2_SIZE)  # of each, they are alike
    share = flops / forward_flops(big[0], at.size)
    records = 2 * A2D2_FRAMES  # each frame and its mirror
    a2d2_whole, a2d2_points = frame_bytes(big, A2D2_SIZE, at.pixels)
    a2d2 = f"A2D2, {A2D2_FRAMES:,} frames and mirrors at {A2D2_SIZE[0]}x{A2D2_SIZE[1]}"
    report(
        "gate_cache",
        f"Gate training, four variants over {at.experts} DeepLabv3+ {at.backbone}, {where}",
        options,
        asdict(at),
        [
            figure("four epochs end to end, a frame", scaled(slow, 1e3), "ms"),
            figure(f"one cached epoch, {at.pixels} pixels, a frame", scaled(sampled, 1e3), "ms"),
            figure("one cached epoch, all pixels, a frame", scaled(full, 1e3), "ms"),
            figure("one epoch, cached points only, a frame", scaled(kept, 1e3), "ms"),
            figure(
                f"end to end over cached, {at.pixels} pixels",
                ratios(slow, sampled),
                "x faster",
                at_least=30,
            ),
            figure("end to end over cached, all pixels", ratios(slow, full), "x faster"),
            figure("end to end over cached points only", ratios(slow, kept), "x faster"),
            figure("building the cache, a frame", scaled(built, 1e3), "ms"),
            figure("cache on disk, whole maps, a frame", [whole_bytes / 1e6], "MB"),
            figure("cache on disk, points only, a frame", [points_bytes / 1e6], "MB"),
            figure(f"{a2d2}: whole maps", [records * a2d2_whole / 1e9], "GB"),
            figure(f"{a2d2}: points only", [records * a2d2_points / 1e9], "GB"),
            figure(f"{a2d2}: building", scaled(built, share * records / 3600), "h"),
            figure(f"{a2d2}: operations", [records * at.experts * flops / 1e15], "PFLOP"),
        ],
        [
            "Times hold reading, forward, backward, the optimizers and the state written after "
            f"each epoch; with {at.frames} frames an epoch that last part weighs far more than in "
            "a study, which makes the cached figures look worse than they are.",
            "Building times for A2D2 are measured ones times the ratio of floating-point "
            "operations; sizes follow from the shapes of the maps (float16).",
            "Both of A2D2's sizes hold the gates' features whole; points only saves the logits.",
        ],
    )


def build(
    experts: Sequence[Expert],
    frames: RandomFrames,
    folder: Path,
    at: Settings,
    limit_gb: float = 50.0,
) -> None:
    """Build a cache of whole maps, or of points only under a limit that nothing keeps."""
    build_cache(
        experts,
        frames,
        folder,
        CacheConfig(limit_gb=limit_gb),
        mirrored=False,
        pixels=at.pixels,
        neighbours=True,
        batch_size=at.batch,
    )


def rebuild(experts: Sequence[Expert], frames: RandomFrames, folder: Path, at: Settings) -> None:
    """Build a cache afresh: in a folder that holds a whole one there would be nothing to do."""
    for path in folder.glob("*"):
        path.unlink()
    build(experts, frames, folder, at)


def epoch(
    mixtures: Mapping[str, Mixture], source: GateSource, pixels: int | Literal["all"]
) -> None:
    """Train gates for one epoch."""
    config = GateConfig(epochs=1, batch_size=1, pixels=pixels, choose="last")
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stderr(io.StringIO()),  # its news
    ):
        train_gates(mixtures, source, None, config, Path(folder))


def one_by_one(mixtures: Mapping[str, Mixture], live: LiveOutputs) -> None:
    """Train each gate for one epoch by itself, on all pixels, over experts that run each time."""
    for name, mixture in mixtures.items():
        epoch({name: mixture}, live, "all")


def planned(at: Settings) -> list[Expert]:
    """Return the experts without storage, to ask for shapes and operations."""
    architecture = ArchitectureConfig(backbone=at.backbone, channels=at.channels)
    return [planned_expert(architecture, at.classes) for _ in range(at.experts)]


def frame_bytes(experts: Sequence[Expert], size: Size, pixels: int) -> tuple[int, int]:
    """Return a frame's bytes in a float16 cache of whole maps, and of points with neighbours."""
    whole, points = (
        plan_cache(
            experts,
            size,
            1,
            CacheConfig(limit_gb=limit),
            mirrored=False,
            pixels=pixels,
            neighbours=True,
        ).bytes
        for limit in (50.0, 1e-9)
    )
    return whole, points


if __name__ == "__main__":
    main()
