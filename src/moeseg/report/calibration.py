"""The section on uncertainty: calibration, risk and coverage, conditional correctness, differences.

Figures and long tables are of clean images, where there are any; of changed ones one table tells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from moeseg.evaluation.cells import by_ground, ordered, temperature_of
from moeseg.report import figures
from moeseg.report.colours import DASHES, LINES
from moeseg.report.grouping import alike, bracket, choice_of, file_of, number, place
from moeseg.report.parts import Figure, Group, Key, Section, Table, csv_file, table
from moeseg.types import Row

_STEP = 4  # of the points of a curve, so many are one: nothing is lost to the eye
_CURVES = {
    "accurate_certain": (
        "p(accurate | certain)",
        "Of the pixels whose score is below the threshold, the share that is right. Higher is "
        "better; at the right end it is the accuracy.",
    ),
    "uncertain_inaccurate": (
        "p(uncertain | inaccurate)",
        "Of the wrong pixels, the share whose score is not below the threshold. Higher is better.",
    ),
    "pavpu": (
        "PAvPU",
        "Right pixels below the threshold and wrong ones above it, as a share of all. Higher is "
        "better; both ends say nothing of the score.",
    ),
}
_MEASURES: tuple[tuple[str, str | None, str], ...] = (
    ("ece", None, "ECE"),
    ("brier", None, "Brier"),
    ("nll", None, "NLL"),
    ("auroc", "entropy", "AUROC, entropy"),
    ("auroc", "mutual-information", "AUROC, mutual information"),
)


def calibration(rows: Sequence[Row], wanted: bool) -> Section:
    """Return how far probabilities can be trusted, and whether doubt falls on errors.

    Args:
        rows: of the kinds ``calibration``, ``conditional``, ``detector`` and
            ``uncertainty-difference``.
        wanted: the study asks for them.
    """
    conditions = {row["condition"] for row in rows}
    clean = [r for r in rows if r["condition"] == "clean" or "clean" not in conditions]
    changed = [r for r in rows if r["condition"] != "clean" and "clean" in conditions]
    trusted = [r for r in ordered(clean, "calibration") if r["reading"] == "multi-class"]
    plain = [row for row in clean if temperature_of(row) == "none"]
    found = ordered(plain, "detector")
    areas = [r for r in ordered(plain, "conditional") if r["reading"] == "correct"]
    tables = [
        *(_calibration_table(part) for part in alike(trusted)),
        *(_published_table(part) for part in alike(_published(clean))),
        *(_difference_table(part) for part in alike(ordered(clean, "uncertainty-difference"))),
        *(_detector_table(part) for part in alike(found)),
        *(_conditional_table(part) for part in alike(areas)),
        *_changed_tables(changed),
    ]
    wrong = [row for row in found if row["task"] == "wrong-pixels"]
    drawn = [
        *(_reliability(part) for part in alike(trusted, "subset", "model")),
        *_class_figures([row for row in trusted if temperature_of(row) == "none"]),
        *(_risk(part) for part in alike(wrong, "subset", "score")),
        *_conditional_figures([row for row in areas if row["unit"] == "pixel"]),
    ]
    lacking = ""
    if wanted and not rows:
        lacking = (
            "No uncertainty in this run: `moeseg study` measures it after the scores "
            "(`uncertainty.jsonl` is not there)."
        )
    intro = (
        "A model is calibrated if, of all pixels to which it gives its class a probability of 0.8, "
        "8 of 10 are right. Its doubt is worth something if it is higher on wrong pixels."
    )
    return Section("uncertainty", "Uncertainty", intro, tuple(tables), Group(tuple(drawn)), lacking)


def _calibration_table(rows: Sequence[Row]) -> Table:
    lines = [
        (
            row["model"],
            row["subset"],
            temperature_of(row),
            str(row["members"]),
            number(row["accuracy"]),
            number(row["confidence"]),
            number(row["ece"], 4) + bracket(row["ci95"], 4),
            number(row["mce"]),
            number(row["ece_equal_mass"], 4),
            number(row["classwise_ece"], 4),
            number(row["brier"], 4) + bracket(row["brier_ci95"], 4),
            number(row["nll"], 4) + bracket(row["nll_ci95"], 4),
        )
        for row in rows
    ]
    columns = ("model", "subset", "temperature", "members", "accuracy", "confidence", "ECE", "MCE")
    return table(
        f"{_place(rows)}: calibration",
        (*columns, "ECE, equal mass", "ECE by class", "Brier", "NLL"),
        lines,
        names=3,
        note="ECE and MCE: mean and largest distance of confidence and accuracy over 15 bins. "
        "Brier and NLL are of all classes. Lower is better for all but accuracy. Brackets: 95 % "
        "intervals.",
        file=f"{_place(rows)}-calibration",
    )


def _published(rows: Iterable[Row]) -> list[Row]:
    return [
        row
        for row in ordered(rows, "calibration")
        if row["reading"] != "multi-class" and temperature_of(row) == "none"
    ]


def _published_table(rows: Sequence[Row]) -> Table:
    lines = [
        (
            row["model"],
            row["subset"],
            row["confidence_from"],
            number(row["ece_per_image"], 4),
            number(row["ece"], 4),
            number(row["mce"]),
            number(row["brier"], 4),
            number(row["nll"], 4),
        )
        for row in rows
    ]
    return table(
        f"{_place(rows)}: as published",
        ("model", "subset", "confidence", "ECE per image", "ECE", "MCE", "Brier", "NLL"),
        lines,
        names=3,
        note="The readings of the fourth paper: 1 - score taken as the confidence, Brier and NLL "
        "of whether a pixel is right, ECE as a mean over images. No measure of calibration: a "
        "score is no probability.",
        file=f"{_place(rows)}-as-published",
    )


def _detector_table(rows: Sequence[Row]) -> Table:
    lines = [
        (
            row["model"],
            row["subset"],
            row["task"],
            row["score"],
            number(row["auroc"]) + bracket(row["ci95"]),
            number(row["aupr"]) + bracket(row["aupr_ci95"]),
            number(row["positives"]),
            number(row["fpr95"]),
            number(row["aurc"], 4) + bracket(row["aurc_ci95"], 4),
        )
        for row in rows
    ]
    columns = ("model", "subset", "task", "score", "AUROC", "AUPR", "positives")
    return table(
        f"{_place(rows)}: detection by uncertainty",
        (*columns, "FPR at 95 % TPR", "AURC"),
        lines,
        names=4,
        note="Without temperature. AURC: area under risk over coverage, lower is better.",
        file=f"{_place(rows)}-uncertainty-detectors",
    )


def _conditional_table(rows: Sequence[Row]) -> Table:
    lines = [
        (
            row["model"],
            row["subset"],
            row["score"],
            row["unit"],
            number(row["accurate_certain"]),
            number(row["uncertain_inaccurate"]),
            number(row["pavpu"]) + bracket(row["ci95"]),
            number(row["threshold"]),
            *(number(row["at_threshold"][name]) for name in _CURVES),
        )
        for row in rows
    ]
    columns = ("model", "subset", "score", "of", "p(a|c)", "p(u|i)", "PAvPU", "threshold")
    return table(
        f"{_place(rows)}: conditional correctness",
        (*columns, "p(a|c) there", "p(u|i) there", "PAvPU there"),
        lines,
        names=4,
        note="Areas over all thresholds, then the values at the threshold that was best on "
        "validation frames. Scores have scales of their own: areas of two scores do not compare.",
        file=f"{_place(rows)}-conditional",
    )


def _difference_table(rows: Sequence[Row]) -> Table:
    cells: dict[tuple[str, ...], dict[tuple[str, str | None], str]] = {}
    for row in rows:
        kinds = (temperature_of(row), str(row["minus_settings"].get("temperature", "none")))
        if not set(kinds) <= {"none", "one"}:
            continue
        at = (row["model"], kinds[0], row["minus"], kinds[1], row["subset"])
        told = "-" if row["difference"] is None else f"{row['difference']:+.4f}"
        mark = " better" if row["better"] else ""
        cells.setdefault(at, {})[row["measure"], row["score"]] = (
            told + bracket(row["ci95"], 4) + mark
        )
    lines = [
        (*at, *(of.get((measure, score), "-") for measure, score, _ in _MEASURES))
        for at, of in cells.items()
    ]
    return table(
        f"{_place(rows)}: paired differences",
        (
            *("model", "temperature", "minus", "its temperature", "subset"),
            *(name for _, _, name in _MEASURES),
        ),
        lines,
        names=5,
        note="From the same resamples of both models, which have as many members, or the other "
        "one. Of ECE, Brier and NLL less is better, of AUROC more. Better: the 95 % interval "
        "excludes 0, from 8 units or more.",
        file=f"{_place(rows)}-uncertainty-differences",
    )


def _changed_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Yield one table of all changed images: calibration and AUROC by condition."""
    plain = [row for row in rows if temperature_of(row) == "none"]
    trusted = [r for r in ordered(plain, "calibration") if r["reading"] == "multi-class"]
    if not trusted:
        return
    areas = {
        (r["condition"], r["model"], r["subset"], r["seed"], r["score"]): r["auroc"]
        for r in plain
        if r["kind"] == "detector" and r["task"] == "wrong-pixels"
    }
    lines = []
    for row in trusted:
        at = tuple(row[key] for key in ("condition", "model", "subset", "seed"))
        scores = (areas.get((*at, name)) for name in ("entropy", "mutual-information"))
        lines.append(
            (
                row["condition"],
                row["model"],
                row["subset"],
                number(row["accuracy"]),
                number(row["ece"], 4) + bracket(row["ci95"], 4),
                number(row["brier"], 4),
                number(row["nll"], 4),
                *map(number, scores),
            )
        )
    columns = ("condition", "model", "subset", "accuracy", "ECE", "Brier", "NLL")
    yield table(
        "Uncertainty on changed images",
        (*columns, "AUROC, entropy", "AUROC, mutual information"),
        lines,
        names=3,
        note="Without temperature. AUROC of wrong pixels.",
        file="uncertainty-changed",
    )


def _reliability(rows: Sequence[Row]) -> Figure:
    """Return the reliability diagram of one model on one subset, by temperature."""
    first = rows[0]
    return _figure(
        first,
        "reliability",
        ("subset", "model"),
        f"Reliability: {first['model']} on {first['subset']}",
        _lines(rows, temperature_of, lambda row: _diagram(row["reliability"])),
        ("confidence", "accuracy"),
        "Each point is one of 15 bins of confidence. On the dotted diagonal confidence is "
        "accuracy; below it the model boasts.",
        diagonal=True,
    )


def _class_figures(rows: Sequence[Row]) -> Iterator[Figure]:
    """Yield a reliability diagram of each class on each subset, all models in it."""
    for part in alike(rows, "subset"):
        classes = dict.fromkeys(name for row in part for name in row["per_class_reliability"])
        for name in classes:
            own = [row for row in part if name in row["per_class_reliability"]]

            def curve(row: Row, name: str = name) -> tuple[list[float], list[float | None]]:
                return _diagram(row["per_class_reliability"][name])

            yield _figure(
                part[0],
                "reliability of a class",
                ("subset",),
                f"Reliability of {name} on {part[0]['subset']}",
                _lines(own, _model, curve),
                ("probability", "share of the class"),
                "Each point is one of 15 bins of the probability of this class, whether it is "
                "predicted or not; on the diagonal it comes true.",
                choice={"class": name},
                diagonal=True,
            )


def _risk(rows: Sequence[Row]) -> Figure:
    """Return risk and coverage of one score on one subset, all models in it."""
    first = rows[0]

    def curve(row: Row) -> tuple[list[float], list[float | None]]:
        ys = row["risk"][::_STEP]
        return [i / max(len(ys) - 1, 1) for i in range(len(ys))], ys

    lines = _lines(rows, _model, curve)
    top = max((y for line in lines for y in line.ys if y is not None), default=0.0) or 1.0
    return _figure(
        first,
        "risk and coverage",
        ("subset", "score"),
        f"Risk and coverage: {first['score']} on {first['subset']}",
        lines,
        ("coverage: share of pixels kept", "risk"),
        "Keep only the most certain pixels (left), or all (right): the risk is the share of wrong "
        "ones among those kept. The lower and the longer flat, the better.",
        top=top,
    )


def _conditional_figures(rows: Sequence[Row]) -> Iterator[Figure]:
    for part in alike(rows, "subset", "score"):
        for name, (plot, caption) in _CURVES.items():

            def curve(row: Row, name: str = name) -> tuple[list[float], list[float | None]]:
                ys = row["curves"][name][::_STEP]
                return [i / max(len(ys) - 1, 1) for i in range(len(ys))], ys

            yield _figure(
                part[0],
                plot,
                ("subset", "score"),
                f"{plot}: {part[0]['score']} on {part[0]['subset']}",
                _lines(part, _model, curve),
                ("threshold", plot),
                caption,
            )


def _figure(
    first: Row,
    plot: str,
    keys: tuple[str, ...],
    title: str,
    lines: list[figures.Line],
    axes: tuple[str, str],
    caption: str,
    *,
    choice: dict[str, str] | None = None,
    top: float = 1.0,
    diagonal: bool = False,
) -> Figure:
    points = [
        (line.name, round(x, 6), y) for line in lines for x, y in zip(line.xs, line.ys, strict=True)
    ]
    extra = choice or {}
    name = "-".join((file_of(first, plot, *keys), *extra.values()))
    return Figure(
        title=title,
        svg=figures.curves(lines, *axes, top=top, diagonal=diagonal),
        caption=caption,
        data=csv_file(name, ("line", *axes), points),
        choice={"plot": plot} | choice_of(first, *keys) | extra,
        legend=tuple(Key(line.name, line.colour, line.dash) for line in lines),
    )


def _lines(
    rows: Sequence[Row],
    name: Callable[[Row], str],
    curve: Callable[[Row], tuple[list[float], list[float | None]]],
) -> list[figures.Line]:
    """Return one line for each row; colour and dash tell up to 28 apart."""
    styles = [(LINES[i % len(LINES)], DASHES[i % len(DASHES)]) for i in range(len(rows))]
    return [
        figures.Line(name(row), *curve(row), *style)
        for row, style in zip(rows, styles, strict=True)
    ]


def _diagram(
    bins: tuple[list[float], list[float | None], list[float | None]],
) -> tuple[list[float], list[float | None]]:
    """Return the points of a reliability diagram, bins without a pixel left out."""
    _, confidence, accuracy = bins
    pairs = [
        (x, y) for x, y in zip(confidence, accuracy, strict=True) if x is not None and y is not None
    ]
    return [x for x, _ in pairs], [y for _, y in pairs]


def _model(row: Row) -> str:
    return str(row["model"])


def _place(rows: Sequence[Row]) -> str:
    (ground,) = by_ground(rows[:1])
    return place(ground)
