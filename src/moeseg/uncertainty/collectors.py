"""The collector behind uncertainty: one pass over a model's predictions, and all rows about it.

It counts scores of doubt (`detector` rows, shared with insight), moments of confidence
(`calibration` rows) and scores of patches (`conditional` rows), in a state of fixed size per
resampling block. Paired differences of two collectors are `uncertainty.differences`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from moeseg.errors import DataError
from moeseg.evaluation.intervals import (
    Blocks,
    resample_counts,
)
from moeseg.evaluation.rows import validate_row
from moeseg.insight.histograms import BINS, Floats
from moeseg.insight.scoring import ScoreCollector, bin_of, counted, detector_row, sums
from moeseg.metrics import class_ids
from moeseg.types import IGNORE, Prediction, Row, single_subsets
from moeseg.uncertainty import calibration, conditional
from moeseg.uncertainty.formulas import Strip, strips_of
from moeseg.uncertainty.readings import PROBABILITY, calibration_rows, conditional_rows
from moeseg.uncertainty.scores import (
    check_scores,
    largest,
    maximum,
    refuse_nan,
    scores_of,
)

Split = tuple[str, conditional.Unit]
"""A score and what is split by it at a threshold."""


class UncertaintyCollector(ScoreCollector):
    """Scores of doubt, calibration and conditional correctness of one model.

    Args:
        model: its name in the table.
        members: E, its experts or samples; 1 for a single network.
        gated: it is a mixture with a gate.
        classes: C class names, in id order.
        blocks: of all frames under evaluation.
        subsets: names and joins that get rows.
        base: the keys that all rows share; see `evaluation.collectors.BlockCollector`.
        known: subsets that the model was trained on, as far as it is known.
        thresholds: of each score, of pixels and of patches, chosen on validation frames; without
            one, the single numbers of conditional correctness are null.
        published: also give the published readings.
        twin: of a class-wise mixture, the name of the simple one that is else alike.

    Raises:
        UsageError: a subset is not known.
    """

    summed = (
        *("pixels", "frames", "patches", "fine_counts", "fine_sums", "class_counts", "class_sums"),
        *("proper", "image_ece", "labelled", "reading_counts", "reading_sums", "reading_proper"),
    )

    def __init__(
        self,
        model: str,
        members: int,
        gated: bool,
        classes: Sequence[str],
        blocks: Blocks,
        subsets: Sequence[str],
        base: Row,
        known: Iterable[str] = (),
        *,
        thresholds: Mapping[Split, float] | None = None,
        published: bool = False,
        twin: str = "",
    ) -> None:
        scores = scores_of(members, gated, published=published)
        super().__init__(model, scores, classes, blocks, subsets, base, known)
        self.members = members
        self.gated = gated
        self.twin = twin
        self.thresholds = dict(thresholds or {})
        self.needs_expert_logits = members > 1
        # what confidence the readings of pixel-correctness take
        self.readings = (PROBABILITY, *self.scores) if published else ()
        self.needs_whole_batches = published  # one score has its batch's own maximum
        self._subsets = tuple(dict.fromkeys(blocks.unit_subset))
        units, few, fine = len(blocks), calibration.BINS, calibration.FINE
        readings, of_class = len(self.readings), calibration.CLASS_FINE
        places = (len(self._subsets), len(self.classes))
        self.patches = _counts(units, len(self.scores), 2, BINS)  # right ones first
        self.fine_counts, self.fine_sums = _counts(units, 2, fine), _reals(units, fine)
        self.class_counts, self.class_sums = (
            _counts(*places, 2, of_class),
            _reals(*places, of_class),
        )
        self.proper = _reals(units, 2)  # sums of Brier score and NLL
        self.image_ece = _reals(units, 1 + readings)  # sums over frames
        self.labelled = _counts(units)  # frames with a labelled pixel
        self.reading_counts = _counts(units, readings, 2, few)
        self.reading_sums = _reals(units, readings, few)
        self.reading_proper = _reals(units, readings, 2)

    def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
        """Count a batch: logits, ids, of members expert_logits, of mixtures weights; B keys.

        Raises:
            DataError: another number of classes or members, label ids that do not fit, or a key
                that is not under evaluation.
            UsageError: the prediction lacks what a score is made of.
            MoesegError: the logits of a member hold NaN.
        """
        self._check(prediction)
        ids = prediction.ids
        if ids is None:
            ids = class_ids(prediction.logits, what=f"the logits of {self.model!r} on {list(keys)}")
        label = label.to(ids.device)
        half = self.halves(ids, label)  # (B, H, W)
        batch, classes, height, width = prediction.logits.shape
        maps = prediction.logits.new_empty(
            batch, len(self.scores), height, width, dtype=torch.float32
        )
        units = self.units_of(keys).tolist()
        for image, unit in enumerate(units):
            whole = _Image(classes)
            for rows, strip in strips_of(prediction, image):
                for place, name in enumerate(self.scores):
                    maps[image, place, rows] = strip.score(name)
                whole.add(strip, label[image, rows], half[image, rows])
            self._count_calibration(unit, whole)
        for place, name in enumerate(self.scores):
            refuse_nan(maps[:, place], f"{name} of {self.model!r} on {list(keys)}")
            greatest = maximum(name, self.members, classes) or largest(maps[:, place])
            maps[:, place].div_(greatest).clamp_(0, 1)
        for image, unit in enumerate(units):
            if bool((half[image] == 2).all()):  # a frame without a label counts nothing
                continue
            self.count_scores(unit, half[image], maps[image].unbind(), prediction.inside(image))
            self._count_patches(unit, maps[image], half[image])
            if self.readings:
                self._count_readings(unit, prediction.logits[image], maps[image], half[image])

    def rows(self) -> list[Row]:
        """Return ``detector``, then ``calibration``, then ``conditional`` rows of every subset.

        Raises:
            DataError: a frame was counted twice, or a base key is missing.
        """
        found = super().rows()
        found += [row for subset in self.subsets for row in calibration_rows(self, subset)]
        found += [row for subset in self.subsets for row in conditional_rows(self, subset)]
        for row in found:
            validate_row(row)
        return found

    def moments(self, subset: str) -> Floats:
        """Return the (G, 3, 15) moments of confidence of the resampling units of a subset."""
        return calibration.equal_width(self.fine_moments(subset))

    def proper_sums(self, subset: str) -> Floats:
        """Return (G, 3): sums of Brier score and of NLL, and pixels, of the resampling units."""
        groups, _ = self.blocks.units_for(subset)
        pixels = sums(self.fine_counts[:, 0], groups).sum(1, keepdims=True)  # (G, N) -> (G, 1)
        return np.concatenate([sums(self.proper, groups), pixels], axis=1)

    def fine_moments(self, subset: str) -> Floats:
        """Return the (G, 3, 4095) moments of confidence, in fine bins, of the resampling units."""
        groups, _ = self.blocks.units_for(subset)
        return calibration.joined(sums(self.fine_counts, groups), sums(self.fine_sums, groups))

    def class_moments(self, subset: str) -> Floats:
        """Return the (C, 3, 510) moments of every class's probability on a whole subset."""
        parts = single_subsets(subset)
        places = [place for place, name in enumerate(self._subsets) if name in parts]
        counts, totals = self.class_counts[places].sum(0), self.class_sums[places].sum(0)
        return calibration.joined(counts, totals)

    def _check(self, prediction: Prediction) -> None:
        channels = prediction.logits.shape[1]
        if channels != len(self.classes):
            raise DataError(
                f"expected {len(self.classes)} classes from {self.model!r}, got {channels}; "
                "score it with the taxonomy it was trained on."
            )
        check_scores(prediction, self.scores)
        each = prediction.expert_logits
        if self.members > 1 and each is not None and each.shape[1] != self.members:
            raise DataError(
                f"expected {self.members} members of {self.model!r}, got {each.shape[1]}."
            )

    def _count_calibration(self, unit: int, image: _Image) -> None:
        counts, totals = image.fine()
        self.fine_counts[unit] += counts
        self.fine_sums[unit] += totals
        self.proper[unit] += image.proper
        subset = self._subsets.index(self.blocks.unit_subset[unit])
        self.class_counts[subset] += image.class_counts
        self.class_sums[subset] += image.class_sums
        if int(counts[0].sum()):
            moments = calibration.equal_width(calibration.joined(counts, totals))
            self.image_ece[unit, 0] += float(calibration.ece(moments))
            self.labelled[unit] += 1

    def _count_patches(self, unit: int, maps: Tensor, half: Tensor) -> None:
        score, accurate = conditional.patches(maps, half)  # (S, P), (P)
        cell = bin_of(score) + BINS * (~accurate)
        for place, of_score in enumerate(cell):
            found = torch.bincount(of_score, minlength=2 * BINS)
            self.patches[unit, place] += found.view(2, BINS).cpu()

    def _count_readings(self, unit: int, logits: Tensor, maps: Tensor, half: Tensor) -> None:
        """Count confidences that are no probabilities: 1 - score, as published."""
        valid = half < 2
        right = half[valid] == 0
        sure = 1 - (1 - 1 / logits.shape[0]) * maps[self.scores.index("max-probability")]
        for place, confidence in enumerate((sure, *(1 - maps).unbind())):
            chosen = confidence[valid]
            counts, totals = calibration.count_confidences(chosen, right, calibration.BINS)
            self.reading_counts[unit, place] += counts
            self.reading_sums[unit, place] += totals
            scored = calibration.correctness_scores(chosen, right)
            self.reading_proper[unit, place] += torch.stack([s.sum() for s in scored]).cpu()
            moments = calibration.joined(counts, totals)
            self.image_ece[unit, 1 + place] += float(calibration.ece(moments))


class _Image:
    """Sums over the strips of one image, before they are counted in a block."""

    def __init__(self, classes: int) -> None:
        self.class_counts = _counts(classes, 2, calibration.CLASS_FINE)
        self.class_sums = _reals(classes, calibration.CLASS_FINE)
        self.proper = _reals(2)
        self._confidences: list[Tensor] = []
        self._right: list[Tensor] = []

    def add(self, strip: Strip, label: Tensor, half: Tensor) -> None:
        """Take in a strip: label (h, W) uint8, half (h, W) as `ScoreCollector.halves` gives it."""
        valid = label != IGNORE
        true = label.long().masked_fill(~valid, 0)
        e, total = strip.exponentials, strip.total
        own = e.gather(0, true[None])[0] / total  # (C, h, W) -> (h, W)
        scored = calibration.brier(e, total, own), -own.log()
        self.proper += torch.stack([s[valid].double().sum() for s in scored]).cpu()
        counts, totals = calibration.count_classes(e, total, true, valid, calibration.CLASS_FINE)
        self.class_counts += counts
        self.class_sums += totals
        self._confidences.append((1 / total)[valid])
        self._right.append(half[valid] == 0)

    def fine(self) -> tuple[Tensor, Tensor]:
        """Return the moments of confidence of the whole image."""
        confidence, right = torch.cat(self._confidences), torch.cat(self._right)
        return calibration.count_confidences(confidence, right, calibration.FINE)


def changed_rows(clean: UncertaintyCollector, changed: UncertaintyCollector) -> list[Row]:
    """Return ``detector`` rows of changed frames (corrupted, attacked) among clean ones.

    Positives are the changed frames of a subset, negatives the same frames as they were; both are
    in the same resamples.

    Args:
        clean: of the frames as they are.
        changed: of the same model on the same frames, changed; rows carry its `condition`.

    Raises:
        DataError: the two are of other models, frames or subsets.
    """
    same = (clean.model, clean.members, clean.blocks, clean.subsets)
    if same != (changed.model, changed.members, changed.blocks, changed.subsets):
        raise DataError(
            f"expected {clean.model!r} clean and changed on the same frames, got "
            f"{changed.model!r} on others; evaluate both in one run."
        )
    found = []
    for subset in changed.subsets:
        groups, unit = changed.blocks.units_for(subset)
        drawn = resample_counts(len(groups))
        head = changed.task_head(subset, "changed-frames", unit, len(groups))
        for place, name in enumerate(changed.scores):
            if name not in clean.scores:
                continue
            positives = sums(changed.frames[:, place], groups)  # (G, N)
            negatives = sums(clean.frames[:, clean.scores.index(name)], groups)
            halves = (positives, negatives, drawn, drawn)
            named = head | {"score": name, "images": counted(halves)}
            found.append(detector_row(named, *halves))
    return found


def _counts(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def _reals(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float64)
