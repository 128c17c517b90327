"""Tables over changed images: attacks side by side, by radius, by source; corruptions by severity.

Rows that may not be compared (other frames, data set, size) never share a table. Clean images have
their tables in `contents`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Group

from moeseg.evaluation.attacks_compared import comparisons
from moeseg.evaluation.cells import (
    NONE,
    ORACLE,
    gather,
    mean_of,
    model_order,
    named,
    opponent_of,
    pair_order,
    with_spread,
)
from moeseg.evaluation.changes import (
    FAILED,
    Condition,
    Trial,
    by_level,
    failed_checks,
    read_condition,
    rests_on_failed,
    trials,
)
from moeseg.evaluation.condition_csv import render_condition_csv
from moeseg.evaluation.contents import TextTable, difference_text
from moeseg.evaluation.corruption_tables import corruption_tables
from moeseg.evaluation.intervals import MIN_SEQUENCES
from moeseg.evaluation.table import as_markdown, as_terminal
from moeseg.files import write_text
from moeseg.types import Row


def condition_tables(rows: Iterable[Row]) -> list[TextTable]:
    """Return every table over changed images; the order of the rows has no effect.

    Raises:
        DataError: two rows claim the same cell.
    """
    made = trials(rows)
    side_by_side = [one.table for one in comparisons(made)]
    return side_by_side + [table for trial in made for table in tables_of(trial)]


def tables_of(trial: Trial) -> list[TextTable]:
    """Return the tables of one trial; raises as `condition_tables` does."""
    if trial.kind == "attack":
        made = [attack_table(trial), _differences(trial), _parts(trial), *_transfers(trial)]
    elif trial.kind == "corruption":
        made = corruption_tables(trial)
    else:
        made = [attack_table(trial), _differences(trial)]
    return [table for table in made if table.cells]


def render_conditions(rows: Iterable[Row]) -> Group:
    """Return all tables for `rich.console.Console.print`; raises as `condition_tables` does."""
    return as_terminal(condition_tables(rows))


def write_condition_tables(folder: Path, rows: Sequence[Row]) -> None:
    """Write `robustness.md`, all tables, and `robustness.csv`, a line a row, into a folder.

    Raises:
        DataError: two rows claim the same cell.
        MoesegError: the disk does not take it.
    """
    write_text(folder / "robustness.md", as_markdown(condition_tables(rows)))
    write_text(folder / "robustness.csv", render_condition_csv(rows))


def attack_table(trial: Trial) -> TextTable:
    """Return mIoU of each model by radius (or by condition, where it is no attack)."""
    scored, own = trial.of("segmentation"), trial.own
    call = named([*scored, *own, *trial.clean])
    attacked, done = gather(scored, call, "condition"), gather(own, call, "condition")
    clean = gather(trial.clean, call)
    models = sorted({model for model, _ in {**attacked, **done}}, key=model_order)
    shown = [one for one in by_level(trial.conditions) if _has(one, {**attacked, **done})]
    lines, best = [], set()
    values: dict[tuple[int, int], float] = {}
    for line, model in enumerate(models):
        texts = [model, _clean_text(model, trial, clean, done)]
        for column, one in enumerate(shown, 2):
            of_cell, of_attack = attacked.get((model, one.text)), done.get((model, one.text), ())
            mean = mean_of(of_cell or of_attack, "miou")
            if mean is not None and not model.startswith(ORACLE):
                values[line, column] = mean
            text = with_spread(of_cell or of_attack, "miou", bracket=of_cell is not None)
            texts.append(text + _mark(of_attack))
        lines.append(tuple(texts))
    for column in range(2, len(shown) + 2):
        top = max((v for (_, c), v in values.items() if c == column), default=None)
        best |= {cell for cell, v in values.items() if cell[1] == column and v == top}
    note = f"{_frames_of(trial, scored or own)} Clean: the same frames. Best of a column in bold."
    return TextTable(
        f"{trial.title}: mIoU in percent",
        ("model", "clean", *(one.told or one.text for one in shown)),
        tuple(lines),
        frozenset(best),
        note + _precision_note(own) + _failures(done),
    )


def _precision_note(rows: Sequence[Row]) -> str:
    """Tell that attacks followed passes in bfloat16; empty where none did."""
    rough = any(row["attack_settings"].get("precision") == "bf16-mixed" for row in rows)
    return " Attacks followed passes in bfloat16; scores are in full precision." if rough else ""


def _has(one: Condition, cells: Mapping[tuple[str, str], object]) -> bool:
    return any(text == one.text for _, text in cells)


def _clean_text(
    model: str,
    trial: Trial,
    clean: Mapping[tuple[str, str], Sequence[Row]],
    done: Mapping[tuple[str, str], Sequence[Row]],
) -> str:
    """Write a model's mIoU on the same frames without a change, from whichever rows know it."""
    if rows := clean.get((model, trial.subset)):
        return with_spread(rows, "miou")
    known = [rows for (name, _), rows in sorted(done.items()) if name == model]
    return with_spread(known[0], "clean_miou", bracket=False) if known else NONE


def _differences(trial: Trial) -> TextTable:
    rows = trial.of("difference")
    names = named(rows)
    cells = gather(rows, lambda row: (names(row), opponent_of(row)), "condition")
    shown = [one for one in by_level(trial.conditions) if any(one.text == c for _, c in cells)]
    lines = [
        (*pair, *(_difference_text(cells.get((pair, one.text), ()), trial) for one in shown))
        for pair in sorted({pair for pair, _ in cells}, key=pair_order)
    ]
    note = (
        f"Percentage points of mIoU, each model attacked by itself. {_frames_of(trial, rows)} "
        f"Wins or loses: the paired interval excludes 0 and rests on {MIN_SEQUENCES} units or more."
    )
    if any(FAILED in text for line in lines for text in line):
        note += f" {FAILED} an attack on one of the two failed a trust check."
    columns = ("mixture", "minus", *(one.told or one.text for one in shown))
    heading = f"{trial.title}: mixture minus another model"
    return TextTable(heading, columns, tuple(lines), frozenset(), note, names=2)


def _difference_text(rows: Sequence[Row], trial: Trial) -> str:
    doubtful = rests_on_failed(rows, trial.own)
    return difference_text(rows) + (f" {FAILED}" if doubtful else "")


def _parts(trial: Trial) -> TextTable:
    """Return what an attack did to each part of the mixtures."""
    rows = [row for row in trial.own if row["route_moved"] is not None]
    cells = gather(rows, named(rows), "condition")
    experts = list(dict.fromkeys(name for row in rows for name in row["expert_miou"] or {}))
    lines = []
    for model in sorted({model for model, _ in cells}, key=model_order):
        for one in by_level(trial.conditions):
            if (model, one.text) not in cells:
                continue
            of_cell = cells[model, one.text]
            keys = ("clean_miou", "miou", "gate_held_miou", "logits_held_miou")
            numbers = [_share(of_cell, key) for key in keys]
            numbers[1] += _mark(of_cell)
            moves = [_share(of_cell, k) for k in ("route_moved", "route_flipped", "changed")]
            of_experts = [
                text
                for name in experts
                for text in (
                    _share(of_cell, "expert_miou", name),
                    _share(of_cell, "expert_changed", name),
                )
            ]
            lines.append((model, one.told, *numbers, *moves, *of_experts))
    columns = (
        *("mixture", "radius", "clean", "attacked", "gate held", "logits held"),
        *("route moved", "route flipped", "mask changed"),
        *(f"{name} {what}" for name in experts for what in ("mIoU", "changed")),
    )
    note = (
        "In percent. Gate held: attacked logits under the clean image's weights; logits held: the "
        "clean image's logits under the attacked weights. Route moved: weight that went to "
        "another expert; flipped: decisions whose top expert is another. Changed: labelled pixels "
        "with another class than on the clean image."
    ) + _failures(cells)
    heading = f"{trial.title}: mixtures part by part"
    return TextTable(heading, columns, tuple(lines), frozenset(), note)


def _share(rows: Sequence[Row], key: str, name: str | None = None) -> str:
    """Write the mean over seeds of a share, or of that of one expert."""
    found = [row[key] if name is None else (row[key] or {}).get(name) for row in rows]
    values = [value for value in found if value is not None]
    return f"{100 * sum(values) / len(values):.2f}" if values else NONE


def _transfers(trial: Trial) -> Iterator[TextTable]:
    """Yield source by scored model, for each radius that was tried on other models too."""
    for one in by_level(trial.conditions):
        rows = [row for row in trial.of("attack") if row["condition"] == one.text]
        if all(row["source"] == row["model"] for row in rows):
            continue
        cells, call = transfer_cells(rows), named(rows)
        sources = sorted({source for source, _ in cells}, key=model_order)
        models = sorted({model for _, model in cells}, key=model_order)
        lines = [("none (clean)", *(_share([r for r in rows if call(r) == model], "clean_miou")
                                    for model in models))]  # fmt: skip
        for source in sources:
            texts = [source]
            for model in models:
                of_cell = cells.get((source, model), ())
                texts.append(_share(of_cell, "miou") + _mark(of_cell))
            lines.append(tuple(texts))
        yield TextTable(
            f"{trial.title}: transfer at {one.told}, mIoU in percent",
            ("made for", *models),
            tuple(lines),
            frozenset(
                (line + 1, models.index(source) + 1)
                for line, source in enumerate(sources)
                if source in models
            ),
            "Lines: the model that the images were made for; columns: the model that is scored "
            "on them; in bold: attacked by itself. " + f"{trial.images} frames." + _failures(cells),
        )


def transfer_cells(rows: Sequence[Row]) -> dict[tuple[str, str], tuple[Row, ...]]:
    """Return ``attack`` rows of one condition by attacked and scored model, as `named` calls them.

    Raises:
        DataError: two rows claim the same cell.
    """
    call = named(rows)
    own = {
        (row["fingerprint"], row["model"]): call(row)
        for row in rows
        if row["source"] == row["model"]
    }

    def pair(row: Row) -> tuple[str, str]:
        source = own.get((row["fingerprint"], row["source"]), str(row["source"]))
        return source, call(row)

    return {key: of_cell for (key, _), of_cell in gather(rows, pair, "condition").items()}


def _mark(rows: Sequence[Row]) -> str:
    """Return the mark of ``attack`` rows of which one failed a check; empty where none did."""
    return f" {FAILED}" if failed_checks(rows) else ""


def _frames_of(trial: Trial, rows: Sequence[Row]) -> str:
    units = sorted({f"{row['ci_units']} {row['ci_unit']}s" for row in rows})
    return f"{trial.images} frames; brackets: 95 % interval by bootstrap over {', '.join(units)}."


def _failures(cells: Mapping[tuple[str, str], Sequence[Row]]) -> str:
    """Name the trust checks that failed, and where; empty where none did."""
    found: dict[str, dict[str, set[Condition]]] = {}
    for rows in cells.values():
        for row in rows:
            for name in failed_checks([row]):
                own = row["source"] == row["model"]
                who = row["model"] if own else f"{row['source']} on {row['model']}"
                radius = read_condition(row["condition"])
                found.setdefault(name, {}).setdefault(who, set()).add(radius)
    if not found:
        return ""
    parts = [
        f"{check}: "
        + ", ".join(
            f"{who} ({', '.join(one.told for one in by_level(radii))})"
            for who, radii in sorted(of_check.items(), key=lambda item: model_order(item[0]))
        )
        for check, of_check in sorted(found.items())
    ]
    told = "; ".join(parts)
    return f" {FAILED} failed a trust check, so a better attack may leave less: {told}."
