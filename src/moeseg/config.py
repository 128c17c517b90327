"""The study file: every setting, its range, its default and what it means.

`load_study` reads YAML, lays `--set` values over it and reports all mistakes at once. No module of
the package takes one of these objects apart from the stage functions that wire parts together.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from moeseg.errors import UsageError, unknown_name
from moeseg.types import Split, single_subsets

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
_QUOTED = re.compile(r"'[^']*'")
Extent = tuple[Positive, Positive]
_Settings = TypeVar("_Settings", bound=BaseModel)
Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]
_EPSILON = "expected a number in (0, 1] such as 4/255"


def parse_epsilon(value: str | float) -> float:
    """Return the size of a perturbation, a part of the range [0, 1] of pixels.

    Args:
        value: a number, or text: ``0.03`` or a fraction, ``8/255``.

    Raises:
        UsageError: it is no number, or not in (0, 1].
    """
    found = _fraction(value)
    if not 0 < found <= 1:  # false for NaN too
        raise UsageError(f"epsilon: {_EPSILON}, got {value!r}")
    return found


def _fraction(value: object) -> float:
    """Return the value of a number or of text such as ``8/255``; NaN for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return math.nan
    above, slash, below = str(value).partition("/")
    try:
        return float(above) / (float(below) if slash else 1.0)
    except (ValueError, ZeroDivisionError):
        return math.nan


def _checked_epsilon(value: Any) -> float:  # noqa: ANN401 - whatever YAML holds
    try:
        return parse_epsilon(value)
    except UsageError as error:
        raise ValueError(_EPSILON) from error  # `_describe` says where, and what was got


Epsilon = Annotated[float, BeforeValidator(_checked_epsilon)]


def _epsilon_text(value: Any) -> str:  # noqa: ANN401 - whatever YAML holds
    _checked_epsilon(value)
    return str(value).replace(" ", "")


EpsilonText = Annotated[str, BeforeValidator(_epsilon_text)]
"""An epsilon as it was written, which names a condition."""
Severity = Annotated[int, Field(ge=1, le=5)]


class Strict(BaseModel):
    """A part of a study file: immutable, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class PickConfig(Strict):
    """Which of the frames that the reader found make one split of a subset."""

    source: str | None = None
    """A subset as the reader names it; null takes every one."""
    split: Split | None = None
    """The reader's split; null takes the split that this pick is listed under."""
    sequences: tuple[str, ...] | None = None
    """Only these sequences (drives)."""
    exclude: tuple[str, ...] = ()
    """Not these sequences."""
    frames: tuple[int, int] | None = None
    """Half-open range [start, stop) in order of sequence and frame, after the filters above."""


class AugmentConfig(Strict):
    """Random changes to training frames; validation and test frames are never changed."""

    flip: bool = True
    """Mirror left to right with probability 0.5."""
    scale: tuple[float, float] | None = None
    """Resize by a random factor in this range, then crop or pad to the training size."""
    jitter: Fraction = 0.0
    """Strength of the change in brightness, contrast and saturation; hue changes by a tenth."""


class SyntheticConfig(Strict):
    """The procedural driving scenes, the data set that ships with the package."""

    seed: int = 0
    """Same seed, same bytes."""
    size: Extent = (192, 320)
    """H, W of the rendered frames; training resizes them to `data.size`."""
    drives: dict[str, dict[Split, Positive]] = {
        "highway": {"train": 10, "val": 2, "test": 8},
        "urban": {"train": 10, "val": 2, "test": 8},
        "ambiguous": {"test": 10},
    }
    """Drives per subset and split."""
    frames_per_drive: Positive = 24
    """Consecutive frames of one drive."""


class DataConfig(Strict):
    """Where frames come from, what their labels mean, and how they reach the networks."""

    reader: Literal["synthetic", "a2d2", "camvid", "manifest", "prepared"]
    """Layout on disk; `prepared` is what `moeseg data prepare` wrote."""
    root: Path | None = None
    """The data set's folder; MOESEG_DATA in the environment where null. A CSV for `manifest`."""
    lists: Path | None = None
    """A2D2 only: folder with the published `<subset>_<split>_gt.txt`; null looks for `lists` or
    `splits` beside the data."""
    taxonomy: str | None = None
    """A built-in label set or a YAML file; null is the data set's own. `manifest` has none."""
    labels: Literal["colours", "ids"] = "colours"
    """Manifest only: what a label picture holds."""
    label_colours: Literal["all", "first-only"] = "all"
    """A habit of the original: `first-only` trains on labels in which every colour but the first of
    its class (e.g. "Truck 2") is class 0. Wrong: such objects are taught as cars. Scores always use
    all colours."""
    size: Extent
    """H, W at which networks train."""
    fit: Literal["pad", "squeeze"] = "pad"
    """How frames come to `size`: `pad` keeps their proportions and fills up right and bottom,
    where no pixel counts. A habit of the original: `squeeze` stretches them; wrong, since shapes
    then hang on the camera's format and the network is of no use at another."""
    select: dict[str, dict[Split, PickConfig]] | None = None
    """Own subsets, cut from what the reader found; null keeps the reader's."""
    limit: dict[Split, Positive] = {}
    """At most so many frames of each subset, evenly spaced; for trying things out."""
    augment: AugmentConfig = AugmentConfig()
    shuffle: bool = True
    """A habit of the original: false shows training frames in the order of their lists. Wrong:
    batches are of one drive, a join's first subset is forgotten over its last, and BatchNorm
    ends on the last one's statistics."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Loader processes; 0 loads in the training process."""
    synthetic: SyntheticConfig = SyntheticConfig()


class ArchitectureConfig(Strict):
    """A segmentation network."""

    name: str = "deeplabv3plus"
    """`deeplabv3plus`, `frrn-a`, `frrn-b`, `frrn-a-original`, or `package.module:Class`."""
    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2"] = "resnet18"
    """Encoder of DeepLabv3+."""
    output_stride: Literal[8, 16] = 16
    """Encoder stride of DeepLabv3+."""
    channels: Positive = 256
    """Width of ASPP and decoder of DeepLabv3+."""
    normalisation: Literal["imagenet", "none"] = "imagenet"
    """Mean and standard deviation that the network takes off its [0, 1] input. A habit of the
    original: `none`; wrong with ImageNet weights, which were trained on normalised input."""
    pretrained: Literal["imagenet"] | None = None
    """Start the encoder from torchvision's ImageNet weights."""
    arguments: dict[str, Any] = {}
    """Further arguments: all those of an own class, `channels` of an FRRN."""

    def build_arguments(self, num_classes: int) -> dict[str, Any]:
        """Return what `models.build_expert` takes, without settings that belong to others."""
        if ":" in self.name:
            return {"name": self.name, "num_classes": num_classes, **self.arguments}
        taken = {"name": self.name, "num_classes": num_classes, "normalisation": self.normalisation}
        if self.name == "deeplabv3plus":
            taken |= {
                "backbone": self.backbone,
                "output_stride": self.output_stride,
                "channels": self.channels,
                "weights": self.pretrained,
            }
        return taken | self.arguments


class OptimizerConfig(Strict):
    """How parameters move."""

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    """Stochastic gradient descent, Adam, or Adam with decoupled weight decay."""
    lr: Annotated[float, Field(gt=0)] = 0.01
    """Learning rate at the start."""
    momentum: Fraction = 0.9
    """SGD only. A habit of the original: 0.99 with a constant rate; wrong in that the weights
    average over a hundred steps and never settle."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Adam and AdamW only."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Pull of every parameter towards zero."""
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    """Course of the learning rate over all steps; `poly` has power 0.9. A habit of the original
    for DeepLabv3+: `constant`; wrong in that training ends in the middle of its largest steps."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps over which the rate rises linearly from zero."""


class AdversarialConfig(Strict):
    """Training on frames that an attack changes against the network as it stands at that step.

    Projected gradient ascent within `epsilon` (Madry et al., ICLR 2018). A training step then takes
    `steps` + 1 forward and backward passes. Validation frames stay as they are.
    """

    epsilon: Epsilon
    """Greatest change of a pixel's red, green or blue, of the range [0, 1]: a number in (0, 1] or a
    fraction such as `4/255`."""
    steps: Positive
    """Steps of the attack on each batch, each a forward and a backward pass."""
    share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Part of each batch's frames that are changed, at least one frame; the others stay clean."""


class TrainingConfig(Strict):
    """How experts and the baseline are trained."""

    epochs: Positive = 50
    """Passes over the network's training frames."""
    batch_size: Positive = 8
    """Frames of one step in one process; the last step is never left with a single frame."""
    optimizer: OptimizerConfig = OptimizerConfig()
    class_weights: Literal["none", "inverse-log", "median-frequency"] = "none"
    """Weights of the cross-entropy, scaled so that the average training pixel weighs 1."""
    adversarial: AdversarialConfig | None = None
    """Train on frames that an attack changes against the network: more robust, less right on clean
    frames, and `steps` + 1 forward and backward passes a step. Null trains on clean frames."""
    choose: Literal["best", "last"] = "best"
    """Keep the epoch with the best validation mIoU, or the last one."""
    miou_classes: Literal["truth", "union"] = "truth"
    """Classes that the validation mIoU is a mean of when it chooses the epoch, of experts and of
    gates: those in the ground truth. A habit of the original: `union` adds those predicted; wrong,
    since a single false pixel of an absent class then costs as much as a class. Rows hold both."""
    early_stopping: Positive | None = None
    """Stop after so many epochs without a lower validation loss."""
    val_every: Positive = 1
    """Epochs between validations; `choose: best` chooses among the validated ones."""
    precision: Literal["32-true", "bf16-mixed", "16-mixed", "auto"] = "32-true"
    """`auto` is bf16-mixed where the processor computes bfloat16 itself, else 32-true."""
    accelerator: Literal["auto", "cpu", "gpu", "mps"] = "auto"
    """Kind of device; it is no part of a result's fingerprint."""
    devices: Positive = 1
    """Processes on this machine, one a device."""
    num_nodes: Positive = 1
    """Machines; start the same command on each with torchrun or SLURM."""


class CacheConfig(Strict):
    """Expert outputs kept on disk while gates train."""

    dtype: Literal["float16", "float32"] = "float16"
    """Number format of features and logits."""
    limit_gb: Annotated[float, Field(gt=0)] = 50.0
    """Above this size only logits of fixed random pixels are kept, not whole maps."""


class GateConfig(Strict):
    """How the gates of all mixtures are fitted, together."""

    epochs: Positive = 20
    """Passes over the gates' training frames."""
    batch_size: Positive = 8
    """Frames of one step."""
    optimizer: OptimizerConfig = OptimizerConfig(name="adam", lr=1e-3, weight_decay=0.0)
    """How gate and head parameters move."""
    pixels: Positive | Literal["all"] = 1024
    """Random labelled pixels of each image that the loss looks at."""
    frames: Literal["train", "heldout"] = "train"
    """`heldout` keeps a part of the training drives from the experts and fits the gates on it."""
    heldout: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """The part of each subset's training frames that is held out."""
    choose: Literal["best", "last"] = "best"
    """Keep each mixture's epoch with the best validation mIoU, or the last one."""
    expert_batchnorm: Literal["hold", "adapt"] = "hold"
    """A habit of the original: `adapt` fits gates with the frozen experts in training mode. Wrong:
    dropout is on, their BatchNorm statistics drift, and each mixture keeps changed experts of its
    own, so it is compared with experts that it does not hold. Runs the experts at every step."""
    end_to_end: bool = False
    """Run the experts at every step instead of once: the slow reference."""
    adversarial: AdversarialConfig | None = None
    """Fit each gate (and head) on frames that an attack changes against its whole mixture; the
    experts stay as they are. Each mixture is attacked, so fitted, by itself, with the experts at
    work `steps` + 1 times a step instead of once in all: much slower than from the cache."""
    cache: CacheConfig = CacheConfig()


class ExpertConfig(Strict):
    """One whole network of the study; what is left out comes from the study's own settings."""

    subset: str | None = None
    """Subset (or join) it trains on; an expert's own name, or all experts' subsets for the
    baseline, where null."""
    weights: Path | None = None
    """A saved model to take instead of training."""
    architecture: ArchitectureConfig = ArchitectureConfig()
    """What is set here is laid over the study's `architecture`."""
    training: TrainingConfig = TrainingConfig()
    """What is set here is laid over the study's `training`."""


class MixtureConfig(Strict):
    """One mixture over all experts of the study."""

    gate: Literal["simple", "classwise", "constant", "constant-classwise", "shared-trunk"]
    """One weight per image and expert, or per image, class and expert; the others are controls."""
    conv: bool = False
    """A 3x3 convolution over the weighted sum."""
    pool: Extent | None = None
    """Pool the gate's map to this h, w, which frees it from the image size."""


class EvalConfig(Strict):
    """What is scored."""

    split: Split = "test"
    """Frames that are scored."""
    subsets: tuple[str, ...] | None = None
    """Subsets and joins; null scores every subset and the join of the experts' subsets."""
    batch_size: Positive = 8
    """Frames of one forward pass; half as many where memory does not hold them."""
    size: Extent | None = None
    """H, W at scoring; null is the training size."""
    sheet: Annotated[int, Field(ge=0)] = 3
    """Frames of each subset on the contact sheet."""


class InsightConfig(Strict):
    """Which frames are kept to look at, in the report and as pictures."""

    frames: Annotated[int, Field(ge=0)] = 12
    """Frames of each scored subset: half the most disagreed-on, half evenly spaced; 0 for none."""
    colours: Literal["safe", "original"] = "safe"
    """Of agreement on the sheets: colour-blind-safe ones, or red, green and blue as the original
    had them; the report can switch."""


PassPrecision = Literal["32-true", "bf16-mixed"]
AttackKind = Literal[
    "fgsm",
    "pgd",
    "segpgd",
    "cospgd",
    "apgd",
    "apgd-js",
    "apgd-masked",
    "apgd-balanced",
    "sea",
    "square",
    "universal",
    "fgsm-published",
    "pgd-published",
    "universal-published",
]
"""What `robustness.attacks` can do."""


class AttackConfig(Strict):
    """An attack on single images that no short name describes."""

    kind: AttackKind = "pgd"
    """As in a short name; `docs/robustness.md` says what each does."""
    steps: Positive | None = None
    """Gradients; queries of `square`, epochs of `universal`; of `sea`, for each of its losses. Null
    takes as many as a short name without a number, e.g. 10 of pgd, 30 of sea."""
    restarts: Positive = 1
    """Random starts, of which each image keeps the worst."""
    step_size: Annotated[float, Field(gt=0, le=2)] | None = None
    """Length of a step of pgd, segpgd and cospgd in epsilons; null is 2.5 / steps, at most 1."""
    momentum: Fraction = 0.0
    """Of these: the share of earlier gradients that a step keeps."""
    through: str = "all"
    """The part that the gradient passes: `all`, `weights`, `logits`, `expert-1`, `expert-2` ..."""


class SweepConfig(Strict):
    """Attacks times radii times models, on the same frames."""

    attacks: Annotated[tuple[str, ...], Field(min_length=1)]
    """Short names, e.g. `fgsm`, `pgd-10`, `pgd-50x3` (steps, restarts), `sea-30`, `square-500`,
    `universal-5`, `pgd-10:weights`, `pgd-published`; or names under `robustness.attacks`."""
    epsilons: Annotated[tuple[EpsilonText, ...], Field(min_length=1)]
    """Radii of the L-infinity ball, e.g. `4/255` or 0.03."""
    models: tuple[str, ...] | None = None
    """Models that are attacked; null takes every one. An attack through a part that a model does
    not have leaves it out."""
    frames: Positive | None = None
    """So many evenly spaced frames of those that are scored; null takes every one."""
    transfer: bool = False
    """Score every model of the sweep on the images made for each of them."""


class CorruptionsConfig(Strict):
    """Common corruptions (Hendrycks and Dietterich, 2019), on every frame that is scored."""

    names: tuple[str, ...] | None = None
    """E.g. `fog`, `gaussian-noise`; null takes all 15."""
    severities: Annotated[tuple[Severity, ...], Field(min_length=1)] = (1, 3, 5)
    """Of 1 to 5."""
    models: tuple[str, ...] | None = None
    """Models that are scored; null takes every one."""


class MeasuredCorruptionsConfig(CorruptionsConfig):
    """Common corruptions under which uncertainty is measured."""

    frames: Positive | None = None
    """So many evenly spaced frames of those that are measured on; null takes every one."""


class RobustnessConfig(Strict):
    """How models fare on attacked and corrupted images."""

    attacks: dict[Name, AttackConfig] = {}
    """Attacks of this study's own, by a name for `sweeps` and rows."""
    sweeps: dict[Name, SweepConfig] = {}
    """Each is a stage `attack-<name>`."""
    subsets: tuple[str, ...] | None = None
    """Subsets and joins that are attacked and corrupted; null takes those that are scored."""
    universal_subset: str | None = None
    """Whose training frames universal changes are fitted on; null joins all experts' subsets."""
    precision: PassPrecision | Literal["auto"] = "32-true"
    """Of the passes that attacks follow, not of scores, which are in full precision. `bf16-mixed`
    is faster where the processor has it and slower elsewhere; `auto` looks."""
    corruptions: CorruptionsConfig | None = None
    """Null leaves corruptions out."""
    show: tuple[str, ...] = ()
    """Conditions, e.g. `pgd-10@4/255` or `fog-3`, of which the report shows frames; the attacked
    model is the study's last mixture."""
    show_frames: Positive = 2
    """Frames of each scored subset that it shows of each."""


class DropoutConfig(Strict):
    """One model that samples a network of the study with dropout at work (MC dropout)."""

    of: str = "baseline"
    """The network: `baseline` or `expert-<name>`."""
    samples: Annotated[int, Field(ge=2)] = 8
    """Decoded so many times; it is compared with models of as many members."""
    rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Probability of a zero; null keeps the rate that each layer was trained with."""
    layers: tuple[str, ...] = ()
    """Names of the sampled layers, or of modules that hold them; empty for every dropout layer."""


class FitConfig(Strict):
    """Frames on which temperatures and thresholds are chosen; none of them is measured on."""

    subset: str | None = None
    """Subset or join; null is the join of the experts' subsets."""
    split: Split = "val"
    """Split of these frames."""
    pixels: Positive = 65536
    """Random labelled pixels, over all frames, that temperatures are fitted on."""


class UncertaintyConfig(Strict):
    """Whether and how the uncertainty of every model is measured."""

    measure: bool = False
    """Measure scores of doubt, calibration and conditional correctness; writes
    `uncertainty.jsonl`."""
    subsets: tuple[str, ...] | None = None
    """Subsets and joins that are measured on; null takes those that are scored."""
    dropout: dict[Annotated[str, Field(pattern=r"^mc-dropout[\w.-]*$")], DropoutConfig] = {}
    """MC dropout models, by model name, which begins with `mc-dropout`."""
    temperatures: tuple[Literal["one", "class", "experts", "gate"], ...] = ("one",)
    """Temperatures that each model gets, as far as it can have them: `one` for all its logits, one
    per `class`, one for each of its `experts` before they are mixed, one for its `gate`. Each is
    measured beside the model without; an empty list leaves them out."""
    fit: FitConfig = FitConfig()
    corruptions: MeasuredCorruptionsConfig | None = None
    """Also measure corrupted frames, of models without temperature: every reading under the
    corruption's condition, and how well each score tells corrupted frames from clean ones."""
    published: bool = False
    """Add the readings of the fourth paper, of models without temperature: stacked and weighted
    members, scaling by ln C and by the batch's maximum, 1 - score as confidence, pixel-correctness
    Brier score and NLL, and its PAvPU. Wrong, see docs/uncertainty.md; to reproduce its numbers."""


HABITS: dict[str, object] = {
    "data.label_colours": "first-only",
    "data.fit": "squeeze",
    "data.shuffle": False,
    "architecture.normalisation": "none",
    "training.miou_classes": "union",
    "training.optimizer.schedule": "constant",
    "training.optimizer.momentum": 0.99,
    "gate.expert_batchnorm": "adapt",
}
"""Settings by which the original system differs from the defaults, with its values.

Those of `architecture` and `training` may also be set for one network, those of an optimizer for
the gates.
"""

GATE_CONTROLS = ("constant", "constant-classwise", "shared-trunk")
CONTROLS = (*GATE_CONTROLS, "two-seed", "merged")
_DEEP = re.compile(r"deep-ensemble-([2-9])")


class Study(Strict):
    """One study file: data, experts, mixtures, ensembles and what is measured."""

    name: Name
    """Name of the study, for people and in saved models."""
    out: Path
    """Folder of the run; `--out` replaces it."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of initial weights, shuffling, augmentation, dropout and sampled pixels."""
    data: DataConfig
    architecture: ArchitectureConfig = ArchitectureConfig()
    training: TrainingConfig = TrainingConfig()
    experts: Annotated[dict[Name, ExpertConfig], Field(min_length=1)]
    """Model `expert-<name>` for each."""
    baseline: ExpertConfig | None = ExpertConfig()
    """One network trained on all experts' subsets; null for none."""
    ensembles: tuple[Literal["mean", "max", "mean-probability"], ...] = (
        "mean",
        "max",
        "mean-probability",
    )
    """Rules that join all experts without training: model `ensemble-<rule>` for each."""
    mixtures: dict[Annotated[str, Field(pattern=r"^moe-[\w.-]+$")], MixtureConfig] = {}
    """Mixtures over all experts, by model name, which begins with `moe-`."""
    controls: tuple[str, ...] = ()
    """Models that a mixture must beat for its gate to be worth having: `constant` and
    `constant-classwise` (learned weights without input), `shared-trunk` (class-wise weights from
    one convolution), `mean-gate-<mixture>` (its weights replaced by their mean over the training
    frames), `two-seed` (ensemble of two baselines), `deep-ensemble-<n>` (of n, 2 to 9), `merged`
    (the experts' weights averaged)."""
    gate: GateConfig = GateConfig()
    eval: EvalConfig = EvalConfig()
    insight: InsightConfig = InsightConfig()
    robustness: RobustnessConfig = RobustnessConfig()
    uncertainty: UncertaintyConfig = UncertaintyConfig()
    published: dict[str, dict[str, float]] = {}
    """Figures of others, model -> subset -> mIoU in percent, printed beside the measured ones."""

    @model_validator(mode="after")
    def _whole(self) -> Study:
        if len(self.experts) < 2 and (self.mixtures or self.ensembles):
            raise ValueError(
                "mixtures and ensembles need two or more experts; add one under `experts`, or set "
                "`mixtures: {}` and `ensembles: []`"
            )
        deep = [name for name in self.controls if _DEEP.fullmatch(name)] or ["deep-ensemble-3"]
        known = (*CONTROLS, *(f"mean-gate-{name}" for name in self.mixtures), *deep)
        if unknown := [name for name in self.controls if name not in known]:
            raise ValueError("; ".join(unknown_name("control", name, known) for name in unknown))
        if self.controls and len(self.experts) < 2:
            raise ValueError("controls need two or more experts; set `controls: []`")
        seeded = next(iter(self.seeded_baselines()), None)
        if seeded and (self.baseline is None or self.baseline.weights):
            raise ValueError(f"the control `{seeded}` needs a baseline that is trained, not given")
        for name, sampled in self.uncertainty.dropout.items():
            if sampled.of not in self.networks():
                told = unknown_name("network", sampled.of, self.networks())
                raise ValueError(f"uncertainty.dropout.{name}.of: {told}")
        return self

    @property
    def joined(self) -> str:
        """The join of all experts' subsets, e.g. ``highway+urban``."""
        trained = (self.subset_of(f"expert-{name}") for name in self.experts)
        return "+".join(single_subsets(*trained))

    def networks(self) -> dict[str, ExpertConfig]:
        """Return every network that is trained end to end, by model name, baseline first."""
        networks = {} if self.baseline is None else {"baseline": self.baseline}
        if self.baseline is not None:
            most = max((len(of) for of in self.seeded_baselines().values()), default=1)
            networks |= {f"baseline-{n}": self.baseline for n in range(2, most + 1)}
        return networks | {f"expert-{name}": expert for name, expert in self.experts.items()}

    def model_names(self) -> list[str]:
        """Return every model of the study, in the table's order."""
        ensembles = [f"ensemble-{rule}" for rule in self.ensembles]
        joined = [*self.networks(), *ensembles, *self.mixtures, *self.controls]
        return [*joined, *self.uncertainty.dropout]

    def seeded_baselines(self) -> dict[str, tuple[str, ...]]:
        """Return the networks of every control that joins baselines of several seeds."""
        counts = {name: 2 for name in self.controls if name == "two-seed"}
        found = ((name, _DEEP.fullmatch(name)) for name in self.controls)
        counts |= {name: int(match[1]) for name, match in found if match}
        return {
            name: ("baseline", *(f"baseline-{n}" for n in range(2, count + 1)))
            for name, count in counts.items()
        }

    def gated(self) -> dict[str, MixtureConfig]:
        """Return every model whose gate is fitted, by model name: mixtures, then controls."""
        controls = [name for name in self.controls if name in GATE_CONTROLS]
        return self.mixtures | {
            name: MixtureConfig.model_validate({"gate": name}) for name in controls
        }

    def seed_of(self, network: str) -> int:
        """Return the seed of a network's weights, order and augmentation."""
        number = network.removeprefix("baseline-")
        return self.seed + int(number) - 1 if number.isdigit() else self.seed

    def habits(self) -> dict[str, object]:
        """Return the habits of the original that this study keeps, as dotted settings.

        One that networks or gates have from the study's own `architecture` and `training` stands
        there once; else it stands under each network's or the gates' own setting.
        """
        return self._kept(self.networks(), gates=True)

    def habits_of(self, model: str) -> dict[str, object]:
        """Return those of `habits` that one model was made with."""
        return self._kept(self.networks_of(model), gates=self.has_fitted_gate(model))

    def networks_of(self, model: str) -> Sequence[str]:
        """Return the networks that a model stands on; of a network itself."""
        dropout, seeded = self.uncertainty.dropout, self.seeded_baselines()
        if model in self.networks():
            return [model]
        if model in seeded:
            return seeded[model]
        return [dropout[model].of] if model in dropout else [f"expert-{n}" for n in self.experts]

    def has_fitted_gate(self, model: str) -> bool:
        """Return whether a model has a gate that was fitted, or the mean of one."""
        return model.removeprefix("mean-gate-") in self.gated()

    def _kept(self, networks: Iterable[str], *, gates: bool) -> dict[str, object]:
        """Return the habits that settings of some networks have, and of the gates."""
        used = self._used(networks, gates)
        kept: dict[str, object] = {}
        for path, value in HABITS.items():
            part, _, leaf = path.partition(".")
            places = [
                f"{at}.{leaf}" for at, own in used[part].items() if _in_use(own, leaf) == value
            ]
            if places and _in_use(getattr(self, part), leaf) == value:
                places = [path]
            kept |= dict.fromkeys(places, value)
        return kept

    def _used(self, networks: Iterable[str], gates: bool) -> dict[str, dict[str, Strict]]:
        """Return the settings that come into use, by part of a study file and by their place."""
        used: dict[str, dict[str, Strict]] = {
            "data": {"data": self.data},
            "architecture": {},
            "training": {},
            "gate": {"gate": self.gate} if gates else {},
        }
        for name in networks:
            own = self.networks()[name]
            expert = name.startswith("expert-")
            place = f"experts.{name.removeprefix('expert-')}" if expert else "baseline"
            used["architecture"][f"{place}.architecture"] = self.architecture_of(name)
            if own.weights is None:
                used["training"][f"{place}.training"] = self.training_of(name)
        if gates and self.gated():  # they share `miou_classes` with the networks
            shared = self.training.model_copy(update={"optimizer": self.gate.optimizer})
            used["training"]["gate"] = shared
        return used

    def subset_of(self, network: str) -> str:
        """Return the subset that a network trains on."""
        own = self.networks()[network].subset
        if own is not None:
            return own
        return network.removeprefix("expert-") if network.startswith("expert-") else self.joined

    def architecture_of(self, network: str) -> ArchitectureConfig:
        """Return a network's architecture, its own settings over the study's."""
        own = self.networks()[network].architecture
        merged = laid_over(self.architecture.model_dump(), own.model_dump(exclude_unset=True))
        return ArchitectureConfig.model_validate(merged)

    def training_of(self, network: str) -> TrainingConfig:
        """Return a network's training settings, its own over the study's."""
        own = self.networks()[network].training
        merged = laid_over(self.training.model_dump(), own.model_dump(exclude_unset=True))
        return TrainingConfig.model_validate(merged)


def load_study(path: Path, overrides: Sequence[str] = ()) -> Study:
    """Read a study file.

    Args:
        path: YAML file; paths inside it are relative to the working directory.
        overrides: `a.b=value` items that replace settings of the file; values are YAML.

    Raises:
        UsageError: the file cannot be read, or settings are unknown or out of range; the message
            lists every one.
    """
    return parse_study(read_yaml(path, overrides), str(path))


def read_yaml(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a file of settings and lay `a.b=value` items over it; nothing is checked yet.

    Raises:
        UsageError: the file cannot be read or is no mapping, or an item is not of that form.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the study file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UsageError(f"{path}: expected a mapping of settings, got {type(raw).__name__}")
    settings: dict[str, Any] = _unaliased(raw)
    for item in overrides:
        _override(settings, item)
    return settings


def parse_study(raw: Mapping[str, Any], where: str) -> Study:
    """Check settings against `Study`; `where` names their origin in the message."""
    return validated(Study, raw, where)


def validated(kind: type[_Settings], raw: Mapping[str, Any], where: str) -> _Settings:
    """Check settings against a file's form.

    Raises:
        UsageError: settings are unknown or out of range; the message lists every one.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        details = error.errors()
        lists = {detail["loc"][:-1] for detail in details}  # that hold something wrong
        lines = [
            f"  {_describe(detail, kind)}"
            for detail in details
            if detail["type"] != "too_short" or detail["loc"] not in lists
        ]
        count = f"{len(lines)} setting{'s' if len(lines) > 1 else ''}"
        raise UsageError(f"{where}: {count} to mend\n" + "\n".join(lines)) from error


def lay(raw: dict[str, Any], dotted: str, value: Any) -> None:  # noqa: ANN401 - whatever YAML holds
    """Put a value at the place `a.b` of nested settings."""
    *parents, last = dotted.split(".")
    place = raw
    for parent in parents:
        if not isinstance(place.get(parent), dict):
            place[parent] = {}
        place = place[parent]
    place[last] = value


def laid_over(base: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested settings with those of `own` in place of theirs, leaf by leaf."""
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        nested = isinstance(below, dict) and isinstance(value, Mapping)
        merged[key] = laid_over(below, value) if nested and below is not None else value
    return merged


def data_root(config: DataConfig) -> Path:
    """Return the data set's folder from `data.root` or MOESEG_DATA.

    Raises:
        UsageError: neither is set.
    """
    if config.root is not None:
        return config.root.expanduser()
    if from_environment := os.environ.get("MOESEG_DATA"):
        return Path(from_environment)
    raise UsageError(
        f"data.root is not set: say where the {config.reader} data lies with "
        "`--set data.root=FOLDER`, in the study file, or with MOESEG_DATA in the environment"
    )


def _in_use(settings: Strict, leaf: str) -> object:
    """Return a setting at `a.b` of a part of a study; None where that part makes no use of it."""
    if isinstance(settings, ArchitectureConfig):
        return settings.build_arguments(1).get(leaf)
    value: object = settings
    for name in leaf.split("."):
        if name == "momentum" and isinstance(value, OptimizerConfig) and value.name != "sgd":
            return None
        value = getattr(value, name)
    return value


def _unaliased(value: Any) -> Any:  # noqa: ANN401 - whatever YAML holds
    """Copy nested values so that no two places share one, as YAML's anchors make them."""
    if isinstance(value, dict):
        return {key: _unaliased(inner) for key, inner in value.items()}
    return [_unaliased(inner) for inner in value] if isinstance(value, list) else value


def _override(raw: dict[str, Any], item: str) -> None:
    dotted, separator, text = item.partition("=")
    if not separator or not dotted:
        raise UsageError(f"--set expects a.b=value, got {item!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {dotted}: {text!r} is not a YAML value") from error
    lay(raw, dotted, value)


def _describe(detail: ErrorDetails, kind: type[BaseModel]) -> str:
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location) or "(whole file)"
    if detail["type"] == "extra_forbidden":
        return f"{key}: {unknown_name('setting', location[-1], _fields_at(kind, location[:-1]))}"
    if detail["type"] == "literal_error" and isinstance(detail["input"], str):
        choices = [word.strip("'") for word in _QUOTED.findall(str(detail["ctx"]["expected"]))]
        return f"{key}: {unknown_name('value', detail['input'], choices)}"
    if detail["type"] == "missing":
        return f"{key}: is not set and has no default"
    message = detail["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "expected")
    return f"{key}: {message}, got {detail['input']!r}" if location else message


def _fields_at(file: type[BaseModel], location: Sequence[str]) -> list[str]:
    """Return the settings that may stand at a place of a file."""
    kind: Any = file
    for part in location:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            field = kind.model_fields.get(part)
            kind = field.annotation if field else None
        else:  # a mapping: its values' type is the last argument
            kind = get_args(kind)[-1] if get_args(kind) else None
        options = [a for a in get_args(kind) if isinstance(a, type) and issubclass(a, BaseModel)]
        if options and type(None) in get_args(kind):
            kind = options[0]
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, BaseModel) else []
