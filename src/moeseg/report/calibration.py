"""The section on uncertainty: calibration, risk and coverage, conditional correctness, differences.

Figures and long tables are of clean images, where there are any; of changed ones two tables and the
reliability by severity tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moeseg.evaluation.cells import ordered, temperature_of
from moeseg.report.detectors import detector_table
from moeseg.report.grouping import alike, bracket, number, place_of
from moeseg.report.parts import Group, Section, Table, table
from moeseg.report.reliability import (
    CURVES,
    class_figures,
    conditional_figures,
    reliability,
    risk,
    severity_figures,
)
from moeseg.report.uncertainty_changed import changed_tables
from moeseg.report.uncertainty_differences import difference_tables
from moeseg.types import Row


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
    untempered = [row for row in trusted if temperature_of(row) == "none"]
    shifted = [r for r in ordered(changed, "calibration") if r["reading"] == "multi-class"]
    plain = [row for row in clean if temperature_of(row) == "none"]
    found = ordered(plain, "detector")
    areas = ordered(plain, "conditional")
    drawn_areas = [r for r in areas if r["reading"] == "correct" and r["unit"] == "pixel"]
    differences = ordered(clean, "uncertainty-difference")
    tables = [
        *(_calibration_table(part) for part in alike(trusted)),
        *(_published_table(part) for part in alike(_published(clean))),
        *(made for part in alike(differences) for made in difference_tables(part)),
        *(
            detector_table(part, "detection by uncertainty", "model", "Without temperature. ")
            for part in alike(found)
        ),
        *(_conditional_table(part) for part in alike(areas)),
        *changed_tables(changed),
    ]
    wrong = [row for row in found if row["task"] == "wrong-pixels"]
    drawn = [
        *(reliability(part) for part in alike(trusted, "subset", "model")),
        *severity_figures(untempered, [row for row in shifted if temperature_of(row) == "none"]),
        *class_figures(untempered),
        *(risk(part) for part in alike(wrong, "subset", "score")),
        *conditional_figures(drawn_areas),
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
        f"{place_of(rows)}: calibration",
        (*columns, "ECE, equal mass", "ECE by class", "Brier", "NLL"),
        lines,
        names=3,
        note="ECE and MCE: mean and largest distance of confidence and accuracy over 15 bins. "
        "Brier and NLL are of all classes. Lower is better for all but accuracy. Brackets: 95 % "
        "intervals.",
        file=f"{place_of(rows)}-calibration",
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
        f"{place_of(rows)}: as published",
        ("model", "subset", "confidence", "ECE per image", "ECE", "MCE", "Brier", "NLL"),
        lines,
        names=3,
        note="The readings of the fourth paper: 1 - score taken as the confidence, Brier and NLL "
        "of whether a pixel is right, ECE as a mean over images. No measure of calibration: a "
        "score is no probability.",
        file=f"{place_of(rows)}-as-published",
    )


def _conditional_table(rows: Sequence[Row]) -> Table:
    lines = [
        (
            row["model"],
            row["subset"],
            row["score"],
            row["unit"],
            row["reading"],
            number(row["accurate_certain"]),
            number(row["uncertain_inaccurate"]),
            number(row["pavpu"]) + bracket(row["ci95"]),
            number(row["threshold"]),
            *(number(row["at_threshold"][name]) for name in CURVES),
        )
        for row in rows
    ]
    columns = ("model", "subset", "score", "of", "reading", "p(a|c)", "p(u|i)", "PAvPU")
    return table(
        f"{place_of(rows)}: conditional correctness",
        (*columns, "threshold", "p(a|c) there", "p(u|i) there", "PAvPU there"),
        lines,
        names=5,
        note="Areas over all thresholds, then the values at the threshold that was best on "
        "validation frames. Scores have scales of their own: areas of two scores do not compare. "
        "Published: accurate but uncertain pixels cost PAvPU nothing; swapped: and the most "
        "uncertain pixels are called certain.",
        file=f"{place_of(rows)}-conditional",
    )
