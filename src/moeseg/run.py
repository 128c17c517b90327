"""One run of a study: its folder, its frames, and its stages with what each hangs on.

A stage's output is used again only while its fingerprint is the same: that of its settings, its
frames, the stages before it and the version of the code.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock, Timeout

from moeseg import __version__
from moeseg.config import Study
from moeseg.data import Augment, Catalogue, SegmentationDataset
from moeseg.data.labels import ReadLabel
from moeseg.data.open import open_catalogue
from moeseg.errors import DataError, UsageError
from moeseg.files import fingerprint, remove, write_text
from moeseg.types import Frame, Size, Split, single_subsets

_POLL_SECONDS = 0.5
State = Literal["done", "stale", "started", "missing"]


def launched() -> bool:
    """Return whether torchrun or SLURM started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def rank() -> int:
    """Return this process's number among those that a launcher started; 0 without one."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) if launched() else 0


class Run:
    """A study and the folder it is carried out in.

    Args:
        study: checked settings.
        folder: where every output goes; `study.out` where None.
    """

    def __init__(self, study: Study, folder: Path | None = None) -> None:
        self.study = study
        self.folder = folder or study.out
        self._sizes: dict[tuple[str, ...], str] = {}

    @functools.cached_property
    def catalogue(self) -> Catalogue:
        """The frames of the study's data."""
        return open_catalogue(self.study.data, self.folder)

    @property
    def device(self) -> torch.device:
        """Where gates are fitted and models evaluated."""
        wanted = self.study.training.accelerator
        if wanted in ("auto", "gpu") and torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if wanted == "mps" else "cpu")

    @property
    def eval_size(self) -> Size:
        """H, W at which models are scored."""
        return self.study.eval.size or self.study.data.size

    def model(self, name: str) -> Path:
        """Return the folder of a saved model."""
        return self.folder / "models" / name

    def log(self, name: str) -> Path:
        """Return the folder of a training's checkpoints and curves."""
        return self.folder / "training" / name

    def frames(self, subset: str, split: Split) -> tuple[Frame, ...]:
        """Return the frames of a subset or join, of which each part must have some."""
        return self.catalogue.select(subset, split)

    def validation_frames(self, subset: str) -> tuple[Frame, ...]:
        """Return the validation frames of those parts of a join that have some."""
        present = self.catalogue.subsets("val")
        parts = [part for part in single_subsets(subset) if part in present]
        return self.catalogue.select("+".join(parts), "val") if parts else ()

    def dataset(self, frames: Sequence[Frame], size: Size | None = None) -> SegmentationDataset:
        """Return a data set over frames to be scored, at the training size or another."""
        data = self.study.data
        size = size or data.size
        return SegmentationDataset(frames, self.catalogue.read_label, size, fit=data.fit)

    def training_dataset(
        self,
        frames: Sequence[Frame],
        *,
        augmented: bool = False,
        mirrored: bool = False,
        seed: int | None = None,
    ) -> SegmentationDataset:
        """Return a data set over frames to learn or to choose an epoch from.

        Args:
            frames: what it holds.
            augmented: change frames as `data.augment` says, for networks.
            mirrored: take over no more of it than `flip`, for gates: their cache holds no other
                change.
            seed: of the changes; the study's where None.
        """
        data = self.study.data
        augment = Augment(flip=data.augment.flip) if mirrored else None
        if augmented:
            augment = Augment(**data.augment.model_dump())
        seed = self.study.seed if seed is None else seed
        return SegmentationDataset(
            frames, self.read_training_label, data.size, augment, seed, data.fit
        )

    @functools.cached_property
    def read_training_label(self) -> ReadLabel:
        """Function that reads a label as networks are taught it (`data.label_colours`)."""
        labels = self.catalogue.labels
        first_only = self.study.data.label_colours == "first-only"
        return (labels.first_colours_only() if first_only else labels).read

    def frames_print(self, frames: Sequence[Frame]) -> str:
        """Return a fingerprint of frames: names, subsets and sizes of the files on disk."""
        keys = tuple(frame.key for frame in frames)
        if keys not in self._sizes:
            sized = self.study.data.reader != "synthetic"  # scenes follow from their settings
            listed = [
                (f.key, f.subset, *((_bytes(f.image), _bytes(f.label)) if sized else ()))
                for f in frames
            ]
            self._sizes[keys] = fingerprint(listed)
        return self._sizes[keys]

    def record(self, stage: str) -> dict[str, Any]:
        """Return what is noted of a stage: fingerprint, finished, seconds; empty if nothing."""
        path = self.folder / "stages" / f"{stage}.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's folder against a second run.

        Raises:
            UsageError: another run is at work there.
        """
        self._check_folder()
        lock = FileLock(self.folder / ".lock")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except OSError as error:
            if not isinstance(error, Timeout):
                raise UsageError(
                    f"--out: cannot work in {self.folder}: {error.strerror or error}"
                ) from error
            raise UsageError(
                f"another run is at work in {self.folder}: wait until it ends, or choose another "
                "folder with --out"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _check_folder(self) -> None:
        """Refuse a folder with files of somebody else, which a run might replace."""
        if not self.folder.is_dir():
            return
        # scenes may have been rendered by themselves, before any study; an ablation has some, too
        names = {path.name for path in self.folder.iterdir()} - {".lock", "scenes"}
        if names and not names & {"study.yaml", "stages"}:
            raise UsageError(
                f"--out: {self.folder} holds files that are not of a run, e.g. {min(names)}: name "
                "a new folder, or that of an earlier run"
            )


@dataclass(frozen=True, slots=True)
class Cost:
    """What a stage is expected to take."""

    seconds: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Stage:
    """One step of a study.

    Attributes:
        name: as `--only` and `--plan` name it.
        make: does the work; goes on with what an earlier, killed call left.
        inputs: settings and frames that the output hangs on, JSON-ready.
        outputs: files and folders that the stage leaves.
        stays: files that it leaves where other runs may use them, too, which an equal call makes
            again as they were: never linked, nor removed as an output is.
        scratch: files and folders that it works in; they go on a fresh start.
        needs: stages whose outputs it reads.
        parallel: every launched process takes part; the others are rank 0's alone.
        cost: time and disk it is expected to take.
    """

    name: str
    make: Callable[[Run], None]
    inputs: Callable[[Run], Any]
    outputs: Callable[[Run], Sequence[Path]]
    stays: Callable[[Run], Sequence[Path]] = field(default=lambda run: ())
    scratch: Callable[[Run], Sequence[Path]] = field(default=lambda run: ())
    needs: tuple[str, ...] = ()
    parallel: bool = False
    cost: Callable[[Run], Cost] = field(default=lambda run: Cost())


class Ledger:
    """What is finished in a run's folder, by stage.

    Args:
        run: the run.
        stages: all of its stages, in order.
    """

    def __init__(self, run: Run, stages: Sequence[Stage]) -> None:
        self.run = run
        self.stages = {stage.name: stage for stage in stages}

    def fingerprint(self, stage: Stage) -> str:
        """Return the fingerprint that a fresh output of a stage would have."""
        return self._fingerprint(stage, {})

    def _fingerprint(self, stage: Stage, known: dict[str, str]) -> str:
        """Return the same, from those that are known; a stage may be needed in many ways."""
        if stage.name not in known:
            before = {name: self._fingerprint(self.stages[name], known) for name in stage.needs}
            mark = fingerprint([__version__, stage.name, stage.inputs(self.run), before])
            known[stage.name] = mark
        return known[stage.name]

    def state(self, stage: Stage) -> State:
        """Return whether a stage's output is there and fresh."""
        record = self.record(stage)
        if not record:
            return "missing"
        if record["fingerprint"] != self.fingerprint(stage):
            return "stale"
        return "done" if record["finished"] and self._whole(stage) else "started"

    def record(self, stage: Stage) -> dict[str, Any]:
        """Return what was noted of a stage: fingerprint, finished, seconds; empty if nothing."""
        return self.run.record(stage.name)

    def make(self, stage: Stage) -> None:
        """Carry a stage out, afresh where what is there belongs to other settings."""
        state = self.state(stage)
        if state == "done":
            return
        mark = self.fingerprint(stage)
        if state in ("stale", "missing"):
            for path in (*stage.outputs(self.run), *stage.scratch(self.run)):
                remove(path)
        # where only what stays is gone, it comes out as it was, and what hangs on it holds
        if state != "started" or not _there(stage.outputs(self.run)):
            self._forget_dependants(stage.name)
        spent = self.record(stage).get("seconds", 0.0) if state == "started" else 0.0
        self._note(stage, mark, finished=False, seconds=spent)
        began = time.monotonic()
        stage.make(self.run)
        self._note(stage, mark, finished=True, seconds=spent + time.monotonic() - began)

    def adopt(self, stage: Stage, other: Run) -> bool:
        """Take over a finished output that another run made from the same inputs.

        Files are linked where the disk allows it: no stage changes a file in place.

        Returns:
            Whether the other run has one.
        """
        note = other.record(stage.name)
        theirs = stage.outputs(other)
        mine = self.fingerprint(stage)
        if note.get("fingerprint") != mine or not note["finished"]:
            return False
        if not _there([*theirs, *stage.stays(self.run)]):
            return False
        for source, target in zip(theirs, stage.outputs(self.run), strict=True):
            remove(target)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, copy_function=_link)
            else:
                _link(source, target)
        self._note(stage, mine, finished=True, seconds=0.0)
        return True

    def _whole(self, stage: Stage) -> bool:
        return _there([*stage.outputs(self.run), *stage.stays(self.run)])

    def _forget_dependants(self, name: str) -> None:
        """Make stale what was made from an output that is about to change."""
        for other in self.stages.values():
            if name in other.needs:
                remove(self._path(other))
                self._forget_dependants(other.name)

    def follow(self, stage: Stage) -> None:
        """Take part in a stage that rank 0 carries out, or wait for it, as another rank."""
        mark = self.fingerprint(stage)
        while True:
            note = self.record(stage)
            if note.get("fingerprint") == mark:
                if not note["finished"] and stage.parallel:
                    break
                if note["finished"] and self._whole(stage):
                    return
            time.sleep(_POLL_SECONDS)
        stage.make(self.run)

    def _note(self, stage: Stage, mark: str, *, finished: bool, seconds: float) -> None:
        note = {"fingerprint": mark, "finished": finished, "seconds": round(seconds, 1)}
        write_text(self._path(stage), json.dumps(note | {"version": __version__}))

    def _path(self, stage: Stage) -> Path:
        return self.run.folder / "stages" / f"{stage.name}.json"


def _there(paths: Iterable[Path]) -> bool:
    return all(path.exists() for path in paths)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def _bytes(path: Path | None) -> int:
    if path is None:
        return 0
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror}; `moeseg data check` lists every missing file"
        ) from error
