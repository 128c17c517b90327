"""From a study's `data` settings to a catalogue of frames and data sets over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from moeseg.config import DataConfig, data_root
from moeseg.data.a2d2 import A2D2Taxonomy, read_a2d2
from moeseg.data.camvid import read_camvid
from moeseg.data.catalogue import Catalogue, Pick, limit, reselect
from moeseg.data.dataset import SegmentationDataset
from moeseg.data.labels import LabelFormat
from moeseg.data.manifest import read_manifest
from moeseg.data.prepare import read_prepared
from moeseg.data.synthetic import SyntheticSpec, plan_drives, write_dataset
from moeseg.data.taxonomy import Taxonomy
from moeseg.data.transforms import Augment
from moeseg.errors import DataError, UsageError
from moeseg.progress import counter
from moeseg.types import Frame, Size


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
                split: Pick(
                    source=pick.source,
                    split=pick.split or split,
                    sequences=pick.sequences,
                    exclude=pick.exclude,
                    frames=pick.frames,
                )
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
                kept += limit(frames, config.limit.get(split, len(frames)))
        found = replace(found, frames=tuple(kept))
    return found


def make_dataset(
    catalogue: Catalogue,
    frames: Sequence[Frame],
    size: Size,
    *,
    augment: Augment | None = None,
    seed: int = 0,
) -> SegmentationDataset:
    """Return the data set of some frames of a catalogue at a size."""
    return SegmentationDataset(frames, catalogue.read_label, size, augment, seed)


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
    return SyntheticSpec(
        seed=config.synthetic.seed,
        size=config.synthetic.size,
        drives={
            subset: {str(split): number for split, number in numbers.items()}
            for subset, numbers in config.synthetic.drives.items()
        },
        frames_per_drive=config.synthetic.frames_per_drive,
    )


def _read(config: DataConfig, folder: Path, strict: bool) -> Catalogue:
    if config.reader == "synthetic":
        return _scenes(config, scenes_folder(config, folder), strict)
    if config.reader == "a2d2":
        taxonomy = _a2d2(config.taxonomy)
        return read_a2d2(data_root(config), config.lists, taxonomy, strict=strict)
    if config.reader == "camvid":
        _only(config.taxonomy, "camvid-11")
        return read_camvid(data_root(config), strict=strict)
    if config.reader == "prepared":
        return read_prepared(data_root(config), strict=strict)
    root = data_root(config)
    csv = root / "manifest.csv" if root.is_dir() else root
    return read_manifest(csv, Taxonomy.load(config.taxonomy), config.labels, strict=strict)


def _scenes(config: DataConfig, root: Path, strict: bool) -> Catalogue:
    taxonomy = _a2d2(config.taxonomy)
    if (root / "lists").is_dir():
        found = read_a2d2(root, root / "lists", taxonomy, strict=strict)
        return replace(found, dataset="synthetic")
    # not rendered yet: the frames that will be there, so that a study can be planned
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
    files = Taxonomy.load(taxonomy)
    return Catalogue("synthetic", frames, LabelFormat("colours", files, files), str(root), strict)


def _a2d2(taxonomy: str) -> A2D2Taxonomy:
    _only(taxonomy, "a2d2-38", "a2d2-11")
    return cast(A2D2Taxonomy, taxonomy)


def _only(taxonomy: str, *choices: str) -> None:
    if taxonomy not in choices:
        raise UsageError(
            f"data.taxonomy: this reader knows {' and '.join(choices)}, got {taxonomy!r}"
        )
