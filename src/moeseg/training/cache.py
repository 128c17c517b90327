"""Expert outputs on disk, computed once, for gates to train from.

One record of each frame (and of its mirror) in memory-mapped shards: every expert's gate features
and its decoder-resolution logits, channels last, and the label. Above a size limit the logits are
kept only at fixed random labelled pixels and, for a head, their neighbours.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from moeseg.config import CacheConfig
from moeseg.data import EpochBatches, SegmentationDataset
from moeseg.errors import MoesegError
from moeseg.files import replacing, write_text
from moeseg.models import Expert
from moeseg.progress import say, track
from moeseg.training.loss import Points, draw_points, sample_logits
from moeseg.types import IGNORE, ExpertOutput, Size

FORMAT = 2
"""Version of a cache folder's layout; part of its stage's fingerprint."""

_SHARD_BYTES = 256 * 2**20
_Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class GateBatch:
    """What one step of gate training needs, live or cached.

    Attributes:
        features: (B, F, h, w) of each expert.
        outputs: of each expert; None where only points are kept.
        label: (B, H, W); None where only points are kept.
        points: fixed points; None where whole maps are kept.
        sampled: (B, E, M, N, C) logits at the points.
    """

    features: tuple[Tensor, ...]
    outputs: tuple[ExpertOutput, ...] | None = None
    label: Tensor | None = None
    points: Points | None = None
    sampled: Tensor | None = None


Change = Callable[[Tensor, Tensor, Sequence[str], int], Tensor]
"""From images (B, 3, H, W), label, the frames' keys and the epoch to other images."""


class GateSource(Protocol):
    """Where gate training gets its batches from."""

    @property
    def changed(self) -> bool:
        """Whether images are changed before the experts see them, as `gate.adversarial` asks."""
        ...

    def __len__(self) -> int:
        """Return the number of batches of an epoch."""
        ...

    def epoch(self, epoch: int) -> Iterator[GateBatch]:
        """Yield the batches of an epoch, a pure function of its number."""
        ...


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """What a cache folder holds; written last, so its presence means that the cache is whole.

    Attributes:
        frames: how many there are, mirrors not counted.
        mirrored: a mirror of each frame follows all frames.
        size: (H, W) of the labels.
        dtype: of features and logits.
        gates: (F, h, w) of each expert's features.
        logits: (h, w, C) of each expert's map, or one (E, M, N, C) where only points are kept.
        points: N, or 0 for whole maps.
    """

    frames: int
    mirrored: bool
    size: Size
    dtype: str
    gates: tuple[tuple[int, ...], ...]
    logits: tuple[tuple[int, ...], ...]
    points: int

    @property
    def records(self) -> int:
        """Frames and mirrors."""
        return self.frames * (2 if self.mirrored else 1)

    @property
    def values(self) -> int:
        """Numbers of one record, features and logits."""
        return sum(math.prod(shape) for shape in (*self.gates, *self.logits))

    @property
    def label(self) -> tuple[tuple[int, ...], type[np.generic]]:
        """Shape and type of one record's label: a map, or points' places, ids and their count."""
        if self.points:
            return (2 * self.points + 1,), np.int64
        return self.size, np.uint8

    @property
    def per_shard(self) -> int:
        """Records of one file."""
        return max(1, _SHARD_BYTES // (self.values * np.dtype(self.dtype).itemsize))

    @property
    def shards(self) -> int:
        """Files of values, and of labels."""
        return math.ceil(self.records / self.per_shard)

    @property
    def bytes(self) -> int:
        """Size on disk, file headers not counted."""
        shape, kind = self.label
        label = math.prod(shape) * np.dtype(kind).itemsize
        return self.records * (self.values * np.dtype(self.dtype).itemsize + label)


def plan_cache(
    experts: Sequence[Expert],
    size: Size,
    frames: int,
    config: CacheConfig,
    *,
    mirrored: bool,
    pixels: int | None,
    neighbours: bool,
) -> CacheLayout:
    """Return what a cache of these experts will hold; `build_cache` says what the arguments mean.

    Only the experts' shapes count: networks on the meta device will do.

    Raises:
        MoesegError: whole maps are over the limit and `pixels` is None.
    """
    device = next(experts[0].parameters()).device
    outputs = _outputs(experts, torch.zeros(1, 3, *size, device=device))
    gates = tuple(tuple(output.gate.shape[1:]) for output in outputs)
    maps = tuple((*o.logits.shape[2:], o.logits.shape[1]) for o in outputs)
    whole = CacheLayout(frames, mirrored, size, config.dtype, gates, maps, 0)
    if whole.bytes <= config.limit_gb * 1e9:
        return whole
    if pixels is None:
        raise MoesegError(
            f"the cache of expert outputs needs {whole.bytes / 1e9:.1f} GB, over "
            f"gate.cache.limit_gb = {config.limit_gb:g}: raise the limit, or set gate.pixels to a "
            "number so that only so many pixels of each frame are kept"
        )
    points = ((len(experts), 9 if neighbours else 1, pixels, maps[0][-1]),)
    return replace(whole, logits=points, points=pixels)


def build_cache(
    experts: Sequence[Expert],
    frames: SegmentationDataset,
    folder: Path,
    config: CacheConfig,
    *,
    mirrored: bool,
    pixels: int | None,
    neighbours: bool,
    seed: int = 0,
    batch_size: int = 8,
    workers: int = 0,
) -> None:
    """Run frozen experts over frames once and keep what they give.

    Goes on after a kill with the first shard that is missing.

    Args:
        experts: put in eval mode.
        frames: without augmentation.
        folder: made if missing.
        config: number format and size limit.
        mirrored: keep each frame's mirror image too.
        pixels: points of each frame that are kept above the limit; None forbids that.
        neighbours: keep the 3x3 neighbourhood of each point.
        seed: of the points.
        batch_size: frames of one forward pass.
        workers: loader processes.

    Raises:
        MoesegError: whole maps are over the limit and `pixels` is None, or the disk is full.
    """
    experts = [expert.eval() for expert in experts]
    _, label, _ = frames[0]
    size = (int(label.shape[0]), int(label.shape[1]))
    layout = plan_cache(
        experts,
        size,
        len(frames),
        config,
        mirrored=mirrored,
        pixels=pixels,
        neighbours=neighbours,
    )
    if layout.bytes > config.limit_gb * 1e9:
        say(
            f"note: the cache of expert outputs takes {layout.bytes / 1e9:.1f} GB even with only "
            f"{layout.points} pixels of each frame, over gate.cache.limit_gb = "
            f"{config.limit_gb:g}; lower gate.pixels or set data.augment.flip: false"
        )
    folder.mkdir(parents=True, exist_ok=True)
    device = next(experts[0].parameters()).device
    missing = [s for s in range(layout.shards) if not (folder / f"values-{s:04d}.npy").exists()]
    for shard in track(missing, "caching expert outputs", len(missing)):
        numbers = range(
            shard * layout.per_shard, min((shard + 1) * layout.per_shard, layout.records)
        )
        loader = DataLoader(
            Subset(frames, [number % layout.frames for number in numbers]),
            batch_size=batch_size,
            num_workers=workers,
        )
        values = np.empty((len(numbers), layout.values), layout.dtype)
        shape, kind = layout.label
        labels = np.empty((len(numbers), *shape), kind)
        done = 0
        for images, label, _ in loader:
            turn = torch.tensor([n >= layout.frames for n in numbers[done : done + len(images)]])
            images[turn], label[turn] = images[turn].flip(-1), label[turn].flip(-1)
            outputs, label = _outputs(experts, images.to(device)), label.to(device)
            part = slice(done, done + len(images))
            if layout.points:
                generator = torch.Generator().manual_seed(seed * 1_000_003 + numbers[done])
                points = draw_points(label, layout.points, generator)
                sampled = sample_logits(outputs, points, neighbours)
                values[part] = _flat([*(o.gate for o in outputs), sampled])
                counted = (label != IGNORE).flatten(1).sum(1, keepdim=True)
                kept = torch.cat([points.index, points.label.long(), counted], 1)
            else:
                maps = [o.logits.permute(0, 2, 3, 1) for o in outputs]  # (B, h, w, C)
                values[part] = _flat([*(o.gate for o in outputs), *maps])
                kept = label
            labels[part] = kept.cpu().numpy()
            done += len(images)
        for what, array in (("labels", labels), ("values", values)):
            with replacing(folder / f"{what}-{shard:04d}.npy") as file, file.open("wb") as stream:
                np.save(stream, array)
    write_text(folder / "layout.json", json.dumps(asdict(layout)))


class CachedOutputs:
    """Batches of a cache folder, in an order that is a pure function of seed and epoch.

    Args:
        folder: what `build_cache` wrote.
        batch_size: frames of a batch.
        seed: of order and mirroring.
        training: False gives each frame exactly once, in order and never mirrored.
        shuffle: False keeps the order of the frames in training too.
        device: where batches go.
    """

    def __init__(
        self,
        folder: Path,
        batch_size: int,
        seed: int = 0,
        *,
        training: bool = True,
        shuffle: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        raw = json.loads((folder / "layout.json").read_text())
        for key in ("gates", "logits"):
            raw[key] = tuple(tuple(shape) for shape in raw[key])
        raw["size"] = tuple(raw["size"])
        self.layout = CacheLayout(**raw)
        self.training = training
        self.seed = seed
        self.device = device
        self.batches = _batches(self.layout.frames, batch_size, seed, training, shuffle)
        self.folder = folder

    @property
    def changed(self) -> bool:
        """False: what is cached are the experts' outputs for the frames as they are."""
        return False

    def __len__(self) -> int:
        return len(self.batches(0))

    def epoch(self, epoch: int) -> Iterator[GateBatch]:
        """Yield the batches of an epoch; each frame comes as it is or mirrored, by chance."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + epoch)
        mirror = torch.zeros(self.layout.frames, dtype=torch.bool)
        if self.layout.mirrored and self.training:
            mirror = torch.rand(self.layout.frames, generator=generator) < 0.5
        for batch in self.batches(epoch):
            records = [i + self.layout.frames * bool(mirror[i]) for i, _ in batch]
            yield self._batch(records)

    def _batch(self, records: Sequence[int]) -> GateBatch:
        places = [divmod(record, self.layout.per_shard) for record in records]
        # opened for each batch: a large cache has more shards than a process may hold open
        values, labels = (
            torch.from_numpy(
                np.stack([_open(self.folder, what, shard)[place] for shard, place in places])
            ).to(self.device)
            for what in ("values", "labels")
        )
        shapes = (*self.layout.gates, *self.layout.logits)
        parts = torch.split(values, [math.prod(shape) for shape in shapes], 1)
        maps = [part.view(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]
        experts = len(self.layout.gates)
        features = tuple(map_.float() for map_ in maps[:experts])
        if not self.layout.points:
            outputs = tuple(
                ExpertOutput(gate, logits.permute(0, 3, 1, 2))
                for gate, logits in zip(features, maps[experts:], strict=True)
            )
            return GateBatch(features, outputs, labels)
        number = self.layout.points
        index, label, counted = torch.split(labels, [number, number, 1], 1)
        share = counted[:, 0] / counted.sum().clamp(min=1)
        points = Points(index, label, share, self.layout.size)
        return GateBatch(features, points=points, sampled=maps[experts].float())


class LiveOutputs:
    """Batches from running the experts at every step: the slow reference of the cache.

    Args:
        experts: frozen; in training mode during an epoch if `adapt`.
        frames: augmented or not.
        batch_size: frames of a batch.
        seed: of the order, and of the experts' dropout.
        training: False gives each frame exactly once, in order.
        shuffle: False keeps the order of the frames in training too.
        adapt: the named setting `gate.expert_batchnorm: adapt`.
        change: what is done to images before the experts see them; None for nothing.
        workers: loader processes.
    """

    def __init__(
        self,
        experts: Sequence[Expert],
        frames: SegmentationDataset,
        batch_size: int,
        seed: int = 0,
        *,
        training: bool = True,
        shuffle: bool = True,
        adapt: bool = False,
        change: Change | None = None,
        workers: int = 0,
    ) -> None:
        self.experts = experts
        self.seed = seed
        self.adapt = adapt
        self.change = change
        self.frames = frames
        self.workers = workers
        self.batches = _batches(len(frames), batch_size, seed, training, shuffle)

    @property
    def changed(self) -> bool:
        """Whether there is a `change`."""
        return self.change is not None

    def __len__(self) -> int:
        return len(self.batches(0))

    def epoch(self, epoch: int) -> Iterator[GateBatch]:
        """Yield the batches of an epoch, augmented as the data set is."""
        device = next(self.experts[0].parameters()).device
        for expert in self.experts:
            expert.train(self.adapt)
        if self.adapt:  # dropout of a resumed run is that of an unbroken one
            torch.manual_seed(self.seed * 100_003 + epoch)
        loader = DataLoader(
            self.frames, batch_sampler=self.batches(epoch), num_workers=self.workers
        )
        for batch in loader:
            images, label, keys = batch[0].to(device), batch[1].to(device), batch[2]
            if self.change is not None:
                images = self.change(images, label, keys, epoch)
            outputs = _outputs(self.experts, images)
            yield GateBatch(tuple(o.gate for o in outputs), outputs, label)


def _batches(
    length: int, batch_size: int, seed: int, training: bool, shuffle: bool
) -> Callable[[int], Sequence[list[tuple[int, int]]]]:
    """Return a function from an epoch to its batches of (index, epoch)."""
    if not training:  # each frame exactly once, in order
        starts = range(0, length, batch_size)
        plain = [[(i, 0) for i in range(s, min(s + batch_size, length))] for s in starts]
        return lambda epoch: plain
    batches = EpochBatches(length, batch_size, seed, shuffle)

    def of_epoch(epoch: int) -> list[list[tuple[int, int]]]:
        batches.set_epoch(epoch)
        return list(batches)

    return of_epoch


@torch.no_grad()
def _outputs(experts: Sequence[Expert], images: Tensor) -> tuple[ExpertOutput, ...]:
    return tuple(expert.output(images) for expert in experts)


def _flat(maps: Sequence[Tensor]) -> _Array:
    return torch.cat([map_.cpu().flatten(1) for map_ in maps], 1).numpy()


def _open(folder: Path, what: str, shard: int) -> _Array:
    array: _Array = np.load(folder / f"{what}-{shard:04d}.npy", mmap_mode="r")
    return array
