"""Synthetic drives on disk, in A2D2's layout with lists in the published format.

A frame is written whole or not at all, frames that are there are kept, and `spec.json` appears when
all are there; so a killed run goes on where it stopped. Not here: how a frame is drawn (`drive`).
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from PIL import Image

from moeseg.errors import DataError, UsageError
from moeseg.files import replacing
from moeseg.types import Size

from .camera import Array
from .colours import CLASS_LIST
from .drive import draw_drive
from .spec import FOLDER, PlannedDrive, SyntheticSpec, frame_lists, plan_drives

_COMPRESSION: Final = 4  # of the PNG files; fixed, so that bytes are


def write_dataset(
    root: Path,
    spec: SyntheticSpec,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write all frames, lists and the class list; what is already there is kept.

    With more than one worker, processes are started afresh (spawn): a script must call this under
    ``if __name__ == "__main__":``.

    Args:
        root: folder of the data set; made if missing.
        spec: what to draw.
        workers: processes; None is one per core. The bytes do not depend on it.
        progress: called with (frames there, frames in all) at the start and after each drive.

    Raises:
        DataError: the folder holds something else.
        MoesegError: a file can't be written.
        UsageError: `workers` is less than 1.
    """
    if workers is not None and workers < 1:
        raise UsageError(f"workers: expected 1 or more, got {workers}.")
    _claim(root, spec)
    drives = plan_drives(spec)
    todo = [(drive, missing) for drive in drives if (missing := drive.missing(root))]
    total = sum(len(drive.numbers) for drive in drives)
    done = total - sum(len(missing) for _, missing in todo)
    if progress:
        progress(done, total)
    for written in _render_all(root, spec, todo, workers or os.cpu_count() or 1):
        done += written
        if progress:
            progress(done, total)
    classes = json.dumps(CLASS_LIST, indent=4) + "\n"
    _write(root / FOLDER / "class_list.json", classes.encode())
    for name, lines in frame_lists(drives).items():
        _write(root / "lists" / name, "".join(f"{line}\n" for line in lines).encode())
    _write(root / "spec.json", _dump(spec))
    (root / "spec.partial.json").unlink(missing_ok=True)


def _render_all(
    root: Path, spec: SyntheticSpec, todo: list[tuple[PlannedDrive, list[int]]], workers: int
) -> Iterator[int]:
    """Write the missing frames and yield their number after each drive."""
    if workers == 1 or len(todo) <= 1:
        for drive, missing in todo:
            yield _write_drive(root, drive, missing, spec.size)
        return
    count = min(workers, len(todo))
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(_write_drive, root, drive, gap, spec.size) for drive, gap in todo]
        try:
            for job in as_completed(jobs):
                yield job.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _write_drive(root: Path, planned: PlannedDrive, missing: Iterable[int], size: Size) -> int:
    """Write the frames at the positions `missing` and return how many."""
    drive = draw_drive(planned.subset, planned.seed)
    count = 0
    for index in missing:
        photo, label = drive.frame(index, size)
        number = planned.numbers[index]
        _write(planned.photo(root, number), _png(photo))
        _write(planned.label(root, number), _png(label))
        count += 1
    return count


def _png(picture: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=_COMPRESSION)
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


def _dump(spec: SyntheticSpec) -> bytes:
    return (json.dumps(spec.as_json(), indent=2, sort_keys=True) + "\n").encode()


def _claim(root: Path, spec: SyntheticSpec) -> None:
    """Make sure that the folder is free or holds the same spec, done or begun."""
    known = [path for name in ("spec.json", "spec.partial.json") if (path := root / name).is_file()]
    for path in known:
        if path.read_bytes() != _dump(spec):
            raise DataError(
                f"{path}: the folder holds synthetic frames of another spec or renderer version. "
                "Choose another folder, or delete this one and run again."
            )
    if not known:
        if (root / FOLDER).exists():
            raise DataError(
                f"{root / FOLDER} is there, but no spec.json beside it: expected an empty folder "
                "or synthetic frames. Choose another folder."
            )
        _write(root / "spec.partial.json", _dump(spec))
