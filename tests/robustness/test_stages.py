from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from attackable import scenes, trained_mixture
from moeseg.config import (
    AttackConfig,
    AttackKind,
    PassPrecision,
    RobustnessConfig,
    load_study,
    parse_study,
)
from moeseg.data import limit
from moeseg.errors import DataError, UsageError
from moeseg.evaluation.conditions import condition_tables
from moeseg.evaluation.rows import read_rows, read_run_rows, validate_row, write_rows
from moeseg.evaluation.runner import run_models
from moeseg.evaluation.stages import load_models, scored_frames
from moeseg.metrics import scores
from moeseg.models import Model, build_ensemble, build_expert, build_mixture
from moeseg.robustness.attacks import SEA_PARTS, Attack, Perturbed, perturb
from moeseg.robustness.ball import generators_of
from moeseg.robustness.counts import read_counts
from moeseg.robustness.craft import FrameCounts, reaction
from moeseg.robustness.losses import Pixels, cross_entropy
from moeseg.robustness.plan import attack_named, planned_parts
from moeseg.robustness.sweep import Unit, clips, parts_of, path_of
from moeseg.robustness.universal import load_universal
from moeseg.run import Run
from moeseg.study import ledger, plan, run_study
from moeseg.types import Row
from tiny import SIZE, study_settings, tiny_expert, write_data, write_study

ROBUSTNESS: dict[str, Any] = {
    "attacks": {
        "slow": {"kind": "pgd", "steps": 2, "momentum": 0.9, "step_size": 0.5},
        "worst": {"kind": "sea", "steps": 2},
    },
    "sweeps": {
        "all": {
            "attacks": ["fgsm", "pgd-2", "slow", "pgd-2:weights", "universal-2", "pgd-published-3"],
            "epsilons": ["8/255", 0.1],
            "models": ["baseline", "moe-simple"],
        },
        "strong": {
            "attacks": ["pgd-3", "sea-3", "square-3", "worst"],
            "epsilons": ["32/255"],
            "models": ["expert-day", "moe-simple"],
            "frames": 4,
            "transfer": True,
        },
        "part": {
            "attacks": ["pgd-1:weights"],
            "epsilons": ["8/255"],
            "models": ["baseline", "moe-simple"],
            "frames": 4,
            "transfer": True,
        },
    },
    "corruptions": {"names": ["fog", "gaussian-noise"], "severities": [1, 5]},
    "show": ["pgd-2@8/255", "fog-5"],
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("robust")
    run = Run(load_study(write_study(folder, folder / "run", robustness=ROBUSTNESS)))
    run_study(run)
    return run


def rows_of(run: Run, name: str) -> list[Row]:
    return read_rows(run.folder / "robustness" / f"{name}.jsonl")


def pick(rows: list[Row], **wanted: object) -> list[Row]:
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def test_a_study_makes_every_row_once(finished: Run) -> None:
    rows = rows_of(finished, "attack-all")
    for row in rows:
        validate_row(row)
    attacks = pick(rows, kind="attack")
    assert {row["model"] for row in attacks} == {"baseline", "moe-simple"}
    names = ("fgsm", "pgd-2", "slow", "universal-2", "pgd-published-3")
    wanted = {f"{name}@{radius}" for name in names for radius in ("8/255", "0.1")}
    assert {r["condition"] for r in pick(rows, kind="segmentation", model="baseline")} == wanted
    assert {row["condition"] for row in rows} - wanted == {
        "pgd-2:weights@8/255",
        "pgd-2:weights@0.1",
    }
    once = Counter((r["kind"], r["model"], r["condition"], r["subset"]) for r in attacks)
    assert set(once.values()) == {1}
    assert {row["subset"] for row in attacks} == {"day", "dusk", "day+dusk"}
    differences = pick(rows, kind="difference", minus="baseline", subset="day+dusk")
    assert len(differences) == len(wanted)


def test_attack_rows_say_what_the_scores_say(finished: Run) -> None:
    rows = rows_of(finished, "attack-all")
    clean = read_rows(finished.folder / "results.jsonl")
    for row in pick(rows, kind="attack"):
        same = {"model": row["model"], "subset": row["subset"]}
        (scored,) = pick(rows, kind="segmentation", condition=row["condition"], **same)
        (before,) = pick(clean, kind="segmentation", **same)
        assert row["miou"] == scored["miou"]
        assert row["clean_miou"] == before["miou"]
        assert row["lost"] == pytest.approx(before["miou"] - scored["miou"])


def test_a_mixture_is_told_part_by_part(finished: Run) -> None:
    rows = rows_of(finished, "attack-all")
    (row,) = pick(
        rows, kind="attack", model="moe-simple", condition="pgd-2:weights@0.1", subset="day+dusk"
    )
    assert set(row["expert_changed"]) == {"day", "dusk"}
    assert 0 < row["route_moved"] <= 1
    (plain,) = pick(rows, kind="attack", model="baseline", condition="pgd-2@0.1", subset="day")
    assert plain["route_moved"] is plain["expert_miou"] is plain["gate_held_miou"] is None


def test_counts_are_those_of_the_attack_made_by_hand(finished: Run) -> None:
    """One frame, attacked here with its key's own generator, gives the counts of the sweep."""
    models: dict[str, Model] = load_models(finished)
    frames = scored_frames(finished)
    data = finished.dataset(frames)
    image, label, key = data[3]
    found = perturb(
        models["moe-simple"],
        image[None],
        label[None],
        generators_of(0, [key]),
        epsilon=0.1,
        attack=Attack(kind="pgd", steps=2, momentum=0.9, step_size=0.5),
    )
    with torch.no_grad():
        ids = models["moe-simple"](found.images).logits.argmax(1)
    path = finished.folder / "robustness/counts/all/moe-simple/slow@0.1.npz"
    confusion = read_counts(path).targets["moe-simple"][3]
    right = int(((ids[0] == label) & (label != 255)).sum())
    assert abs(int(confusion.trace()) - right) <= 2  # a gradient of about 0 may have either sign


@pytest.mark.parametrize("subset", ["day", "dusk", "day+dusk"])
def test_sea_is_at_least_as_strong_as_each_of_its_parts(finished: Run, subset: str) -> None:
    folder = finished.folder / "robustness/counts/strong/moe-simple"
    rows = rows_of(finished, "attack-strong")
    (row,) = pick(
        rows, kind="attack", condition="sea-3@32/255", model="moe-simple", source="moe-simple",
        subset=subset,
    )  # fmt: skip
    frames = limit(scored_frames(finished), 4)
    inside = torch.tensor([frame.subset in subset.split("+") for frame in frames])
    for name in SEA_PARTS:
        part = read_counts(folder / f"{name}-3@32-255.npz")
        counts = part.targets["moe-simple"][inside].double().sum(0)
        union = counts.sum(0) + counts.sum(1) - counts.diagonal()
        miou = (counts.diagonal() / union).mean()
        assert row["miou"] <= float(miou) + 1e-9
    assert set(row["checks"]) == {"budget", "radius", "collapse", "white-box", "progress"}
    assert row["checks"]["white-box"] is not None  # square and transfer stand beside it


def test_sea_under_a_name_of_its_own_runs_all_three_losses(finished: Run) -> None:
    folder = finished.folder / "robustness/counts/strong/moe-simple"
    kinds = [read_counts(path).settings["kind"] for path in sorted(folder.glob("worst-*.npz"))]
    assert kinds == ["apgd-balanced", "apgd-js", "apgd-masked"]
    rows = pick(rows_of(finished, "attack-strong"), kind="attack", attack="worst")
    assert {row["attack_settings"]["kind"] for row in rows} == {"sea"}


def test_rows_say_how_a_published_attack_was_run(finished: Run) -> None:
    """It leaves [0, 1] for all but an FRRN; here is none."""
    rows = pick(rows_of(finished, "attack-all"), kind="attack")
    clips = {(row["attack"], row["attack_settings"]["clip"]) for row in rows}
    assert ("pgd-published-3", False) in clips
    assert ("pgd-2", True) in clips


def test_rows_of_stages_that_are_gone_or_unfinished_are_not_read(
    finished: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    shutil.copy(folder / "robustness/attack-all.jsonl", folder / "robustness/attack-old.jsonl")
    assert read_run_rows(folder) == read_run_rows(finished.folder)
    (folder / "stages/attack-strong.json").unlink()  # as when the models are trained again
    conditions = {row["condition"] for row in read_run_rows(folder)}
    assert "sea-3@32/255" not in conditions
    assert "pgd-2@8/255" in conditions


def test_a_check_that_failed_in_one_of_two_sweeps_has_failed(finished: Run, tmp_path: Path) -> None:
    row = pick(rows_of(finished, "attack-all"), kind="attack")[0]
    for name, verdict in (("a", None), ("b", False), ("c", True)):
        told = row | {"checks": dict.fromkeys(row["checks"], verdict)}
        write_rows(tmp_path / "robustness" / f"attack-{name}.jsonl", [told])
    (found,) = read_run_rows(tmp_path)
    assert set(found["checks"].values()) == {False}


def test_an_attack_that_leaves_too_much_at_a_large_radius_is_marked_in_every_sweep(
    finished: Run, tmp_path: Path
) -> None:
    rows = pick(rows_of(finished, "attack-all"), kind="attack", subset="day", model="baseline")
    (small,) = pick(rows, condition="pgd-2@8/255")
    (other,) = pick(rows, condition="fgsm@8/255")
    assert small["checks"]["collapse"] is other["checks"]["collapse"] is None
    large = small | {"condition": "pgd-2@32/255", "frames": "others"}
    large["checks"] = small["checks"] | {"collapse": False}
    write_rows(tmp_path / "robustness/attack-a.jsonl", [small, other])
    write_rows(tmp_path / "robustness/attack-b.jsonl", [large])
    found = [row["checks"] for row in read_run_rows(tmp_path)]
    assert [checks["collapse"] for checks in found] == [False, None, False]
    assert found[0] | {"collapse": None} == small["checks"]


def test_models_moved_by_the_inference_loop_can_still_be_attacked(finished: Run) -> None:
    """A move inside inference mode would make parameters that no gradient may pass."""
    expert = load_models(finished, ["expert-day"])["expert-day"]
    plain = expert.to

    def to(device: str) -> Model:  # stands for a move to another device
        plain(torch.float64)
        return plain(torch.float32)

    expert.to = to  # type: ignore[method-assign, assignment]
    data = finished.dataset(scored_frames(finished)[:2])
    counted = FrameCounts([frame.key for frame in data.frames], 3)
    run_models({"expert-day": expert}, data, {"expert-day": [counted]})
    image, label, key = data[0]
    where = (image[None], label[None], generators_of(0, [key]))
    found = perturb(expert, *where, epsilon=0.1, attack=Attack.parse("pgd-1"))
    assert not torch.equal(found.images[0], image)


def test_transfer_scores_every_model_on_each_ones_images(finished: Run) -> None:
    rows = rows_of(finished, "attack-strong")
    pairs = {(row["source"], row["model"]) for row in pick(rows, kind="attack")}
    assert pairs == {
        (a, b) for a in ("expert-day", "moe-simple") for b in ("expert-day", "moe-simple")
    }
    (row,) = pick(
        rows, kind="attack", source="moe-simple", model="expert-day", subset="day",
        condition="pgd-3@32/255",
    )  # fmt: skip
    assert row["losses"] is None
    assert row["clean_miou"] is not None
    assert {row["images"] for row in pick(rows, kind="segmentation", subset="day+dusk")} == {4}


def test_models_that_have_not_the_attacked_part_are_scored_and_told_in_full(
    finished: Run,
) -> None:
    rows = pick(rows_of(finished, "attack-part"), kind="attack")
    assert {(row["source"], row["model"]) for row in rows} == {
        ("moe-simple", "moe-simple"),
        ("moe-simple", "baseline"),
    }
    frames = limit(scored_frames(finished), 4)
    data, baseline = finished.dataset(frames), load_models(finished, ["baseline"])["baseline"]
    counted = FrameCounts([frame.key for frame in frames], 3)
    run_models({"baseline": baseline}, data, {"baseline": [counted]})
    (row,) = pick(rows, model="baseline", subset="day+dusk")
    assert row["clean_miou"] == pytest.approx(scores(counted.confusion.long().sum(0)).miou)
    assert row["lost"] == pytest.approx(row["clean_miou"] - row["miou"])
    assert row["ci95"] is not None


def test_a_damaged_file_of_counts_is_made_again_and_told_if_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, settings=np.array("{}"), values=np.arange(9999))
    for content in (path.read_bytes()[:200], b"PK nothing"):
        path.write_bytes(content)
        with pytest.raises(DataError, match="expected counts of an attack"):
            read_counts(path)


def test_the_loss_on_clean_images_is_that_of_what_the_attack_reads() -> None:
    images, label = (one[:2] for one in scenes(False))
    mixture = trained_mixture()
    for part, read in (("all", mixture), ("weights", mixture), ("expert-2", mixture.experts[1])):
        with torch.no_grad():
            wanted = cross_entropy(Pixels.of(read(images).logits, label), 0.0)
        told = reaction(mixture, images, images, label, through=part)["clean_loss"]
        torch.testing.assert_close(told, wanted)


def test_universal_changes_are_trained_on_training_frames_and_say_so(finished: Run) -> None:
    path = finished.folder / "robustness/counts/all/moe-simple/universal-2@0.1.safetensors"
    change, noted = load_universal(path)
    assert change.abs().max() <= 0.1 + 1e-6
    assert change.abs().max() > 0
    assert noted["subsets"] == ["day", "dusk"]
    assert noted["frames"] == len(finished.frames("day+dusk", "train"))
    assert noted["epochs_done"] == 2


def test_corruptions_have_rows_of_every_model(finished: Run) -> None:
    rows = pick(rows_of(finished, "corruptions"), kind="segmentation")
    assert {row["condition"] for row in rows} == {
        "fog-1",
        "fog-5",
        "gaussian-noise-1",
        "gaussian-noise-5",
    }
    assert {row["model"] for row in rows} == set(finished.study.model_names())
    clean = read_rows(finished.folder / "results.jsonl")
    assert (
        pick(rows, condition="fog-5")[0]["images"] == pick(clean, kind="segmentation")[0]["images"]
    )


def test_subsets_that_are_never_scored_are_corrupted_and_scored_clean(
    finished: Run, tmp_path: Path
) -> None:
    settings = finished.study.model_dump(mode="json")
    settings["eval"]["subsets"] = ["day"]
    settings["robustness"] = {
        "subsets": ["day", "dusk"],
        "corruptions": {"names": ["fog"], "severities": [1], "models": ["baseline"]},
    }
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    run = Run(parse_study(settings, "test"), folder)
    known = read_rows(folder / "results.jsonl")
    write_rows(folder / "results.jsonl", pick(known, subset="day"))  # as `evaluate` would
    ledger(run).make(ledger(run).stages["corruptions"])
    rows = pick(rows_of(run, "corruptions"), kind="segmentation")
    assert {(row["subset"], row["condition"]) for row in rows} == {
        ("dusk", "clean"),
        ("day", "fog-1"),
        ("dusk", "fog-1"),
    }
    (clean,) = pick(rows, condition="clean")
    (before,) = pick(known, kind="segmentation", model="baseline", subset="dusk")
    assert clean["miou"] == before["miou"]
    shown = [t for t in condition_tables(read_run_rows(folder)) if "corruptions on" in t.heading]
    assert "relative" in shown[0].columns
    assert all(t.cells[0][-1] != "-" for t in shown if "relative" in t.columns)


def test_tables_hold_every_attack_once_though_two_sweeps_share_frames(finished: Run) -> None:
    text = (finished.folder / "robustness.md").read_text()
    for name in ("pgd-2", "sea-3", "universal-2", "pgd-2:weights", "fog"):
        assert name in text
    rows = read_run_rows(finished.folder)
    attacks = [row for row in rows if row["kind"] == "attack"]
    assert len({(r["model"], r["source"], r["condition"], r["subset"]) for r in attacks}) == len(
        attacks
    )


def test_changed_frames_are_there_to_look_at(finished: Run) -> None:
    layers = finished.folder / "insight/layers"
    assert {path.name for path in layers.iterdir()} == {"clean", "pgd-2@8-255", "fog-5"}
    assert (layers / "fog-5" / "0001" / "moe-simple.png").exists()
    report = (finished.folder / "report.html").read_text()
    assert "pgd-2@8/255 on moe-classwise-conv" in report


def test_a_second_run_does_nothing_and_other_settings_do_it_again(
    finished: Run, tmp_path: Path
) -> None:
    assert {state for _, state, _ in plan(finished)} == {"done"}
    changed = study_settings(finished.folder.parent, finished.folder)
    other = {**ROBUSTNESS, "sweeps": {**ROBUSTNESS["sweeps"]}}
    other["sweeps"]["all"] = {**other["sweeps"]["all"], "epsilons": ["1/255"]}
    run = Run(parse_study(changed | {"robustness": other}, "test"))
    states = {name: state for name, state, _ in plan(run)}
    assert states["attack-all"] == "stale"
    assert states["attack-strong"] == states["corruptions"] == "done"


def test_a_killed_sweep_goes_on_after_the_last_finished_attack(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    run = Run(load_study(finished.folder.parent / "study.yaml"), folder)
    (folder / "robustness/attack-strong.jsonl").unlink()
    shutil.rmtree(folder / "robustness/counts/strong")
    attacked = Counter[str]()

    def dying(model: Model, images: Tensor, *rest: Any, **more: Any) -> Perturbed:  # noqa: ANN401
        attacked[more["attack"].kind] += 1
        if attacked.total() == 6:
            raise KeyboardInterrupt
        return perturb(model, images, *rest, **more)

    monkeypatch.setattr("moeseg.robustness.sweep.perturb", dying)
    with pytest.raises(KeyboardInterrupt):
        run_study(run)
    left = {path.relative_to(folder) for path in folder.glob("robustness/counts/strong/*/*")}
    assert len(left) == 5
    broken = folder / sorted(left)[0]
    broken.write_bytes(broken.read_bytes()[:100])  # as a full disk leaves it
    assert ledger(run).state(ledger(run).stages["attack-strong"]) == "started"
    attacked.clear()

    def counted(model: Model, images: Tensor, *rest: Any, **more: Any) -> Perturbed:  # noqa: ANN401
        attacked[more["attack"].kind] += 1
        return perturb(model, images, *rest, **more)

    monkeypatch.setattr("moeseg.robustness.sweep.perturb", counted)
    run_study(run)
    assert attacked.total() == 16 - 5 + 1
    assert rows_of(run, "attack-strong") == rows_of(finished, "attack-strong")


def test_rows_of_a_sweep_are_marked_by_their_frames(finished: Run) -> None:
    every, some = rows_of(finished, "attack-all"), rows_of(finished, "attack-strong")
    marks = {
        subset: [{row["frames"] for row in pick(rows, subset=subset)} for rows in (every, some)]
        for subset in ("day", "dusk", "day+dusk")
    }
    assert all(len(one) == len(other) == 1 for one, other in marks.values())
    assert len({mark for both in marks.values() for (mark,) in both}) == 6
    again = pick(rows_of(finished, "attack-part"), subset="day")
    assert {row["frames"] for row in again} == marks["day"][1]


def test_two_processes_give_the_rows_of_one(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    shutil.rmtree(folder / "robustness")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
            *("-m", "moeseg", "study", str(finished.folder.parent / "study.yaml")),
            *("--out", str(folder)),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    for name in ("attack-all", "attack-strong", "corruptions"):
        assert close(rows_of(Run(finished.study, folder), name), rows_of(finished, name))


def close(found: list[Row], wanted: list[Row]) -> bool:
    """Return whether rows are alike but for a pixel: a batch of another size rounds otherwise."""
    assert [(r["kind"], r["model"], r["condition"]) for r in found] == [
        (r["kind"], r["model"], r["condition"]) for r in wanted
    ]
    told = ("miou", "clean_miou", "losses", "route_moved", "expert_miou", "gate_held_miou")
    pairs = [
        (a[key], b[key])
        for a, b in zip(found, wanted, strict=True)
        for key in told
        if a.get(key) is not None
    ]
    return all(a == pytest.approx(b, abs=0.015) for a, b in pairs)


def test_own_attacks_take_the_steps_of_their_short_names() -> None:
    kinds: list[AttackKind] = ["fgsm", "pgd", "sea", "square", "universal-published"]
    own = RobustnessConfig(attacks={f"my-{k}": AttackConfig(kind=k) for k in kinds})
    for kind in kinds:
        assert attack_named(f"my-{kind}", own) == Attack.parse(kind)


@pytest.mark.parametrize("name", ["mine", "sea"])
def test_attacks_have_the_precision_of_their_study(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = RobustnessConfig(attacks={"mine": AttackConfig(kind="sea")}, precision="auto")
    plain = Attack.parse("sea")
    wanted: dict[str, PassPrecision] = {"16-mixed": "32-true", "bf16-mixed": "bf16-mixed"}
    for found, precision in wanted.items():
        monkeypatch.setattr("moeseg.robustness.plan.resolve_precision", lambda _, f=found: f)
        assert attack_named(name, own) == replace(plain, precision=precision)


@pytest.mark.parametrize(
    ("name", "first"), [("sea-3", "apgd-js-3"), ("search", "search-apgd-js"), ("sea", "apgd-js")]
)
def test_parts_of_sea_have_names_of_their_own(name: str, first: str) -> None:
    unit = Unit("baseline", name, Attack(kind="sea"), "4/255", 4 / 255)
    assert next(parts_of(unit)).name == first


def test_published_attacks_clip_as_the_original_did_by_architecture() -> None:
    frrn = build_expert({"name": "frrn-a", "num_classes": 3, "channels": 3})
    plain = tiny_expert()
    both = build_mixture([frrn, build_expert(frrn.description)], "simple", size=SIZE)
    mixed = build_ensemble([frrn, plain], "mean")
    clipped = {
        name: tuple(clips(model, Attack.parse(name)) for model in (frrn, both, plain, mixed))
        for name in ("pgd-published", "universal-published", "fgsm-published", "pgd")
    }
    assert clipped == {
        "pgd-published": (True, True, False, False),
        "universal-published": (True, True, False, False),
        "fgsm-published": (False, False, False, False),
        "pgd": (True, True, True, True),
    }


def test_some_subsets_alone_are_attacked_and_corrupted(finished: Run) -> None:
    settings = finished.study.model_dump(mode="json")
    settings["robustness"] |= {"subsets": ["dusk"], "sweeps": {"a": ROBUSTNESS["sweeps"]["strong"]}}
    stages = ledger(Run(parse_study(settings, "test"))).stages
    run = Run(parse_study(settings, "test"))
    for name in ("attack-a", "corruptions"):
        inputs = stages[name].inputs(run)
        assert inputs["subsets"] == ("dusk",)
        dusk = [frame for frame in scored_frames(run) if frame.subset == "dusk"]
        assert inputs["frames"] == run.frames_print(dusk)


def test_a_gate_without_an_eye_has_no_weights_to_attack(tmp_path: Path) -> None:
    settings = study_settings(tmp_path, tmp_path / "run")
    settings["mixtures"] = {"moe-fixed": {"gate": "constant"}, "moe-simple": {"gate": "simple"}}
    parts = planned_parts(parse_study(settings, "test"))
    assert "weights" not in parts["moe-fixed"]
    assert "weights" in parts["moe-simple"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sweeps": {"a": {"attacks": ["pdg"], "epsilons": [0.1]}}}, "Did you mean 'pgd'"),
        (
            {"sweeps": {"a": {"attacks": ["pgd"], "epsilons": [0.1], "models": ["moe-simpel"]}}},
            "unknown model 'moe-simpel'. Did you mean 'moe-simple'",
        ),
        (
            {"sweeps": {"a": {"attacks": ["pgd:logits"], "epsilons": [0.1], "models": ["merged"]}}},
            "unknown model 'merged'",
        ),
        (
            {
                "sweeps": {
                    "a": {"attacks": ["pgd:logits"], "epsilons": [0.1], "models": ["baseline"]}
                }
            },
            "none of baseline has a part 'logits'",
        ),
        ({"sweeps": {"a": {"attacks": ["pgd"], "epsilons": [0.9]}}}, "at most 64/255"),
        ({"corruptions": {"names": ["fogg"]}}, "unknown corruption 'fogg'. Did you mean 'fog'"),
        ({"show": ["fogg-3"]}, "unknown attack 'fogg'"),
    ],
)
def test_wrong_names_are_told_before_anything_is_trained(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    write_data(tmp_path)
    settings = study_settings(tmp_path, tmp_path / "run") | {"robustness": changes}
    run = Run(parse_study(settings, "test"))
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        run_study(run)
    assert not (tmp_path / "run" / "models").exists()


@pytest.mark.parametrize("radius", ["-1/255", "0", "2", "x", "1/0"])
def test_absurd_radii_are_refused_with_the_file(radius: str, tmp_path: Path) -> None:
    settings = study_settings(tmp_path, tmp_path / "run")
    settings["robustness"] = {"sweeps": {"a": {"attacks": ["pgd"], "epsilons": [radius]}}}
    with pytest.raises(UsageError, match=r"epsilons.0: expected a number in \(0, 1\]") as told:
        parse_study(settings, "test")
    assert "1 setting to mend" in str(told.value)  # the list is not too short besides


def test_frames_without_any_label_are_told(tmp_path: Path) -> None:
    """Labels of the test frames become the ignored colour; what was trained before is kept."""
    robustness = {"sweeps": {"a": {"attacks": ["fgsm"], "epsilons": [0.1], "models": ["baseline"]}}}
    file = write_study(tmp_path, tmp_path / "run", robustness=robustness)
    taxonomy = tmp_path / "taxonomy.yaml"
    taxonomy.write_text(taxonomy.read_text() + "ignore: ['#010203']\n")
    for path in (tmp_path / "labels").glob("*-test-*.png"):
        Image.fromarray(np.full((*SIZE, 3), (1, 2, 3), np.uint8)).save(path)
    run = Run(load_study(file))
    with pytest.raises(DataError, match=r"fgsm@0.1.*8 frames whose labels are all ignored"):
        run_study(run)
    assert (run.folder / "results.jsonl").exists()
    assert not (run.folder / "robustness" / "attack-a.jsonl").exists()


def test_files_of_attacks_have_names_that_any_disk_takes() -> None:
    unit = Unit("m", "pgd-2:expert-1", Attack.parse("pgd-2:expert-1"), "8/255", 8 / 255)
    assert path_of(Path("x"), unit) == Path("x/m/pgd-2_expert-1@8-255.npz")
