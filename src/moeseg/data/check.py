"""Going over a data set and saying, with file names, everything that is wrong with it.

Finds and renders; mending is the user's, and nothing on disk is changed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, Literal

import numpy as np

from moeseg.data.catalogue import SPLITS, Catalogue, overlaps
from moeseg.data.labels import ClassCounts
from moeseg.data.pictures import MissingFile, picture_size, read_rgb
from moeseg.data.sweep import Track, sweep, untracked
from moeseg.data.taxonomy import UnknownLabels
from moeseg.errors import DataError
from moeseg.types import Frame, Split

Kind = Literal[
    "missing-photo",
    "missing-label",
    "unreadable",
    "size-mismatch",
    "unknown-label",
    "listed-twice",
    "two-subsets",
    "two-splits",
    "near-neighbours",
]
Place = tuple[str, Split]


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing before numbers are believed.

    Attributes:
        kind: what it is.
        subset: where it was found.
        split: where it was found.
        message: one sentence with all figures.
        files: the files it concerns.
        level: ``warning`` where the data can be used all the same.
    """

    kind: Kind
    subset: str
    split: Split
    message: str
    files: tuple[str, ...] = ()
    level: Literal["error", "warning"] = "error"


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        dataset: its name.
        classes: class names in id order.
        frames: number of frames by (subset, split).
        findings: everything found, by kind.
        counts: pixels by class of each (subset, split), over the labels that could be read; empty
            if pixels were not looked at.
    """

    dataset: str
    classes: tuple[str, ...]
    frames: dict[Place, int]
    findings: tuple[Finding, ...]
    counts: dict[Place, ClassCounts]

    @property
    def ok(self) -> bool:
        """Whether nothing was found but warnings."""
        return all(finding.level == "warning" for finding in self.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON-ready values."""
        return {
            "dataset": self.dataset,
            "ok": self.ok,
            "frames": [
                {"subset": subset, "split": split, "frames": n}
                for (subset, split), n in self.frames.items()
            ],
            "findings": [
                {**vars(finding), "files": list(finding.files)} for finding in self.findings
            ],
            "classes": [
                {
                    "subset": subset,
                    "split": split,
                    "pixels": dict(zip(self.classes, counts.pixels.tolist(), strict=True)),
                    "ignored": counts.ignored,
                }
                for (subset, split), counts in self.counts.items()
            ],
        }


@dataclass(frozen=True)
class _Seen:
    place: Place
    findings: tuple[Finding, ...]
    unknown: dict[str, int]
    label: str
    counts: ClassCounts | None


def check(
    catalogue: Catalogue,
    *,
    near: int = 100,
    pixels: bool = True,
    workers: int = 0,
    track: Track = untracked,
) -> Report:
    """Go over every frame of a data set.

    Args:
        catalogue: what to check; built with ``strict=False`` if its lists may overlap.
        near: a val or test frame is a near neighbour of training if a training frame of the same
            sequence lies at most so many frame numbers away.
        pixels: decode all pictures; False only looks whether they are there and of one size.
        workers: threads; 0 works in the calling one.
        track: shows progress.
    """
    look = partial(_look, catalogue=catalogue, pixels=pixels)
    findings: list[Finding] = []
    unknown: defaultdict[tuple[Place, str], list[tuple[int, str]]] = defaultdict(list)
    counts: dict[Place, ClassCounts] = {}
    for seen in sweep(catalogue.frames, look, "check", workers, track):
        findings += seen.findings
        for name, n in seen.unknown.items():
            unknown[seen.place, name].append((n, seen.label))
        if seen.counts is not None:
            earlier = counts.get(seen.place)
            counts[seen.place] = seen.counts if earlier is None else earlier + seen.counts
    for ((subset, split), name), hits in unknown.items():
        total, files = sum(n for n, _ in hits), tuple(file for _, file in hits)
        message = f"{name} is unknown to {catalogue.labels.files.name}: {total:,} pixels"
        findings.append(Finding("unknown-label", subset, split, message, files))
    findings += _doubled(catalogue)
    findings += near_neighbours(catalogue.frames, near)
    return Report(
        dataset=catalogue.dataset,
        classes=catalogue.taxonomy.classes,
        frames=dict(Counter((frame.subset, frame.split) for frame in catalogue.frames)),
        findings=tuple(findings),
        counts=counts,
    )


def near_neighbours(frames: Sequence[Frame], near: int) -> Iterator[Finding]:
    """Yield a warning for each val or test subset that has frames in training sequences.

    Frame numbers are the last digits of frame names. The median distance is over the frames whose
    sequence is also trained on, each to its nearest training frame of any subset.

    Args:
        frames: all frames of a data set.
        near: greatest distance in frame numbers that counts as near.
    """
    training: defaultdict[str, list[int]] = defaultdict(list)
    for frame in frames:
        if frame.split == "train" and (number := _number(frame)) is not None:
            training[frame.sequence].append(number)
    trained = {sequence: np.unique(numbers) for sequence, numbers in training.items()}
    by_place: defaultdict[Place, list[Frame]] = defaultdict(list)
    for frame in frames:
        if frame.split != "train":
            by_place[frame.subset, frame.split].append(frame)
    for (subset, split), held in by_place.items():
        distances = {
            frame: int(np.abs(trained[frame.sequence] - number).min())
            for frame in held
            if frame.sequence in trained and (number := _number(frame)) is not None
        }
        if not distances:
            continue
        close = tuple(str(frame.image) for frame, d in distances.items() if d <= near)
        message = (
            f"{len(distances):,} of {len(held):,} frames come from training sequences, "
            f"{len(close):,} lie within {near} frame numbers of a training frame (median distance "
            f"{median(distances.values()):g}); scores on them flatter"
        )
        yield Finding("near-neighbours", subset, split, message, close, "warning")


def render(report: Report, files: int = 5) -> str:
    """Return a report as plain text.

    Args:
        report: what `check` found.
        files: files named under each finding, and findings named of each kind and place.
    """
    lines = [f"{report.dataset}: {sum(report.frames.values()):,} frames"]
    lines += [f"  {subset}/{split}: {n:,}" for (subset, split), n in report.frames.items()]
    lines += ["", *_findings(report.findings, files)]
    if report.counts:
        lines += ["", "Share of labelled pixels, in percent", *_histogram(report)]
    return "\n".join(lines)


def _look(frame: Frame, catalogue: Catalogue, pixels: bool) -> _Seen:
    findings: list[Finding] = []
    unknown: dict[str, int] = {}
    counts = None
    sizes = []

    def found(kind: Kind, message: object, file: object) -> None:
        findings.append(Finding(kind, frame.subset, frame.split, str(message), (str(file),)))

    try:
        sizes.append(read_rgb(frame.image).shape[:2] if pixels else picture_size(frame.image))
    except MissingFile:
        found("missing-photo", "the photo is not there", frame.image)
    except DataError as error:
        found("unreadable", error, frame.image)
    try:
        if frame.label is None:
            found("missing-label", "the frame has no label", frame.image)
        else:
            sizes.append(picture_size(frame.label))
            if pixels:
                ids = catalogue.read_label(frame)
                counts = ClassCounts.empty(len(catalogue.taxonomy)).add(ids)
    except MissingFile:
        found("missing-label", "the label is not there", frame.label)
    except UnknownLabels as error:
        unknown = error.counts
    except DataError as error:
        found("unreadable", error, frame.label)
    if len(set(sizes)) > 1:
        (h, w), (label_h, label_w) = sizes
        found("size-mismatch", f"photo {h}x{w}, label {label_h}x{label_w} (H x W)", frame.label)
    place = frame.subset, frame.split
    return _Seen(place, tuple(findings), unknown, str(frame.label), counts)


def _doubled(catalogue: Catalogue) -> Iterator[Finding]:
    images = {frame.key: str(frame.image) for frame in catalogue.frames}
    for overlap in overlaps(catalogue.frames):
        kind: Kind = "two-splits" if overlap.first[1] != overlap.second[1] else "two-subsets"
        if overlap.first == overlap.second:
            kind = "listed-twice"
        subset, split = overlap.second
        files = tuple(images[key] for key in overlap.keys)
        yield Finding(kind, subset, split, str(overlap), files)


def _findings(findings: Iterable[Finding], files: int) -> Iterator[str]:
    groups: defaultdict[tuple[str, str, str, str], list[Finding]] = defaultdict(list)
    for finding in findings:
        groups[finding.level, finding.kind, finding.subset, finding.split].append(finding)
    if not groups:
        yield "Nothing wrong was found."
    for (level, kind, subset, split), group in sorted(groups.items()):
        yield f"{level}: {kind} in {subset}/{split} ({len(group):,})"
        for finding in group[:files]:
            yield f"  {finding.message}"
            yield from (f"    {file}" for file in finding.files[:files])
            if len(finding.files) > files:
                yield f"    ... and {len(finding.files) - files:,} more files"
        if len(group) > files:
            yield f"  ... and {len(group) - files:,} more"


def _histogram(report: Report) -> Iterator[str]:
    order = {subset: i for i, (subset, _) in enumerate(report.frames)}
    places = sorted(report.counts, key=lambda place: (order[place[0]], SPLITS.index(place[1])))
    heads = [f"{subset}/{split}" for subset, split in places]
    widths = [max(len(head), 7) for head in heads]
    first = max(len(name) for name in (*report.classes, "(ignored)"))
    heading = "  ".join(head.rjust(width) for head, width in zip(heads, widths, strict=True))
    yield f"{'':{first}}  {heading}"
    rows = [
        (name, [report.counts[place].pixels[i] for place in places])
        for i, name in enumerate(report.classes)
    ]
    rows.append(("(ignored)", [report.counts[place].ignored for place in places]))
    totals = [max(1, int(report.counts[place].pixels.sum())) for place in places]
    for name, row in rows:
        cells = (
            f"{100 * n / total:{width}.3f}" if n else "-".rjust(width)
            for n, total, width in zip(row, totals, widths, strict=True)
        )
        yield f"{name:{first}}  {'  '.join(cells)}"


def _number(frame: Frame) -> int | None:
    match = re.search(r"\d+$", frame.frame)
    return int(match[0]) if match else None
