"""The command line: a table of commands over the functions of the package.

A user's mistake ends with one message on standard error and exit code 2, a failure on the way with
exit code 1; neither shows a traceback.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer
from rich.console import Console, RenderableType
from rich.table import Table

import moeseg
from moeseg.errors import MoesegError, UsageError, message_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moeseg.models import Rule
    from moeseg.models.backbones import OutputStride
    from moeseg.run import Run
    from moeseg.types import Row

app = typer.Typer(
    name="moeseg",
    help=(
        "Mixtures of experts for semantic segmentation of traffic scenes.\n\n"
        "Start with `moeseg study configs/demo.yaml`, which needs no data and no GPU."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
data_app = typer.Typer(
    help="Look at a data set, or copy it into a quicker form.", no_args_is_help=True
)
app.add_typer(data_app, name="data")

StudyFile = Annotated[Path, typer.Argument(metavar="FILE", help="Study file (YAML).")]
Out = Annotated[Path | None, typer.Option(help="Folder of the run, instead of the file's `out`.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=value", help="Replace a setting; may be given often."),
]
SplitOption = Annotated[
    str | None,
    typer.Option("--split", help="train, val or test; the study's `eval.split` by default."),
]


def main() -> None:
    """Run a command and turn errors into messages and exit codes."""
    try:
        app()
    except KeyboardInterrupt:
        print("moeseg: stopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = message_of(error)
        if message is None:
            raise
        print(f"moeseg: {message}", file=sys.stderr)
        sys.exit(error.exit_code if isinstance(error, MoesegError) else 1)


@app.command()
def study(
    file: StudyFile,
    out: Out = None,
    set_: Set = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the stages, their state, time and disk; run none.")
    ] = False,
) -> None:
    """Run a study: train what is missing, score every model, write the table.

    A run that was stopped goes on where it stopped. Everything lands in the run's folder:
    `report.html`, `models/`, `results.jsonl`, `table.md`, `table.csv`, `classes.csv`, `frames.png`,
    `insight/`.
    """
    from moeseg.evaluation.rows import read_rows
    from moeseg.evaluation.table import render_terminal
    from moeseg.run import rank
    from moeseg.study import run_study

    run = _open(file, out, set_)
    if plan:
        _print_plan(run)
        return
    run_study(run)
    if rank() > 0:
        return
    _show(render_terminal(read_rows(run.folder / "results.jsonl"), run.study.published))
    _tell(f"report: {run.folder / 'report.html'}   table: {run.folder / 'table.md'}")


@app.command()
def ablation(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Ablation file (YAML).")],
    out: Out = None,
    set_: Set = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Carry out only this variant; may be given often.")
    ] = None,
) -> None:
    """Run a study in several variants and seeds, and print what each variant changes.

    What two variants share is trained once. Stopped, it goes on where it stopped; `results.jsonl`,
    `table.md` and the plots in its folder always show what is finished, of every seed so far.
    """
    from moeseg.ablation import load_ablation, run_ablation
    from moeseg.run import rank

    overrides = [*(set_ or []), *([] if out is None else [f"out={out}"])]
    found = load_ablation(file, overrides)
    run_ablation(found, only or ())
    if rank() > 0:
        return
    print((found.out / "table.md").read_text(encoding="utf-8"))
    _tell(f"table: {found.out / 'table.md'}")


@app.command()
def train(
    file: StudyFile,
    only: Annotated[list[str], typer.Option(help="Model to train, e.g. expert-highway.")],
    out: Out = None,
    set_: Set = None,
) -> None:
    """Train single models of a study, with what they stand on, and nothing else."""
    from moeseg.study import run_study

    run = _open(file, out, set_)
    run_study(run, only)
    for name in only:
        _tell(f"{name}: {run.model(name)}")


@app.command()
def evaluate(
    model: Annotated[list[Path], typer.Argument(help="Folders of saved models.")],
    data: Annotated[Path, typer.Option(help="Study file whose `data` and `eval` settings hold.")],
    subset: Annotated[list[str], typer.Option(help="Subset or join, e.g. highway+urban.")],
    split: SplitOption = None,
    temperature: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="With a temperature that was saved with the models: one, class, experts or gate.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the rows (JSON lines).")] = None,
    set_: Set = None,
) -> None:
    """Score saved models on subsets of a data set and print the table."""
    from moeseg.evaluation.rows import write_rows
    from moeseg.evaluation.saved import evaluate_saved
    from moeseg.evaluation.table import render_terminal
    from moeseg.uncertainty.saved import evaluate_tempered

    run = _open(data, None, [*(set_ or []), *_split(split)])
    if temperature is None:
        rows = evaluate_saved(run, model, subset)
    else:
        rows = evaluate_tempered(run, model, subset, temperature)
    if out is not None:
        write_rows(out, rows)
    _show(render_terminal(rows))


@app.command()
def table(
    rows: Annotated[list[Path], typer.Argument(help="Files of rows, e.g. results.jsonl of runs.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for results.jsonl, table.md, table.csv, classes.csv."),
    ] = None,
) -> None:
    """Print one table of the rows of several runs, e.g. of one study with several seeds."""
    from moeseg.evaluation.changes import is_changed
    from moeseg.evaluation.conditions import render_conditions
    from moeseg.evaluation.rows import read_files
    from moeseg.evaluation.table import render_terminal, write_tables

    found = read_files(rows)
    _show(render_terminal(found))
    if any(is_changed(row) for row in found):
        _show(render_conditions(found))
    if out is not None:
        write_tables(out, found)
        _tell(f"table: {out / 'table.md'}")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="Folder of a saved model.")],
    images: Annotated[list[Path], typer.Argument(help="Photos, of any size.")],
    out: Annotated[Path, typer.Option(help="Folder for masks and overlays.")] = Path("predictions"),
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="H W", help="Size at which the model sees photos; its own by default."
        ),
    ] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Opacity of the overlay.")] = 0.5,
) -> None:
    """Predict photos: class ids, a coloured mask and an overlay of each, at the photo's size."""
    from moeseg.evaluation.predict import predict_files

    _check_size(size)
    for line in predict_files(model, images, out, size=size, alpha=alpha):
        _tell(line)


@app.command()
def insight(
    model: Annotated[Path, typer.Argument(help="Folder of a saved mixture or ensemble.")],
    data: Annotated[
        Path, typer.Option(help="Study file, or with --unlabelled a folder of photos.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for frames.csv, rows and overlays.")] = Path(
        "insight"
    ),
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Rank photos without labels: what to label next.")
    ] = False,
    subset: Annotated[
        list[str] | None, typer.Option(help="Subset or join of the study, e.g. highway+urban.")
    ] = None,
    split: SplitOption = None,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="H W", help="Size at which the model sees frames; its own by default."
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=0, help="Frames to draw, most disagreed-on first.")] = 20,
    colours: Annotated[
        str, typer.Option(help="safe (for colour-blind people) or original (as published).")
    ] = "safe",
    set_: Set = None,
) -> None:
    """Show what a mixture's experts know: agreement, routing, and the frames to look at.

    On labelled frames of a study, `--data STUDY.yaml --subset NAME`: all measures as rows. On a
    folder of photos, `--data FOLDER --unlabelled`: the photos ranked by disagreement.
    """
    from moeseg.insight.overlay import scheme_of

    scheme = scheme_of(colours)
    _check_size(size)
    if unlabelled:
        from moeseg.insight.unlabelled import rank_photos

        if subset or set_:
            raise UsageError("--unlabelled: expected a folder of photos alone, got --subset, --set")
        first = rank_photos(model, data, out, size=size, top=top, scheme=scheme)
        for place, key in enumerate(first, start=1):
            _tell(f"{place:4d}  {key}")
    else:
        from moeseg.evaluation.table import render_terminal
        from moeseg.insight.saved import insight_saved

        if not subset:
            raise UsageError(
                "--subset: expected a subset or join of the study, got none; name one, or give "
                "--unlabelled with a folder of photos"
            )
        sized = [] if size is None else [f"eval.size=[{size[0]},{size[1]}]"]
        run = _open(data, None, [*(set_ or []), *_split(split), *sized])
        _show(render_terminal(insight_saved(model, run, subset, out, top=top, scheme=scheme)))
        _tell(f"rows: {out / 'results.jsonl'}")
    for what, name in (("frames", "frames.csv"), ("overlays", "overlays")):
        if (out / name).exists():
            _tell(f"{what}: {out / name}")


Models = Annotated[
    list[Path], typer.Argument(metavar="MODEL...", help="Folders of saved models, or of a run.")
]
Scored = Annotated[
    list[str] | None,
    typer.Option("--subset", help="Subset or join, e.g. highway+urban; of a run its own."),
]
DataFile = Annotated[
    Path | None,
    typer.Option(help="Study file whose `data` and `eval` settings hold; of a run its own."),
]


@app.command()
def attack(
    models: Models,
    epsilon: Annotated[
        list[str], typer.Option(help="Radius of the ball, e.g. 4/255; may be given often.")
    ],
    attacks: Annotated[
        list[str] | None,
        typer.Option("--attack", help="E.g. fgsm, pgd-50x3, sea-30, square-500, pgd-10:weights."),
    ] = None,
    data: DataFile = None,
    subset: Scored = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="So many evenly spaced frames; all by default.")
    ] = None,
    transfer: Annotated[
        bool, typer.Option("--transfer", help="Score each model on every model's images.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for rows, tables and counts.")] = Path("attack"),
    set_: Set = None,
) -> None:
    """Attack saved models and print how they fare, with checks of whether to believe it.

    An attack is a name, then steps, restarts and the part of a mixture that the gradient passes:
    `pgd-10` by default, `pgd-50x3`, `sea-30` (the strong one), `pgd-10:weights` (the gate alone),
    `universal-5` (one change for all images), `pgd-published`. Stopped, the same command goes on.
    """
    from moeseg.config import SweepConfig, validated
    from moeseg.robustness.saved import attack_saved

    run, folders, subsets = _open_models(models, data, subset, set_)
    raw = {"attacks": attacks or ["pgd-10"], "epsilons": epsilon}
    sweep = validated(SweepConfig, {**raw, "frames": frames, "transfer": transfer}, "moeseg attack")
    _tell_conditions(out, attack_saved(run, folders, subsets, sweep, out))


@app.command()
def corrupt(
    models: Models,
    corruption: Annotated[
        list[str] | None, typer.Option(help="E.g. fog; all 15 by default; may be given often.")
    ] = None,
    severity: Annotated[
        list[int] | None, typer.Option(help="1 to 5; 1, 3 and 5 by default; may be given often.")
    ] = None,
    universal: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Saved universal change, instead; may be given often."),
    ] = None,
    data: DataFile = None,
    subset: Scored = None,
    out: Annotated[Path, typer.Option(help="Folder for rows and tables.")] = Path("corrupt"),
    set_: Set = None,
) -> None:
    """Score saved models on corrupted photos: noise, blur, weather and digital faults.

    Corruptions are the 15 common ones of Hendrycks and Dietterich (2019), seeded by frame. A change
    that `moeseg attack --attack universal` made for one model, in its folder `counts`, can be put
    on photos for any other. Stopped, the same command goes on.
    """
    from moeseg.config import CorruptionsConfig, validated
    from moeseg.robustness.saved import corrupt_saved

    run, folders, subsets = _open_models(models, data, subset, set_)
    names = corruption or ([] if universal else None)
    raw = {"names": names, "severities": severity or [1, 3, 5]}
    wanted = validated(CorruptionsConfig, raw, "moeseg corrupt")
    _tell_conditions(out, corrupt_saved(run, folders, subsets, wanted, out, universal or []))


@app.command()
def uncertainty(
    models: Models,
    data: DataFile = None,
    subset: Scored = None,
    split: SplitOption = None,
    temperatures: Annotated[
        str, typer.Option(help="saved (with the models), fit (and save them now) or none.")
    ] = "saved",
    mc_dropout: Annotated[
        int | None,
        typer.Option(min=2, metavar="SAMPLES", help="Also sample single networks so many times."),
    ] = None,
    corrupted: Annotated[
        bool,
        typer.Option("--corrupted", help="Also corrupted frames, by `uncertainty.corruptions`."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File for the rows (JSON lines).")] = None,
    set_: Set = None,
) -> None:
    """Measure how far models' probabilities can be trusted, and whether doubt falls on errors.

    Scores of doubt as detectors of wrong pixels and unseen frames, calibration, conditional
    correctness, and paired differences, without and with temperatures.
    """
    from moeseg.errors import unknown_name
    from moeseg.evaluation.table import render_terminal
    from moeseg.robustness.corrupted import changes_of
    from moeseg.uncertainty.saved import Temperatures, uncertainty_saved
    from moeseg.uncertainty.stages import measured_subsets

    choices = ("saved", "fit", "none")
    if temperatures not in choices:
        raise UsageError(f"--temperatures: {unknown_name('value', temperatures, choices)}")
    given = [*(set_ or []), *_split(split)]
    run, folders, subsets = _open_models(models, data, subset, given, measured_subsets)
    rows = uncertainty_saved(
        run,
        folders,
        subsets,
        temperatures=cast("Temperatures", temperatures),
        samples=mc_dropout,
        changes_of=changes_of if corrupted else None,
        out=out,
    )
    _show(render_terminal(rows))
    if out is not None:
        _tell(f"rows: {out}")


@app.command("import-original")
def import_original(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="A checkpoint, or an ensemble's experts."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    output_stride: Annotated[int, typer.Option(help="Of a DeepLabv3+: 8 or 16.")] = 16,
    rule: Annotated[
        str, typer.Option(help="Of an ensemble: mean, max or mean-probability.")
    ] = "mean",
    input_size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="Size at which the model was trained."),
    ] = None,
    taxonomy: Annotated[
        str | None, typer.Option(help="Its classes, e.g. a2d2-38, or a YAML file.")
    ] = None,
) -> None:
    """Turn a checkpoint of the original code into a model for `evaluate` and `predict`.

    Those need its taxonomy and its size, which no checkpoint holds: give both.
    """
    from moeseg.data import Taxonomy
    from moeseg.interop.original import import_files, summary

    classes = None if taxonomy is None else Taxonomy.load(taxonomy)
    model = import_files(
        files,
        out,
        taxonomy=classes,
        input_size=input_size,
        output_stride=cast("OutputStride", output_stride),
        rule=cast("Rule", rule),
    )
    _tell(f"{out}: {summary(model)}")


@app.command("export-original")
def export_original(
    model: Annotated[Path, typer.Argument(help="Folder of a saved model.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Checkpoint to write (.pth).")],
) -> None:
    """Write a saved model as a checkpoint that the original code opens."""
    from moeseg.interop.original import summary, write
    from moeseg.models import load

    held = load(model)
    write(held, out)
    _tell(f"{out}: {summary(held)}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="Folder of a run, finished or not.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write, instead of report.html in the folder.")
    ] = None,
) -> None:
    """Write the report of a run: one HTML file that opens offline, with all there is to see."""
    from moeseg.report import write_report

    _tell(f"report: {write_report(run, out)}")


@data_app.command("check")
def data_check(
    file: StudyFile,
    set_: Set = None,
    near: Annotated[
        int, typer.Option(min=0, help="Frame ids within which a training frame is a neighbour.")
    ] = 100,
) -> None:
    """Go over a data set and report everything that is wrong with it, by file name."""
    from moeseg.data import check, render
    from moeseg.data.open import open_catalogue
    from moeseg.progress import track

    run = _open(file, None, set_)
    catalogue = open_catalogue(run.study.data, run.folder, strict=False)
    report = check(catalogue, near=near, workers=run.study.data.workers, track=track)
    print(render(report))
    if not report.ok:
        raise typer.Exit(1)


@data_app.command("prepare")
def data_prepare(
    file: StudyFile,
    out: Annotated[Path, typer.Option(help="Folder for the copy.")],
    set_: Set = None,
) -> None:
    """Write a resized copy with labels as ids, which trains without decoding large pictures."""
    from moeseg.data import prepare
    from moeseg.progress import track

    run = _open(file, None, set_)
    data = run.study.data
    prepare(run.catalogue, out, data.size, fit=data.fit, workers=data.workers, track=track)
    _tell(f"prepared: {out}\nuse it with --set data.reader=prepared --set data.root={out}")


@data_app.command("render")
def data_render(file: StudyFile, out: Out = None, set_: Set = None) -> None:
    """Render the synthetic scenes of a study and nothing else."""
    from moeseg.data.open import render_scenes, scenes_folder

    run = _open(file, out, set_)
    if run.study.data.reader != "synthetic":
        raise UsageError(f"data.reader: render needs 'synthetic', got {run.study.data.reader!r}")
    render_scenes(run.study.data, run.folder)
    _tell(f"scenes: {scenes_folder(run.study.data, run.folder)}")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"moeseg {moeseg.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def _open(file: Path, out: Path | None, overrides: list[str] | None) -> Run:
    from moeseg.config import load_study
    from moeseg.run import Run

    return Run(load_study(file, overrides or ()), out)


def _split(split: str | None) -> list[str]:
    return [] if split is None else [f"eval.split={split}"]


def _open_models(
    models: list[Path],
    data: Path | None,
    subset: list[str] | None,
    overrides: list[str] | None,
    own: Callable[[Run], Sequence[str]] | None = None,
) -> tuple[Run, list[Path], list[str]]:
    """Return the run whose data hold, the models' folders and the subsets to score.

    The folder of a run stands for all of its models, its study and its `own` subsets, by default
    those that it scores.
    """
    from moeseg.evaluation.saved import models_in
    from moeseg.evaluation.stages import scored_subsets

    whole = [path for path in models if (path / "study.yaml").is_file()]
    if data is None and not whole:
        raise UsageError(
            "--data: expected a study file whose data the models are scored on, got none; name "
            "one, or give the folder of a run instead of a model"
        )
    run = _open(data or whole[0] / "study.yaml", whole[0] if whole else None, overrides)
    if not subset and not whole:
        raise UsageError(
            "--subset: expected a subset or join of the study's data, got none; name one, e.g. "
            "--subset highway+urban"
        )
    return run, models_in(models), list(subset or (own or scored_subsets)(run))


def _tell_conditions(out: Path, rows: list[Row]) -> None:
    """Print the tables of changed images, and where they are."""
    from moeseg.evaluation.conditions import render_conditions, write_condition_tables

    if not rows:  # another rank
        return
    write_condition_tables(out, rows)
    _show(render_conditions(rows))
    _tell(f"table: {out / 'robustness.md'}   rows: {out / 'results.jsonl'}")


def _check_size(size: tuple[int, int] | None) -> None:
    if size is not None and min(size) < 1:
        raise UsageError(f"--size: expected height and width of 1 or more, got {size[0]} {size[1]}")


def _show(content: RenderableType) -> None:
    # a pipe or a log file has no width of its own; 80 columns would cut names
    Console(width=None if sys.stdout.isatty() else 200).print(content)


def _tell(text: str) -> None:
    print(text, flush=True)


def _print_plan(run: Run) -> None:
    from moeseg.study import plan

    table = Table("stage", "state", "time", "disk", title=f"{run.study.name} in {run.folder}")
    lines = plan(run)
    for name, state, cost in lines:
        time = f"{cost.seconds:.0f} s" if state == "done" else f"about {_duration(cost.seconds)}"
        table.add_row(name, state, time, "" if state == "done" else _bytes(cost.bytes))
    left = [cost for _, state, cost in lines if state != "done"]
    table.add_section()
    seconds, size = sum(c.seconds for c in left), sum(c.bytes for c in left)
    table.add_row("left to do", "", f"about {_duration(seconds)}", _bytes(size))
    _show(table)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _bytes(number: float) -> str:
    return f"{number / 1e6:.0f} MB" if number < 1e9 else f"{number / 1e9:.1f} GB"
