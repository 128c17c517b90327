"""Attacks and corruptions on saved models, beside or outside of a run: rows and counts in a folder.

The stages of a study do the same for its own models.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from moeseg import __version__
from moeseg.config import CorruptionsConfig, SweepConfig
from moeseg.data import limit
from moeseg.evaluation.rows import write_rows
from moeseg.evaluation.runner import Change
from moeseg.evaluation.saved import Saved, open_saved
from moeseg.evaluation.stages import evaluate
from moeseg.files import fingerprint
from moeseg.robustness.attacked import attacked_rows, training_frames
from moeseg.robustness.corrupted import changes_of, corrupted_rows, universals
from moeseg.robustness.paths import parts_of
from moeseg.robustness.plan import units_of
from moeseg.robustness.ranks import joined_ranks
from moeseg.run import Run, rank
from moeseg.types import Row

ROWS = "results.jsonl"


def attack_saved(
    run: Run, folders: Sequence[Path], subsets: Sequence[str], sweep: SweepConfig, out: Path
) -> list[Row]:
    """Attack saved models; what an earlier, killed call left in `out` is not attacked again.

    Args:
        run: whose data, size, evaluation and own attacks hold; its folder is left alone.
        folders: of the models; each is called by its folder's name.
        subsets: subsets and joins that get rows.
        sweep: attacks, radii, frames; `models` None takes all that are given.
        out: folder for `results.jsonl` and the counts.

    Returns:
        All rows; none on ranks other than 0.

    Raises:
        CheckpointError: a folder holds no model, or one of another taxonomy than the data.
        UsageError: an unknown subset or attack, or a radius that is absurd.
    """
    saved = open_saved(run, folders, subsets)
    units = units_of(
        sweep,
        run.study.robustness,
        {name: tuple(parts_of(model)) for name, model in saved.models.items()},
    )
    frames = limit(saved.frames, sweep.frames)
    training = training_frames(run, units)
    counts = out / "counts" / _mark(run, saved, frames, training)
    rows = attacked_rows(
        run,
        replace(saved, frames=frames),
        dict(zip(saved.models, folders, strict=True)),
        units,
        training=training,
        transfer=sweep.transfer,
        counts=counts,
        job="attack",
    )
    if rank() == 0:
        write_rows(out / ROWS, rows)
    return rows


def corrupt_saved(
    run: Run,
    folders: Sequence[Path],
    subsets: Sequence[str],
    wanted: CorruptionsConfig,
    out: Path,
    changed: Sequence[Path] = (),
) -> list[Row]:
    """Score saved models on clean and corrupted frames; goes on where a killed call stopped.

    Args:
        run: whose data, size and evaluation settings hold; its folder is left alone.
        folders: of the models; each is called by its folder's name.
        subsets: subsets and joins that get rows.
        wanted: corruptions and severities.
        out: folder for `results.jsonl` and the rows of each condition.
        changed: files of saved universal changes, each a condition more.

    Returns:
        All rows, clean ones first; none on ranks other than 0.

    Raises:
        CheckpointError: a folder holds no model, or one of another taxonomy than the data.
        DataError: a file holds no universal change.
        UsageError: an unknown subset or corruption, or two universal changes of one name.
    """
    saved = open_saved(run, folders, subsets)
    changes = changes_of(wanted, run.study.seed) | universals(changed)

    def score(change: Change | None, condition: str) -> list[Row]:
        base = saved.base | {"condition": condition}
        return evaluate(saved.models, run, saved.frames, subsets, base, saved.infos, change=change)

    with joined_ranks("corrupt"):
        rows = score(None, "clean")
        files = [hashlib.sha256(path.read_bytes()).hexdigest() for path in changed]
        folder = out / "conditions" / _mark(run, saved, saved.frames, files, saved.subsets)
        rows += corrupted_rows(changes, score, folder)
    if rank() > 0:
        return []
    write_rows(out / ROWS, rows)
    return rows


def _mark(run: Run, saved: Saved, *frames: Sequence[object]) -> str:
    """Return a short name for what counts hang on, besides the attack: models, frames, code."""
    keys = [[getattr(one, "key", one) for one in part] for part in frames]
    data = run.study.data.model_dump(mode="json", exclude={"workers"})
    held = [__version__, saved.base["fingerprint"], keys, list(saved.models), data, run.study.seed]
    return fingerprint(held)[:12]
