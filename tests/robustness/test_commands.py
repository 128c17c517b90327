from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from command import Command
from moeseg.config import load_study
from moeseg.evaluation.rows import read_rows
from moeseg.robustness.universal import load_universal
from moeseg.run import Run
from moeseg.study import run_study
from tiny import write_study


@pytest.fixture(scope="module")
def study_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("attacked")
    sampled = {"mc-dropout": {"of": "expert-day", "samples": 2, "rate": 0.3}}
    settings: dict[str, Any] = {
        "ensembles": [],
        "baseline": None,
        "uncertainty": {"dropout": sampled},
    }
    run = Run(load_study(write_study(folder, folder / "run", **settings)))
    run_study(run)
    return run


def test_attack_on_saved_models(moeseg: Command, study_run: Run, tmp_path: Path) -> None:
    models = [study_run.model(name) for name in ("expert-day", "moe-simple")]
    words = (
        "attack", *models, "--data", study_run.folder.parent / "study.yaml",
        "--subset", "day+dusk", "--attack", "pgd-2", "--attack", "fgsm", "--epsilon", "8/255",
        "--epsilon", "0.1", "--frames", 4, "--transfer", "--out", tmp_path / "out",
    )  # fmt: skip
    code, out, err = moeseg(*words)
    assert code == 0, err
    assert "pgd-2" in out
    assert f"table: {tmp_path / 'out' / 'robustness.md'}" in out
    assert err.count("attack ") == 8
    rows = read_rows(tmp_path / "out" / "results.jsonl")
    attacks = [row for row in rows if row["kind"] == "attack"]
    assert len(attacks) == 2 * 2 * 2 * 2  # attacks, radii, sources, models
    assert {row["images"] for row in rows} == {4}
    mixture = next(r for r in attacks if r["model"] == r["source"] == "moe-simple")
    assert set(mixture["expert_miou"]) == {"day", "dusk"}
    code, again, err = moeseg(*words)
    assert code == 0
    assert "attack 1/" not in err  # all counts were there
    assert again == out
    without = [word for word in words if word != "--transfer"]
    code, _, err = moeseg(*without)
    assert code == 0, err
    assert "attack 1/" not in err  # what was made for more models serves fewer
    attacks = [r for r in read_rows(tmp_path / "out" / "results.jsonl") if r["kind"] == "attack"]
    assert all(row["model"] == row["source"] for row in attacks) or len(attacks) == 16


def test_attacks_of_other_settings_are_made_again(
    moeseg: Command, study_run: Run, tmp_path: Path
) -> None:
    """An own attack keeps its name while its settings change; no old count may stand for it."""
    words = (
        "attack", study_run.model("expert-day"), "--data", study_run.folder.parent / "study.yaml",
        "--subset", "day", "--attack", "mine", "--epsilon", "0.1", "--out", tmp_path / "out",
    )  # fmt: skip
    own = "robustness.attacks.mine={kind: pgd, steps: %d}"
    told = []
    for steps in (1, 3, 3):
        code, _, err = moeseg(*words, "--set", own % steps)
        assert code == 0, err
        (row,) = (r for r in read_rows(tmp_path / "out/results.jsonl") if r["kind"] == "attack")
        told.append((row["attack_settings"]["steps"], len(row["losses"]), "attack 1/1" in err))
    assert told == [(1, 2, True), (3, 4, True), (3, 4, False)]
    for again in (True, False):
        rough = ("--set", own % 3, "--set", "robustness.precision=bf16-mixed")
        code, _, err = moeseg(*words, *rough)
        assert (code, "attack 1/1" in err) == (0, again), err
        assert "passes in bfloat16" in (tmp_path / "out/robustness.md").read_text()


def test_attack_on_a_run_takes_its_models_data_and_subsets(
    moeseg: Command, study_run: Run, tmp_path: Path
) -> None:
    words = ("--epsilon", "4/255", "--attack", "fgsm", "--out", tmp_path / "o")
    code, _, err = moeseg("attack", study_run.folder, *words)
    assert code == 0, err
    rows = read_rows(tmp_path / "o" / "results.jsonl")
    assert {row["model"] for row in rows} == set(study_run.study.model_names())
    assert {row["subset"] for row in rows} == {"day", "dusk", "day+dusk"}
    clean = read_rows(study_run.folder / "results.jsonl")
    for row in (row for row in rows if row["kind"] == "attack"):  # samples too draw as they did
        (before,) = (
            r["miou"]
            for r in clean
            if (r["kind"], r["model"], r["subset"]) == ("segmentation", row["model"], row["subset"])
        )
        assert row["clean_miou"] == pytest.approx(before, abs=1e-9)


def test_corrupt_prints_clean_and_corrupted(
    moeseg: Command, study_run: Run, tmp_path: Path
) -> None:
    words = (
        "corrupt", study_run.folder, "--corruption", "fog", "--severity", 2, "--subset", "day",
        "--out", tmp_path / "out",
    )  # fmt: skip
    code, out, err = moeseg(*words)
    assert code == 0, err
    assert "fog" in out
    rows = read_rows(tmp_path / "out" / "results.jsonl")
    assert {row["condition"] for row in rows} == {"clean", "fog-2"}
    assert (tmp_path / "out" / "robustness.csv").exists()
    _, _, err = moeseg(*words)
    assert "condition 1/1" not in err
    # rows are kept by subset: other subsets of the same frames are scored
    joined = ("--subset", "day+dusk"), ("--subset", "day", "--subset", "dusk")
    for subsets in joined:
        code, _, err = moeseg(*words[:6], *subsets, *words[8:])
        assert code == 0, err
        rows = read_rows(tmp_path / "out" / "results.jsonl")
        wanted = {name for name in subsets if name != "--subset"}
        for condition in ("clean", "fog-2"):
            assert {r["subset"] for r in rows if r["condition"] == condition} == wanted


def test_sea_shares_its_parts_with_attacks_of_their_own(
    moeseg: Command, study_run: Run, tmp_path: Path
) -> None:
    words = ("--epsilon", "8/255", "--frames", 2, "--subset", "day", "--out", tmp_path / "o")
    data = ("--data", study_run.folder.parent / "study.yaml")
    both = ("--attack", "sea-2", "--attack", "apgd-js-2")
    code, _, err = moeseg("attack", study_run.model("expert-day"), *both, *words, *data)
    assert code == 0, err
    assert "attack 3/3" in err  # one of the three parts is the other attack
    own = (
        "--attack",
        "sea",
        "--attack",
        "apgd-js",
        "--set",
        "robustness.attacks.apgd-js={steps: 2}",
    )
    code, _, err = moeseg("attack", study_run.model("expert-day"), *own, *words, *data)
    assert (code, "expected attacks of one name to have the same settings" in err) == (2, True)


def test_a_saved_universal_change_meets_models_it_was_not_made_for(
    moeseg: Command, study_run: Run, tmp_path: Path
) -> None:
    models = [study_run.model(name) for name in ("expert-dusk", "expert-day")]
    data = ("--data", study_run.folder.parent / "study.yaml", "--subset", "day")
    made = ("--attack", "universal-2", "--epsilon", "16/255", "--transfer", "--out", tmp_path / "a")
    code, _, err = moeseg("attack", *models, *made, *data)
    assert code == 0, err
    (file,) = (tmp_path / "a").glob("counts/*/expert-dusk/universal-2*.safetensors")
    shown = ("--universal", file, "--out", tmp_path / "c")
    code, out, err = moeseg("corrupt", models[1], *shown, *data)
    assert code == 0, err
    assert "universal-2 of expert-dusk" in out
    # of all experts, whichever subsets are scored
    assert load_universal(file)[1]["subsets"] == ["day", "dusk"]
    wrong = ("--set", "robustness.universal_subset=dawn", "--frames", 2)
    code, _, err = moeseg("attack", *models, *made, *data, *wrong)
    assert code == 2
    assert "robustness.universal_subset: expected training frames of dawn" in err
    (row,) = (
        row
        for row in read_rows(tmp_path / "c" / "results.jsonl")
        if (row["kind"], row["condition"]) == ("segmentation", "universal-2 of expert-dusk@16/255")
    )
    (known,) = (
        row
        for row in read_rows(tmp_path / "a" / "results.jsonl")
        if (row.get("source"), row["model"]) == ("expert-dusk", "expert-day")
    )
    assert row["miou"] == pytest.approx(known["miou"], abs=1e-9)  # as the attack's own transfer
    code, _, err = moeseg("corrupt", models[1], "--universal", data[1], *data)
    assert (code, "expected a universal change as moeseg writes it" in err) == (1, True)


def test_what_cannot_be_attacked_is_explained(
    moeseg: Command, study_run: Run, tmp_path: Path
) -> None:
    model, data = study_run.model("moe-simple"), study_run.folder.parent / "study.yaml"
    out = tmp_path / "out"
    given = ("--data", data, "--subset", "day", "--out", out)
    for words, expected in (
        ((model, "--epsilon", "-1/255", *given), "expected a number in (0, 1] such as 4/255"),
        ((model, "--epsilon", "0.9", *given), "at most 64/255"),
        ((model, "--epsilon", "0.1", "--attack", "pgd-0", *given), "1 step and 1 restart or more"),
        ((model, "--epsilon", "0.1", "--attack", "pdg", *given), "Did you mean 'pgd'"),
        ((model, "--epsilon", "0.1", "--out", out), "--data: expected a study file"),
        ((model, "--epsilon", "0.1", "--data", data, "--out", out), "--subset: expected a subset"),
        (
            (study_run.model("expert-day"), "--epsilon", "0.1", "--attack", "pgd:weights", *given),
            "none of expert-day has a part 'weights'",
        ),
    ):
        code, _, err = moeseg("attack", *words)
        assert code == 2, words
        assert expected in err
        assert not out.exists()
    out.touch()
    code, _, err = moeseg("attack", model, "--epsilon", "0.1", *given)
    assert (code, "cannot write" in err, "attack 1/" in err) == (1, True, False)
    code, _, err = moeseg("corrupt", model, "--severity", 7, *given)
    assert code == 2
    assert "severities.0" in err
    code, _, err = moeseg("corrupt", model, "--corruption", "smog", *given)
    assert code == 2
    assert "unknown corruption 'smog'" in err
