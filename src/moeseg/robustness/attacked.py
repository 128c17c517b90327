"""Models under the attacks of one sweep: rows from counts, whoever owns the models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moeseg.errors import DataError, UsageError
from moeseg.evaluation.collectors import members_of
from moeseg.evaluation.saved import Saved
from moeseg.evaluation.stages import model_bases
from moeseg.robustness.attack_rows import Stand, expert_names_of, sweep_rows
from moeseg.robustness.ranks import joined_ranks
from moeseg.robustness.sweep import Arena, Unit, origin, run_sweep
from moeseg.run import Run, rank
from moeseg.types import Frame, Row, single_subsets


def training_frames(run: Run, units: Sequence[Unit]) -> tuple[Frame, ...]:
    """Return the frames that universal changes are fitted on; none where none is wanted.

    Raises:
        UsageError, DataError: a subset is not known, or has no training frame.
    """
    if not any(unit.attack.kind.startswith("universal") for unit in units):
        return ()
    wanted = run.study.robustness.universal_subset or run.study.joined
    try:
        return run.frames(wanted, "train")
    except (UsageError, DataError) as error:
        raise type(error)(
            f"robustness.universal_subset: expected training frames of {wanted or 'an expert'}, "
            f"got none: {error}"
        ) from error


def attacked_rows(
    run: Run,
    saved: Saved,
    folders: Mapping[str, Path],
    units: Sequence[Unit],
    *,
    training: Sequence[Frame],
    transfer: bool,
    counts: Path,
    job: str,
) -> list[Row]:
    """Carry a sweep out, as far as its counts are not there, and return its rows.

    Args:
        run: whose data and evaluation settings hold.
        saved: the models, and the frames that are attacked.
        folders: of the models, by name.
        units: attacks, radii, models.
        training: frames that universal changes are fitted on; empty where there is none.
        transfer: score every model on the images made for each.
        counts: folder of the counts.
        job: name under which the ranks of a launcher meet.

    Returns:
        All rows; none on ranks other than 0.

    Raises:
        DataError: no frame has a labelled pixel, or no training frame is there for a universal
            change.
        UsageError: a model's output has no gradient.
    """
    size = (int(saved.base["size"][0]), int(saved.base["size"][1]))
    arena = Arena(
        models=saved.models,
        frames=run.dataset(saved.frames, size=size),
        training=run.dataset(training, size=size) if training else None,
        folder=counts,
        classes=len(run.catalogue.taxonomy),
        transfer=transfer,
        origin=origin(run, folders),
        seed=run.study.seed,
        batch_size=run.study.eval.batch_size,
        workers=run.study.data.workers,
        device=run.device,
    )
    with joined_ranks(job):
        run_sweep(units, arena)
    if rank() > 0:
        return []
    known = {frame.subset for frame in saved.frames}
    stand = Stand(
        frames=saved.frames,
        classes=run.catalogue.taxonomy.classes,
        subsets=tuple(s for s in saved.subsets if known.issuperset(single_subsets(s))),
        bases=model_bases(saved.models, saved.base, saved.infos),
        experts=expert_names_of(saved.models, folders),
        members={name: members_of(model) for name, model in saved.models.items()},
    )
    return sweep_rows(units, counts, stand)
