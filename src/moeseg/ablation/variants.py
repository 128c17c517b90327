"""An ablation: one study in several variants and seeds, and one table of what the variants change.

Each variant is an ordinary study in a folder of its own; what two of them share, such as an expert
that a setting does not touch, is trained once. How the table looks is `table`'s matter.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from moeseg.ablation.table import write_ablation
from moeseg.config import Name, Strict, Study, laid_over, lay, parse_study, read_yaml, validated
from moeseg.errors import UsageError, unknown_name
from moeseg.evaluation.rows import read_rows, write_rows
from moeseg.files import fingerprint
from moeseg.progress import say
from moeseg.run import Run, rank
from moeseg.study import ledger, run_study
from moeseg.types import Row


class Ablation(Strict):
    """An ablation file: a study, and what each variant changes in it."""

    out: Path
    """Folder of all runs; `--out` replaces it."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Every variant is carried out with each of these."""
    study: dict[str, Any]
    """The settings of a study file, without `out` and `seed`."""
    variants: Annotated[dict[Name, dict[str, Any]], Field(min_length=1)]
    """For each variant the settings that it changes, in the table's order.

    `a.b: value` replaces what stands there, a whole mapping too. A mapping under a key without a
    dot, as `--set variants.x.a.b=value` makes it, is laid over the study's and changes only the
    settings that it names; an empty one replaces.
    """

    @model_validator(mode="after")
    def _no_seed_or_out_of_its_own(self) -> Ablation:
        places = {"study": self.study} | {f"variants.{n}": v for n, v in self.variants.items()}
        for_all = {"seed": "seeds", "out": "out"}
        wrong = [
            f"{place}.{key}: expected no {key} of its own, got {settings[key]!r}; set `{own}` of "
            "the ablation, which holds for all variants"
            for place, settings in places.items()
            for key, own in for_all.items()
            if key in settings
        ]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def study_of(self, variant: str, seed: int) -> Study:
        """Return the study of one variant and seed.

        Rendered scenes without a `data.root` are shared by all variants that do not change them.

        Raises:
            UsageError: settings are unknown or out of range.
        """
        raw = copy.deepcopy(self.study)
        folder = self.out / variant / f"seed-{seed}"
        changes = {**self.variants[variant], "seed": seed, "out": str(folder)}
        for key, value in copy.deepcopy(changes).items():
            if "." not in key and isinstance(value, dict) and value:
                base = raw.get(key)
                raw[key] = laid_over(base if isinstance(base, dict) else {}, value)
            else:
                lay(raw, key, value)
        study = parse_study(raw, f"variant {variant}")
        if study.data.reader != "synthetic" or study.data.root is not None:
            return study
        data = study.data.model_copy(update={"root": self.out / self._scenes(study, raw)})
        return study.model_copy(update={"data": data})

    def _scenes(self, study: Study, raw: Mapping[str, Any]) -> str:
        """Return the name of the folder of a variant's scenes: `scenes` if they are the study's."""
        if _synthetic(raw) == _synthetic(self.study):
            return "scenes"
        return f"scenes-{fingerprint(study.data.synthetic.model_dump(mode='json'))[:8]}"


def load_ablation(path: Path, overrides: Sequence[str] = ()) -> Ablation:
    """Read an ablation file and check the studies of all its variants.

    Args:
        path: YAML file.
        overrides: `a.b=value` items that replace settings of the file.

    Raises:
        UsageError: the file cannot be read, or settings are unknown or out of range.
    """
    ablation = validated(Ablation, read_yaml(path, overrides), str(path))
    for variant in ablation.variants:
        ablation.study_of(variant, ablation.seeds[0])
    return ablation


def runs(ablation: Ablation, seeds: Sequence[int]) -> Iterator[tuple[str, Run]]:
    """Yield variant and run, seed by seed, so that a stopped ablation has whole seeds."""
    for seed in seeds:
        for variant in ablation.variants:
            yield variant, Run(ablation.study_of(variant, seed))


def run_ablation(ablation: Ablation, only: Sequence[str] = ()) -> list[Row]:
    """Carry out every variant with every seed, and write rows, table and plot of what is there.

    Args:
        ablation: what is to be done.
        only: variants to carry out; all where empty. The table holds all that are finished, those
            of other seeds too.

    Returns:
        The rows of all finished runs, with the variant in `settings`; none on other ranks.

    Raises:
        UsageError: an unknown variant, or the folder holds a run or files of somebody else.
        MoesegError: a run failed; what was finished is kept.
    """
    if unknown := [name for name in only if name not in ablation.variants]:
        raise UsageError("\n".join(unknown_name("variant", n, ablation.variants) for n in unknown))
    if rank() == 0:
        _check_folder(ablation.out)
    every = list(runs(ablation, ablation.seeds))
    for _, run in every:
        for stage in ledger(run).stages.values():
            stage.inputs(run)  # what is wrong in the last variant is told before the first trains
    for number, (variant, run) in enumerate(every, 1):
        if only and variant not in only:
            continue
        say(f"== {number}/{len(every)}: {variant}, seed {run.study.seed}")
        if rank() == 0:
            _adopt(run, [other for _, other in every if other is not run])
        run_study(run)
        if rank() == 0:
            _write(ablation)
    return _write(ablation) if rank() == 0 else []


def _check_folder(folder: Path) -> None:
    """Refuse a folder with a run, or with files of somebody else, which might be replaced."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    theirs = {name for name in names if name != "scenes" and not name.startswith("scenes-")}
    if held := names & {"study.yaml", "stages"}:
        told = f"which holds a run ({min(held)})"
    elif theirs and not any(folder.glob("*/seed-*")):  # made before all else, by every ablation
        told = f"which holds files that are not of an ablation, e.g. {min(theirs)}"
    else:
        return
    raise UsageError(
        f"--out: expected a new folder or that of an earlier ablation, got {folder}, {told}; name "
        "another"
    )


def _adopt(run: Run, others: Sequence[Run]) -> None:
    """Take over every finished stage that another run made from the same inputs."""
    book = ledger(run)
    finished = [other for other in others if (other.folder / "stages").is_dir()]
    if not finished:
        return
    with run.locked():
        for stage in book.stages.values():
            for other in finished:
                if book.state(stage) == "done" or book.adopt(stage, other):
                    break


def _write(ablation: Ablation) -> list[Row]:
    """Write rows, table and plots of every finished run in the ablation's folder."""
    rows = []
    for variant, run in runs(ablation, _seeds_there(ablation)):
        book = ledger(run)
        if book.state(book.stages["evaluate"]) == "done":  # rows of other settings stay out
            for row in read_rows(run.folder / "results.jsonl"):
                rows.append(row | {"settings": row["settings"] | {"variant": variant}})
    write_rows(ablation.out / "results.jsonl", rows)
    write_ablation(ablation.out, rows, list(ablation.variants))
    return rows


def _seeds_there(ablation: Ablation) -> list[int]:
    """Return the seeds of earlier calls and this one: those that some variant has a folder of."""
    names = (
        folder.name.removeprefix("seed-")
        for variant in ablation.variants
        for folder in (ablation.out / variant).glob("seed-*")
    )
    return sorted({int(name) for name in names if name.isdecimal()})


def _synthetic(raw: Mapping[str, Any]) -> object:
    data = raw.get("data")
    return (data.get("synthetic") or {}) if isinstance(data, Mapping) else {}
