"""Uncertainty as stages of a study and on saved models: which rows come, and what is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from command import Command
from moeseg.config import load_study, parse_study
from moeseg.errors import CheckpointError, UsageError
from moeseg.evaluation.rows import read_rows, validate_row
from moeseg.evaluation.saved import load_saved
from moeseg.models import TEMPERATURES, Ensemble, MonteCarloDropout, load
from moeseg.run import Run
from moeseg.study import ledger, plan, run_study
from moeseg.types import Row
from moeseg.uncertainty.saved import uncertainty_saved
from moeseg.uncertainty.scores import uncertainty
from moeseg.uncertainty.stages import ROWS, fit_frames
from moeseg.uncertainty.temperature import Tempered, load_temperatures
from tiny import study_settings, write_data

UNCERTAINTY = {
    "measure": True,
    "dropout": {"mc-dropout": {"samples": 2, "rate": 0.3}},
    "temperatures": ["one", "experts", "gate"],
    "published": True,
    "corruptions": {
        "names": ["fog"],
        "severities": [5],
        "models": ["baseline", "moe-simple"],
        "frames": 2,
    },
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("uncertainty")
    write_data(folder)
    settings = study_settings(folder, folder / "run") | {
        "uncertainty": UNCERTAINTY,
        "controls": ["two-seed", "deep-ensemble-3"],
    }
    run = Run(parse_study(settings, "test"))
    run_study(run)
    return run


@pytest.fixture(scope="module")
def every(finished: Run) -> list[Row]:
    return read_rows(finished.folder / ROWS)


@pytest.fixture(scope="module")
def rows(every: list[Row]) -> list[Row]:
    """Rows of frames as they are."""
    return [row for row in every if row["condition"] == "clean"]


def temperature(row: Row) -> str:
    return str(row["settings"].get("temperature", "none"))


def test_every_model_has_rows_with_and_without_its_temperatures(
    finished: Run, rows: list[Row]
) -> None:
    for row in rows:
        validate_row(row)
    names = finished.study.model_names()
    assert names[-1] == "mc-dropout"
    assert {"baseline-2", "baseline-3", "two-seed", "deep-ensemble-3"} < set(names)
    found: dict[str, set[str]] = {}
    for row in rows:
        if row["kind"] == "calibration":
            found.setdefault(row["model"], set()).add(temperature(row))
    assert list(found) == names
    for name, kinds in found.items():
        mixed = {"experts"} if name.startswith(("ensemble", "moe", "two", "deep")) else set()
        gated = {"gate"} if name.startswith("moe") else set()
        assert kinds == {"none", "one"} | mixed | gated, name
    members = {r["model"]: r["members"] for r in rows if r["kind"] == "calibration"}
    assert (members["baseline"], members["mc-dropout"], members["deep-ensemble-3"]) == (1, 2, 3)
    subsets = {row["subset"] for row in rows}
    assert subsets == {"day", "dusk", "day+dusk"}
    assert {row["condition"] for row in rows} == {"clean"}


def test_corrupted_frames_are_measured_and_told_from_clean_ones(
    finished: Run, every: list[Row]
) -> None:
    changed = [row for row in every if row["condition"] != "clean"]
    assert {row["condition"] for row in changed} == {"fog-5"}
    assert {row["model"] for row in changed} == {"baseline", "moe-simple"}
    assert {temperature(row) for row in changed} == {"none"}
    for row in changed:
        validate_row(row)
    told = [row for row in changed if row.get("task") == "changed-frames"]
    assert {row["score"] for row in told if row["model"] == "baseline"} == {
        "entropy",
        "max-probability",
    }
    assert {row["positives"] for row in told} == {0.5}  # as many changed frames as clean ones
    (clean,) = (
        row
        for row in every
        if row["kind"] == "calibration"
        and (row["model"], row["subset"], row["condition"]) == ("baseline", "day", "clean")
        and temperature(row) == "none"
        and row["reading"] == "multi-class"
    )
    (fog,) = (
        row
        for row in changed
        if row["kind"] == "calibration" and (row["model"], row["subset"]) == ("baseline", "day")
    )
    assert (clean["images"], fog["images"]) == (4, 1)  # every other frame, of both subsets
    assert fog["nll"] != clean["nll"]
    assert (finished.folder / "uncertainty/conditions/fog-5.jsonl").exists()


def test_tables_of_clean_frames_stand_beside_the_rows(finished: Run, rows: list[Row]) -> None:
    text = (finished.folder / "uncertainty.md").read_text()
    assert "fog-5" not in text
    trusted = [r for r in rows if r["kind"] == "calibration" and r["reading"] == "multi-class"]
    for row in trusted:
        low, high = row["ci95"] or (None, None)
        told = f"{row['ece']:.4f}" + ("" if low is None else f" [{low:.4f}, {high:.4f}]")
        head = f"| {row['subset']} | {row['model']} | {temperature(row)} | {row['members']} |"
        assert sum(line.startswith(head) and told in line for line in text.splitlines()) == 1
    assert "paired differences" in text


def test_a_killed_measurement_goes_on_behind_the_last_condition(
    finished: Run, every: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    run = Run(finished.study, folder)
    (folder / ROWS).unlink()
    monkeypatch.setattr("moeseg.robustness.corrupted.corrupt", None)  # a call would raise
    run_study(run)
    assert read_rows(folder / ROWS) == every


def test_calibration_of_a_mixture_against_its_own_probabilities(
    finished: Run, rows: list[Row]
) -> None:
    model = load(finished.model("moe-classwise-conv"))
    data = finished.dataset(finished.frames("day+dusk", "test"))
    fitted = load_temperatures(finished.model("moe-classwise-conv"))
    for kind, predicts in (
        ("none", model),
        *((kind, Tempered(model, one)) for kind, one in fitted.items()),
    ):
        losses, hits, count = 0.0, 0.0, 0
        for image, label, _ in (data[n] for n in range(len(data))):
            with torch.no_grad():
                log = predicts(image[None]).logits[0].double().log_softmax(0)
            valid = label != 255
            own = log.gather(0, label.long().masked_fill(~valid, 0)[None])[0][valid]
            losses -= float(own.sum())
            hits += float((log.argmax(0) == label)[valid].sum())
            count += int(valid.sum())
        (row,) = [
            row
            for row in rows
            if (row["kind"], row["model"], row["subset"], temperature(row))
            == ("calibration", "moe-classwise-conv", "day+dusk", kind)
            and row["reading"] == "multi-class"
        ]
        assert row["nll"] == pytest.approx(losses / count, rel=1e-4)
        assert row["accuracy"] == pytest.approx(hits / count, abs=1e-6)


def test_thresholds_come_from_validation_frames(finished: Run, rows: list[Row]) -> None:
    assert {f.split for f in fit_frames(finished)} == {"val"}
    for row in rows:
        if row["kind"] == "conditional":
            assert row["threshold"] is None or 0 <= row["threshold"] <= 1
    told = [r for r in rows if r["kind"] == "conditional" and r["model"] == "moe-simple"]
    assert any(r["threshold"] is not None for r in told)
    chosen = {temperature(r): r["threshold"] for r in told if r["score"] == "entropy"}
    assert set(chosen) == {"none", "one", "experts", "gate"}


def test_pairs_have_equal_members(rows: list[Row]) -> None:
    differences = [row for row in rows if row["kind"] == "uncertainty-difference"]
    minus = {row["minus"] for row in differences if row["model"] == "moe-simple"}
    assert "mc-dropout" in minus
    assert "two-seed" in minus
    assert "deep-ensemble-3" not in minus
    assert all(a == b or b == 1 for a, b in (row["members"] for row in differences))


def test_a_second_run_does_nothing_and_a_setting_redoes_what_hangs_on_it(finished: Run) -> None:
    assert {state for _, state, _ in plan(finished)} == {"done"}
    changed = finished.study.model_copy(
        update={"uncertainty": finished.study.uncertainty.model_copy(update={"published": False})}
    )
    book = ledger(Run(changed, finished.folder))
    stale = [name for name, stage in book.stages.items() if book.state(stage) != "done"]
    assert stale == ["uncertainty", "uncertainty-table", "report"]


def test_maps_are_the_scores_of_the_kept_frames(finished: Run) -> None:
    place = finished.folder / "uncertainty" / "maps" / "clean"
    index = json.loads((place / "index.json").read_text())
    names = ["baseline", "moe-simple", "moe-classwise-conv", "mc-dropout"]
    assert list(index["maps"]) == names
    assert index["maps"]["baseline"] == ["entropy"]
    assert index["maps"]["moe-simple"] == ["entropy", "mutual-information"]
    model = load(finished.model("moe-simple"))
    data = finished.dataset(finished.frames("day+dusk", "test"))
    for image, _, key in (data[n] for n in range(len(data))):
        with torch.no_grad():
            whole = model(image[None], expert_logits=True)
        for score in index["maps"]["moe-simple"]:
            file = place / index["frames"][key] / f"moe-simple.{score}.png"
            shown = np.asarray(Image.open(file)) / 255
            np.testing.assert_allclose(shown, uncertainty(whole, score)[0].numpy(), atol=3e-3)


def test_models_of_the_study_are_loaded_as_what_they_are(finished: Run) -> None:
    sampled = load(finished.model("mc-dropout"))
    assert isinstance(sampled, MonteCarloDropout)
    assert (sampled.samples, sampled.rate) == (2, 0.3)
    deep = load(finished.model("deep-ensemble-3"))
    assert isinstance(deep, Ensemble)
    assert len(deep.experts) == 3
    first, second = (e.state_dict() for e in deep.experts[:2])
    assert not all(torch.equal(first[key], second[key]) for key in first)


def test_mc_dropout_is_scored_in_the_table_too(finished: Run) -> None:
    found = read_rows(finished.folder / "results.jsonl")
    assert "mc-dropout" in {row["model"] for row in found if row["kind"] == "segmentation"}
    minus = {row["minus"] for row in found if row["kind"] == "difference"}
    assert {"mc-dropout", "two-seed"} <= minus  # of two members, as the mixtures have
    assert "deep-ensemble-3" not in minus


def test_batch_size_has_no_effect_on_mc_dropout(finished: Run, tmp_path: Path) -> None:
    folder = finished.model("mc-dropout")
    found = []
    for size in (1, 4):
        settings = finished.study.model_copy(
            update={"eval": finished.study.eval.model_copy(update={"batch_size": size})}
        )
        run = Run(settings, finished.folder)
        found.append(uncertainty_saved(run, [folder], ["day"], temperatures="none"))
    for one, two in zip(*found, strict=True):
        if one["kind"] == "calibration" and one["reading"] == "multi-class":
            for key in ("ece", "nll", "brier"):
                assert one[key] == pytest.approx(two[key], abs=1e-6)


def test_command_on_a_run_and_on_single_models(
    moeseg: Command, finished: Run, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    code, text, _ = moeseg("uncertainty", finished.folder, "--subset", "dusk", "--out", out)
    assert code == 0
    for part in ("calibration", "detection", "moe-classwise-conv", "experts", "wrong-pixels"):
        assert part in text
    assert "paired differences" in text
    told = {(row["model"], temperature(row)) for row in read_rows(out)}
    assert ("moe-simple", "gate") in told
    study = finished.folder / "study.yaml"
    words = ("uncertainty", finished.model("baseline"), "--data", study, "--subset", "day")
    code, _, _ = moeseg(*words, "--temperatures", "none", "--mc-dropout", 3, "--out", out)
    assert code == 0
    single = read_rows(out)
    assert {row["model"] for row in single} == {"baseline", "baseline mc-dropout-3"}
    assert {temperature(row) for row in single} == {"none"}
    # frames that are measured on choose no threshold, and fitted no temperature
    code, _, err = moeseg(*words, "--split", "val")
    assert (code, "expected temperatures fitted on other frames" in err) == (2, True)
    code, _, _ = moeseg(*words, "--split", "val", "--temperatures", "none", "--out", out)
    assert code == 0
    assert {r["threshold"] for r in read_rows(out) if r["kind"] == "conditional"} == {None}


def test_the_command_takes_split_and_subsets_of_the_study(
    moeseg: Command, finished: Run, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    own = ("--set", "uncertainty.subsets=[dusk]", "--set", "eval.split=val")
    words = ("--temperatures", "none", "--out", out)
    code, _, _ = moeseg("uncertainty", finished.folder, *own, *words)
    assert code == 0
    assert {(row["subset"], row["split"]) for row in read_rows(out)} == {("dusk", "val")}


def test_a_saved_mixture_alone_knows_what_its_experts_were_trained_on(finished: Run) -> None:
    settings = finished.study.model_copy(update={"uncertainty": type(finished.study.uncertainty)()})
    folders = [finished.model("moe-simple")]
    every = uncertainty_saved(Run(settings, finished.folder), folders, ["day", "dusk"])
    assert not [row for row in every if row.get("task") == "unseen-frames"]  # both are trained on
    folders = [finished.model("expert-day")]
    every = uncertainty_saved(Run(settings, finished.folder), folders, ["day", "dusk"])
    alone = [row["subset"] for row in every if row.get("task") == "unseen-frames"]
    assert set(alone) == {"dusk"}
    infos = load_saved(finished, [finished.model("moe-simple"), finished.model("mc-dropout")])[1]
    assert infos["moe-simple"]["subset"] == "day+dusk"
    assert infos["mc-dropout"]["subset"] == "day+dusk"


def test_corrupted_frames_of_a_saved_model(moeseg: Command, finished: Run, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    study = finished.folder / "study.yaml"
    own = ("uncertainty", finished.model("baseline"), "--data", study, "--subset", "day")
    words = (*own, "--temperatures", "none", "--corrupted", "--out", out)
    code, _, _ = moeseg(*words)
    assert code == 0
    rows = read_rows(out)
    assert {row["condition"] for row in rows} == {"clean", "fog-5"}
    assert [row for row in rows if row.get("task") == "changed-frames"]
    code, _, err = moeseg(*words, "--subset", "dusk", "--set", "uncertainty.corruptions.frames=1")
    assert code == 2
    assert "uncertainty.corruptions.frames: expected frames of every subset, got 1 of" in err
    assert "none of them of dusk" in err


def test_a_sampled_model_may_lie_in_a_folder_with_a_space(finished: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.model("baseline"), tmp_path / "my baseline"))
    rows = uncertainty_saved(finished, [folder], ["day"], temperatures="none", samples=2)
    assert {row["model"] for row in rows} == {"my baseline", "my baseline mc-dropout-2"}


def test_temperatures_are_fitted_and_saved_by_the_command(
    moeseg: Command, finished: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(finished.folder / "models", folder)
    for path in folder.glob(f"*/{TEMPERATURES}"):
        path.unlink()
    study = finished.folder / "study.yaml"
    words = ("uncertainty", folder / "moe-simple", "--data", study, "--subset", "day")
    code, text, _ = moeseg(*words, "--temperatures", "fit")
    assert code == 0
    assert "gate" in text
    again = load_temperatures(folder / "moe-simple")
    known = load_temperatures(finished.model("moe-simple"))
    for kind, one in known.items():
        assert again[kind].values == pytest.approx(one.values, rel=1e-4)


def test_masks_are_scored_with_a_saved_temperature(
    moeseg: Command, finished: Run, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    folders = [finished.model(name) for name in ("moe-simple", "ensemble-mean")]
    study = finished.folder / "study.yaml"
    words = ("evaluate", *folders, "--data", study, "--subset", "day", "--out", out)
    code, text, _ = moeseg(*words, "--temperature", "experts")
    assert code == 0
    assert "moe-simple with temperature experts" in text
    found = [row for row in read_rows(out) if row["kind"] == "segmentation"]
    assert [row["model"] for row in found] == [
        f"{name} with temperature experts" for name in ("moe-simple", "ensemble-mean")
    ]
    (paired,) = [row for row in read_rows(out) if row["kind"] == "difference"]
    assert paired["model"] == "moe-simple with temperature experts"
    assert paired["minus"] == "ensemble-mean with temperature experts"
    data = finished.dataset(finished.frames("day", "test"))
    for row, folder in zip(found, folders, strict=True):
        assert row["settings"]["temperature"] == "experts"
        model = Tempered(load(folder), load_temperatures(folder)["experts"])
        hits, count = 0, 0
        for image, label, _ in (data[n] for n in range(len(data))):
            with torch.no_grad():
                ids = model(image[None]).logits[0].argmax(0)
            hits += int(((ids == label) & (label != 255)).sum())
            count += int((label != 255).sum())
        assert row["pixel_accuracy"] == pytest.approx(hits / count, abs=1e-6)
    code, _, err = moeseg(*words, "--temperature", "gate")
    assert (code, "ensemble-mean: expected a temperature 'gate'" in err) == (2, True)
    assert "got one, experts; fit it with" in err
    assert "uncertainty.temperatures=[one,experts,gate]" in err
    code, _, err = moeseg(*words, "--temperature", "expert")
    assert (code, "Did you mean 'experts'" in err) == (2, True)
    code, _, err = moeseg(*words, "--split", "val", "--temperature", "one")
    assert (code, "expected temperatures fitted on other frames" in err) == (2, True)


def test_temperatures_of_a_command_are_not_the_runs(finished: Run, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    run = Run(finished.study, folder)
    book = ledger(run)
    assert book.state(book.stages["temperatures"]) == "done"
    uncertainty_saved(run, [run.model("baseline")], ["day"], temperatures="fit")
    assert book.state(book.stages["temperatures"]) == "missing"


def test_mistakes_are_told(moeseg: Command, finished: Run, tmp_path: Path) -> None:
    study = finished.folder / "study.yaml"
    moe = finished.model("moe-simple")
    code, _, err = moeseg("uncertainty", moe, "--subset", "day")
    assert code == 2
    assert "--data: expected a study file whose data the models are scored on, got none" in err
    words = ("uncertainty", moe, "--data", study, "--subset", "day")
    code, _, err = moeseg(*words, "--temperatures", "fitt")
    assert (code, "Did you mean 'fit'" in err) == (2, True)
    code, _, err = moeseg(*words, "--mc-dropout", 4)
    assert (code, "expected a single network, which is sampled" in err) == (2, True)
    code, _, err = moeseg(*words, "--temperatures", "fit", "--split", "val")
    assert (code, "expected frames that are not measured on, got 4" in err) == (2, True)
    code, _, err = moeseg(*words, "--temperatures", "fit", "--set", "uncertainty.fit.subset=fog")
    assert (code, "unknown subset 'fog'" in err) == (2, True)
    path = finished.model("moe-simple") / TEMPERATURES
    text = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(text) | {"weights": ["x"]}))
        with pytest.raises(CheckpointError, match="those of other weights"):
            uncertainty_saved(finished, [moe], ["day"])
    finally:
        path.write_text(text)
    (tmp_path / "begun").mkdir()
    shutil.copy(study, tmp_path / "begun" / "study.yaml")
    code, _, err = moeseg("uncertainty", tmp_path / "begun", "--subset", "day")
    assert (code, "expected a run with models, found none yet" in err) == (2, True)


def without_validation(folder: Path) -> None:
    text = (folder / "manifest.csv").read_text().splitlines()
    (folder / "manifest.csv").write_text(
        "\n".join(one for one in text if ",val," not in one) + "\n"
    )


def test_no_validation_frames_are_told_before_any_training(tmp_path: Path) -> None:
    write_data(tmp_path)
    without_validation(tmp_path)
    settings = study_settings(tmp_path, tmp_path / "run")
    settings["training"] |= {"choose": "last"}
    settings["gate"] |= {"choose": "last"}
    run = Run(parse_study(settings | {"uncertainty": UNCERTAINTY}, "test"))
    with pytest.raises(UsageError, match=r"expected validation frames to fit them on, found none"):
        run_study(run)
    assert not (tmp_path / "run" / "models").exists()
    # frames of another subset and split, which are then not measured on
    fit = {"subset": "dusk", "split": "test"}
    told = UNCERTAINTY | {"fit": fit, "temperatures": ["one"], "subsets": ["day"]}
    run = Run(parse_study(settings | {"uncertainty": told}, "test"))
    assert {frame.subset for frame in fit_frames(run)} == {"dusk"}
    alone = UNCERTAINTY | {"temperatures": []}
    run = Run(parse_study(settings | {"uncertainty": alone}, "test"))
    assert [name for name, _, _ in plan(run) if name == "temperatures"] == []


def test_wrong_settings_are_told() -> None:
    settings = study_settings(Path("x"), Path("y"))

    def told(**uncertainty: object) -> str:
        with pytest.raises(UsageError) as caught:
            parse_study(settings | {"uncertainty": uncertainty}, "x")
        return str(caught.value)

    assert "unknown network 'baselin'" in told(dropout={"mc-dropout": {"of": "baselin"}})
    assert "samples" in told(dropout={"mc-dropout": {"samples": 1}})
    assert "unknown value 'tow'" in told(temperatures=["tow"])
    assert "dropout" in told(dropout={"dropout": {}})
    study = parse_study(settings | {"controls": ["deep-ensemble-4"], "seed": 5}, "x")
    assert [study.seed_of(n) for n in study.networks()] == [5, 6, 7, 8, 5, 5]
    with pytest.raises(UsageError, match=r"unknown control 'deep-ensemble-44'.*deep-ensemble"):
        parse_study(settings | {"controls": ["deep-ensemble-44"]}, "x")


def test_settings_written_by_a_run_are_the_study_again(finished: Run) -> None:
    written = load_study(finished.folder / "study.yaml")
    assert written == finished.study
    assert yaml.safe_load((finished.folder / "study.yaml").read_text())["uncertainty"]["measure"]


def test_a_network_without_dropout_is_told(tmp_path: Path) -> None:
    write_data(tmp_path)
    settings = study_settings(tmp_path, tmp_path / "run") | {
        "architecture": {"name": "frrn-a", "arguments": {"channels": 3}},
        "uncertainty": {"measure": True, "dropout": {"mc-dropout": {"of": "expert-day"}}},
        "data": study_settings(tmp_path, tmp_path)["data"] | {"size": [32, 32]},
    }
    run = Run(parse_study(settings, "test"))
    with pytest.raises(UsageError, match="with dropout layers, got frrn-a without one"):
        run_study(run)
    assert not (tmp_path / "run" / "models").exists()


def test_random_rows_are_finite(rows: list[Row]) -> None:
    for row in rows:
        if row["kind"] == "calibration":
            assert np.isfinite([row["ece"], row["nll"], row["brier"]]).all()
