"""A resized copy of a data set with labels as ids, so that training need not decode full frames.

The copy is a manifest data set; the tensors it gives are those of the raw files, bit for bit.
"""

from __future__ import annotations

import csv
import json
from functools import partial
from io import StringIO
from pathlib import Path

from moeseg.data.catalogue import Catalogue
from moeseg.data.dataset import load
from moeseg.data.manifest import COLUMNS, OPTIONAL, read_manifest
from moeseg.data.pictures import MissingFile, write_png
from moeseg.data.sweep import Track, sweep, untracked
from moeseg.data.taxonomy import Taxonomy
from moeseg.data.transforms import Fit
from moeseg.errors import DataError
from moeseg.files import write_text
from moeseg.types import Frame, Size

_ABOUT, _TAXONOMY, _MANIFEST = "prepared.json", "taxonomy.json", "manifest.csv"


def prepare(
    catalogue: Catalogue,
    out: Path,
    size: Size,
    *,
    fit: Fit = "pad",
    workers: int = 0,
    track: Track = untracked,
) -> Catalogue:
    """Write a copy of a data set at one size, with labels as ids.

    Writes ``images/<sequence>/<frame>.png``, ``labels/...``, ``taxonomy.json`` and, when all else
    is there, ``manifest.csv``. Each file is written whole or not at all; run again after a kill, it
    goes on with what is missing or older than its source.

    Args:
        catalogue: what to copy.
        out: a new folder, or that of an earlier run.
        size: (H, W) of the copy.
        fit: how frames come to that size.
        workers: threads; 0 works in the calling one.
        track: shows progress.

    Returns:
        The copy, as `read_prepared` gives it.

    Raises:
        DataError: a frame can't be read, or `out` holds something else.
        MoesegError: a file can't be written, e.g. the disk is full.
    """
    about = {"dataset": catalogue.dataset, "size": list(size), "fit": fit}
    described = {_ABOUT: about, _TAXONOMY: catalogue.taxonomy.to_json()}
    if out.exists():
        _same_or_empty(out, described)
    for name, content in described.items():
        write_text(out / name, _json(content))
    copy = partial(_copy, catalogue=catalogue, out=out, size=size, fit=fit)
    rows = list(sweep(catalogue.frames, copy, "prepare", workers, track))
    table = StringIO(newline="")
    csv.writer(table, lineterminator="\n").writerows([(*COLUMNS, *OPTIONAL), *rows])
    write_text(out / _MANIFEST, table.getvalue())
    return read_prepared(out)


def read_prepared(folder: Path, *, fit: Fit | None = None, strict: bool = True) -> Catalogue:
    """Read what `prepare` wrote, under the name of the data set it was made from.

    Args:
        folder: the copy.
        fit: how its frames must have come to their size; None takes either way.
        strict: refuse frames that stand in two places; only `check` looks at such data.

    Raises:
        DataError: the folder is none of `prepare`'s, `prepare` did not come to its end, or it
            brought frames to their size in another way.
    """
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        dataset, own = str(about["dataset"]), about["fit"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder}: expected a folder written by `moeseg data prepare`, got no {_ABOUT} "
            f"({error}). Prepare it again."
        ) from error
    if fit not in (None, own):
        raise DataError(
            f"{folder}: data.fit: expected {own!r}, as the copy was prepared, got {fit!r}; set it, "
            "or prepare the data again."
        )
    if not (folder / _MANIFEST).is_file():
        raise DataError(f"{folder}: `moeseg data prepare` did not come to its end; run it again.")
    taxonomy = Taxonomy.load(folder / _TAXONOMY)
    return read_manifest(folder / _MANIFEST, taxonomy, "ids", dataset, strict=strict)


def _copy(frame: Frame, catalogue: Catalogue, out: Path, size: Size, fit: Fit) -> tuple[str, ...]:
    image, label = (f"{kind}/{frame.key}.png" for kind in ("images", "labels"))
    if not (_fresh(out / image, frame.image) and _fresh(out / label, frame.label)):
        pixels, ids = load(frame, catalogue.read_label, size, fit)
        write_png(out / image, pixels.permute(1, 2, 0).contiguous().numpy())  # (3, H, W) -> HWC
        write_png(out / label, ids.numpy())
    return image, label, frame.subset, frame.split, frame.sequence


def _fresh(copy: Path, source: Path | None) -> bool:
    if source is None or not copy.is_file():
        return False
    try:
        return copy.stat().st_mtime_ns >= source.stat().st_mtime_ns
    except OSError as error:
        raise MissingFile(f"{source}: no such file ({error.strerror}).") from error


def _same_or_empty(out: Path, described: dict[str, dict[str, object]]) -> None:
    if not out.is_dir():
        raise DataError(f"{out}: expected a folder to write to, got a file; choose another.")
    if not any(out.iterdir()):
        return
    for name, content in described.items():
        path = out / name
        found = path.read_text(encoding="utf-8") if path.is_file() else None
        if found is None and name == _TAXONOMY:
            continue  # killed between the two
        if found != _json(content):
            got = "another data set, size, fit or taxonomy" if found else "files of another kind"
            raise DataError(
                f"{out}: expected a new folder or an earlier copy of the same data set at the same "
                f"size, got {got} ({name}); choose another folder or delete this one."
            )


def _json(content: object) -> str:
    return json.dumps(content, indent=1) + "\n"
