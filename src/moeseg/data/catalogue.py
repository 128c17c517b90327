"""A data set as a list of frames with named subsets, and how frames are picked from it.

Where the frames come from is a reader's matter (`a2d2.py`, `camvid.py`, `manifest.py`); pictures
are opened by `dataset.py` alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from moeseg.data.labels import LabelFormat, ReadLabel
from moeseg.data.taxonomy import Taxonomy
from moeseg.errors import DataError, UsageError, unknown_name
from moeseg.types import Frame, Split

SPLITS: tuple[Split, ...] = get_args(Split)
_SHOWN = 3  # frames named in a message


@dataclass(frozen=True)
class Overlap:
    """Frames that stand in two places of a data set.

    Attributes:
        first: (subset, split) where the frames were met first.
        second: (subset, split) where they were met again; equal to `first` for a doubled line.
        keys: the frames, in the order of the second list.
    """

    first: tuple[str, Split]
    second: tuple[str, Split]
    keys: tuple[str, ...]

    def __str__(self) -> str:
        shown = ", ".join(self.keys[:_SHOWN]) + (" ..." if len(self.keys) > _SHOWN else "")
        count = f"{len(self.keys):,} frame{'s' if len(self.keys) != 1 else ''}"
        (a, b), (c, d) = self.first, self.second
        if self.first == self.second:
            return f"{a}/{b} lists {count} twice: {shown}"
        return f"{a}/{b} and {c}/{d} share {count}: {shown}"


@dataclass(frozen=True)
class Catalogue:
    """All frames of a data set, in named subsets and splits.

    Attributes:
        dataset: its name in result rows, e.g. ``a2d2``.
        frames: every frame, in the order of the lists.
        labels: how label files are read.
        source: where the lists lie, for messages.
        strict: refuse frames that stand in two places; only `check` looks at such data.

    Raises:
        DataError: a subset's name can't be joined, or (strict) frames stand in two subsets of a
            split, in two splits, or twice in one list.
    """

    dataset: str
    frames: tuple[Frame, ...]
    labels: LabelFormat
    source: str
    strict: bool = True

    def __post_init__(self) -> None:
        bad = sorted({f.subset for f in self.frames if not f.subset.strip() or "+" in f.subset})
        if bad:
            raise DataError(
                f"{self.source}: expected subset names without '+' (it joins subsets), got "
                f"{', '.join(map(repr, bad))}; rename them."
            )
        found = overlaps(self.frames) if self.strict else ()
        if found:
            raise DataError(
                f"{self.dataset}: expected each frame in one subset and one split, got "
                f"{'; '.join(map(str, found))}. Take them off all lists but one in {self.source}."
            )

    @property
    def taxonomy(self) -> Taxonomy:
        """The taxonomy of the ids that `read_label` gives."""
        return self.labels.taxonomy

    @property
    def read_label(self) -> ReadLabel:
        """Function that reads a frame's label as (H, W) uint8 ids; holds no frame list."""
        return self.labels.read

    def in_taxonomy(self, taxonomy: Taxonomy) -> Catalogue:
        """Return the same frames with labels read in another taxonomy.

        Raises:
            UsageError: no mapping between the two is known.
        """
        return replace(self, labels=self.labels.in_taxonomy(taxonomy))

    def subsets(self, split: Split | None = None) -> tuple[str, ...]:
        """Return the names of the subsets that have frames in a split (None: in any), in order."""
        return tuple(dict.fromkeys(f.subset for f in self.frames if split in (None, f.split)))

    def sequences(self) -> tuple[str, ...]:
        """Return the names of all sequences, sorted."""
        return tuple(sorted({frame.sequence for frame in self.frames}))

    def select(self, subset: str, split: Split) -> tuple[Frame, ...]:
        """Return a subset's frames of one split.

        Args:
            subset: a name, or names joined with ``+``; then the frames follow each other.
            split: ``train``, ``val`` or ``test``.

        Raises:
            UsageError: a subset or split is not known, or a name stands twice in a join.
            DataError: a subset has no frame in this split.
        """
        if split not in SPLITS:
            raise UsageError(unknown_name("split", split, SPLITS))
        names = [name.strip() for name in subset.split("+")]
        if len(set(names)) < len(names):
            raise UsageError(f"expected each subset once in a join, got {subset!r}.")
        chosen: list[Frame] = []
        for name in names:
            if name not in self.subsets():
                raise UsageError(
                    f"{self.dataset}: {unknown_name('subset', name, self.subsets())} "
                    f"The lists lie in {self.source}."
                )
            frames = [f for f in self.frames if f.subset == name and f.split == split]
            if not frames:
                has = sorted({f.split for f in self.frames if f.subset == name}, key=SPLITS.index)
                raise DataError(
                    f"{self.dataset}: subset {name!r} has no frames in split {split!r}, only in "
                    f"{', '.join(has)}. The lists lie in {self.source}."
                )
            chosen += frames
        return tuple(chosen)


@dataclass(frozen=True)
class Pick:
    """Which frames make up a subset of one split.

    Attributes:
        source: a subset as read; None for all.
        split: the split as read.
        sequences: only these; None for all.
        exclude: never these sequences.
        frames: (first, end) places among what is left, counted from 0 in order of sequence and
            frame, the end not included and None for the last; None for all.
    """

    source: str | None
    split: Split
    sequences: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    frames: tuple[int, int | None] | None = None


def reselect(catalogue: Catalogue, selections: Mapping[str, Mapping[Split, Pick]]) -> Catalogue:
    """Return a catalogue whose subsets are picked anew from what a reader found.

    Args:
        catalogue: what a reader found.
        selections: for each new subset and split, which frames it takes; frames nobody picks are
            left out.

    Raises:
        UsageError: a subset, split or sequence is not known.
        DataError: a pick is empty or wants more frames than there are, or two picks overlap.
    """
    frames = [
        replace(frame, subset=subset, split=split)
        for subset, picks in selections.items()
        for split, pick in picks.items()
        for frame in _picked(catalogue, pick, f"{subset}/{split}")
    ]
    return replace(catalogue, frames=tuple(frames))


def limit(frames: Sequence[Frame], n: int | None) -> tuple[Frame, ...]:
    """Return at most n frames, evenly spaced over the given order, the first one among them.

    None gives every one.

    Raises:
        UsageError: n is below 1.
    """
    if n is not None and n < 1:
        raise UsageError(f"expected a limit of 1 frame or more, got {n}.")
    if n is None or n >= len(frames):
        return tuple(frames)
    return tuple(frames[i * len(frames) // n] for i in range(n))


def overlaps(frames: Iterable[Frame]) -> tuple[Overlap, ...]:
    """Find frames that stand in more than one place, grouped by the two places."""
    first: dict[str, tuple[str, Split]] = {}
    shared: defaultdict[tuple[tuple[str, Split], tuple[str, Split]], list[str]] = defaultdict(list)
    for frame in frames:
        place = (frame.subset, frame.split)
        earlier = first.setdefault(frame.key, place)
        if earlier is not place:
            shared[earlier, place].append(frame.key)
    return tuple(Overlap(a, b, tuple(keys)) for (a, b), keys in shared.items())


def _picked(catalogue: Catalogue, pick: Pick, where: str) -> list[Frame]:
    if pick.split not in SPLITS:
        raise UsageError(f"{where}: {unknown_name('split', pick.split, SPLITS)}")
    if pick.source is not None and pick.source not in catalogue.subsets():
        raise UsageError(f"{where}: {unknown_name('subset', pick.source, catalogue.subsets())}")
    known = catalogue.sequences()
    for name in (*(pick.sequences or ()), *pick.exclude):
        if name not in known:
            raise UsageError(f"{where}: {unknown_name('sequence', name, known)}")
    frames = [
        frame
        for frame in catalogue.frames
        if frame.split == pick.split
        and pick.source in (None, frame.subset)
        and (pick.sequences is None or frame.sequence in pick.sequences)
        and frame.sequence not in pick.exclude
    ]
    if pick.frames is not None:
        start = pick.frames[0]
        end = len(frames) if pick.frames[1] is None else pick.frames[1]
        if not 0 <= start < end <= len(frames):
            raise DataError(
                f"{where}: expected frames [first, end] within 0..{len(frames)}, first < end, got "
                f"[{start}, {end}]; {len(frames)} frames are left by the other conditions."
            )
        frames = sorted(frames, key=lambda frame: (frame.sequence, frame.frame))[start:end]
    if not frames:
        raise DataError(f"{where}: no frame of {catalogue.source} meets {pick}; loosen it.")
    return frames
