"""What corruptions leave of a model's mIoU: by severity, by corruption, and relative to clean.

A mean is there only if every value that it is made of is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from moeseg.evaluation.cells import gather, mean_of, model_order, named
from moeseg.evaluation.changes import Trial, corruption_order, read_condition


@dataclass(frozen=True)
class CorruptionMeans:
    """mIoU (0..1) of models under corruptions, on the same frames; means over seeds.

    Attributes:
        models: names, in their usual order.
        names: of the corruptions, in theirs.
        severities: from the lowest.
        mious: by model, corruption and severity; a value may be missing.
        clean: by model, of the same number of frames; a model may be missing.
    """

    models: tuple[str, ...]
    names: tuple[str, ...]
    severities: tuple[int, ...]
    mious: Mapping[tuple[str, str, int], float]
    clean: Mapping[str, float]

    def at(self, model: str, severity: int) -> float | None:
        """Return the mean over all corruptions at a severity."""
        return self._mean((model, name, severity) for name in self.names)

    def under(self, model: str, name: str) -> float | None:
        """Return the mean over all severities of a corruption."""
        return self._mean((model, name, severity) for severity in self.severities)

    def overall(self, model: str) -> float | None:
        """Return the mean over corruptions and severities."""
        return self._mean((model, n, severity) for n in self.names for severity in self.severities)

    def relative(self, model: str) -> float | None:
        """Return the mean over corruptions and severities of mIoU / clean mIoU."""
        whole, clean = self.overall(model), self.clean.get(model)
        return None if whole is None or not clean else whole / clean

    def _mean(self, keys: Iterable[tuple[str, str, int]]) -> float | None:
        values = [self.mious.get(key) for key in keys]
        known = [value for value in values if value is not None]
        return fmean(known) if known and len(known) == len(values) else None


def corruption_means(trial: Trial) -> CorruptionMeans:
    """Return the means of a trial of kind corruption.

    Raises:
        DataError: two rows claim the same cell.
    """
    scored = trial.of("segmentation")
    call = named([*scored, *trial.clean])
    mious = {}
    for (model, condition), rows in gather(scored, call, "condition").items():
        read, mean = read_condition(condition), mean_of(rows, "miou")
        if mean is not None:
            mious[model, read.name, int(read.level)] = mean
    found = [read_condition(row["condition"]) for row in scored]
    clean = {
        model: mean
        for (model, _), rows in gather(trial.clean, call).items()
        if (mean := mean_of(rows, "miou")) is not None
    }
    return CorruptionMeans(
        models=tuple(sorted({call(row) for row in scored}, key=model_order)),
        names=tuple(sorted({one.name for one in found}, key=corruption_order)),
        severities=tuple(sorted({int(one.level) for one in found})),
        mious=mious,
        clean=clean,
    )
