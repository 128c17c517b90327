"""Agreement: which experts see, at a pixel, the class that their mixture gives it.

Pure functions on class ids, then a collector that counts how large each category is and how often
it is right. What is written of single frames is in `insight.frames`; nothing is drawn here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moeseg.errors import DataError, UsageError
from moeseg.evaluation.collectors import BlockCollector
from moeseg.evaluation.intervals import Blocks, share_interval
from moeseg.evaluation.rows import validate_row
from moeseg.metrics import counts_by_label
from moeseg.types import Prediction, Row

MAX_EXPERTS = 8
"""A category is a bitmask in one byte."""


def agreement_mask(ids: Tensor, expert_ids: Tensor) -> Tensor:
    """Return for each pixel which experts agree with the mixture, as a bitmask.

    With two experts the masks 3, 1, 2 and 0 are the published perfect, normal 1, normal 2 and
    critical case (Pavlitskaya et al., SAIAD at CVPR 2020).

    Args:
        ids: (B, H, W) integer classes of the mixture.
        expert_ids: (B, E, H, W) integer classes of its experts, E up to 8.

    Returns:
        (B, H, W) uint8: bit e is set where expert e has the mixture's class. All E bits are
        *unanimous*; 0 is *overrules*, whether the experts are of one mind against the mixture or
        split; all else *follows* those whose bits are set.

    Raises:
        UsageError: more than 8 experts.
    """
    experts = _fits(expert_ids.shape[1])
    mask = torch.zeros(ids.shape, dtype=torch.uint8, device=ids.device)
    for number in range(experts):
        mask |= (expert_ids[:, number] == ids).to(torch.uint8) << number
    return mask


def short(name: str) -> str:
    """Return an expert's name without the ``expert-`` that its model has."""
    return name.removeprefix("expert-")


def category_names(experts: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the 2**E categories, by bitmask.

    Args:
        experts: names in the order of the bits; a prefix ``expert-`` is left out.

    Returns:
        E.g. ``("overrules", "follows highway", "follows urban", "unanimous")``.

    Raises:
        UsageError: more than 8 experts.
    """
    names = [short(name) for name in experts]
    count = 2 ** _fits(len(names))

    def followed(mask: int) -> str:
        return "+".join(name for bit, name in enumerate(names) if mask >> bit & 1)

    between = [f"follows {followed(mask)}" for mask in range(1, count - 1)]
    return ("overrules", *between, "unanimous")


def category_counts(mask: Tensor, experts: int) -> Tensor:
    """Count the pixels of each category in each image.

    Args:
        mask: (B, H, W) uint8 as `agreement_mask` gives it.
        experts: E.

    Returns:
        (B, 2**E) int64; rows sum to H * W.
    """
    batch, categories = mask.shape[0], 2 ** _fits(experts)
    start = torch.arange(batch, dtype=torch.int32, device=mask.device) * categories
    cell = mask.flatten(1).to(torch.int32) + start[:, None]  # (B, H, W) -> (B, H * W)
    return torch.bincount(cell.flatten(), minlength=batch * categories).view(batch, categories)


def disagreement(mask: Tensor, experts: int) -> Tensor:
    """Return the share of the experts that differ from the mixture.

    Args:
        mask: (B, H, W) uint8 as `agreement_mask` gives it.
        experts: E.

    Returns:
        (B, H, W) float32, one of 0, 1/E, ... 1.
    """
    differ = [experts - category.bit_count() for category in range(2 ** _fits(experts))]
    shares = torch.tensor(differ, dtype=torch.float32, device=mask.device) / experts
    return shares[mask.to(torch.int32)]


def _fits(experts: int) -> int:
    if not 1 <= experts <= MAX_EXPERTS:
        raise UsageError(
            f"expected 1 to {MAX_EXPERTS} experts for their agreement, got {experts}; "
            "leave insight out for this mixture, or build it on fewer experts."
        )
    return experts


class AgreementCollector(BlockCollector):
    """Pixels of each category of agreement, per resampling block, with and without label.

    Args:
        model: name of the mixture in the table.
        experts: names of its E experts, in the order of `Prediction.expert_ids`.
        classes: C class names, in id order.
        blocks: of all frames under evaluation.
        subsets: names and joins that get rows.
        base: the keys that all rows share; see `evaluation.collectors.BlockCollector`.

    Raises:
        UsageError: more than 8 experts, or a subset is not known.
    """

    needs_experts = True
    summed = ("found", "pixels")

    def __init__(
        self,
        model: str,
        experts: Sequence[str],
        classes: Sequence[str],
        blocks: Blocks,
        subsets: Sequence[str],
        base: Row,
    ) -> None:
        super().__init__(model, classes, blocks, subsets, base)
        self.experts = tuple(experts)
        self.categories = category_names(experts)
        units, count = len(blocks), len(self.categories)
        self.pixels = torch.zeros(units, count, dtype=torch.int64)  # (U, 2**E)
        # of labelled pixels, wrong ones first: (U, C, 2**E, 2)
        self.found = torch.zeros(units, len(self.classes), count, 2, dtype=torch.int64)

    def update(self, prediction: Prediction, label: Tensor, keys: Sequence[str]) -> None:
        """Count a batch: ids (B, H, W), expert_ids (B, E, H, W), label (B, H, W) uint8, B keys.

        Raises:
            DataError: number of experts, sizes or label ids do not fit, or a key is not under
                evaluation.
        """
        ids, expert_ids = prediction.ids, prediction.expert_ids
        if ids is None or expert_ids is None:
            raise RuntimeError("expected the classes of mixture and experts with the prediction")
        if expert_ids.shape[1] != len(self.experts):
            raise DataError(
                f"expected {len(self.experts)} experts from {self.model!r}, got "
                f"{expert_ids.shape[1]}; name each expert once."
            )
        label = label.to(ids.device)
        mask = agreement_mask(ids, expert_ids)
        values = mask.to(torch.int32).mul_(2).add_(ids == label)
        found = counts_by_label(values, label, len(self.classes), 2 * len(self.categories))
        pixels = torch.cat(
            [
                category_counts(mask[(slice(i, i + 1), *prediction.inside(i))], len(self.experts))
                for i in range(len(mask))
            ]
        )
        split = found.view(*found.shape[:2], -1, 2)  # (B, C, 2 * 2**E) -> (B, C, 2**E, 2)
        units = self.units_of(keys)
        self.found.index_add_(0, units, split.cpu())
        self.pixels.index_add_(0, units, pixels.cpu())

    def rows(self) -> list[Row]:
        """Return one ``agreement`` row per subset and category, in the order of the bitmask.

        Raises:
            DataError: a frame was counted twice, or a base key is missing.
        """
        self.check_counted_once()
        return [row for subset in self.subsets for row in self._rows_on(subset)]

    def _rows_on(self, subset: str) -> list[Row]:
        groups, unit = self.blocks.units_for(subset)
        chosen = [torch.from_numpy(group) for group in groups]
        pixels = torch.stack([self.pixels[group].sum(0) for group in chosen])  # (G, 2**E)
        found = torch.stack([self.found[group].sum(0) for group in chosen])  # (G, C, 2**E, 2)
        labelled, right = found.sum(3), found[..., 1]  # (G, C, 2**E) each
        truth = labelled.sum((0, 2))  # (C,)
        head = self.head("agreement", subset)
        rows = []
        for category, name in enumerate(self.categories):
            own, mine, hits = pixels[:, category], labelled[..., category], right[..., category]
            row = head | {
                "category": name,
                "pixels": int(own.sum()),
                "share": _share(own.sum(), pixels.sum()),
                "labelled": int(mine.sum()),
                "right": _share(hits.sum(), mine.sum()),
                "per_class_share": self._by_class(mine.sum(0), truth),
                "per_class_right": self._by_class(hits.sum(0), mine.sum(0)),
                "ci95": share_interval(_floats(own), _floats(pixels.sum(1))),
                "right_ci95": share_interval(_floats(hits.sum(1)), _floats(mine.sum(1))),
                "ci_unit": unit,
                "ci_units": len(groups),
            }
            validate_row(row)
            rows.append(row)
        return rows

    def _by_class(self, part: Tensor, whole: Tensor) -> dict[str, float | None]:
        return {name: _share(part[i], whole[i]) for i, name in enumerate(self.classes)}


def _share(part: Tensor, whole: Tensor) -> float | None:
    return int(part) / int(whole) if int(whole) else None


def _floats(counts: Tensor) -> NDArray[np.float64]:
    return counts.double().numpy()
