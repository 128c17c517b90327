"""Frames as tensors, and the order in which training sees them.

Both are pure functions of a seed: which worker loads an item, or whether a run was killed and
resumed in between, changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from moeseg.data.labels import ReadLabel
from moeseg.data.pictures import Pixels, picture_size, read_rgb, same_size
from moeseg.data.transforms import (
    Augment,
    Fit,
    augmented,
    fit_image,
    fit_label,
    fitted_extent,
    unit_range,
)
from moeseg.errors import UsageError
from moeseg.types import Frame, Size

Item = tuple[Tensor, Tensor, str]


class SegmentationDataset(Dataset[Item]):
    """Photos with their labels, brought to one size.

    Args:
        frames: what is loaded; each needs a label.
        read_label: gives a frame's (H, W) uint8 ids.
        size: (H, W) of the items; None keeps the size of the files.
        augment: random changes; None for none (validation and test).
        seed: of the random changes.
        fit: how a frame comes to `size`: with its proportions and padding, or squeezed.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        read_label: ReadLabel,
        size: Size | None,
        augment: Augment | None = None,
        seed: int = 0,
        fit: Fit = "pad",
    ) -> None:
        self.frames = tuple(frames)
        self.read_label = read_label
        self.size = size
        self.fit = fit
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.frames)

    def extent(self, place: int) -> Size | None:
        """Return the (H, W) that a frame's photo has in its item, at the upper left; None for all.

        Raises:
            DataError: the photo is missing or no picture.
        """
        if self.size is None or self.fit == "squeeze":
            return None
        found = fitted_extent(self.photo_size(place), self.size, self.fit)
        return None if found == tuple(self.size) else found

    def photo_size(self, place: int) -> Size:
        """Return (H, W) of a frame's photo, without decoding it."""
        return picture_size(self.frames[place].image)

    def __getitem__(self, index: int | tuple[int, int]) -> Item:
        """Load one frame.

        Args:
            index: its place, or (place, draw): random changes depend on the seed, the place and
                the draw (the epoch, say) and on nothing else. A bare place is draw 0.

        Returns:
            image (3, H, W) float32 in [0, 1], label (H, W) uint8 with 255 ignored, and the
            frame's key.

        Raises:
            DataError: a file is missing, unreadable or of another size, or holds unknown labels.
        """
        place, draw = index if isinstance(index, tuple) else (index, 0)
        frame = self.frames[place]
        image, label = load(frame, self.read_label, self.size, self.fit)
        if self.augment is None:
            return unit_range(image), label, frame.key
        generator = seeded(self.seed, draw, place)
        return (*augmented(image, label, self.augment, generator), frame.key)


def load(frame: Frame, read_label: ReadLabel, size: Size | None, fit: Fit) -> tuple[Tensor, Tensor]:
    """Load a frame's photo and label, brought to a size; also what `prepare` writes.

    Returns:
        (3, H, W) uint8 and (H, W) uint8 ids.

    Raises:
        DataError: a file is missing, unreadable or of another size, or holds unknown labels.
    """
    photo = read_rgb(frame.image)
    ids = read_label(frame)
    if frame.label is not None:
        same_size(photo, ids, frame.image, frame.label)
    image, label = _tensor(photo).permute(2, 0, 1), _tensor(ids)  # (H, W, 3) -> (3, H, W)
    if size is None:
        return image, label
    return fit_image(image, size, fit), fit_label(label, size, fit)


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """The batches of an epoch, as lists of (index, epoch) for `SegmentationDataset`.

    An epoch's order is a pure function of (seed, epoch). n frames make ceil(n / batch_size) batches
    of nearly equal size, so none is left with one image, which BatchNorm can't train on; where even
    that is not enough (an odd n at batch size 2) one frame is seen twice. Over ranks, whole batches
    are dealt in turn, and the first ones are repeated until every rank has as many. For training:
    where each frame must count exactly once, use a plain loader.

    Args:
        length: n, how many frames there are.
        batch_size: greatest number of frames in a batch, on one rank.
        seed: of the order.
        shuffle: False keeps the order of the frames.
        rank: of this process.
        world: how many processes there are.

    Raises:
        UsageError: there is no frame, or a number is out of range.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if length < 1 or batch_size < 1 or not 0 <= rank < world:
            raise UsageError(
                "expected at least one frame, a batch size of 1 or more and a rank below the "
                f"number of processes, got {length} frames, batch size {batch_size}, rank {rank} "
                f"of {world}."
            )
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world = world
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch the next pass is; workers and earlier passes do not matter."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of this rank; the same on each."""
        return -(-self._batches() // self.world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = torch.arange(self.length)
        if self.shuffle:
            order = torch.randperm(self.length, generator=seeded(self.seed, self.epoch))
        if self.batch_size == 2 and self.length > 1 and self.length % 2:
            order = torch.cat([order, order[:1]])
        batches = torch.tensor_split(order, self._batches())
        for turn in range(len(self)):
            batch = batches[(turn * self.world + self.rank) % len(batches)]
            yield [(int(index), self.epoch) for index in batch]

    def _batches(self) -> int:
        return -(-self.length // self.batch_size)


def seeded(*entropy: int) -> torch.Generator:
    """Return a generator whose stream depends on all the numbers (each >= 0)."""
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels)
