from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from moeseg.ablation import load_ablation, run_ablation
from moeseg.errors import UsageError
from moeseg.evaluation.rows import read_rows
from tiny import study_settings, write_data

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "configs").glob("ablation*.yaml"))


def write_ablation_file(folder: Path, **changes: object) -> Path:
    write_data(folder)
    study = study_settings(folder, folder / "run")
    del study["out"]
    raw: dict[str, Any] = {
        "out": str(folder / "ablation"),
        "seeds": [0, 1],
        "study": study | {"baseline": None, "ensembles": []},
        "variants": {
            "as-published": {"gate.expert_batchnorm": "adapt"},
            "held": {},
            "truth": {"training.choose": "last"},
            "longer": {"gate.epochs": 1},
        },
    }
    path = folder / "ablation.yaml"
    path.write_text(yaml.safe_dump(raw | changes, sort_keys=False))
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_valid_and_correct_each_habit_once(path: Path) -> None:
    ablation = load_ablation(path)
    assert path.read_text().startswith(f"# moeseg ablation configs/{path.name}")
    published = ablation.study_of("as-published", 0).habits()
    assert published
    for name in ablation.variants:
        kept = ablation.study_of(name, 0).habits()
        if name == "all-corrected":
            assert kept == {}
        elif name not in ("as-published", "gate-heldout"):
            assert kept.items() < published.items(), name


def test_variants_share_what_they_do_not_touch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ablation = load_ablation(write_ablation_file(tmp_path))
    rows = run_ablation(ablation)
    told = capsys.readouterr().err
    # both experts once for two variants, once more for the third, with two seeds
    assert told.count("training on") == 2 * (2 + 2)
    folders = [tmp_path / "ablation" / variant / "seed-1" for variant in ("as-published", "held")]
    weights = [folder / "models/expert-day/model.safetensors" for folder in folders]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert {row["settings"]["variant"] for row in rows} == set(ablation.variants)
    assert {row["seed"] for row in rows} == {0, 1}
    adapted = [row for row in rows if row["settings"]["variant"] == "as-published"]
    assert all(row["settings"]["gate.expert_batchnorm"] == "adapt" for row in adapted)
    assert rows == read_rows(tmp_path / "ablation" / "results.jsonl")
    assert run_ablation(ablation) == rows
    assert "training on" not in capsys.readouterr().err


def test_rows_of_other_settings_stay_out_of_the_table(tmp_path: Path) -> None:
    variants = {"a": {}, "b": {"gate.epochs": 1}}
    file = write_ablation_file(tmp_path, seeds=[0], variants=variants)
    run_ablation(load_ablation(file))
    changed = ["study.training.epochs=1"]
    rows = run_ablation(load_ablation(file, changed), ["a"])
    assert {row["settings"]["variant"] for row in rows} == {"a"}


def test_a_mistake_of_the_last_variant_is_told_before_the_first_trains(tmp_path: Path) -> None:
    variants = {"a": {}, "b": {"experts.day.subset": "nosuch"}}
    file = write_ablation_file(tmp_path, seeds=[0], variants=variants)
    with pytest.raises(UsageError, match="unknown subset 'nosuch'"):
        run_ablation(load_ablation(file))
    assert not (tmp_path / "ablation").exists()


def test_one_variant_alone_and_the_table_of_what_is_finished(tmp_path: Path) -> None:
    file = write_ablation_file(tmp_path, seeds=[0])
    rows = run_ablation(load_ablation(file), ["held"])
    assert {row["settings"]["variant"] for row in rows} == {"held"}
    table = (tmp_path / "ablation" / "table.md").read_text()
    assert "| held | moe-simple |" in table
    assert "as-published" not in table


def test_mistakes_are_named(tmp_path: Path) -> None:
    file = write_ablation_file(tmp_path)
    with pytest.raises(UsageError, match=r"unknown variant 'hold'. Did you mean 'held'\?"):
        run_ablation(load_ablation(file), ["hold"])
    with pytest.raises(UsageError, match=r"unknown setting 'seed'. Did you mean 'seeds'\?"):
        load_ablation(write_ablation_file(tmp_path, seed=3))
    wrong = {"x": {"gate.expert_batchnorm": "hald"}}
    with pytest.raises(UsageError, match=r"(?s)variant x: .*unknown value 'hald'"):
        load_ablation(write_ablation_file(tmp_path, variants=wrong))
    with pytest.raises(UsageError, match="variant as-published: "):
        load_ablation(write_ablation_file(tmp_path, study={"data": None}))
