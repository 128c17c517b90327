"""Rows: which keys each kind carries, and how rows are read and written.

No numbers are made here and nothing is rendered.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import yaml

from moeseg.errors import DataError, unknown_name
from moeseg.files import write_text
from moeseg.types import Row

BASE_KEYS: tuple[str, ...] = (
    "kind",
    "model",
    "subset",
    "condition",
    "split",
    "dataset",
    "size",
    "architecture",
    "images",
    "seed",
    "settings",
    "fingerprint",
)
"""Keys of every row, in the order they are written."""

FRAMES = "frames"
"""Key of rows of attack sweeps, which choose frames: a mark that other frames do not share. Rows
without it are of every frame of their subset, or were written before it was."""

METRIC_KEYS: dict[str, tuple[str, ...]] = {
    "segmentation": (
        "miou",
        "miou_union",
        "pixel_accuracy",
        "class_accuracy",
        "fw_iou",
        "per_class_iou",
        "per_class_pixels",
        "classes_used",
        "ci95",
        "ci_unit",
        "ci_units",
    ),
    "difference": ("minus", "difference", "ci95", "ci_unit", "ci_units", "wins"),
    "agreement": (
        "category",
        "pixels",
        "share",
        "labelled",
        "right",
        "per_class_share",
        "per_class_right",
        "ci95",
        "right_ci95",
        "ci_unit",
        "ci_units",
    ),
    "detector": (
        "score",
        "task",
        "positives",
        "auroc",
        "aupr",
        "fpr95",
        "aurc",
        "error_bound",
        "ci95",
        "aupr_ci95",
        "fpr95_ci95",
        "aurc_ci95",
        "ci_unit",
        "ci_units",
        "risk",
        "roc",
    ),
    "routing": (
        "experts",
        "columns",
        "mean_weights",
        "class_weights",
        "histogram",
        "entropy",
        "concentration",
        "collapsed",
        "prefers_better",
        "frames_compared",
        "ci95",
        "ci_unit",
        "ci_units",
        "oracle_lost",
        "subset_accuracy",
    ),
    "attack": (
        "attack",
        "epsilon",
        "source",
        "miou",
        "clean_miou",
        "lost",
        "ci95",
        "ci_unit",
        "ci_units",
        "losses",
        "route_moved",
        "route_flipped",
        "changed",
        "expert_changed",
        "expert_miou",
        "gate_held_miou",
        "logits_held_miou",
        "checks",
        "attack_settings",
    ),
    "calibration": (
        *("reading", "confidence_from", "members", "pixels", "accuracy", "confidence"),
        *("ece", "mce", "ece_per_image", "brier", "nll", "ece_equal_mass", "equal_mass_bound"),
        *("classwise_ece", "classwise_ece_equal_mass", "classwise_equal_mass_bound"),
        *("per_class_ece", "per_class_reliability"),
        *("ci95", "brier_ci95", "nll_ci95", "ci_unit", "ci_units", "reliability"),
    ),
    "conditional": (
        *("score", "unit", "reading", "members", "counted"),
        *("accurate_certain", "uncertain_inaccurate", "pavpu", "threshold", "at_threshold"),
        *("curves", "ci95", "ci_unit", "ci_units"),
    ),
    "uncertainty-difference": (
        *("measure", "score", "minus", "minus_score", "minus_settings", "members"),
        *("difference", "error_bound", "ci95", "ci_unit", "ci_units", "better"),
    ),
}
"""Keys that a kind adds to `BASE_KEYS`; a new kind of row enters here."""

SHARES: dict[str, tuple[str, ...]] = {
    "segmentation": ("miou", "miou_union", "pixel_accuracy", "class_accuracy", "fw_iou"),
    "agreement": ("share", "right", "per_class_share", "per_class_right"),
    "detector": (
        *("positives", "auroc", "aupr", "fpr95", "aurc", "error_bound"),
        *("risk", "roc"),
    ),
    "routing": (
        *("mean_weights", "class_weights", "entropy", "concentration"),
        *("prefers_better", "subset_accuracy"),
    ),
    "attack": (
        *("miou", "clean_miou", "route_moved", "route_flipped", "changed", "expert_changed"),
        *("expert_miou", "gate_held_miou", "logits_held_miou"),
    ),
    "calibration": (
        *("accuracy", "confidence", "ece", "mce", "ece_per_image", "ece_equal_mass"),
        *("classwise_ece", "classwise_ece_equal_mass", "per_class_ece", "reliability"),
        "per_class_reliability",
    ),
    "conditional": (
        *("accurate_certain", "uncertain_inaccurate", "pavpu", "threshold", "at_threshold"),
        "curves",
    ),
    "uncertainty-difference": ("error_bound",),
}
"""Readings of a kind that are 0..1 or null where nothing was counted; so is all within a list or
an object."""


_SWEEPS = "robustness"
"""Folder of a run that holds the rows of its sweeps and corruptions."""
_SAME_TRIAL = (
    *("kind", "model", "subset", "condition", "split", "dataset", "size", "seed", "images"),
    *(FRAMES, "source", "minus"),
)
"""What two rows of changed images share that say the same."""
_SAME_ATTACK = (
    *("model", "subset", "split", "dataset", "size", "seed", "settings"),
    *("attack", "attack_settings"),
)
"""What ``attack`` rows of one attack share, at whatever radius and on whatever frames."""


def validate_row(row: Row) -> None:
    """Check a row against its kind: no key missing or unknown, shares in 0..1, interval ordered.

    Raises:
        DataError: with all that is wrong with the row.
    """
    kind = row.get("kind")
    if kind not in METRIC_KEYS:
        raise DataError(unknown_name("kind of row", str(kind), METRIC_KEYS))
    keys = BASE_KEYS + METRIC_KEYS[kind]
    wrong = [f"key {key!r} is missing" for key in keys if key not in row]
    wrong += [unknown_name("key", key, keys) for key in row if key not in (*keys, FRAMES)]
    if not wrong:
        wrong = _wrong_values(row)
    if wrong:
        raise DataError(
            f"a {kind} row of {row.get('model')!r} on {row.get('subset')!r} is not as expected: "
            + "; ".join(wrong)
        )


def read_rows(path: Path) -> list[Row]:
    """Read JSON lines as rows, of any kind; blank lines are skipped.

    Raises:
        DataError: the file can't be read, or a line is no JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"expected rows in {path}, could not read it: {error}.") from error
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: expected one JSON object, got {error}.") from error
        if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
            raise DataError(f"{path}:{number}: expected a JSON object with a key 'kind'.")
        rows.append(row)
    return rows


def read_run_rows(folder: Path) -> list[Row]:
    """Read all rows in a run's folder: `results.jsonl`, then `robustness/*.jsonl` by file name.

    Either may be missing. In the folder of a study, a file counts only if its stage is one of the
    study's and finished. An attack that two sweeps make on the same frames counts once: a check
    that failed in either has failed.

    Raises:
        DataError: a file can't be read, or a line is no JSON object.
    """
    own = folder / "results.jsonl"
    rows = read_rows(own) if own.is_file() else []
    paths = sorted((folder / _SWEEPS).glob("*.jsonl"))
    return rows + _read_sweeps([path for path in paths if _is_swept(folder, path.stem)])


def read_files(paths: Iterable[Path]) -> list[Row]:
    """Read files of rows, of any runs; those of one run's sweeps as `read_run_rows` does.

    Raises:
        DataError: a file can't be read, or a line is no JSON object.
    """
    by_run: dict[Path, list[Path]] = {}
    for path in paths:
        place = path.resolve()
        of_sweep = place.parent.name == _SWEEPS
        by_run.setdefault(place.parent if of_sweep else place, []).append(path)
    rows: list[Row] = []
    for place, files in by_run.items():
        if place.name == _SWEEPS:
            rows += _read_sweeps(files)
        else:
            rows += [row for path in files for row in read_rows(path)]
    return rows


def _read_sweeps(paths: Iterable[Path]) -> list[Row]:
    """Read the sweeps of one run; what two of them made on the same frames counts once."""
    known: dict[str, Row] = {}
    for row in (row for path in paths for row in read_rows(path)):
        mark = json.dumps([row.get(key) for key in _SAME_TRIAL])
        twin = known.setdefault(mark, row)
        if twin is not row and row["kind"] == "attack":
            twin["checks"] = _joined_checks(twin["checks"], row["checks"])
    _share_collapse([row for row in known.values() if row["kind"] == "attack"])
    return list(known.values())


def _share_collapse(attacks: Iterable[Row]) -> None:
    """Give every attack on a model the verdict that another sweep found at a large radius."""
    same: dict[str, list[Row]] = {}
    for row in attacks:
        if row["source"] == row["model"] and row["checks"]:
            same.setdefault(json.dumps([row.get(key) for key in _SAME_ATTACK]), []).append(row)
    for rows in same.values():
        verdict = _joined_verdicts(row["checks"]["collapse"] for row in rows)
        for row in rows:
            row["checks"]["collapse"] = verdict


def is_current(folder: Path, stage: str, wanted: bool) -> bool:
    """Return whether what a stage left in a run's folder is of the study as it is now.

    What earlier settings left speaks of models that may be no more.

    Args:
        folder: of the run; outside of a study, without stages, all is current.
        stage: its name.
        wanted: the study has this stage.
    """
    if not (folder / "stages").is_dir():
        return True
    record = folder / "stages" / f"{stage}.json"
    if not wanted or not record.is_file():
        return False
    return bool(json.loads(record.read_text(encoding="utf-8"))["finished"])


def _is_swept(folder: Path, stage: str) -> bool:
    """Return whether a run's study has a sweep, or corruptions, and has finished it."""
    study = folder / "study.yaml"
    if not study.exists():
        return True
    wanted = (yaml.safe_load(study.read_text(encoding="utf-8")) or {}).get("robustness") or {}
    names = {f"attack-{name}" for name in wanted.get("sweeps") or {}}
    if wanted.get("corruptions"):
        names.add("corruptions")
    return is_current(folder, stage, stage in names)


def _joined_checks(
    one: dict[str, bool | None], other: dict[str, bool | None]
) -> dict[str, bool | None]:
    """Join the verdicts of two sweeps on each check."""
    return {name: _joined_verdicts((one[name], other.get(name))) for name in one}


def _joined_verdicts(verdicts: Iterable[bool | None]) -> bool | None:
    """Return one for several: a failure outweighs a pass, which outweighs silence."""
    said = [verdict for verdict in verdicts if verdict is not None]
    return all(said) if said else None


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines, all or nothing: the old file stays until the new one is whole.

    Raises:
        DataError: a row of a known kind is wrong, or a value is no JSON (NaN included).
        MoesegError: the disk does not take it.
    """
    lines = []
    for row in rows:
        if row.get("kind") in METRIC_KEYS:
            validate_row(row)
        try:
            lines.append(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        except (TypeError, ValueError) as error:
            raise DataError(
                f"a {row.get('kind')} row of {row.get('model')!r} is no JSON: {error}."
            ) from error
    write_text(path, "".join(lines))


def _wrong_values(row: Row) -> list[str]:
    wrong = []
    for key in SHARES.get(row["kind"], ()):
        for value in _numbers(row[key]):
            if not 0.0 <= value <= 1.0:
                wrong.append(f"{key} is {value}, expected 0..1 or null")
    for key, value in row.items():
        if not key.endswith("ci95") or value is None:
            continue
        if len(value) != 2 or not all(map(math.isfinite, value)) or value[0] > value[1]:
            wrong.append(f"{key} is {value}, expected [low, high] or null")
    if row["ci_unit"] not in ("sequence", "block"):
        wrong.append(unknown_name("ci_unit", str(row["ci_unit"]), ("sequence", "block")))
    if not (
        isinstance(row["size"], list)
        and len(row["size"]) == 2
        and all(isinstance(side, int) and side > 0 for side in row["size"])
    ):
        wrong.append(f"size is {row['size']}, expected [height, width]")
    return wrong


def _numbers(value: object) -> Iterator[float]:
    """Yield every number in a value of a row, however deep; what is none and not null is NaN."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _numbers(part)
    elif value is not None:
        yield value if isinstance(value, int | float) else math.nan
