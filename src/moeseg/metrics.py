"""Counts and shares of a segmentation: confusion matrix, mIoU and its companions.

Pure functions on int64 totals, and one torchmetrics shell that sums them over ranks. Rows,
intervals and tables live in `moeseg.evaluation`; this sits below training, which reports mIoU too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torchmetrics import Metric

from moeseg.errors import DataError, MoesegError
from moeseg.types import IGNORE


@dataclass(frozen=True, slots=True)
class SegmentationScores:
    """What one confusion matrix says; shares in 0..1, None where nothing was counted.

    Attributes:
        miou: mean IoU over the classes in the ground truth; the headline.
        miou_union: mean IoU over the classes in the ground truth or the prediction.
        pixel_accuracy: share of counted pixels that are right.
        class_accuracy: mean over the classes in the ground truth of the share found.
        fw_iou: IoU of the classes weighted by their share of the ground truth.
        per_class_iou: C values, None for a class that is not in the ground truth (predicted or
            not), so that the mean of the values is `miou`.
        pixels: C ground-truth pixel counts.
        classes_used: how many classes `miou` is a mean of.
    """

    miou: float | None
    miou_union: float | None
    pixel_accuracy: float | None
    class_accuracy: float | None
    fw_iou: float | None
    per_class_iou: list[float | None]
    pixels: list[int]
    classes_used: int


def class_ids(logits: Tensor, *, what: str = "the logits") -> Tensor:
    """Return the class of the largest logit, the lowest id where several are equal.

    `max` is used for its indices: on a CPU it is several times faster over dim 1 than `argmax`,
    in either memory format, and its values show a NaN for nothing.

    Args:
        logits: (B, C, H, W).
        what: their name in an error.

    Returns:
        (B, H, W) int64 in 0..C-1.

    Raises:
        MoesegError: a pixel's logits hold NaN.
    """
    best, ids = logits.max(dim=1)  # (B, C, H, W) -> (B, H, W) twice
    lost = int(best.isnan().sum())
    if lost:
        raise MoesegError(
            f"expected numbers in {what}, got NaN at {lost} of {best.numel()} pixels; "
            "look at the training log for a loss that is not finite."
        )
    return ids


def confusion_matrix(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count pixels by true and predicted class; label 255 is not counted.

    Args:
        prediction: (...) integer class ids in 0..C-1.
        label: same shape, integer class ids in 0..C-1 or 255.
        num_classes: C, 1..255.

    Returns:
        (C, C) int64, row ground truth, column prediction.

    Raises:
        DataError: shapes differ, or an id is outside its range.
    """
    flat = (prediction.reshape(1, -1), label.reshape(1, -1))
    return confusion_per_image(*flat, num_classes)[0]  # (1, C, C) -> (C, C)


def confusion_per_image(prediction: Tensor, label: Tensor, num_classes: int) -> Tensor:
    """Count as `confusion_matrix` does, each image by itself, in one pass over the batch.

    Args:
        prediction: (B, ...) integer class ids in 0..C-1.
        label: same shape, integer class ids in 0..C-1 or 255.
        num_classes: C, 1..255.

    Returns:
        (B, C, C) int64, row ground truth, column prediction.

    Raises:
        DataError: shapes differ, or an id is outside its range.
    """
    if prediction.numel():
        _check_range("prediction", prediction, num_classes - 1)
    return counts_by_label(prediction, label, num_classes, num_classes)


def counts_by_label(values: Tensor, label: Tensor, num_classes: int, num_values: int) -> Tensor:
    """Count what is found at the pixels of each true class, each image by itself.

    Args:
        values: (B, ...) integers in 0..V-1, not checked.
        label: same shape, integer class ids in 0..C-1 or 255, which is not counted.
        num_classes: C, 1..255.
        num_values: V.

    Returns:
        (B, C, V) int64.

    Raises:
        DataError: shapes differ, or a label id is no class.
    """
    if values.shape != label.shape:
        raise DataError(
            f"expected a label of the prediction's shape {tuple(values.shape)}, got "
            f"{tuple(label.shape)}; resize one of them to the other."
        )
    batch = values.shape[0]
    if values.numel() == 0:
        return torch.zeros(batch, num_classes, num_values, dtype=torch.int64, device=label.device)
    _check_range("label", label, IGNORE)
    # One cell per (image, label id, value): all 256 label ids are counted, so ignored pixels need
    # no mask and an id that is no class shows in a row of its own.
    rows = IGNORE + 1
    cell = label.to(torch.int32).mul_(num_values).add_(values.to(torch.int32))
    if batch > 1:
        start = torch.arange(batch, dtype=torch.int32, device=label.device) * (rows * num_values)
        cell += start.view(batch, *[1] * (cell.ndim - 1))
    counts = torch.bincount(cell.flatten(), minlength=batch * rows * num_values)
    counts = counts.view(batch, rows, num_values)  # (B * 256 * V,) -> (B, 256, V)
    _refuse_strange(counts.sum(dim=(0, 2)), num_classes)  # (B, 256, V) -> (256,)
    return counts[:, :num_classes].clone()


def check_label_ids(label: Tensor, num_classes: int) -> None:
    """Check that a uint8 label of any shape holds ids 0..C-1 and 255 only.

    Raises:
        DataError: with the other ids and how often they stand there.
    """
    _refuse_strange(torch.bincount(label.flatten(), minlength=IGNORE + 1), num_classes)


def scores(confusion: Tensor) -> SegmentationScores:
    """Return every reading of one confusion matrix.

    Args:
        confusion: (C, C) int64, row ground truth, column prediction.
    """
    hits, truth, predicted = marginals(confusion).unbind(dim=-2)  # (3, C) -> three of (C,)
    seen = truth > 0
    pixels = [int(count) for count in truth.tolist()]
    total = int(truth.sum())
    if total == 0:
        nothing: list[float | None] = [None] * len(pixels)
        return SegmentationScores(None, None, None, None, None, nothing, pixels, 0)
    iou = _iou(hits, truth, predicted)
    union = (truth + predicted) > 0
    found = hits[seen].double() / truth[seen].double()
    return SegmentationScores(
        miou=float(iou[seen].mean()),
        miou_union=float(iou[union].mean()),
        pixel_accuracy=int(hits.sum()) / total,
        class_accuracy=float(found.mean()),
        fw_iou=float((iou[seen] * (truth[seen].double() / total)).sum()),
        per_class_iou=[
            value if there else None
            for value, there in zip(iou.tolist(), seen.tolist(), strict=True)
        ],
        pixels=pixels,
        classes_used=int(seen.sum()),
    )


def miou_over(confusion: Tensor, classes: Literal["truth", "union"]) -> float:
    """Return the mIoU of a (C, C) matrix over one class set; 0 where nothing was counted."""
    result = scores(confusion)
    return (result.miou if classes == "truth" else result.miou_union) or 0.0


def marginals(confusions: Tensor) -> Tensor:
    """Return all that an IoU needs of a confusion matrix; sums of matrices give sums of these.

    Args:
        confusions: (..., C, C), row ground truth, column prediction.

    Returns:
        (..., 3, C): pixels right, pixels in the ground truth, pixels predicted.
    """
    hits = confusions.diagonal(dim1=-2, dim2=-1)
    return torch.stack([hits, confusions.sum(dim=-1), confusions.sum(dim=-2)], dim=-2)


def miou_of_marginals(sums: Tensor) -> Tensor:
    """Return the headline mIoU, the mean over classes with ground truth, of `marginals`.

    Args:
        sums: (..., 3, C) counts as `marginals` gives them.

    Returns:
        (...) float64 in 0..1; NaN where nothing was counted.
    """
    hits, truth, predicted = sums.unbind(dim=-2)  # (..., 3, C) -> three of (..., C)
    seen = truth > 0
    iou = _iou(hits, truth, predicted).masked_fill(~seen, 0.0)
    return iou.sum(dim=-1) / seen.sum(dim=-1)  # (..., C) -> (...)


class ConfusionMatrix(Metric):
    """A confusion matrix that sums over batches and ranks.

    Args:
        num_classes: C, 1..255.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = None
    total: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        empty = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("total", default=empty, dist_reduce_fx="sum")

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Count a batch: two integer tensors of one shape, as `confusion_matrix` takes them."""
        self.total += confusion_matrix(prediction, label, self.num_classes)

    def compute(self) -> Tensor:
        """Return (C, C) int64 totals, row ground truth, column prediction."""
        return self.total


def _iou(hits: Tensor, truth: Tensor, predicted: Tensor) -> Tensor:
    """Return (..., C) float64 intersection over union; 0 for a class in neither."""
    union = truth + predicted - hits
    return hits.double() / union.clamp(min=1).double()


def _check_range(what: str, ids: Tensor, last: int) -> None:
    low, high = (int(value) for value in ids.aminmax())
    if low < 0 or high > last:
        raise DataError(
            f"expected {what} ids 0..{last}, got {low}..{high}; "
            "do model, labels and taxonomy have the same classes?"
        )


def _refuse_strange(pixels: Tensor, num_classes: int) -> None:
    """Raise on a pixel of a label id that is no class; `pixels` (256,) counts each id."""
    strange = pixels[num_classes:IGNORE]
    if bool(strange.any()):
        ids = (strange.nonzero().flatten() + num_classes).tolist()
        raise DataError(
            f"expected label ids 0..{num_classes - 1} or {IGNORE} (ignore), got {ids} at "
            f"{int(strange.sum())} pixels; was the label encoded with another taxonomy?"
        )
