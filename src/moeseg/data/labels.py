"""How label files become class ids, and how many pixels and what weight each class has.

Colours and names are `taxonomy.py`; which files there are is `catalogue.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from moeseg.data.pictures import read_rgb, read_single
from moeseg.data.sweep import Track, sweep, untracked
from moeseg.data.taxonomy import Taxonomy
from moeseg.errors import DataError, UsageError, unknown_name
from moeseg.types import IGNORE, Frame

Coding = Literal["colours", "ids"]
Weighting = Literal["none", "inverse-log", "median-frequency"]
WEIGHTINGS: tuple[Weighting, ...] = ("none", "inverse-log", "median-frequency")
ReadLabel = Callable[[Frame], NDArray[np.uint8]]


@dataclass(frozen=True)
class LabelFormat:
    """How a data set's label files are to be read.

    Attributes:
        coding: ``colours`` (RGB pictures) or ``ids`` (one 8-bit channel).
        files: the taxonomy the files are drawn in.
        taxonomy: the taxonomy the ids are wanted in; `files` where nothing is mapped.
        renamed: ids in `ids` files that mean another id, as (in the file, in `files`) pairs,
            e.g. ``((11, 255),)`` where 11 is void.
    """

    coding: Coding
    files: Taxonomy
    taxonomy: Taxonomy
    renamed: tuple[tuple[int, int], ...] = ()
    _table: bytes | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        mapped = self.files != self.taxonomy
        table = self.files.mapping_to(self.taxonomy).tobytes() if mapped else None
        object.__setattr__(self, "_table", table)

    def read(self, frame: Frame) -> NDArray[np.uint8]:
        """Read a frame's label.

        Returns:
            (H, W) ids in `taxonomy`, 255 where nothing counts.

        Raises:
            DataError: there is no label, the file is missing or unreadable, or holds colours or
                ids that the taxonomy does not know.
        """
        if frame.label is None:
            raise DataError(
                f"{frame.image}: the frame has no label; name one in its list, or only predict it."
            )
        if self.coding == "colours":
            ids = self.files.encode(read_rgb(frame.label), str(frame.label))
        else:
            ids = read_single(frame.label)
            if self.renamed:
                table = np.arange(256, dtype=np.uint8)
                for stored, meant in self.renamed:
                    table[stored] = meant
                ids = table[ids]
            self.files.check_ids(ids, str(frame.label))
        return ids if self._table is None else np.frombuffer(self._table, np.uint8)[ids]

    def first_colours_only(self) -> LabelFormat:
        """Return the same files with every colour but the first of its class read as class 0.

        Raises:
            UsageError: the files hold no colours, or one colour of each class.
        """
        first = tuple(colours[:1] for colours in self.files.colours)
        others = tuple(c for colours in self.files.colours[1:] for c in colours[1:])
        if self.coding != "colours" or not others:
            raise UsageError(
                "data.label_colours: first-only needs label files in which a class has several "
                f"colours, got {self.coding} of taxonomy {self.files.name!r}; leave it at `all`."
            )
        files = replace(self.files, colours=((*self.files.colours[0], *others), *first[1:]))
        own = self.files == self.taxonomy
        return replace(self, files=files, taxonomy=files if own else self.taxonomy)

    def in_taxonomy(self, taxonomy: Taxonomy) -> LabelFormat:
        """Return the same files read in another taxonomy.

        Raises:
            UsageError: no mapping between the two is known.
        """
        return replace(self, taxonomy=taxonomy)


@dataclass(frozen=True)
class ClassCounts:
    """Pixels by class over some frames.

    Attributes:
        pixels: (C,) int64, labelled pixels of each class.
        present: (C,) int64, labelled pixels of all frames that show the class.
        ignored: pixels with id 255.
        frames: how many frames were counted.
    """

    pixels: NDArray[np.int64]
    present: NDArray[np.int64]
    ignored: int
    frames: int

    @classmethod
    def empty(cls, num_classes: int) -> ClassCounts:
        """Return the counts of no frame."""
        zeros = np.zeros(num_classes, np.int64)
        return cls(zeros, zeros, 0, 0)

    def add(self, ids: NDArray[np.uint8]) -> ClassCounts:
        """Return the counts with one more frame's ids (H, W) in them."""
        counts = np.bincount(ids.ravel(), minlength=256)
        pixels = counts[: len(self.pixels)].astype(np.int64)
        present = np.where(pixels > 0, pixels.sum(), 0)
        return self + ClassCounts(pixels, present, int(counts[IGNORE]), 1)

    def __add__(self, other: ClassCounts) -> ClassCounts:
        return ClassCounts(
            pixels=self.pixels + other.pixels,
            present=self.present + other.present,
            ignored=self.ignored + other.ignored,
            frames=self.frames + other.frames,
        )


def count_classes(
    frames: Sequence[Frame],
    read_label: ReadLabel,
    num_classes: int,
    *,
    workers: int = 0,
    track: Track = untracked,
) -> ClassCounts:
    """Count the pixels of each class over frames, at the size of their label files.

    Args:
        frames: whose labels are counted.
        read_label: gives a frame's (H, W) ids.
        num_classes: C.
        workers: threads; 0 reads in this one.
        track: shows progress.

    Raises:
        DataError: a label can't be read.
    """
    zero = ClassCounts.empty(num_classes)
    each = sweep(frames, lambda frame: zero.add(read_label(frame)), "count classes", workers, track)
    return sum(each, zero)


def class_weights(counts: ClassCounts, method: Weighting) -> NDArray[np.float32]:
    """Return a loss weight for each class; the mean weight of a labelled pixel is 1.

    ``inverse-log`` is 1 / ln(1.02 + p) with p the class's share of pixels (Paszke et al., ENet,
    2016, section 5.2); ``median-frequency`` is median(f) / f with f the class's share of the pixels
    of frames that show it (Eigen and Fergus, 2015, section 6.3.2). A class without pixels gets the
    greatest weight among the others: finite, and it acts only where such a pixel turns up later.

    Returns:
        (C,) float32, > 0.

    Raises:
        UsageError: unknown method.
        DataError: no labelled pixel was counted.
    """
    if method not in WEIGHTINGS:
        raise UsageError(unknown_name("class weighting", method, WEIGHTINGS))
    total = int(counts.pixels.sum())
    if not total:
        raise DataError("class weights need labelled pixels, got none; check the frames' labels.")
    seen = counts.pixels > 0
    share = counts.pixels / total
    weights = np.ones(len(share))
    if method == "inverse-log":
        weights = 1 / np.log(1.02 + share)
    elif method == "median-frequency":
        frequency = counts.pixels[seen] / counts.present[seen]
        weights[seen] = np.median(frequency) / frequency
    weights[~seen] = weights[seen].max()
    scaled: NDArray[np.float32] = (weights / (share * weights).sum()).astype(np.float32)
    return scaled
