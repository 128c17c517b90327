"""All training stages of a study, in their order."""

from __future__ import annotations

from moeseg.run import Run, Stage
from moeseg.training.adversarial import Perturb
from moeseg.training.gate_stages import gate_stages
from moeseg.training.network_stages import network_stages


def training_stages(run: Run, perturb: Perturb | None = None) -> list[Stage]:
    """Return the stages that train every model of the study.

    Args:
        run: the study.
        perturb: the attack of adversarial training; None where no setting asks for one.
    """
    return [*network_stages(run, perturb), *gate_stages(run, perturb)]
