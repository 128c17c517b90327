"""All training stages of a study, in their order."""

from __future__ import annotations

from moeseg.run import Run, Stage
from moeseg.training.gate_stages import gate_stages
from moeseg.training.network_stages import network_stages


def training_stages(run: Run) -> list[Stage]:
    """Return the stages that train every model of the study."""
    return [*network_stages(run), *gate_stages(run)]
