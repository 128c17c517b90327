"""From a study's `data` settings to a catalogue of frames and data sets over it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from moeseg.config import DataConfig, data_root
from moeseg.data.a2d2 import read_a2d2
from moeseg.data.camvid import read_camvid
from moeseg.data.catalogue import Catalogue, Pick, limit, reselect
from moeseg.data.labels import LabelFormat
from moeseg.data.manifest import read_manifest
from moeseg.data.prepare import read_prepared
from moeseg.data.synthetic import SyntheticSpec, plan_drives, write_dataset
from moeseg.data.taxonomy import Taxonomy
from moeseg.errors import DataError, UsageError
from moeseg.progress import counter
from moeseg.types import Frame


def open_catalogue(config: DataConfig, folder: Path, *, strict: bool = True) -> Catalogue:
    """Read the lists of a data set and cut the study's own subsets from them.

    Args:
        config: the study's `data` settings.
        folder: the run, which holds the synthetic scenes.
        strict: refuse frames that stand in two places; only `check` looks at such data.

    Raises:
        UsageError, DataError: the data are not where the settings say, or not as they should be.
    """
    found = _read(config, folder, strict)
    if config.select is not None:
        picks = {
            subset: {
                split: Pick(**pick.model_dump() | {"split": pick.split or split})
                for split, pick in by_split.items()
            }
            for subset, by_split in config.select.items()
        }
        found = reselect(found, picks)
    if config.limit:
        kept: list[Frame] = []
        for subset in found.subsets():
            for split in dict.fromkeys(f.split for f in found.frames if f.subset == subset):
                frames = found.select(subset, split)
                kept += limit(frames, config.limit.get(split))
        found = replace(found, frames=tuple(kept))
    return found


def scenes_folder(config: DataConfig, folder: Path) -> Path:
    """Return where the synthetic scenes of a run lie."""
    return config.root or folder / "scenes"


def render_scenes(config: DataConfig, folder: Path) -> None:
    """Write the synthetic scenes that the settings describe; those already there are kept."""
    root = scenes_folder(config, folder)
    ours = any((root / name).exists() for name in ("spec.json", "spec.partial.json"))
    if root.is_dir() and any(root.iterdir()) and not ours:
        raise DataError(
            f"data.root: {root} holds files that are not rendered scenes; name a new folder"
        )
    spec = synthetic_spec(config)
    with counter("rendering scenes") as progress:
        write_dataset(root, spec, progress=progress)


def synthetic_spec(config: DataConfig) -> SyntheticSpec:
    """Return the renderer's own form of the settings."""
    return SyntheticSpec(**config.synthetic.model_dump())


def _read(config: DataConfig, folder: Path, strict: bool) -> Catalogue:
    if config.reader == "manifest":
        if config.taxonomy is None:
            raise UsageError(
                "data.taxonomy is not set: a manifest needs the label set of its pictures, a "
                "built-in one or a YAML file"
            )
        root = data_root(config)
        csv = root / "manifest.csv" if root.is_dir() else root
        return read_manifest(csv, Taxonomy.load(config.taxonomy), config.labels, strict=strict)
    found = _own_labels(config, folder, strict)
    if config.taxonomy is None or config.taxonomy == found.taxonomy.name:
        return found
    return found.in_taxonomy(Taxonomy.load(config.taxonomy))


def _own_labels(config: DataConfig, folder: Path, strict: bool) -> Catalogue:
    """Return a catalogue in the data set's own taxonomy."""
    if config.reader == "synthetic":
        return _scenes(config, scenes_folder(config, folder), strict)
    if config.reader == "a2d2":
        return read_a2d2(data_root(config), config.lists, strict=strict)
    if config.reader == "camvid":
        return read_camvid(data_root(config), strict=strict)
    return read_prepared(data_root(config), fit=config.fit, strict=strict)


def _scenes(config: DataConfig, root: Path, strict: bool) -> Catalogue:
    # from the settings, not from the lists beside them: the same before and after rendering
    frames = tuple(
        Frame(
            sequence=f"{drive.name[:8]}_{drive.name[8:]}",
            frame=f"{number:09d}",
            image=drive.photo(root, number),
            label=drive.label(root, number),
            subset=drive.subset,
            split=drive.split,
        )
        for drive in plan_drives(synthetic_spec(config))
        for number in drive.numbers
    )
    files = Taxonomy.load("a2d2-38")
    return Catalogue("synthetic", frames, LabelFormat("colours", files, files), str(root), strict)
