"""The command line: a table of commands over the functions of the package.

A user's mistake ends with one message on standard error and exit code 2, a failure on the way with
exit code 1; neither shows a traceback.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, RenderableType
from rich.table import Table

import moeseg
from moeseg.errors import MoesegError, UsageError, message_of

if TYPE_CHECKING:
    from moeseg.run import Run

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
    `models/`, `results.jsonl`, `table.md`, `table.csv`, `classes.csv`, `frames.png`.
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
    _tell(f"table: {run.folder / 'table.md'}   frames: {run.folder / 'frames.png'}")


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
    split: Annotated[str, typer.Option(help="train, val or test.")] = "test",
    out: Annotated[Path | None, typer.Option(help="File for the rows (JSON lines).")] = None,
    set_: Set = None,
) -> None:
    """Score saved models on subsets of a data set and print the table."""
    from moeseg.evaluation.rows import write_rows
    from moeseg.evaluation.stages import evaluate_saved
    from moeseg.evaluation.table import render_terminal

    run = _open(data, None, [*(set_ or []), f"eval.split={split}"])
    rows = evaluate_saved(run, model, subset)
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
    from moeseg.evaluation.rows import read_rows
    from moeseg.evaluation.table import render_terminal, write_tables

    found = [row for path in rows for row in read_rows(path)]
    _show(render_terminal(found))
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

    for line in predict_files(model, images, out, size=size, alpha=alpha):
        _tell(line)


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
    workers = run.study.data.workers
    prepare(run.catalogue, out, run.study.data.size, workers=workers, track=track)
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
