"""Insight into one saved model, on labelled frames of a study: rows, `frames.csv`, sheets.

`insight.unlabelled` does the same for a folder of photos without labels and shares what is here.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from moeseg.data import Fit, SegmentationDataset, Taxonomy
from moeseg.errors import MoesegError, UsageError
from moeseg.evaluation.predict import model_taxonomy
from moeseg.evaluation.rows import write_rows
from moeseg.evaluation.saved import evaluate_saved
from moeseg.files import replacing
from moeseg.insight.frames import read_frames
from moeseg.insight.layers import write_layers, write_sheets
from moeseg.insight.measures import FRAMES, expert_names, insight_measures
from moeseg.insight.overlay import Scheme
from moeseg.models import (
    Ensemble,
    Expert,
    Mixture,
    Model,
    MonteCarloDropout,
    load,
    read_info,
    referenced_experts,
)
from moeseg.run import Run
from moeseg.types import Row, Size

SHEETS = "overlays"
ROWS = "results.jsonl"


@dataclass(frozen=True)
class Joined:
    """A saved model of several experts, and what was saved beside it.

    Attributes:
        name: of its folder.
        model: a mixture or an ensemble, in eval mode.
        experts: E names, without the prefix ``expert-``.
        taxonomy: its classes and colours.
        size: (H, W) of its training.
        fit: how frames came to that size.
    """

    name: str
    model: Mixture | Ensemble
    experts: tuple[str, ...]
    taxonomy: Taxonomy
    size: Size
    fit: Fit

    @property
    def models(self) -> dict[str, Model]:
        """The experts by name, then the model itself."""
        each: dict[str, Model] = {
            f"expert-{name}": expert
            for name, expert in zip(self.experts, self.model.experts, strict=True)
        }
        return each | {self.name: self.model}


def open_joined(folder: Path) -> Joined:
    """Load a saved mixture or ensemble.

    Raises:
        CheckpointError: no model there, or one saved without taxonomy and size.
        UsageError: a single network, in which nothing can be compared.
    """
    info, taxonomy = read_info(folder), model_taxonomy(folder)
    model = load(folder)
    if isinstance(model, Expert | MonteCarloDropout):
        raise UsageError(
            f"{folder}: expected a mixture or an ensemble, whose experts can be compared, got a "
            "single network; name the folder of e.g. moe-simple. `moeseg predict` shows what one "
            "expert sees."
        )
    folders = referenced_experts(folder)
    known = {id(e): path.name for e, path in zip(model.experts, folders, strict=False)}
    return Joined(
        name=folder.resolve().name,
        model=model,
        experts=expert_names(model, known),
        taxonomy=taxonomy,
        size=(int(info["size"][0]), int(info["size"][1])),
        fit=info.get("fit", "pad"),
    )


def insight_saved(
    folder: Path,
    run: Run,
    subsets: Sequence[str],
    out: Path,
    *,
    top: int = 20,
    scheme: Scheme = "safe",
) -> list[Row]:
    """Score a saved model and its experts on labelled frames with every measure of insight.

    Writes `results.jsonl`, of a mixture `frames.csv` and of its `top` most disagreed-on frames
    sheets into `overlays/`.

    Args:
        folder: of the mixture or ensemble.
        run: whose data, size and evaluation settings hold; nothing is written into its folder.
        subsets: subsets and joins that get rows.
        out: folder for the files, made if missing.
        top: sheets to draw.
        scheme: of their colours.

    Returns:
        All rows.

    Raises:
        CheckpointError: no model there, or one of another taxonomy than the data.
        UsageError: a single expert, or an unknown subset.
    """
    joined = open_joined(folder)
    refuse_runs(out)
    folders = [*dict.fromkeys(referenced_experts(folder)), folder]
    with tempfile.TemporaryDirectory() as scratch:
        rows = evaluate_saved(run, folders, subsets, [insight_measures], Path(scratch))
        write_rows(out / ROWS, rows)
        if not isinstance(joined.model, Mixture):
            return rows
        with replacing(out / FRAMES) as unfinished:
            shutil.copyfile(Path(scratch) / joined.name / FRAMES, unfinished)
    frames = {f.key: f for f in run.catalogue.frames if f.split == run.study.eval.split}
    first = [frames[key] for key in ranked_keys(out / FRAMES, top)]
    if first:
        height, width = rows[0]["size"]
        data = run.dataset(first, size=(height, width))
        draw(joined, data, out / SHEETS, run.catalogue.dataset, scheme=scheme, device=run.device)
    return rows


def refuse_runs(out: Path) -> None:
    """Make sure that a folder for results is not one of a run, whose own results it would replace.

    Raises:
        UsageError: it is, or lies in one.
    """
    for place in (out.resolve(), *out.resolve().parents):
        if (place / "study.yaml").exists() and (place / "stages").is_dir():
            raise UsageError(
                f"--out: {out} belongs to the run in {place}, which keeps its own insight there: "
                "name a folder outside of it"
            )


def ranked_keys(frames: Path, top: int) -> list[str]:
    """Return the keys of the `top` frames of a `frames.csv` on which experts disagree most."""
    lines = ((int(line["rank_disagreement"]), line["key"]) for line in read_frames(frames))
    return [key for rank, key in sorted(lines) if rank <= top]


def draw(
    joined: Joined,
    data: SegmentationDataset,
    out: Path,
    dataset: str,
    *,
    scheme: Scheme,
    device: torch.device | str,
    labelled: bool = True,
) -> list[Path]:
    """Draw a sheet of each frame of `data`, numbered in its order; earlier sheets go.

    Raises:
        MoesegError: a frame can't be read, or the disk does not take it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".") as scratch:
            layers, fresh = Path(scratch) / "layers", Path(scratch) / "sheets"
            write_layers(
                joined.models,
                data,
                layers,
                taxonomy=joined.taxonomy,
                dataset=dataset,
                labelled=labelled,
                batch_size=1,
                device=device,
            )
            sheets = write_sheets(layers, joined.name, fresh, scheme=scheme)
            for old in out.glob("[0-9][0-9][0-9][0-9]_*.png"):
                old.unlink()
            return [path.replace(out / path.name) for _, path in sheets]
    except OSError as error:
        raise MoesegError(
            f"cannot write {out}: {error.strerror or error}; choose another folder with --out"
        ) from error
