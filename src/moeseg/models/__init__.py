"""Networks, gates and mixtures: how they are built, combined, saved and loaded.

The public names of the files beside this one; no logic.
"""

from moeseg.models.build import (
    GateKind,
    Model,
    build_ensemble,
    build_expert,
    build_gate,
    build_mixture,
    build_model,
    describe,
)
from moeseg.models.checkpoint import (
    TEMPERATURES,
    load,
    load_weights,
    read_info,
    referenced_experts,
    save,
    weights_digest,
)
from moeseg.models.dropout import MonteCarloDropout, key_seeds
from moeseg.models.expert import AdaptedExpert, Expert, Normalize, Segmenter, image_size, resize
from moeseg.models.gates import ConstantGate, Gate
from moeseg.models.mixture import (
    RULES,
    Ensemble,
    Mixture,
    Rule,
    combine_max,
    combine_mean,
    combine_mean_probability,
    combine_weighted,
    new_head,
    weighted_sum,
)
from moeseg.models.own import own_source

__all__ = [
    "RULES",
    "TEMPERATURES",
    "AdaptedExpert",
    "ConstantGate",
    "Ensemble",
    "Expert",
    "Gate",
    "GateKind",
    "Mixture",
    "Model",
    "MonteCarloDropout",
    "Normalize",
    "Rule",
    "Segmenter",
    "build_ensemble",
    "build_expert",
    "build_gate",
    "build_mixture",
    "build_model",
    "combine_max",
    "combine_mean",
    "combine_mean_probability",
    "combine_weighted",
    "describe",
    "image_size",
    "key_seeds",
    "load",
    "load_weights",
    "new_head",
    "own_source",
    "read_info",
    "referenced_experts",
    "resize",
    "save",
    "weighted_sum",
    "weights_digest",
]
