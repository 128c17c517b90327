"""Counts and shares against cases worked by hand, sklearn and torchmetrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix as sklearn_confusion
from torch import Tensor
from torchmetrics.classification import MulticlassJaccardIndex

from moeseg.errors import DataError, MoesegError
from moeseg.metrics import (
    ConfusionMatrix,
    class_ids,
    confusion_matrix,
    confusion_per_image,
    marginals,
    miou_of_marginals,
    scores,
)


def _random(seed: int, classes: int, *shape: int, ignored: float = 0.2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(0, classes, shape, generator=generator)
    label = torch.randint(0, classes, shape, generator=generator).to(torch.uint8)
    label[torch.rand(shape, generator=generator) < ignored] = 255
    return prediction, label


def test_confusion_matrix_by_hand() -> None:
    prediction = torch.tensor([[0, 0, 1], [2, 1, 0]])
    label = torch.tensor([[0, 1, 1], [2, 255, 2]], dtype=torch.uint8)
    confusion = confusion_matrix(prediction, label, 3)
    assert confusion.dtype == torch.int64
    assert confusion.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]


def test_scores_by_hand() -> None:
    # truth 0: 4 right, 1 as class 1, 1 as class 3; truth 1: 2 right, 2 as class 0;
    # class 2 in neither, class 3 only predicted
    confusion = torch.tensor([[4, 1, 0, 1], [2, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    result = scores(confusion)
    iou = [4 / (6 + 6 - 4), 2 / (4 + 3 - 2)]  # 0.5, 0.4
    assert result.per_class_iou == [pytest.approx(iou[0]), pytest.approx(iou[1]), None, None]
    assert result.miou == pytest.approx(0.45)
    assert result.miou_union == pytest.approx((0.5 + 0.4 + 0.0) / 3)
    assert result.pixel_accuracy == pytest.approx(6 / 10)
    assert result.class_accuracy == pytest.approx((4 / 6 + 2 / 4) / 2)
    assert result.fw_iou == pytest.approx(0.6 * 0.5 + 0.4 * 0.4)
    assert result.pixels == [6, 4, 0, 0]
    assert result.classes_used == 2


@pytest.mark.parametrize("classes", [2, 11, 38, 255])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_confusion_matrix_against_sklearn(classes: int, dtype: torch.dtype) -> None:
    prediction, label = _random(classes, classes, 2, 17, 23)
    valid = label != 255
    expected = sklearn_confusion(label[valid], prediction[valid], labels=range(classes))
    confusion = confusion_matrix(prediction.to(dtype), label.to(dtype), classes)
    assert np.array_equal(confusion.numpy(), expected)


def test_scores_against_torchmetrics_and_numpy() -> None:
    prediction, label = _random(5, 9, 4, 30, 40)
    label[label == 3] = 0  # in the prediction only
    confusion = confusion_matrix(prediction, label, 9)
    result = scores(confusion)
    # torchmetrics' macro mean is over classes in ground truth or prediction: our union reading
    jaccard = MulticlassJaccardIndex(num_classes=9, average="macro", ignore_index=255)
    assert result.miou_union == pytest.approx(float(jaccard(prediction, label.long())), abs=1e-6)
    valid = (label != 255).numpy()
    truth, guess = label.numpy()[valid], prediction.numpy()[valid]
    iou = {c: ((truth == c) & (guess == c)).sum() / ((truth == c) | (guess == c)).sum()
           for c in range(9)}  # fmt: skip
    present = sorted(set(truth.tolist()))
    assert 3 not in present
    assert result.miou == pytest.approx(np.mean([iou[c] for c in present]))
    assert result.miou != pytest.approx(result.miou_union)
    assert result.pixel_accuracy == pytest.approx((truth == guess).mean())
    recalls = [(guess[truth == c] == c).mean() for c in present]
    assert result.class_accuracy == pytest.approx(np.mean(recalls))
    shares = [(truth == c).mean() for c in present]
    assert result.fw_iou == pytest.approx(np.dot(shares, [iou[c] for c in present]))
    for c in range(9):
        expected = iou[c] if c in present else None
        assert result.per_class_iou[c] == (None if expected is None else pytest.approx(expected))


def test_batches_and_images_sum_to_the_whole() -> None:
    prediction, label = _random(1, 7, 6, 11, 13)
    whole = confusion_matrix(prediction, label, 7)
    assert int(whole.sum()) == int((label != 255).sum())
    parts = [confusion_matrix(prediction[i : i + 2], label[i : i + 2], 7) for i in (0, 2, 4)]
    assert torch.equal(torch.stack(parts).sum(dim=0), whole)
    single = [confusion_matrix(p, t, 7) for p, t in zip(prediction, label, strict=True)]
    assert torch.equal(confusion_per_image(prediction, label, 7), torch.stack(single))
    shell = ConfusionMatrix(7)
    for i in (0, 2, 4):
        shell.update(prediction[i : i + 2], label[i : i + 2])
    assert torch.equal(shell.compute(), whole)
    shell.reset()
    assert int(shell.total.sum()) == 0


def test_all_ignored_gives_none_not_nan() -> None:
    prediction, label = _random(2, 3, 2, 4, 4, ignored=2.0)
    result = scores(confusion_matrix(prediction, label, 3))
    assert result.per_class_iou == [None, None, None]
    assert result.pixels == [0, 0, 0]
    assert (result.miou, result.miou_union, result.fw_iou) == (None, None, None)
    assert (result.pixel_accuracy, result.class_accuracy, result.classes_used) == (None, None, 0)


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4)])
def test_no_pixels_count_nothing(shape: tuple[int, ...]) -> None:
    empty = torch.zeros(shape, dtype=torch.uint8)
    assert confusion_per_image(empty, empty, 3).shape == (shape[0], 3, 3)
    assert int(confusion_matrix(empty, empty, 3).sum()) == 0


def test_counts_beyond_int32_and_float32() -> None:
    big = 2**53 - 1
    result = scores(torch.tensor([[big, 0], [0, 1]]))
    assert result.pixels == [big, 1]
    assert result.pixel_accuracy == 1.0
    # 2**40 right and as many wrong: IoU 1/2 exactly
    assert scores(torch.tensor([[2**40, 2**40], [0, 2**40]])).miou == 0.5
    shell = ConfusionMatrix(2)
    shell.total += 2**40
    shell.update(torch.tensor([1]), torch.tensor([0]))
    assert shell.compute().tolist() == [[2**40, 2**40 + 1], [2**40, 2**40]]


def test_miou_of_marginals_is_the_headline_of_each() -> None:
    generator = torch.Generator().manual_seed(0)
    confusions = torch.randint(0, 50, (5, 6, 6), generator=generator)
    confusions[1, 2] = 0  # a class predicted but absent from the ground truth
    confusions[3] = 0
    values = miou_of_marginals(marginals(confusions))
    assert values.dtype == torch.float64
    for value, confusion in zip(values.tolist(), confusions, strict=True):
        expected = scores(confusion).miou
        assert np.isnan(value) if expected is None else value == pytest.approx(expected, abs=1e-15)
    assert miou_of_marginals(marginals(confusions.view(1, 5, 6, 6))).shape == (1, 5)


def test_class_ids_take_the_first_of_equal_logits_in_any_layout() -> None:
    generator = torch.Generator().manual_seed(4)
    logits = torch.randint(0, 4, (2, 9, 10, 12), generator=generator).float()  # many ties
    expected = torch.from_numpy(np.argmax(logits.numpy(), axis=1))
    assert torch.equal(class_ids(logits), expected)
    assert torch.equal(class_ids(logits.to(memory_format=torch.channels_last)), expected)
    assert torch.equal(class_ids(logits.to(torch.bfloat16)), expected)


def test_nan_logits_are_an_error() -> None:
    logits = torch.zeros(1, 3, 2, 2)
    logits[0, 1, 0, 1] = float("nan")
    with pytest.raises(MoesegError, match="the logits of 'x', got NaN at 1 of 4 pixels"):
        class_ids(logits, what="the logits of 'x'")


def test_strange_ids_and_shapes_are_errors() -> None:
    good = torch.zeros(2, 2, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"label ids 0\.\.2 or 255 \(ignore\), got \[7\] at 1 pix"):
        confusion_matrix(good, torch.tensor([[0, 7], [255, 1]], dtype=torch.uint8), 3)
    with pytest.raises(DataError, match=r"prediction ids 0\.\.2, got 0\.\.3"):
        confusion_matrix(torch.tensor([[0, 3], [0, 0]]), good, 3)
    with pytest.raises(DataError, match=r"label ids 0\.\.255, got -1\.\.0"):
        confusion_matrix(good, torch.tensor([[0, -1], [0, 0]]), 3)
    with pytest.raises(DataError, match="shape"):
        confusion_matrix(good, good[:1], 3)
