"""Robustness in plain sentences: who keeps most, and whether the attacks can be believed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from moeseg.errors import DataError
from moeseg.evaluation.cells import model_order, ordered, subsets_of
from moeseg.evaluation.changes import (
    Condition,
    Trial,
    by_level,
    failed_checks,
    is_published,
    mark_of,
    on_whole,
    read_condition,
    rests_on_failed,
)
from moeseg.evaluation.changes import trials as trials_of
from moeseg.evaluation.contents import verdict
from moeseg.evaluation.corruption_means import corruption_means
from moeseg.report.summary import Answer, percent, words
from moeseg.robustness.checks import CHECKS
from moeseg.types import Row

WORTH = 0.05
"""Below this mIoU a model is as good as broken, and who has more says little."""

_NAMED = 6  # so many failures of a check are named


@dataclass(frozen=True)
class Strongest:
    """The attack that leaves least at the largest radius at which models still differ.

    Attributes:
        condition: attack and radius.
        subset: the widest.
        images: frames of the subset.
        mark: of these frames, see `changes.mark_of`.
        mious: by model, as attacked.
        clean: by model, on the same frames.
    """

    condition: Condition
    subset: str
    images: int
    mark: str
    mious: Mapping[str, float]
    clean: Mapping[str, float]


def how_robust(rows: Sequence[Row]) -> list[Answer]:
    """Return the answer that rows of one data set, split and size give; none without changes."""
    told = [*_attacked(rows), *_corrupted(rows), *_believed(rows)]
    return [Answer("How robust are the models?", tuple(told))] if told else []


def strongest(rows: Sequence[Row]) -> Strongest | None:
    """Return the strongest attack on whole models, on the widest subset.

    Of an attack and radius that was tried on several sets of frames, only the one with most models
    counts, of those the largest. At each radius it is the attack that leaves the smallest share of
    the clean mIoU of the models that all attacks were tried on; a radius whose attack leaves more
    than one in a smaller ball shows a weak attack, and falls away. The radius is the largest that
    is left at which a model keeps an mIoU of `WORTH`, else the smallest. Published settings are
    taken only where there are no others.

    Args:
        rows: of one data set, split and size.
    """
    own = [row for row in ordered(rows, "attack") if row["source"] == row["model"]]
    own = [row for row in own if on_whole(row) and row["miou"] is not None]
    own = [row for row in own if not is_published(row)] or own
    if not own:
        return None
    widest = subsets_of(own)[-1]
    found: list[Strongest] = []
    for attacks in _by_radius([row for row in own if row["subset"] == widest]):
        one = _least(attacks)
        if not found or not _leaves_more(one, found[-1]):
            found.append(one)
    differ = [one for one in found if max(one.mious.values()) >= WORTH]
    return differ[-1] if differ else found[0]


def _by_radius(rows: Sequence[Row]) -> list[list[Strongest]]:
    """Return what each attack leaves, on the frames that count, by radius, smallest first."""
    tried: dict[str, dict[tuple[int, str], list[Row]]] = {}  # frames of each attack and radius
    for row in rows:
        of_attack = tried.setdefault(row["condition"], {})
        of_attack.setdefault((row["images"], mark_of(row)), []).append(row)
    found: dict[float, list[Strongest]] = {}
    for condition, of_attack in tried.items():
        most = max((len(_means(of, "miou")), images) for (images, _), of in of_attack.items())
        for (images, mark), of in of_attack.items():
            mious, clean = _means(of, "miou"), _means(of, "clean_miou")
            if (len(mious), images) == most:
                one = Strongest(
                    read_condition(condition), of[0]["subset"], images, mark, mious, clean
                )
                found.setdefault(of[0]["epsilon"], []).append(one)
    return [found[radius] for radius in sorted(found)]


def _least(attacks: Sequence[Strongest]) -> Strongest:
    """Return which attack leaves least."""
    kept = zip(_kept(attacks), attacks, strict=True)
    return min(kept, key=lambda of: (of[0], of[1].condition.text, of[1].images, of[1].mark))[1]


def _leaves_more(one: Strongest, other: Strongest) -> bool:
    """Return whether an attack leaves more than another of the models that both were tried on."""
    mine, theirs = _kept([one, other])
    return bool(one.mious.keys() & other.mious.keys()) and mine > theirs


def _kept(attacks: Sequence[Strongest]) -> list[float]:
    """Return the share of clean mIoU that each attack leaves of the models that all were tried on.

    Without any such model, of its own; without clean mIoU, the mean of what is left.
    """
    shared = set.intersection(*(set(one.mious) for one in attacks))
    found = []
    for one in attacks:
        models = sorted(shared or one.mious)
        clean = sum(one.clean.get(model, 0.0) for model in models)
        found.append(sum(one.mious[model] for model in models) / (clean or len(models)))
    return found


def _means(rows: Iterable[Row], key: str) -> dict[str, float]:
    """Return the mean over seeds by model, models in their usual order."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if row[key] is not None:
            found.setdefault(str(row["model"]), []).append(row[key])
    return {model: fmean(found[model]) for model in sorted(found, key=model_order)}


def _attacked(rows: Sequence[Row]) -> list[tuple[str, str]]:
    one = strongest(rows)
    if one is None:
        return []
    best, worst = (
        max(one.mious, key=one.mious.__getitem__),
        min(one.mious, key=one.mious.__getitem__),
    )
    text = f"{best} keeps {_left(one, best)}"
    if best != worst:
        text = f"{best} keeps most, {_left(one, best)}, and {worst} least, {_left(one, worst)}"
    text = (
        f"under {one.condition.name} at {one.condition.told}, the strongest attack of that radius, "
        f"on {one.subset} ({one.images} frames) {text}."
    )
    return [("Attacks", text + _verdicts(rows, one))]


def _left(one: Strongest, model: str) -> str:
    text = f"{percent(one.mious[model], 1)} mIoU"
    return text + (f" of {percent(one.clean[model], 1)}" if model in one.clean else "")


def _verdicts(rows: Sequence[Row], one: Strongest) -> str:
    """Count what paired differences under that attack say."""
    pairs: dict[tuple[str, str], list[Row]] = {}
    where = (one.subset, one.images, one.mark)
    for row in ordered(rows, "difference"):
        at = (row["condition"], row["subset"], row["images"], mark_of(row))
        if at == (one.condition.text, *where) and row["difference"] is not None:
            pairs.setdefault((row["model"], row["minus"]), []).append(row)
    if not pairs:
        return ""
    said = Counter(verdict(of_pair) for of_pair in pairs.values())
    attacks = [
        row
        for row in ordered(rows, "attack")
        if row["source"] == row["model"] and (row["subset"], row["images"], mark_of(row)) == where
    ]
    decided = [of_pair for of_pair in pairs.values() if verdict(of_pair) != "undecided"]
    doubtful = sum(rests_on_failed(of_pair, attacks) for of_pair in decided)
    text = (
        f" Of {len(pairs)} paired comparison{'' if len(pairs) == 1 else 's'} of a mixture with "
        "another model there, "
        f"{said['wins']} are won and {said['loses']} lost; the others are undecided."
    )
    if doubtful:
        text += (
            f" Of these {len(decided)} won or lost, {doubtful} rest{'s' * (doubtful == 1)} on an "
            "attack that failed a trust check."
        )
    return text


def _corrupted(rows: Sequence[Row]) -> list[tuple[str, str]]:
    found = [one for one in trials_of(rows) if one.kind == "corruption" and not one.part]
    shares = _relative(found[-1]) if found else {}
    if not shares:
        return []
    best, worst = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
    text = f"{best} keeps {percent(shares[best])} of its clean mIoU"
    if best != worst:
        text = f"{best} keeps most of its clean mIoU ({percent(shares[best])})"
        text += f", {worst} least ({percent(shares[worst])})"
    names = len({one.name for one in found[-1].conditions})
    where = f"over {names} corruption{'' if names == 1 else 's'} on {found[-1].subset}"
    return [("Corruptions", f"{where} {text}.")]


def _relative(trial: Trial) -> dict[str, float]:
    try:
        means = corruption_means(trial)
    except DataError:  # told in the section
        return {}
    found = {model: means.relative(model) for model in means.models}
    return {model: share for model, share in found.items() if share is not None}


def _believed(rows: Sequence[Row]) -> list[tuple[str, str]]:
    attacks = [row for row in rows if row["kind"] == "attack" and _checked(row)]
    if not attacks:
        return []
    failed = Counter(name for row in attacks for name in failed_checks([row]))
    wrong = sum(1 for row in attacks if failed_checks([row]))
    if not wrong:
        return [("Trust", f"all {len(attacks)} attack rows that could be checked pass.")]
    told = words([f"{name} ({number})" for name, number in sorted(failed.items())])
    text = (
        f"{wrong} of {len(attacks)} attack rows that could be checked fail a trust check: {told}."
    )
    return [("Trust", text + " Those values may be too high.")]


def _checked(row: Row) -> bool:
    return any(holds is not None for holds in (row["checks"] or {}).values())


def checks_told(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each trust check of ``attack`` rows: what it asks, where it failed."""
    told: list[str] = []
    if not rows:
        return told
    known = [*CHECKS, *sorted({n for row in rows for n in row["checks"] or {}} - set(CHECKS))]
    for name in known:
        tried = [row for row in rows if (row["checks"] or {}).get(name) is not None]
        failed = [row for row in tried if row["checks"][name] is False]
        asks = f" ({CHECKS[name]})" if name in CHECKS else ""
        if not tried:
            told.append(f"Trust check `{name}`{asks} had nothing to compare with in any row.")
            continue
        if not failed:
            told.append(f"Trust check `{name}`{asks} holds in all {len(tried)} rows.")
            continue
        where = _where(failed)
        more = f" and {len(where) - _NAMED} more" if len(where) > _NAMED else ""
        told.append(
            f"Trust check `{name}`{asks} fails in {len(failed)} of {len(tried)} rows: "
            f"{', '.join(where[:_NAMED])}{more}."
        )
    return told


def _where(failed: Sequence[Row]) -> list[str]:
    """Name models and attacks with their radii."""
    found: dict[tuple[str, str, str], set[Condition]] = {}
    for row in failed:
        key = (str(row["model"]), str(row["source"]), str(row["attack"]))
        found.setdefault(key, set()).add(read_condition(row["condition"]))
    order = sorted(found, key=lambda key: (model_order(key[0]), key[2], model_order(key[1])))
    return [
        f"{model} under {attack}{'' if model == source else f' made for {source}'} "
        f"({', '.join(one.told or one.text for one in by_level(found[model, source, attack]))})"
        for model, source, attack in order
    ]
