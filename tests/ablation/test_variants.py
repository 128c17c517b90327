from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from moeseg.ablation import load_ablation, run_ablation
from moeseg.config import OptimizerConfig
from moeseg.errors import UsageError
from moeseg.evaluation.rows import read_rows
from moeseg.models import read_info
from moeseg.run import Run
from moeseg.study import run_study
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


SGD = {"training.optimizer.schedule", "training.optimizer.momentum"}
DROPPED = {
    "as-published": set[str](),
    "batchnorm-held": {"gate.expert_batchnorm"},
    "labels-right": {"data.label_colours"},
    "shuffled": {"data.shuffle"},
    "normalised": {"architecture.normalisation"},
    "miou-of-truth": {"training.miou_classes"},
    "sgd-decaying": SGD,  # one habit in two settings
    "gate-heldout": set[str](),  # mends what is a default here, too
}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_are_valid_and_each_variant_corrects_what_it_is_called_after(
    path: Path,
) -> None:
    ablation = load_ablation(path)
    assert path.read_text().startswith(f"# moeseg ablation configs/{path.name}")
    studies = {name: ablation.study_of(name, 0) for name in ablation.variants}
    published = studies["as-published"].habits()
    assert published
    for name, study in studies.items():
        dropped = published.keys() if name == "all-corrected" else DROPPED[name]
        expected = {key: value for key, value in published.items() if key not in dropped}
        assert study.habits() == expected, name
        assert dropped <= published.keys()
        heldout = name in ("all-corrected", "gate-heldout")
        assert study.gate.frames == ("heldout" if heldout else "train"), name


def test_a_nested_change_leaves_the_rest_of_its_section(tmp_path: Path) -> None:
    optimizer = {"training.optimizer": {"name": "sgd", "momentum": 0.5}}
    variants: dict[str, Any] = {
        "whole": optimizer,
        "nested": {"gate.epochs": 5, "gate": {"epochs": 1, "optimizer": {"lr": 0.5}}},
        "set": optimizer,
        "empty": {"mixtures": {}},
    }
    file = write_ablation_file(tmp_path, variants=variants)
    changes = ["variants.set.training.optimizer.lr=0.25", "study.training.optimizer.lr=0.125"]
    ablation = load_ablation(file, changes)
    plain = ablation.study_of("whole", 0)
    nested, changed = (ablation.study_of(name, 0) for name in ("nested", "set"))
    assert plain.training.optimizer.lr == OptimizerConfig().lr  # replaced whole, not the study's
    assert (nested.gate.epochs, nested.gate.optimizer.lr) == (1, 0.5)
    assert (nested.gate.batch_size, nested.gate.pixels) == (4, 64)
    assert nested.training.optimizer.name == "adam"
    assert changed.training.optimizer == plain.training.optimizer.model_copy(update={"lr": 0.25})
    assert (changed.training.epochs, changed.training.batch_size) == (2, 4)
    assert ablation.study_of("empty", 0).mixtures == {}
    shipped = load_ablation(SHIPPED[0], ["variants.gate-heldout.gate.epochs=1"])
    before = load_ablation(SHIPPED[0]).study_of("gate-heldout", 0)
    assert before.gate.epochs == 20
    gate = before.gate.model_copy(update={"epochs": 1})
    assert shipped.study_of("gate-heldout", 0) == before.model_copy(update={"gate": gate})


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
    gated = [row for row in adapted if row["model"].startswith("moe-")]
    assert gated
    assert all(row["settings"]["gate.expert_batchnorm"] == "adapt" for row in gated)
    assert rows == read_rows(tmp_path / "ablation" / "results.jsonl")
    assert run_ablation(ablation) == rows
    assert "training on" not in capsys.readouterr().err


def test_rows_of_seeds_finished_earlier_stay_in_the_table(tmp_path: Path) -> None:
    variants = {"a": {}, "b": {"gate.epochs": 1}}
    file = write_ablation_file(tmp_path, seeds=[0], variants=variants)
    first = run_ablation(load_ablation(file))
    rows = run_ablation(load_ablation(file, ["seeds=[1]"]), ["a"])
    found = {(row["settings"]["variant"], row["seed"]) for row in rows}
    assert found == {("a", 0), ("b", 0), ("a", 1)}
    assert [row for row in rows if row["seed"] == 0] == first
    assert rows == read_rows(tmp_path / "ablation" / "results.jsonl")
    table = (tmp_path / "ablation" / "table.md").read_text()
    assert "of 2 |" in next(line for line in table.splitlines() if "| a | moe-simple |" in line)
    assert "seed 1" in (tmp_path / "ablation" / "gain_day.svg").read_text()
    (tmp_path / "ablation" / "a" / "seed-1" / "stages" / "evaluate.json").unlink()
    (tmp_path / "ablation" / "a" / "seed-old").mkdir()  # somebody's own
    left = run_ablation(load_ablation(file), ["b"])
    assert {row["seed"] for row in left} == {0}


def scenes_of(folder: Path, variants: dict[str, Any], **data: object) -> dict[str, Path | None]:
    """Return the folder of each variant's rendered scenes."""
    study = study_settings(folder, folder / "run")
    del study["out"]
    scenes: dict[str, Any] = {"reader": "synthetic", "size": [32, 48]}
    study |= {"data": scenes | data, "experts": {"highway": {}, "urban": {}}}
    ablation = load_ablation(write_ablation_file(folder, study=study, variants=variants))
    return {name: ablation.study_of(name, 3).data.root for name in variants}


def test_variants_share_scenes_but_not_with_one_that_changes_them(tmp_path: Path) -> None:
    fewer = {"data.synthetic.frames_per_drive": 3}
    variants = {"a": {}, "b": {"data.size": [64, 96]}, "c": fewer, "d": fewer | {"name": "d"}}
    found = scenes_of(tmp_path, variants | {"e": {"data.synthetic": {"seed": 7}}})
    assert found["a"] == found["b"] == tmp_path / "ablation" / "scenes"
    assert found["c"] == found["d"]
    assert len(set(found.values())) == 3
    assert all(
        str(root).startswith(str(tmp_path / "ablation" / "scenes")) for root in found.values()
    )


def test_scenes_of_the_users_own_folder_are_left_there(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    variants = {"a": {}, "b": {"data.root": str(other)}}
    assert scenes_of(tmp_path, variants, root=str(own)) == {"a": own, "b": other}


def test_an_adopted_expert_says_nothing_of_the_gates_that_stood_over_it(tmp_path: Path) -> None:
    variants = {
        "adapted": {"gate.expert_batchnorm": "adapt", "data.shuffle": False},
        "held": {"data.shuffle": False},
    }
    rows = run_ablation(load_ablation(write_ablation_file(tmp_path, seeds=[0], variants=variants)))
    kept: dict[str, object] = {"data.shuffle": False}
    for variant in variants:
        folder = tmp_path / "ablation" / variant / "seed-0" / "models"
        assert read_info(folder / "expert-day")["settings"] == kept
        habits = kept | ({"gate.expert_batchnorm": "adapt"} if variant == "adapted" else {})
        assert read_info(folder / "moe-simple")["settings"] == habits
        for model, expected in (("expert-day", kept), ("moe-simple", habits)):
            found = [row["settings"] for row in rows if row["model"] == model]
            assert expected | {"variant": variant} in found


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


@pytest.mark.parametrize("name", ["study.yaml", "stages", "results.jsonl", "notes.txt"])
def test_a_folder_of_a_run_or_of_somebody_else_is_no_place_for_an_ablation(
    tmp_path: Path, name: str
) -> None:
    file = write_ablation_file(tmp_path, seeds=[0])
    mine = tmp_path / "ablation" / name
    mine.parent.mkdir()
    mine.write_text("mine")
    if name == "study.yaml":
        (tmp_path / "ablation" / "held" / "seed-0").mkdir(parents=True)
    (tmp_path / "ablation" / "scenes").mkdir()
    held = "a run" if name in ("study.yaml", "stages") else "files that are not of an ablation"
    with pytest.raises(UsageError, match=rf"(?s)expected a new folder.*holds {held}.*{name}"):
        run_ablation(load_ablation(file))
    assert mine.read_text() == "mine"


def test_an_ablations_folder_is_no_place_for_a_run(tmp_path: Path) -> None:
    folder = tmp_path / "ablation"
    for part in ("held/seed-0", "scenes"):
        (folder / part).mkdir(parents=True)
    ablation = load_ablation(write_ablation_file(tmp_path))
    run = Run(ablation.study_of("held", 0), folder)
    with pytest.raises(UsageError, match=r"files that are not of a run, e\.g\. held"):
        run_study(run)
    (folder / "held" / "seed-0").rmdir()
    (folder / "held").rmdir()
    with run.locked():  # scenes alone, rendered before the study
        assert (folder / ".lock").exists()


def test_seeds_and_folder_are_the_ablations(tmp_path: Path) -> None:
    variants: dict[str, Any] = {"a": {"seed": 3}, "b": {"out": "elsewhere"}}
    file = write_ablation_file(tmp_path, variants=variants)
    with pytest.raises(UsageError) as told:
        load_ablation(file, ["study.seed=7", "study.out=there"])
    for place, key in (
        *(("study.seed", "seeds"), ("study.out", "out")),
        *(("variants.a.seed", "seeds"), ("variants.b.out", "out")),
    ):
        assert re.search(rf"{place}: expected no .*?set `{key}` of the ablation", str(told.value))


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
