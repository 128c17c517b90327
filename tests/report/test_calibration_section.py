"""The section on uncertainty: what is on it, whence its numbers, what it says is missing."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from moeseg.evaluation.rows import read_rows, write_rows
from moeseg.report import render
from moeseg.report.calibration import calibration
from moeseg.report.reliability import severity_figures
from moeseg.types import Row
from moeseg.uncertainty.calibration import count_confidences, joined, reliability
from moeseg.uncertainty.differences import CALIBRATION
from report_run import write_run
from routed import BASE, CLASSES, SUBSETS
from uncertain_run import MODELS, write_uncertainty

CHANGES = ("clean", "fog-1", "snow-1", "fog-5")
PAIRED = "Paired differences on changed images"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("uncertain") / "run")
    write_uncertainty(folder)
    return folder


@pytest.fixture(scope="module")
def rows(whole: Path) -> list[Row]:
    return read_rows(whole / "uncertainty.jsonl")


@pytest.fixture(scope="module")
def page(whole: Path) -> str:
    return render(whole)


def section(page: str) -> str:
    found = re.search(r'<section id="uncertainty">.*?</section>', page, re.DOTALL)
    return found.group() if found else ""


def test_every_model_subset_and_class_is_there(page: str) -> None:
    text = html.unescape(section(page))
    for name in (*MODELS, *SUBSETS, *CLASSES):
        assert name in text
    assert '<a href="#uncertainty">' in page
    for title in ("calibration", "as published", "paired differences", "conditional correctness"):
        assert f"clean: {title}</h3>" in text
    assert "Uncertainty on changed images" in text


def test_tables_hold_the_rows_numbers(rows: list[Row]) -> None:
    made = calibration(rows, True)
    found = {t.title.rsplit(": ", 1)[-1]: t for t in made.tables}
    (row,) = [
        r
        for r in rows
        if (r["kind"], r["model"], r["subset"], r["condition"])
        == ("calibration", "moe-classwise", "highway+urban", "clean")
        and r["settings"] == {"temperature": "gate"}
        and r["reading"] == "multi-class"
    ]
    (line,) = [
        line
        for line in found["calibration"].lines
        if [cell.text for cell in line[:3]] == ["moe-classwise", "highway+urban", "gate"]
    ]
    assert line[6].text.startswith(f"{row['ece']:.4f} [")
    assert line[11].text.split(" ")[0] == f"{row['nll']:.4f}"
    changed = found["Uncertainty on changed images"]
    assert {line[0].text for line in changed.lines} == {"fog-3"}
    assert len(changed.lines) == len(MODELS) * len(SUBSETS)
    differences = found["paired differences"].lines
    assert {line[2].text for line in differences} == {"none", "one"}
    assert any("better" in cell.text for line in differences for cell in line)


def test_every_figure_has_its_data_and_can_be_chosen(rows: list[Row]) -> None:
    made = calibration(rows, True)
    plots = made.group.choices["plot"]
    assert plots == [
        *("reliability", "reliability by severity", "reliability of a class", "risk and coverage"),
        *("p(accurate | certain)", "p(uncertain | inaccurate)", "PAvPU"),
    ]
    keys = [tuple(sorted(figure.choice.items())) for figure in made.group.figures]
    assert len(keys) == len(set(keys))
    names = [figure.data.file for figure in made.group.figures]
    assert len(names) == len(set(names))
    for figure in made.group.figures:
        assert figure.caption
        assert len(figure.data.text.splitlines()) > 2
        assert figure.legend
    (diagram,) = [
        figure
        for figure in made.group.figures
        if figure.choice["plot"] == "reliability"
        and (figure.choice["model"], figure.choice["subset"]) == ("moe-simple", "urban")
    ]
    assert {key.name for key in diagram.legend} == {"none", "one", "gate"}
    (row,) = [
        r
        for r in rows
        if (r["kind"], r["model"], r["subset"], r["condition"], r["settings"])
        == ("calibration", "moe-simple", "urban", "clean", {})
        and r["reading"] == "multi-class"
    ]
    told = [line.split(",") for line in diagram.data.text.splitlines()[1:]]
    mine = [(float(x), float(y)) for name, x, y in told if name == "none"]
    _, confidence, accuracy = row["reliability"]
    kept = [(x, y) for x, y in zip(confidence, accuracy, strict=True) if x is not None]
    assert len(mine) == len(kept) > 5
    for one, other in zip(mine, kept, strict=True):
        assert one == pytest.approx(other)


def test_changed_frames_among_clean_ones_have_a_table(rows: list[Row]) -> None:
    (made,) = [
        t for t in calibration(rows, True).tables if t.title == "Changed images among clean ones"
    ]
    told = [row for row in rows if row.get("task") == "changed-frames"]
    assert len(made.lines) == len(told) > len(MODELS) * len(SUBSETS)
    (row,) = [
        r
        for r in told
        if (r["model"], r["subset"], r["score"]) == ("moe-simple", "urban", "mutual-information")
    ]
    (line,) = [
        [cell.text for cell in line]
        for line in made.lines
        if [cell.text for cell in line[1:4]] == ["moe-simple", "urban", "mutual-information"]
    ]
    low, high = row["ci95"]
    assert line[0] == "fog-3"
    assert line[4] == f"{row['auroc']:.3f} [{low:.3f}, {high:.3f}]"
    assert line[5] == f"{row['error_bound']:.0e}"
    assert line[6].startswith(f"{row['aupr']:.3f} [")
    assert line[7].startswith(f"{row['fpr95']:.3f} [")
    plain = [row for row in rows if row.get("task") != "changed-frames"]
    assert made.title not in {t.title for t in calibration(plain, True).tables}


def test_corruptions_of_a_severity_are_one_line_and_every_one_is_in_the_file(
    rows: list[Row],
) -> None:
    changed = [row for row in rows if row["condition"] == "fog-3"]
    kinds = {"ece": 0.25, "auroc": -0.5}
    worse = [
        row
        | {"condition": "snow-3"}
        | {key: row[key] + more for key, more in kinds.items() if row.get(key) is not None}
        for row in changed
    ]
    found = {t.title: t for t in calibration([*rows, *worse], True).tables}
    who = ["severity 3, 2 corruptions", "moe-simple", "urban"]

    def line(title: str, *names: str) -> list[str]:
        lines = [[cell.text for cell in one] for one in found[title].lines]
        (own,) = [one for one in lines if one[: 3 + len(names)] == [*who, *names]]
        return own

    def row(kind: str, **keys: object) -> Row:
        at = {"kind": kind, "model": "moe-simple", "subset": "urban", "settings": {}} | keys
        (own,) = [one for one in changed if at.items() <= one.items()]
        return own

    ece = row("calibration", reading="multi-class")["ece"]
    mean = line("Uncertainty on changed images")
    assert mean[4] == f"{ece + 0.125:.4f}"
    wrong = row("detector", task="wrong-pixels", score="entropy")["auroc"]
    assert mean[7] == f"{wrong - 0.25:.3f}"
    text = found["Uncertainty on changed images"].data.text.splitlines()
    for condition, more in {"fog-3": 0.0, "snow-3": 0.25}.items():
        (own,) = [one for one in text if one.startswith(f"{condition},moe-simple,urban,")]
        assert f',"{ece + more:.4f} [' in own
    told = row("detector", task="changed-frames", score="mutual-information")["auroc"]
    mean = line("Changed images among clean ones", "mutual-information")
    assert mean[4] == f"{told - 0.25:.3f}"
    # another size is another experiment
    small = [row | {"size": [2, 3]} for row in worse]
    for made in calibration([*rows, *small], True).tables:
        assert not any("corruptions" in line[0].text for line in made.lines)


def test_paired_differences_on_changed_images_are_counted_by_severity(rows: list[Row]) -> None:
    pairs = [
        row
        for row in rows
        if row["kind"] == "uncertainty-difference" and row["score"] == row["minus_score"]
        if row["settings"] == row["minus_settings"] == {}
    ]

    def told(name: str, difference: float, span: float) -> list[Row]:
        ends = [difference - span, difference + span]
        more = {"condition": name, "difference": difference, "ci95": ends, "ci_units": 10}
        better = {True: ends[1] < 0, False: ends[0] > 0}  # of errors less, of areas more
        return [
            row | more | {"error_bound": 0.0, "better": better[row["measure"] in CALIBRATION]}
            for row in pairs
        ]

    three = [*told("fog-3", 0.5, 0.1), *told("snow-3", 0.25, 0.1), *told("frost-3", 0.0, 0.1)]
    clean = [row for row in rows if row["condition"] == "clean"]
    who = ["urban", "moe-simple", "best expert"]
    (made,) = [t for t in calibration([*clean, *three], True).tables if t.title == PAIRED]
    (line,) = [
        [cell.text for cell in one] for one in made.lines if [cell.text for cell in one[1:4]] == who
    ]
    assert line[0] == "severity 3, 3 corruptions"
    found = dict(zip(made.columns, line, strict=True))
    assert found["ECE"] == found["NLL"] == "+0.2500 (0 better, 2 worse of 3)"
    assert found["AUROC, entropy"] == "+0.2500 (2 better, 0 worse of 3)"
    # few units decide nothing, and one condition has its interval
    few = [row | {"ci_units": 2, "better": False} for row in told("fog-3", 0.5, 0.1)]
    for own, word in ((told("fog-3", 0.5, 0.1), " worse"), (few, "")):
        (made,) = [t for t in calibration([*clean, *own], True).tables if t.title == PAIRED]
        (line,) = [
            [cell.text for cell in one]
            for one in made.lines
            if [cell.text for cell in one[1:4]] == who
        ]
        assert line[0] == "fog-3"
        assert line[4] == f"+0.5000 [0.4000, 0.6000]{word}"


def test_differences_of_scores_have_a_table_of_their_own(rows: list[Row]) -> None:
    clean = [r for r in rows if r["kind"] == "uncertainty-difference" and r["settings"] == {}]
    between = [r for r in clean if r["minus_score"] != r["score"]]
    found = {t.title.rsplit(": ", 1)[-1]: t for t in calibration(rows, True).tables}
    lines = [[c.text for c in line] for line in found["the best score minus the others"].lines]
    known = {(r["model"], r["subset"], r["score"], r["minus_score"]): r for r in between}
    assert len(lines) == len(known) == len(between) > len(MODELS) * len(SUBSETS)
    for line in lines:
        row = known[line[0], line[1], line[2], line[3]]
        low, high = row["ci95"]
        verdict = " better" if row["better"] else ""
        assert line[4] == f"{row['difference']:+.4f} [{low:.4f}, {high:.4f}]{verdict}"
    (unseen,) = [
        r
        for r in clean
        if (r["measure"], r["model"], r["minus"], r["score"])
        == ("auroc-unseen", "moe-simple", "ensemble-mean", "entropy")
    ]
    (line,) = [
        [c.text for c in line]
        for line in found["paired differences"].lines
        if [c.text for c in line[:5]] == ["fog", "moe-simple", "none", "ensemble-mean", "none"]
    ]
    assert line[10].startswith(f"{unseen['difference']:+.4f} [")


def test_reliability_by_severity_sums_the_pixels_of_all_corruptions() -> None:
    rng = np.random.default_rng(0)
    confidence = {name: rng.beta(4, 1, 300 + 200 * i) for i, name in enumerate(CHANGES)}
    right = {name: rng.random(len(c)) < c - 0.1 for name, c in confidence.items()}

    def row(condition: str) -> Row:
        counts = count_confidences(
            torch.from_numpy(confidence[condition]), torch.from_numpy(right[condition]), 15
        )
        of_bins = reliability(joined(*counts))
        base = BASE | {"size": list(BASE["size"]), "condition": condition}
        return base | {
            **{"model": "m", "subset": "fog", "settings": {}},
            **{"pixels": len(right[condition]), "reliability": of_bins},
        }

    clean, *changed = map(row, CHANGES)
    (figure,) = severity_figures([clean], changed)
    assert [key.name for key in figure.legend] == ["clean", "severity 1", "severity 5"]
    told = [line.split(",") for line in figure.data.text.splitlines()[1:]]
    for name, among in {"severity 1": ["fog-1", "snow-1"], "severity 5": ["fog-5"]}.items():
        c = np.concatenate([confidence[one] for one in among])
        r = np.concatenate([right[one] for one in among])
        cells = [np.floor(c * 15) == cell for cell in range(15)]
        expected = [(c[cell].mean(), r[cell].mean()) for cell in cells if cell.any()]
        drawn = [(float(x), float(y)) for line, x, y in told if line == name]
        assert len(drawn) == len(expected) > 5
        np.testing.assert_allclose(drawn, expected, atol=2e-5)
    assert list(severity_figures([clean], [])) == []


def test_a_page_stays_small_and_its_links_hold_the_data(page: str) -> None:
    text = section(page)
    assert len(text) < 6e6
    uris = re.findall(r'href="data:text/csv;base64,([^"]+)"', text)
    assert base64.b64decode(uris[0]).decode().startswith("model,subset,temperature")


def test_a_run_without_uncertainty_has_no_section(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    page = render(folder)
    assert section(page) == ""
    assert "#uncertainty" not in page
    settings = yaml.safe_load((folder / "study.yaml").read_text())
    settings["uncertainty"] = {"measure": True}
    (folder / "study.yaml").write_text(yaml.safe_dump(settings))
    assert "No uncertainty in this run" in section(render(folder))


def test_rows_that_are_not_as_expected_are_left_out_and_told(
    whole: Path, rows: list[Row], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    broken = [row for row in rows if row["kind"] == "calibration"][:2]
    lines = [broken[0], broken[1] | {"ece": 1.5}]
    (folder / "uncertainty.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    page = render(folder)
    assert "ece is 1.5, expected 0..1" in page
    assert "calibration</h3>" in section(page)


def test_a_map_that_is_not_there_is_told(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    (folder / "uncertainty" / "maps" / "clean" / "0001" / "moe-simple.entropy.png").unlink()
    assert "0001/moe-simple.entropy.png" in render(folder)


def test_rows_of_calibration_in_results_are_shown_too(
    whole: Path, rows: list[Row], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "run"))
    (folder / "uncertainty.jsonl").unlink()
    found = read_rows(folder / "results.jsonl")
    trusted = [row for row in rows if row["kind"] == "calibration"]
    write_rows(folder / "results.jsonl", [*found, *trusted])
    assert "clean: calibration</h3>" in section(render(folder))
