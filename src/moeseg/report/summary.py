"""The first page in plain sentences: what was trained, who wins, is the gate alive, who disagrees.

Every sentence is made from rows and settings. "Win" and "lose" are said of paired differences only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from moeseg.config import Study
from moeseg.evaluation.cells import ordered, subsets_of
from moeseg.evaluation.changes import read_condition
from moeseg.evaluation.contents import CLEAN, verdict
from moeseg.types import Row

_FEW = 4  # so many conditions are named one by one


@dataclass(frozen=True, slots=True)
class Answer:
    """A question with the sentences that answer it; a sentence may carry a name in front."""

    question: str
    sentences: tuple[tuple[str, str], ...]


def summarise(study: Study | None, rows: Sequence[Row]) -> list[Answer]:
    """Return the answers that the rows of one comparable group give; order has no effect."""
    scored = ordered(rows, "segmentation")
    answers = [
        Answer("What was trained and scored?", (*_trained(study, scored), *_scored(scored))),
        Answer("Who wins?", tuple(_winners(ordered(rows, "difference"), scored))),
        Answer("Is the gate alive?", tuple(_gates(ordered(rows, "routing")))),
        Answer(
            "Where do the experts disagree?",
            tuple(_disagreement(ordered(rows, "agreement"), headline_mixture(scored))),
        ),
        Answer(
            "Does disagreement tell of errors?",
            tuple(_detectors(ordered(rows, "detector"), headline_mixture(scored))),
        ),
    ]
    return [answer for answer in answers if answer.sentences]


def headline_mixture(scored: Sequence[Row]) -> str | None:
    """Return the mixture of the highest mIoU on the widest subset; None without a mixture."""
    mixtures = [row for row in scored if row["model"].startswith("moe-")]
    if not mixtures:
        return None
    widest = subsets_of(mixtures)[-1]
    best = max((row for row in mixtures if row["subset"] == widest), key=_miou)
    return str(best["model"])


def percent(share: float | None, digits: int = 0) -> str:
    """Write a share in percent."""
    return "no value" if share is None else f"{100 * share:.{digits}f} %"


def words(names: Sequence[str]) -> str:
    """Join names as a sentence does."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def _miou(row: Row) -> float:
    return row["miou"] or 0.0


def _trained(study: Study | None, scored: Sequence[Row]) -> list[tuple[str, str]]:
    if study is None:
        return []
    built = {row["model"]: row["architecture"] for row in scored}
    of_networks = sorted({built[name] for name in study.networks() if name in built})
    trained = []
    for name in study.networks():
        given = study.networks()[name].weights is not None
        how = "given weights" if given else f"trained on {study.subset_of(name)}"
        trained.append(f"{name} ({how})")
    height, width = study.data.size
    text = f"Networks{' (' + words(of_networks) + ')' if of_networks else ''} at {height} x {width}"
    text += f" pixels on {study.data.reader} data, seed {study.seed}: {words(trained)}."
    if study.mixtures:
        adapt = study.gate.expert_batchnorm == "adapt"
        how = "each with experts whose BatchNorm adapted" if adapt else "kept as they are"
        text += f" Over the experts, {how}: {words(list(study.mixtures))}."
    if study.ensembles:
        text += f" Without training: {words([f'ensemble-{rule}' for rule in study.ensembles])}."
    return [("", text)]


def _scored(scored: Sequence[Row]) -> list[tuple[str, str]]:
    if not scored:
        return []
    images = {row["subset"]: row["images"] for row in scored}
    told = [f"{subset} ({images[subset]} frames)" for subset in subsets_of(scored)]
    row = scored[0]
    height, width = row["size"]
    text = f"Scored on the {row['split']} split of {row['dataset']} at {height} x {width} pixels"
    if row["condition"] != CLEAN:
        text += f", {row['condition']}"
    return [("", f"{text}: {words(told)}.")]


def _winners(rows: Sequence[Row], scored: Sequence[Row]) -> list[tuple[str, str]]:
    if not rows:
        if not scored:
            return []
        return [("", "Nothing is said of that: the run holds no paired differences of a mixture.")]
    pairs = _pairs(rows)
    told = [("", _tally(pairs))]
    for subset in subsets_of(rows):
        told.append((subset, _winners_on(subset, pairs, scored)))
    return told


def _pairs(rows: Sequence[Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Return the rows of each subset, mixture and opponent, one row a seed."""
    pairs: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["difference"] is not None:
            pairs.setdefault((row["subset"], row["model"], row["minus"]), []).append(row)
    return pairs


def _tally(pairs: Mapping[tuple[str, str, str], Sequence[Row]]) -> str:
    """Count verdicts by opponent, over all mixtures and subsets."""
    found: dict[str, Counter[str]] = {}
    for (_, _, minus), rows in pairs.items():
        name = "the best expert" if minus.startswith("expert-") else minus
        found.setdefault(name, Counter())[verdict(rows)] += 1
    told = [
        f"against {name}, {count['wins']} of {count.total()} are won and {count['loses']} lost"
        for name, count in sorted(found.items(), key=lambda item: item[0] != "the best expert")
    ]
    mixtures, subsets = ({key[place] for key in pairs} for place in (1, 0))
    return (
        f"Paired comparisons of {_counted(mixtures, 'mixture')} on {_counted(subsets, 'subset')}: "
        f"{'; '.join(told)}; the others are undecided."
    )


def _winners_on(
    subset: str, pairs: Mapping[tuple[str, str, str], Sequence[Row]], scored: Sequence[Row]
) -> str:
    """Say how the best mixture of a subset stands against each opponent."""
    mixtures = {model for of, model, _ in pairs if of == subset}
    mious = {row["model"]: _miou(row) for row in scored if row["subset"] == subset}
    if not mixtures:
        return "no difference could be measured."
    best = max(sorted(mixtures), key=lambda name: mious.get(name, 0.0))
    told: dict[str, list[str]] = {}
    for (of, model, minus), rows in pairs.items():
        if (of, model) == (subset, best):
            mean = 100 * fmean(row["difference"] for row in rows)
            who = f"{minus}, its best expert" if minus.startswith("expert-") else minus
            told.setdefault(verdict(rows), []).append(f"{who} ({mean:+.1f})")
    heads = {"wins": "wins against", "loses": "loses against", "undecided": "is undecided against"}
    parts = [f"{heads[word]} {words(told[word])}" for word in heads if word in told]
    score = f" ({percent(mious[best], 1)} mIoU)" if best in mious else ""
    return f"of the mixtures {best} is best{score}; it {', '.join(parts)}."


def _counted(names: Collection[str], what: str) -> str:
    return f"{len(names)} {what}{'' if len(names) == 1 else 's'}"


def _gates(rows: Sequence[Row]) -> list[tuple[str, str]]:
    told = []
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        # a verdict needs frames of several subsets; the widest join stands last
        judged = [row for row in of_model if row["collapsed"] is not None]
        whole = (judged or of_model)[-1]
        first = max(whole["mean_weights"], key=whole["mean_weights"].__getitem__)
        share = percent(whole["concentration"])
        where = whole["subset"]
        if whole["collapsed"] == "one expert":
            text = f"collapsed: on {where} its largest weight is on {first} {share} of the time."
        elif whole["collapsed"]:
            text = f"collapsed: on {where} its weights are the same on every frame."
        elif judged:
            text = f"alive: on {where} its top expert, {first}, leads {share} of the time."
        else:
            text = "not judged: that needs frames of several subsets, scored as a join."
        told.append((model, text + _gate_choices(whole, of_model)))
    return told


def _gate_choices(whole: Row, of_model: Sequence[Row]) -> str:
    text = ""
    if whole["prefers_better"] is not None:
        text += (
            f" It prefers the expert that is better on the frame on "
            f"{percent(whole['prefers_better'])} of {whole['frames_compared']} frames"
        )
        if whole["ci95"] is not None:
            low, high = (100 * end for end in whole["ci95"])
            text += f" [{low:.0f}, {high:.0f}]"
        text += "."
    told = [row["subset_accuracy"] for row in of_model if row["subset_accuracy"] is not None]
    if told:
        text += f" It picks the expert of the frame's own subset on {percent(told[-1])}."
    return text


def _disagreement(rows: Sequence[Row], mixture: str | None) -> list[tuple[str, str]]:
    models = list(dict.fromkeys(row["model"] for row in rows))
    if not models:
        return []
    model = mixture if mixture in models else models[0]
    told = [("", f"Told of {model}; other mixtures stand below.")] if len(models) > 1 else []
    chosen = [row for row in rows if row["model"] == model]
    for subset in subsets_of(chosen):
        told.append((subset, _disagreement_on([r for r in chosen if r["subset"] == subset])))
    return told


def _disagreement_on(rows: Sequence[Row]) -> str:
    by_category = {row["category"]: row for row in rows}
    whole = by_category.get("unanimous")
    if whole is None:
        return "no row says how often all are of one mind."
    text = f"All experts agree with the mixture on {percent(whole['share'])} of the pixels"
    if whole["right"] is not None:
        text += f", and are right on {percent(whole['right'])} of those"
    others = [row for name, row in by_category.items() if name != "unanimous"]
    labelled = sum(row["labelled"] for row in others)
    if labelled:
        right = sum((row["right"] or 0.0) * row["labelled"] for row in others) / labelled
        text += f"; elsewhere the mixture is right on {percent(right)}"
    shares: dict[str, Any] = whole["per_class_share"]
    split = sorted((share, name) for name, share in shares.items() if share is not None)[:3]
    if split:
        worst = [f"{name} ({percent(1 - share)})" for share, name in split]
        text += f". Most disputed: {words(worst)}"
    return text + "."


def _detectors(rows: Sequence[Row], mixture: str | None) -> list[tuple[str, str]]:
    told = []
    for task, what in (
        ("wrong-pixels", "Wrong pixels"),
        ("unseen-frames", "Frames of a subset never trained on"),
    ):
        of_task = [row for row in rows if row["task"] == task and row["auroc"] is not None]
        models = list(dict.fromkeys(row["model"] for row in of_task))
        if not models:
            continue
        model = mixture if mixture in models else models[0]
        chosen = [row for row in of_task if row["model"] == model]
        widest = subsets_of(chosen)[-1]
        chosen = [row for row in chosen if row["subset"] == widest]
        chosen.sort(key=lambda row: -row["auroc"])
        scores = [f"{row['score']} {row['auroc']:.2f}" for row in chosen]
        told.append((what, f"AUROC of {model} on {widest}: {', '.join(scores)} (chance: 0.50)."))
    return told


def other_conditions(rows: Sequence[Row]) -> str:
    """Say which conditions other than ``clean`` were measured; empty where there are none."""
    found = Counter(str(row["condition"]) for row in rows if row["condition"] != CLEAN)
    if not found:
        return ""
    told = [f"{name} ({number} rows)" for name, number in sorted(found.items())]
    if len(told) > _FEW:
        kinds = Counter(read_condition(name).kind for name in found)
        names = {"attack": "attacks at a radius", "corruption": "corruptions at a severity"}
        told = [f"{count} {names.get(kind, 'others')}" for kind, count in sorted(kinds.items())]
    return f"Also measured: {words(told)}; see the tables and plots."
