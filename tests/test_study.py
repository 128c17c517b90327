from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import moeseg
from moeseg.config import EvalConfig, Study, load_study, parse_study
from moeseg.data import SegmentationDataset
from moeseg.errors import DataError, UsageError
from moeseg.evaluation.rows import read_rows, validate_row
from moeseg.evaluation.saved import evaluate_saved
from moeseg.evaluation.stages import load_models, scored_frames
from moeseg.models import Gate, Mixture
from moeseg.run import Run
from moeseg.study import ledger, plan, run_study
from moeseg.training.frames import gate_frames, network_frames, split_held_out
from moeseg.training.network_stages import initial_network
from moeseg.types import Frame
from tiny import SIZE, study_settings, write_data, write_study

FEW = {"channels": 3}
SHIPPED = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))
CONFIGS = [path for path in SHIPPED if not path.stem.startswith("ablation")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("study")
    run = Run(load_study(write_study(folder, folder / "run")))
    run_study(run)
    return run


def fresh(finished: Run, out: Path, **changes: object) -> Run:
    settings = study_settings(finished.folder.parent, out) | changes
    return Run(parse_study(settings, "test"))


def states(run: Run) -> dict[str, str]:
    book = ledger(run)
    return {name: book.state(stage) for name, stage in book.stages.items()}


def test_every_model_has_a_row_on_every_subset(finished: Run) -> None:
    rows = read_rows(finished.folder / "results.jsonl")
    for row in rows:
        validate_row(row)
    found = {
        (row["model"], row["subset"])
        for row in rows
        if row["kind"] == "segmentation" and not row["model"].startswith("oracle-")
    }
    names = [
        "baseline",
        "expert-day",
        "expert-dusk",
        "ensemble-mean",
        "ensemble-max",
        "ensemble-mean-probability",
        "moe-simple",
        "moe-classwise-conv",
    ]
    assert finished.study.model_names() == names
    assert found == {(name, s) for name in names for s in ("day", "dusk", "day+dusk")}
    images = {row["subset"]: row["images"] for row in rows}
    assert images == {"day": 4, "dusk": 4, "day+dusk": 8}
    minus = {(row["model"], row["minus"]) for row in rows if row["kind"] == "difference"}
    assert {m for m, _ in minus} == {"moe-simple", "moe-classwise-conv"}


def test_rows_equal_an_independent_count(finished: Run) -> None:
    rows = read_rows(finished.folder / "results.jsonl")
    data = finished.dataset(finished.frames("day+dusk", "test"))
    for name in ("expert-dusk", "ensemble-max", "moe-classwise-conv"):
        model = moeseg.load(finished.model(name))  # type: ignore[operator]
        table = torch.zeros(3, 3)
        for image, label, _ in (data[i] for i in range(len(data))):
            guess = model(image[None]).logits[0].argmax(0)
            for truth, found in zip(
                label.flatten().tolist(), guess.flatten().tolist(), strict=True
            ):
                table[truth, found] += 1
        union = table.sum(0) + table.sum(1) - table.diag()
        expected = (table.diag() / union)[table.sum(1) > 0].mean().item()
        (row,) = [
            r
            for r in rows
            if (r["kind"], r["model"], r["subset"]) == ("segmentation", name, "day+dusk")
        ]
        assert row["miou"] == pytest.approx(expected, abs=1e-6)


def test_outputs_are_there(finished: Run) -> None:
    for name in ("table.md", "table.csv", "classes.csv", "frames.png", "study.yaml"):
        assert (finished.folder / name).stat().st_size > 0
    table = (finished.folder / "table.md").read_text()
    assert "| moe-classwise-conv |" in table
    assert Study.model_validate(load_study(finished.folder / "study.yaml")) == finished.study


def test_a_sheet_shows_frames_of_every_subset(finished: Run) -> None:
    assert {f.subset for f in scored_frames(finished)} == {"day", "dusk"}
    with Image.open(finished.folder / "frames.png") as sheet:
        assert sheet.width > 6 * SIZE[1]
        assert sheet.height > 2 * SIZE[0]
    none = finished.study.model_copy(update={"eval": EvalConfig(sheet=0)})
    assert states(Run(none))["sheet"] != "started"


def test_models_share_their_experts_when_loaded_together(finished: Run) -> None:
    models = load_models(finished)
    experts = {id(expert) for model in models.values() for expert in model.experts}
    assert len(experts) == 3
    assert models["moe-simple"].experts[0] is models["expert-day"]


def test_a_second_run_does_nothing(finished: Run) -> None:
    before = {p: p.stat().st_mtime_ns for p in finished.folder.glob("models/*/*")}
    assert set(states(finished).values()) == {"done"}
    run_study(Run(finished.study))
    assert before == {p: p.stat().st_mtime_ns for p in finished.folder.glob("models/*/*")}


def on_scenes(out: Path, **data: object) -> Run:
    """Return a study over a few rendered scenes, with settings of `data` beside."""
    drives = {"highway": {"train": 2, "val": 1, "test": 1}, "urban": {"train": 2, "test": 1}}
    settings = study_settings(out, out) | {
        "data": {
            "reader": "synthetic",
            "size": [32, 48],
            "workers": 0,
            "synthetic": {"size": [32, 48], "drives": drives, "frames_per_drive": 2},
            **data,
        },
        "architecture": {"name": "tiny:TinyExpert", "arguments": {"num_classes": 38}},
        "experts": {"highway": {}, "urban": {"training": {"choose": "last"}}},
        "mixtures": {"moe-simple": {"gate": "simple"}},
    }
    return Run(parse_study(settings, "test"))


@pytest.fixture
def one_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Render in this process: starting others takes longer than a few scenes."""
    monkeypatch.setattr(os, "cpu_count", lambda: 1)


@pytest.mark.usefixtures("one_worker")
def test_a_second_run_on_scenes_renders_them_where_they_are_gone_and_no_more(
    tmp_path: Path,
) -> None:
    run = on_scenes(tmp_path / "run")
    assert set(states(run).values()) == {"missing"}
    run_study(run)
    assert set(states(Run(run.study)).values()) == {"done"}
    notes = {path: path.read_bytes() for path in (run.folder / "stages").iterdir()}
    shutil.rmtree(run.folder / "scenes")
    left = {name: state for name, state in states(Run(run.study)).items() if state != "done"}
    assert left == {"scenes": "started"}
    run_study(Run(run.study))
    assert set(states(Run(run.study)).values()) == {"done"}
    del notes[run.folder / "stages" / "scenes.json"]
    assert all(path.read_bytes() == note for path, note in notes.items())


@pytest.mark.usefixtures("one_worker")
def test_shared_scenes_that_are_gone_are_neither_done_nor_adopted(tmp_path: Path) -> None:
    root = tmp_path / "scenes"
    runs = [on_scenes(tmp_path / name, root=str(root)) for name in ("first", "second")]
    books = [ledger(run) for run in runs]
    scenes = books[0].stages["scenes"]
    books[0].make(scenes)
    assert books[1].adopt(scenes, runs[0])
    assert {book.state(scenes) for book in books} == {"done"}
    shutil.rmtree(root)
    assert {book.state(scenes) for book in books} == {"started"}
    third = on_scenes(tmp_path / "third", root=str(root))
    assert not ledger(third).adopt(scenes, runs[0])
    ledger(third).make(scenes)
    assert all(frame.image.is_file() for frame in third.catalogue.frames)
    assert {book.state(scenes) for book in books} == {"done"}
    (root / "keep.txt").write_text("mine")
    ledger(on_scenes(tmp_path / "fourth", root=str(root))).make(scenes)
    assert (root / "keep.txt").read_text() == "mine"


def test_gates_were_trained_and_experts_left_alone(finished: Run) -> None:
    models = load_models(finished)
    for name, config in finished.study.mixtures.items():
        mixture = models[name]
        assert isinstance(mixture, Mixture)
        from moeseg.training.gate_stages import initial_mixtures

        start = initial_mixtures(finished, list(mixture.experts), [name])[name].gate
        assert isinstance(start, Gate)
        assert isinstance(mixture.gate, Gate)
        assert not torch.equal(start.conv1.weight, mixture.gate.conv1.weight)
        assert (mixture.head is not None) == config.conv


def test_experts_start_from_the_same_weights(finished: Run) -> None:
    day, dusk, base = (
        initial_network(finished, name).state_dict()
        for name in ("expert-day", "expert-dusk", "baseline")
    )
    assert all(torch.equal(day[key], dusk[key]) and torch.equal(day[key], base[key]) for key in day)


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({"gate": {"epochs": 1, "batch_size": 4, "pixels": 64}}, {"gates"}),
        ({"eval": {"batch_size": 2, "sheet": 1}}, set()),
        ({"eval": {"batch_size": 4, "sheet": 2}}, {"sheet"}),
        ({"published": {"baseline": {"day": 50.0}}}, {"table", "report"}),
        ({"insight": {"frames": 1}}, {"insight", "report"}),
        (
            {"experts": {"day": {}, "dusk": {"training": {"epochs": 1}}}},
            {"train-expert-dusk", "ensembles", "cache", "gates"},
        ),
    ],
)
def test_a_changed_setting_makes_just_what_hangs_on_it_stale(
    finished: Run, changes: dict[str, object], stale: set[str]
) -> None:
    run = fresh(finished, finished.folder, **changes)
    after = {"evaluate", "table", "sheet", "insight", "report"}
    always = after if stale & {"gates", "ensembles"} else set()
    found = {name for name, state in states(run).items() if state != "done"}
    assert found == stale | always


def test_changed_code_of_an_own_expert_makes_it_stale(
    finished: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert states(Run(finished.study))["train-baseline"] == "done"
    place = "moeseg.training.network_stages.own_source"
    monkeypatch.setattr(place, lambda name: "class TinyExpert: ...")
    assert states(Run(finished.study))["train-baseline"] == "stale"


def test_a_changed_label_makes_its_readers_stale(tmp_path: Path) -> None:
    run = Run(load_study(write_study(tmp_path, tmp_path / "run")))
    stage = ledger(run).stages["train-expert-day"]
    before = ledger(run).fingerprint(stage)
    label = run.frames("day", "train")[0].label
    assert label is not None
    label.write_bytes(label.read_bytes() + b"\0")
    again = Run(run.study)
    assert ledger(again).fingerprint(ledger(again).stages["train-expert-day"]) != before
    dusk = "train-expert-dusk"
    assert ledger(again).fingerprint(ledger(again).stages[dusk]) == ledger(run).fingerprint(
        ledger(run).stages[dusk]
    )


def test_a_killed_run_goes_on_and_ends_at_the_same_weights(finished: Run, tmp_path: Path) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    command = [sys.executable, "-m", "moeseg", "study", str(file)]
    # as many threads as in this process: sums in another order round differently
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, text=True)
    last = tmp_path / "run" / "training" / "expert-day" / "last.ckpt"
    deadline = time.monotonic() + 240
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(UsageError, match="another run is at work"):
        run_study(Run(load_study(file)))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert last.exists(), "killed too early to test anything"
    run = Run(load_study(file))
    assert states(run)["train-baseline"] == "done"
    assert states(run)["gates"] == "missing"
    run_study(run)
    for name in run.study.model_names():
        ours = moeseg.load(run.model(name)).state_dict()  # type: ignore[operator]
        theirs = moeseg.load(finished.model(name)).state_dict()  # type: ignore[operator]
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items()), name


def test_a_remade_expert_makes_stale_what_hangs_on_it(tmp_path: Path) -> None:
    run = Run(load_study(write_study(tmp_path, tmp_path / "run")))
    run_study(run)
    shutil.rmtree(run.model("expert-day"))
    shutil.rmtree(run.log("expert-day"))
    run_study(run, ["expert-day"])
    left = {name for name, state in states(run).items() if state != "done"}
    after = {"evaluate", "table", "sheet", "insight", "report"}
    assert left == {"ensembles", "cache", "gates"} | after
    run_study(run)
    assert set(states(run).values()) == {"done"}


def test_plan_lists_every_stage_with_its_cost(finished: Run, tmp_path: Path) -> None:
    done = plan(finished)
    assert [state for _, state, _ in done] == ["done"] * len(done)
    missing = plan(fresh(finished, tmp_path / "other"))
    assert [name for name, _, _ in missing] == [name for name, _, _ in done]
    costs = {name: cost for name, _, cost in missing}
    assert costs["train-baseline"].seconds > costs["train-expert-day"].seconds > 0
    assert costs["cache"].bytes > 0


def test_only_makes_what_a_model_stands_on(finished: Run, tmp_path: Path) -> None:
    run = fresh(finished, tmp_path / "run")
    run_study(run, ["expert-dusk"])
    assert [path.name for path in (tmp_path / "run" / "models").iterdir()] == ["expert-dusk"]


def test_torchrun_carries_out_a_study_in_two_processes(tmp_path: Path) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"),
            *("-m", "moeseg", "study", str(file), "--set", "training.devices=2"),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    run = Run(load_study(file, ["training.devices=2"]))
    assert set(states(run).values()) == {"done"}
    rows = read_rows(run.folder / "results.jsonl")
    assert {row["images"] for row in rows if row["subset"] == "day+dusk"} == {8}
    assert done.stderr.count("training on 8 frames") == 2  # rank 0 tells of each expert once


def test_three_experts_of_mixed_architectures_make_a_study(tmp_path: Path) -> None:
    deeplab = {"name": "deeplabv3plus", "backbone": "mobilenet_v2", "channels": 8}
    experts = {
        "day": {},
        "dusk": {"architecture": deeplab},
        "both": {"subset": "day+dusk", "architecture": {"name": "frrn-a", "arguments": FEW}},
    }
    run = Run(load_study(write_study(tmp_path, tmp_path / "run", experts=experts)))
    run_study(run)
    mixture = load_models(run)["moe-classwise-conv"]
    assert [expert.stride for expert in mixture.experts] == [8, 16, 16]
    data = run.dataset(run.frames("dusk", "test"))
    weights = mixture(data[0][0][None]).weights
    assert weights is not None
    assert weights.shape == (1, 3, 3)
    assert torch.allclose(weights.sum(1), torch.ones(1, 3))
    rows = read_rows(run.folder / "results.jsonl")
    names = {row["architecture"] for row in rows if row["model"] == "moe-simple"}
    assert names == {"tiny:TinyExpert+deeplabv3plus-mobilenet_v2+frrn-a"}


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_an_expert_can_be_given_by_path(finished: Run, tmp_path: Path, file: str) -> None:
    given = finished.model("expert-dusk") / file
    experts = {"day": {}, "dusk": {"weights": str(given)}}
    run = fresh(finished, tmp_path / "run", experts=experts)
    run_study(run, ["expert-dusk"])
    ours = moeseg.load(run.model("expert-dusk")).state_dict()  # type: ignore[operator]
    theirs = moeseg.load(finished.model("expert-dusk")).state_dict()  # type: ignore[operator]
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert not run.log("expert-dusk").exists()


def test_an_expert_of_frames_that_came_to_their_size_otherwise_is_refused(
    finished: Run, tmp_path: Path
) -> None:
    given = tmp_path / "given"
    shutil.copytree(finished.model("expert-dusk"), given)
    description = json.loads((given / "model.json").read_text())
    description["info"]["fit"] = "squeeze"  # as imports of the original are saved
    (given / "model.json").write_text(json.dumps(description))
    experts = {"day": {}, "dusk": {"weights": str(given)}}
    run = fresh(finished, tmp_path / "run", experts=experts)
    with pytest.raises(UsageError, match=r"given: data\.fit: expected 'squeeze', as the model saw"):
        run_study(run)
    assert not run.folder.exists()
    data = study_settings(finished.folder.parent, tmp_path)["data"] | {"fit": "squeeze"}
    squeezed = fresh(finished, tmp_path / "run", experts=experts, data=data)
    assert "weights" in ledger(squeezed).stages["train-expert-dusk"].inputs(squeezed)


def test_end_to_end_gates_are_a_setting(finished: Run, tmp_path: Path) -> None:
    gate = {"epochs": 1, "batch_size": 4, "pixels": "all", "end_to_end": True}
    run = fresh(finished, tmp_path / "run", gate=gate)
    assert "cache" not in ledger(run).stages
    run_study(run, ["moe-simple"])
    assert not (run.folder / "cache").exists()
    assert isinstance(moeseg.load(run.model("moe-simple")), Mixture)  # type: ignore[operator]


def test_held_out_frames_are_seen_by_gates_and_not_by_experts(
    finished: Run, tmp_path: Path
) -> None:
    run = fresh(finished, tmp_path, gate={"frames": "heldout", "heldout": 0.5})
    held = {frame.key for frame in gate_frames(run)}
    seen = {f.key for name in ("expert-day", "expert-dusk") for f in network_frames(run, name)}
    everything = {frame.key for frame in run.frames("day+dusk", "train")}
    assert held
    assert not held & seen
    assert held | seen == everything
    assert {frame.key for frame in network_frames(run, "baseline")} == everything


def some_frames(sequences: int, each: int) -> list[Frame]:
    nowhere = Path("nowhere")
    return [
        Frame(f"s{s}", f"{i:03d}", nowhere, nowhere, "a", "train")
        for s in range(sequences)
        for i in range(each)
    ]


@pytest.mark.parametrize(("sequences", "held"), [(4, 1), (8, 2), (2, 1)])
def test_whole_sequences_are_held_out(sequences: int, held: int) -> None:
    seen, out = split_held_out(some_frames(sequences, 5), 0.25, seed=0)
    assert len({frame.sequence for frame in out}) == held
    assert not {frame.sequence for frame in out} & {frame.sequence for frame in seen}


def test_the_end_of_a_lone_sequence_is_held_out() -> None:
    seen, out = split_held_out(some_frames(1, 8), 0.25, seed=0)
    assert [frame.frame for frame in out] == ["006", "007"]
    assert len(seen) == 6
    with pytest.raises(DataError, match="two or more training frames"):
        split_held_out(some_frames(1, 1), 0.25, seed=0)


def test_sizes_of_scoring_and_training_may_differ(finished: Run, tmp_path: Path) -> None:
    run = fresh(
        finished,
        tmp_path / "run",
        mixtures={"moe-simple": {"gate": "simple", "pool": [2, 2]}},
        eval={"size": [32, 48], "batch_size": 4, "sheet": 0},
        baseline=None,
    )
    run_study(run)
    rows = read_rows(run.folder / "results.jsonl")
    assert {tuple(row["size"]) for row in rows} == {(32, 48)}
    assert tuple(run.study.data.size) == SIZE


def give_cars_a_second_colour(folder: Path) -> None:
    """Make cars a class of two colours, of which every second label picture shows the second."""
    taxonomy = yaml.safe_load((folder / "taxonomy.yaml").read_text())
    taxonomy["classes"][2]["colours"].append("#ffff00")
    (folder / "taxonomy.yaml").write_text(yaml.safe_dump(taxonomy))
    for path in sorted((folder / "labels").iterdir())[::2]:
        pixels = np.array(Image.open(path))
        pixels[(pixels == (255, 0, 0)).all(-1)] = (255, 255, 0)
        Image.fromarray(pixels).save(path)


def test_first_colours_only_teaches_wrong_labels_and_scores_right_ones(tmp_path: Path) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    give_cars_a_second_colour(tmp_path)
    right, wrong = (
        Run(load_study(file, [f"data.label_colours={which}"])) for which in ("all", "first-only")
    )
    frames = right.frames("day+dusk", "train")
    recoloured = 0
    for frame in frames:
        truth, taught = right.read_training_label(frame), wrong.read_training_label(frame)
        assert np.array_equal(wrong.catalogue.read_label(frame), truth)
        assert frame.label is not None
        yellow = (np.array(Image.open(frame.label)) == (255, 255, 0)).all(-1)
        recoloured += int(yellow.sum())
        assert (truth[yellow] == 2).all()
        assert np.array_equal(taught, np.where(yellow, 0, truth))
        assert np.array_equal(wrong.training_dataset([frame])[0][1].numpy(), taught)
        assert np.array_equal(wrong.dataset([frame])[0][1].numpy(), truth)
    assert recoloured
    for name in ("train-expert-day", "cache"):
        prints = {ledger(run).fingerprint(ledger(run).stages[name]) for run in (right, wrong)}
        assert len(prints) == 2, name


@pytest.fixture(scope="module")
def adapted(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    gate = {"epochs": 2, "batch_size": 4, "pixels": 64, "expert_batchnorm": "adapt"}
    out = tmp_path_factory.mktemp("adapted") / "run"
    run = fresh(finished, out, gate=gate)
    assert "cache" not in ledger(run).stages
    run_study(run)
    return run


def test_adapting_batchnorm_drifts_and_stays_in_the_mixture_alone(
    finished: Run, adapted: Run
) -> None:
    trained = load_models(finished)
    for name in ("moe-simple", "moe-classwise-conv"):
        mixture = load_models(adapted)[name]
        for expert, own in zip(("day", "dusk"), mixture.experts, strict=True):
            before = trained[f"expert-{expert}"].state_dict()
            saved = load_models(adapted)[f"expert-{expert}"].state_dict()
            for key, value in own.state_dict().items():
                assert torch.equal(saved[key], before[key])  # the expert itself is as it was
                moved = not torch.equal(value, before[key])
                assert moved == ("running" in key or "tracked" in key), key
    rows = read_rows(adapted.folder / "results.jsonl")
    for row in rows:
        if row["model"].startswith("moe-"):
            assert row["settings"] == {"gate.expert_batchnorm": "adapt"}
        elif not row["model"].startswith("oracle-"):
            assert row["settings"] == {}  # no gate has a part in these models


def test_adapting_goes_on_after_a_kill_as_if_unbroken(
    finished: Run, adapted: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training: Any = importlib.import_module("moeseg.training.gate_stages")
    run = Run(adapted.study, tmp_path / "run")
    plain, calls = training.train_gates, []

    class Killed(Exception):  # noqa: N818 - stands for a signal
        pass

    def killed(*args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        calls.append(list(args[0]))
        if len(calls) == 2:
            raise Killed
        plain(*args, **kwargs)

    monkeypatch.setattr(training, "train_gates", killed)
    with pytest.raises(Killed):
        run_study(run)
    monkeypatch.setattr(training, "train_gates", plain)
    run_study(run)
    assert calls == [["moe-simple"], ["moe-classwise-conv"]]
    for name in ("moe-simple", "moe-classwise-conv"):
        one, two = (load_models(r)[name].state_dict() for r in (adapted, run))
        assert all(torch.equal(value, two[key]) for key, value in one.items())


def test_a_study_ends_with_insight_and_a_report(finished: Run) -> None:
    rows = read_rows(finished.folder / "results.jsonl")
    kinds = {"segmentation", "difference", "agreement", "detector", "routing"}
    assert {row["kind"] for row in rows} == kinds
    assert {row["model"] for row in rows if row["kind"] == "routing"} == {
        "moe-simple",
        "moe-classwise-conv",
    }
    assert {row["model"] for row in rows} >= {"oracle-image", "oracle-pixel"}
    insight = finished.folder / "insight"
    index = json.loads((insight / "layers" / "clean" / "index.json").read_text())
    assert index["models"] == finished.study.model_names()
    assert len(index["frames"]) == 8  # of 12 wanted of each subset
    assert len(list((insight / "overlays").iterdir())) == 8
    for mixture in finished.study.mixtures:
        assert len((insight / mixture / "frames.csv").read_text().splitlines()) == 1 + 8
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    assert "moe-classwise-conv" in page
    assert "oracle-pixel" in page


def test_the_settings_of_a_run_give_the_same_study_again(finished: Run) -> None:
    again = load_study(finished.folder / "study.yaml")
    for network in finished.study.networks():
        assert again.training_of(network) == finished.study.training_of(network)
        assert again.architecture_of(network) == finished.study.architecture_of(network)
    assert set(states(Run(again)).values()) == {"done"}


def test_the_oracle_is_never_called_best(finished: Run) -> None:
    table = (finished.folder / "table.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("| oracle-")]
    assert lines
    assert not any("**" in line for line in lines)


def test_adapted_mixtures_show_their_masks_and_no_agreement(adapted: Run) -> None:
    index = json.loads((adapted.folder / "insight/layers/clean/index.json").read_text())
    assert index["mixtures"] == {}
    assert "moe-simple" in index["models"]
    assert not (adapted.folder / "insight" / "overlays").exists()
    assert "moe-simple" in (adapted.folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("habit", [{"expert_batchnorm": "adapt"}, {"end_to_end": True}])
def test_gates_without_a_cache_need_no_room_for_one(
    finished: Run, tmp_path: Path, habit: dict[str, object]
) -> None:
    gate = {"pixels": "all", "cache": {"limit_gb": 1e-9}} | habit
    run = fresh(finished, tmp_path / "run", gate=gate)
    assert {state for _, state, _ in plan(run)} == {"missing"}


def test_nine_experts_have_scores_and_no_insight(finished: Run, tmp_path: Path) -> None:
    experts = {f"e{number}": {"subset": "day"} for number in range(9)}
    run = fresh(finished, tmp_path / "run", experts=experts)
    stages = ledger(run).stages
    assert "insight" not in stages
    assert stages["evaluate"].outputs(run) == [run.folder / "results.jsonl"]


def test_second_baseline_learns_what_the_first_does(finished: Run, tmp_path: Path) -> None:
    run = fresh(finished, tmp_path / "run", gate={"frames": "heldout"}, controls=["two-seed"])
    assert network_frames(run, "baseline-2") == network_frames(run, "baseline")
    assert len(network_frames(run, "expert-day")) < len(run.frames("day", "train"))


def test_merging_unlike_experts_is_refused_before_training(finished: Run, tmp_path: Path) -> None:
    experts = {"day": {}, "dusk": {"architecture": {"arguments": {"width": 9}}}}
    run = fresh(finished, tmp_path / "run", experts=experts, controls=["merged"])
    with pytest.raises(UsageError, match="merged` averages weights and needs experts of one"):
        run_study(run)
    assert not run.folder.exists()


@pytest.mark.parametrize(
    ("study", "own"),
    [
        (
            {"name": "deeplabv3plus", "backbone": "resnet18", "channels": 8},
            {"pretrained": "imagenet"},
        ),
        ({"name": "frrn-a"}, {"backbone": "resnet18", "output_stride": 8}),
        ({"name": "tiny:TinyExpert"}, {"normalisation": "none"}),
    ],
)
def test_experts_of_one_network_can_be_merged_whatever_else_their_settings_say(
    finished: Run, tmp_path: Path, study: dict[str, object], own: dict[str, object]
) -> None:
    experts = {"day": {}, "dusk": {"architecture": own}}
    run = fresh(finished, tmp_path, architecture=study, experts=experts, controls=["merged"])
    plain = fresh(finished, tmp_path, architecture=study, controls=["merged"])
    stage = ledger(run).stages["controls"]
    assert stage.inputs(run) == stage.inputs(plain)


def test_saved_models_keep_their_own_seed_habits_and_fit(finished: Run, tmp_path: Path) -> None:
    data = study_settings(finished.folder.parent, tmp_path)["data"]
    run = fresh(finished, tmp_path / "run", data=data | {"shuffle": False}, seed=5)
    rows = evaluate_saved(run, [finished.model("expert-day")], ["day"])
    assert [(row["seed"], row["settings"]) for row in rows] == [(0, {})]
    squeezed = fresh(finished, tmp_path / "run", data=data | {"fit": "squeeze"})
    with pytest.raises(UsageError, match=r"data\.fit: expected 'pad', as the model saw"):
        evaluate_saved(squeezed, [finished.model("expert-day")], ["day"])


def test_frames_to_look_at_can_be_left_out(finished: Run, tmp_path: Path) -> None:
    run = fresh(finished, tmp_path / "run", insight={"frames": 0})
    assert "insight" not in ledger(run).stages
    assert "report" in ledger(run).stages


def test_controls_are_scored_like_other_models(finished: Run, tmp_path: Path) -> None:
    controls = [
        "constant",
        "constant-classwise",
        "shared-trunk",
        "mean-gate-moe-classwise-conv",
        "two-seed",
        "merged",
    ]
    run = fresh(finished, tmp_path / "run", controls=controls)
    run_study(run)
    models = load_models(run)
    rows = read_rows(run.folder / "results.jsonl")
    scored = {row["model"] for row in rows if row["kind"] == "segmentation"}
    assert scored >= {*controls, "baseline", "baseline-2"}
    minus = {row["minus"] for row in rows if row["model"] == "moe-simple" and "minus" in row}
    assert minus >= {"constant", "constant-classwise", "shared-trunk", "two-seed", "merged"}
    assert "mean-gate-moe-classwise-conv" not in minus
    data = run.dataset(run.frames("day+dusk", "test"))
    images = torch.stack([data[i][0] for i in range(len(data))])
    for name in ("constant", "constant-classwise", "mean-gate-moe-classwise-conv"):
        weights = models[name](images).weights
        assert weights is not None
        assert torch.allclose(weights, weights[:1].expand_as(weights))
    trained = run.dataset(run.frames("day+dusk", "train"))
    shown = torch.stack([trained[i][0] for i in range(len(trained))])
    mean = models["moe-classwise-conv"](shown).weights
    fixed = models["mean-gate-moe-classwise-conv"](images).weights
    assert mean is not None
    assert fixed is not None
    assert torch.allclose(mean.mean(0), fixed[0], atol=2e-3)  # from a float16 cache
    pair = models["two-seed"]
    both = torch.stack(
        [models[name](images).logits.softmax(1) for name in ("baseline", "baseline-2")]
    )
    assert torch.allclose(pair(images).logits.softmax(1), both.mean(0), atol=1e-5)
    first, second = (models[name].state_dict() for name in ("baseline", "baseline-2"))
    assert not any(torch.equal(first[key], second[key]) for key in first if "weight" in key)
    assert set(states(run).values()) == {"done"}


def test_an_unshuffled_study_sees_its_lists_in_order(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    plain = SegmentationDataset.__getitem__

    def noting(self: SegmentationDataset, index: Any) -> Any:  # noqa: ANN401
        item = plain(self, index)
        if self.augment is not None:
            seen.append(item[2])
        return item

    monkeypatch.setattr(SegmentationDataset, "__getitem__", noting)
    data = study_settings(finished.folder.parent, tmp_path)["data"] | {"shuffle": False}
    run = fresh(finished, tmp_path / "run", data=data)
    run_study(run, ["baseline"])
    listed = [frame.key for frame in run.frames("day+dusk", "train")]
    assert seen == 2 * listed


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_study_files_run_on_tiny_data(path: Path, tmp_path: Path) -> None:
    study = load_study(path)
    experts: dict[str, dict[str, object]] = {name: {} for name in study.experts}
    write_data(tmp_path, frames=2, sequences=1)
    manifest = tmp_path / "manifest.csv"
    text = manifest.read_text()
    for name, stands_for in zip(experts, ("day", "dusk"), strict=True):
        text = text.replace(f",{stands_for},", f",{name},")
    manifest.write_text(text)
    tiny = study_settings(tmp_path, tmp_path / "run")
    own = study.model_dump(exclude_unset=True, mode="json")
    kept = ("augment", "fit", "shuffle")
    data = tiny["data"] | {key: own["data"][key] for key in kept if key in own["data"]}
    if "label_colours" in own["data"]:
        give_cars_a_second_colour(tmp_path)
        data["label_colours"] = own["data"]["label_colours"]
    architecture = own.get("architecture", {}) | {
        "pretrained": None,
        "backbone": "mobilenet_v2",
        "channels": 8,
    }
    if study.architecture.name.startswith("frrn"):
        architecture["arguments"] = {"channels": 3}
    raw = own | {
        "out": str(tmp_path / "run"),
        "data": data,
        "architecture": architecture,
        "training": own["training"] | {"epochs": 1, "accelerator": "cpu", "val_every": 1},
        "experts": experts,
        "gate": own["gate"] | {"epochs": 1},
        "eval": {"sheet": 1},
    }
    if "uncertainty" in own:  # the tiny data have no other subset to choose thresholds on
        raw["uncertainty"] = {
            key: value for key, value in own["uncertainty"].items() if key not in ("fit", "subsets")
        } | {"temperatures": ["one"] if path.stem == "demo_uncertainty" else []}
        if "corruptions" in own["uncertainty"]:
            fewer = {"names": ["fog"], "severities": [1]}
            raw["uncertainty"]["corruptions"] = own["uncertainty"]["corruptions"] | fewer
    if "robustness" in own:
        raw["robustness"] = shortened(own["robustness"])
    run = Run(parse_study(raw, str(path)))
    run_study(run)
    rows = read_rows(run.folder / "results.jsonl")
    scored = {row["model"] for row in rows if row["kind"] == "segmentation"}
    assert scored - {"oracle-image", "oracle-pixel"} == set(run.study.model_names())
    if study.published:
        assert "published" in (run.folder / "table.md").read_text().lower()


def shortened(robustness: dict[str, Any]) -> dict[str, Any]:
    """Return the same sweeps with two steps, one radius, few models and frames; few corruptions."""
    sweeps = {}
    for name, sweep in robustness["sweeps"].items():
        attacks = [re.sub(r"-\d+(x\d+)?", "-2", attack) for attack in sweep["attacks"]]
        models = sweep.get("models", ["baseline", "moe-simple"])
        few = {"frames": 2, "epsilons": sweep["epsilons"][:1], "models": models[-2:]}
        sweeps[name] = sweep | few | {"attacks": list(dict.fromkeys(attacks))}
    corruptions = {"names": ["fog", "snow"], "severities": [1]}
    shown = {"show": robustness.get("show", [])[-2:], "show_frames": 1}
    return robustness | {"sweeps": sweeps, "corruptions": corruptions} | shown


def test_ledger_notes_are_plain_json(finished: Run) -> None:
    note = json.loads((finished.folder / "stages" / "gates.json").read_text())
    assert note["finished"] is True
    assert note["seconds"] >= 0
