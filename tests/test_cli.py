from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from PIL import Image

from command import Command
from moeseg.config import load_study
from moeseg.data import read_a2d2
from moeseg.evaluation.rows import read_rows
from moeseg.interop.keys import to_original
from moeseg.models import build_expert, build_mixture, load, read_info, save
from moeseg.run import Run
from moeseg.study import run_study
from tiny import SIZE, study_settings, write_data, write_study


@pytest.fixture(scope="module")
def study_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("cli")
    run = Run(load_study(write_study(folder, folder / "run")))
    run_study(run, ["expert-day", "expert-dusk", "moe-simple"])
    return run


def data_of(run: Run) -> Path:
    return run.folder.parent / "study.yaml"


def contents(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


# -- what works ------------------------------------------------------------------------------------


def test_study_prints_the_table(moeseg: Command, tmp_path: Path) -> None:
    file = write_study(tmp_path, tmp_path / "unused")
    code, out, err = moeseg(
        "study", file, "--out", tmp_path / "run", "--set", "training.epochs=1", "--set",
        "gate.epochs=1", "--set", "baseline=null",
    )  # fmt: skip
    assert code == 0, err
    assert "moe-classwise-conv" in out
    assert "baseline" not in out
    assert f"table: {tmp_path / 'run' / 'table.md'}" in out
    assert not (tmp_path / "unused").exists()
    code, out, err = moeseg("study", tmp_path / "run" / "study.yaml", "--plan")  # in its own folder
    assert code == 0, err
    assert "started" not in out + err
    assert "missing" not in out + err


def test_ablation_prints_the_table_of_all_that_is_finished(
    moeseg: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path)
    study = study_settings(tmp_path, tmp_path / "run")
    del study["out"]
    study |= {"baseline": None, "ensembles": [], "insight": {"frames": 0}}
    study["mixtures"] = {"moe-simple": {"gate": "simple"}}
    raw = {"out": "unused", "study": study, "variants": {"plain": {}, "adapted": ADAPTED}}
    file, out = write_yaml(tmp_path / "ablation.yaml", raw), tmp_path / "ablation"
    words = ("ablation", file, "--out", out, "--set", "study.training.epochs=1")
    code, told, err = moeseg(*words, "--only", "plain")
    assert code == 0, err
    assert "| plain | moe-simple |" in told
    assert "adapted" not in told
    code, told, err = moeseg(*words)
    assert code == 0, err
    assert err.count("training on") == 0  # both experts are taken over
    assert (out / "table.md").read_text() in told
    assert f"table: {out / 'table.md'}" in told
    for variant in ("plain", "adapted"):
        assert f"| {variant} | moe-simple |" in told
    assert not (tmp_path / "unused").exists()
    code, _, err = moeseg(*words, "--only", "adaptd")
    assert code == 2
    assert "Did you mean 'adapted'?" in err
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("RANK", "1")
    (out / "table.md").unlink()  # which another rank has no part in
    assert moeseg(*words)[:2] == (0, "")


ADAPTED = {"gate.expert_batchnorm": "adapt"}


def test_plan_runs_nothing(moeseg: Command, tmp_path: Path) -> None:
    code, out, _ = moeseg("study", write_study(tmp_path, tmp_path / "run"), "--plan")
    assert code == 0
    assert "train-expert-dusk" in out
    assert "left to do" in out
    assert not (tmp_path / "run").exists()


def test_evaluate_scores_saved_models(moeseg: Command, study_run: Run, tmp_path: Path) -> None:
    models = [study_run.model(name) for name in ("expert-day", "moe-simple")]
    code, out, err = moeseg(
        "evaluate", *models, "--data", data_of(study_run), "--subset", "day+dusk", "--subset",
        "dusk", "--split", "val", "--out", tmp_path / "rows.jsonl",
    )  # fmt: skip
    assert code == 0, err
    assert "moe-simple" in out
    rows = read_rows(tmp_path / "rows.jsonl")
    found = {(r["model"], r["subset"]) for r in rows if r["kind"] == "segmentation"}
    assert found == {(m, s) for m in ("expert-day", "moe-simple") for s in ("day+dusk", "dusk")}
    assert {row["split"] for row in rows} == {"val"}


def test_table_joins_the_rows_of_several_runs(
    moeseg: Command, study_run: Run, tmp_path: Path
) -> None:
    files = []
    for seed in (1, 2):
        files.append(tmp_path / f"{seed}.jsonl")
        model = tmp_path / str(seed) / "expert-day"
        info = read_info(study_run.model("expert-day")) | {"seed": seed}
        save(load(study_run.model("expert-day")), model, info=info)
        place = ("--data", data_of(study_run), "--out", files[-1])
        code, _, err = moeseg("evaluate", model, *place, "--subset", "day")
        assert code == 0, err
    code, out, err = moeseg("table", *files, "--out", tmp_path / "joined")
    assert code == 0, err
    assert "2 seeds" in out
    rows = read_rows(tmp_path / "joined" / "results.jsonl")
    assert sorted(row["seed"] for row in rows) == [1, 2]
    assert "expert-day" in (tmp_path / "joined" / "table.md").read_text()


def test_predict_writes_masks_at_the_photos_size(
    moeseg: Command, study_run: Run, tmp_path: Path
) -> None:
    photo = np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)
    Image.fromarray(photo).save(tmp_path / "street.png")
    code, out, err = moeseg(
        "predict", study_run.model("moe-simple"), tmp_path / "street.png", "--out", tmp_path / "p"
    )
    assert code == 0, err
    assert "street_mask.png" in out
    ids = np.asarray(Image.open(tmp_path / "p" / "street_ids.png"))
    mask = np.asarray(Image.open(tmp_path / "p" / "street_mask.png"))
    overlay = np.asarray(Image.open(tmp_path / "p" / "street_overlay.png"))
    assert ids.shape == (50, 70)
    assert ids.max() <= 2
    colours = np.array([[128, 64, 128], [135, 206, 255], [255, 0, 0]])
    assert (mask == colours[ids]).all()
    assert np.abs(overlay.astype(int) - (photo.astype(int) + mask) / 2).max() <= 1


def test_check_is_quiet_about_good_data(moeseg: Command, tmp_path: Path) -> None:
    code, out, _ = moeseg("data", "check", write_study(tmp_path, tmp_path / "run"))
    assert code == 0
    assert "road" in out


def test_check_names_what_is_wrong(moeseg: Command, tmp_path: Path) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    (tmp_path / "images" / "day-train-0-00.png").unlink()
    broken = tmp_path / "images" / "day-train-0-01.png"
    broken.write_bytes(broken.read_bytes()[:100])
    label = tmp_path / "labels" / "dusk-val-0-00.png"
    Image.fromarray(np.full((*SIZE, 3), 7, np.uint8)).save(label)
    code, out, _ = moeseg("data", "check", file)
    assert code == 1
    for name in ("day-train-0-00.png", "day-train-0-01.png", "dusk-val-0-00.png", "#070707", "768"):
        assert name in out


def test_check_goes_over_lists_that_overlap(moeseg: Command, tmp_path: Path) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    manifest = tmp_path / "manifest.csv"
    text = manifest.read_text()
    twice = text.splitlines()[1].replace(",day,", ",dusk,")
    leak = text.splitlines()[2].replace(",train,", ",test,")
    manifest.write_text(f"{text}{twice}\n{leak}\n")
    code, out, err = moeseg("data", "check", file)
    assert code == 1, err
    for name in ("day-train-0-00", "day-train-0-01", "two-subsets", "two-splits"):
        assert name in out


def test_prepared_data_train_like_the_original(moeseg: Command, tmp_path: Path) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    code, out, err = moeseg("data", "prepare", file, "--out", tmp_path / "copy")
    assert code == 0, err
    assert "data.reader=prepared" in out
    prepared = ["--set", "data.reader=prepared", "--set", f"data.root={tmp_path / 'copy'}"]
    weights = []
    for place, more in (("a", []), ("b", prepared)):
        code, _, err = moeseg(
            "train", file, "--only", "expert-day", "--out", tmp_path / place, *more
        )
        assert code == 0, err
        model = tmp_path / place / "models" / "expert-day" / "model.safetensors"
        weights.append(model.read_bytes())
    assert weights[0] == weights[1]


def test_render_writes_scenes_that_the_a2d2_reader_reads(moeseg: Command, tmp_path: Path) -> None:
    settings = study_settings(tmp_path, tmp_path / "run")
    drives = {"highway": {"train": 1}, "urban": {"train": 1}}
    settings["data"] = {
        "reader": "synthetic",
        "size": [32, 48],
        "synthetic": {"size": [32, 48], "drives": drives, "frames_per_drive": 2},
    }
    settings["experts"] = {"highway": {}, "urban": {}}
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(settings))
    code, _, err = moeseg("data", "render", file)
    assert code == 0, err
    read = read_a2d2(tmp_path / "run" / "scenes").frames
    assert set(read) == set(Run(load_study(file)).catalogue.frames)
    assert len(read) == 4
    assert all(frame.image.exists() and frame.label.exists() for frame in read)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "words", [["--help"], ["study", "--help"], ["uncertainty", "--help"], ["data", "--help"]]
)
def test_help_teaches(moeseg: Command, words: list[str]) -> None:
    code, out, _ = moeseg(*words)
    assert code == 0
    assert "Usage" in out
    assert moeseg("--version")[1].startswith("moeseg 0.")


# -- what a user gets wrong ------------------------------------------------------------------------


def test_usage_errors_end_with_two_and_name_the_mistake(moeseg: Command, tmp_path: Path) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    for words, expected in (
        (("study", file, "--set", "gate.epoch=3"), "Did you mean 'epochs'?"),
        (("study", tmp_path / "none.yaml"), "cannot read the study file"),
        (("train", file, "--only", "expert-dai"), "Did you mean 'expert-day'?"),
        (("data", "render", file), "needs 'synthetic'"),
        (("study", file, "--set", "eval.subsets=[dai]"), "Did you mean 'day'?"),
        (("studi", file), "No such command"),
    ):
        code, _, err = moeseg(*words)
        assert code == 2, words
        assert expected in err
    assert not (tmp_path / "run" / "models").exists()


@pytest.mark.parametrize("reader", ["a2d2", "camvid"])
def test_missing_data_are_explained(
    moeseg: Command, tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    taxonomy = "a2d2-38" if reader == "a2d2" else "camvid-11"
    place = ["--set", f"data.reader={reader}", "--set", f"data.taxonomy={taxonomy}"]
    monkeypatch.delenv("MOESEG_DATA", raising=False)
    code, _, err = moeseg("study", file, *place, "--set", "data.root=null")
    assert code == 2
    assert "data.root is not set" in err
    code, _, err = moeseg("study", file, *place, "--set", f"data.root={tmp_path / 'none'}")
    assert code == 1
    assert "MOESEG_DATA" in err


def test_an_empty_subset_and_overlapping_lists_are_explained(
    moeseg: Command, tmp_path: Path
) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    manifest = tmp_path / "manifest.csv"
    text = manifest.read_text()
    manifest.write_text("\n".join(x for x in text.splitlines() if ",dusk,train" not in x) + "\n")
    code, _, err = moeseg("study", file)
    assert code == 1
    assert "subset 'dusk' has no frames in split 'train'" in err
    manifest.write_text(text + text.splitlines()[1].replace(",day,", ",dusk,") + "\n")
    code, _, err = moeseg("study", file)
    assert code == 1
    assert "day/train and dusk/train share 1" in err


@pytest.mark.parametrize("damage", ["size", "colour", "truncated"])
def test_a_bad_file_met_in_training_is_named(moeseg: Command, tmp_path: Path, damage: str) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    bad = tmp_path / "labels" / "day-train-1-01.png"
    if damage == "size":
        Image.fromarray(np.zeros((5, 6, 3), np.uint8)).save(bad)
    elif damage == "colour":
        Image.fromarray(np.full((*SIZE, 3), 9, np.uint8)).save(bad)
    else:
        bad.write_bytes(bad.read_bytes()[:60])
    code, _, err = moeseg("train", file, "--only", "expert-day")
    assert code == 1
    assert "day-train-1-01.png" in err
    assert not (tmp_path / "run" / "models").exists()


def test_an_image_size_that_a_gate_cant_take(
    moeseg: Command, study_run: Run, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    words = ("predict", study_run.model("moe-simple"), tmp_path / "a.png", "--out", tmp_path / "p")
    code, _, err = moeseg(*words, "--size", "48", "48")
    assert code == 2
    assert "pool" in err
    assert not (tmp_path / "p").exists()


def test_weights_of_another_class_count(moeseg: Command, tmp_path: Path) -> None:
    save(build_expert({"name": "tiny:TinyExpert", "num_classes": 5}), tmp_path / "five", info={})
    file = write_study(
        tmp_path,
        tmp_path / "run",
        architecture={"name": "tiny:TinyExpert"},
        experts={"day": {"weights": str(tmp_path / "five")}, "dusk": {}},
    )
    code, _, err = moeseg("train", file, "--only", "expert-day")
    assert code == 1
    assert str(tmp_path / "five") in err
    assert "num_classes: expected 3, got 5" in err
    assert not (tmp_path / "run" / "models").exists()


def test_a_model_of_another_taxonomy_is_not_scored(
    moeseg: Command, study_run: Run, tmp_path: Path
) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    taxonomy = yaml.safe_load((tmp_path / "taxonomy.yaml").read_text())
    taxonomy["classes"][0]["name"] = "street"
    (tmp_path / "taxonomy.yaml").write_text(yaml.safe_dump(taxonomy))
    code, _, err = moeseg(
        "evaluate", study_run.model("expert-day"), "--data", file, "--subset", "day"
    )
    assert code == 1
    assert "taxonomy" in err


def test_a_second_run_in_the_same_folder_is_refused(moeseg: Command, tmp_path: Path) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        code, _, err = moeseg("study", file)
    assert code == 2
    assert "another run is at work" in err
    assert contents(tmp_path / "run") <= {".lock"}


def test_nan_loss_ends_the_run_and_keeps_no_model(moeseg: Command, tmp_path: Path) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    huge = ["--set", "training.optimizer={name: sgd, lr: 1.0e+30, schedule: constant}"]
    code, _, err = moeseg("train", file, "--only", "expert-day", *huge)
    assert code == 1
    assert "the loss became" in err
    assert "training.optimizer.lr" in err
    assert not (tmp_path / "run" / "models").exists()


@pytest.mark.parametrize("limit", [2_000, 20_000])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, limit: int) -> None:
    file = write_study(tmp_path, tmp_path / "run")

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(
        [sys.executable, "-m", "moeseg", "study", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=small_files,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "moeseg: cannot write" in done.stderr
    assert "run the same command again" in done.stderr
    left = contents(tmp_path / "run")
    assert not [name for name in left if name.endswith(".part")]
    again = subprocess.run(
        [sys.executable, "-m", "moeseg", "train", str(file), "--only", "expert-day"],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert again.returncode == 0, again.stderr


# -- the real sample -------------------------------------------------------------------------------

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.mark.skipif(not SHARED.exists(), reason=f"no sample of A2D2 in {SHARED}")
def test_six_real_frames_go_from_check_to_prediction(moeseg: Command, tmp_path: Path) -> None:
    present = {path.name for path in (SHARED / "a2d2_sample").rglob("*_label_*.png")}
    assert len(present) == 6
    (tmp_path / "lists").mkdir()
    for path in (SHARED / "a2d2_splits").glob("*_gt.txt"):
        lines = [x for x in path.read_text().splitlines() if x.rpartition("/")[2] in present]
        if lines:
            (tmp_path / "lists" / path.name).write_text("\n".join(lines) + "\n")
    settings = study_settings(tmp_path, tmp_path / "run")
    settings["data"] = {
        "reader": "a2d2",
        "root": str(SHARED / "a2d2_sample"),
        "lists": str(tmp_path / "lists"),
        "size": [48, 80],
        "workers": 0,
    }
    settings["architecture"] = {"name": "tiny:TinyExpert", "arguments": {"num_classes": 38}}
    file = tmp_path / "study.yaml"
    run = Run(load_study(write_yaml(file, settings | {"experts": {"highway": {}, "urban": {}}})))
    splits = {(frame.subset, frame.split) for frame in run.catalogue.frames}
    (subset, _) = next(place for place in sorted(splits) if place[1] == "train")
    settings |= {"experts": {subset: {}}, "ensembles": [], "mixtures": {}, "baseline": None}
    settings["training"] |= {"choose": "last", "epochs": 1}
    write_yaml(file, settings)
    code, out, _ = moeseg("data", "check", file)
    assert code == 0, out
    assert "RD normal street" in out
    code, _, err = moeseg("data", "prepare", file, "--out", tmp_path / "copy")
    assert code == 0, err
    code, _, err = moeseg("train", file, "--only", f"expert-{subset}")
    assert code == 0, err
    photo = next(iter(run.catalogue.frames)).image
    code, out, err = moeseg(
        "predict", run.model(f"expert-{subset}"), photo, "--out", tmp_path / "masks"
    )
    assert code == 0, err
    mask = np.asarray(Image.open(tmp_path / "masks" / f"{photo.stem}_ids.png"))
    assert mask.shape == (1208, 1920)
    shutil.rmtree(tmp_path / "copy")


def write_yaml(path: Path, settings: object) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


def test_tiny_data_are_what_the_tests_say(tmp_path: Path) -> None:
    manifest = write_data(tmp_path)
    assert len(manifest.read_text().splitlines()) == 1 + 2 * (8 + 4 + 4)


# -- what the reviewer of the first version broke --------------------------------------------------


def test_a_bad_file_met_by_a_loader_worker_is_named(moeseg: Command, tmp_path: Path) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    bad = tmp_path / "labels" / "day-train-1-01.png"
    Image.fromarray(np.full((*SIZE, 3), 9, np.uint8)).save(bad)
    words = ("train", file, "--only", "expert-day", "--set", "data.workers=1")
    code, _, err = moeseg(*words)
    assert code == 1
    assert "day-train-1-01.png" in err
    assert "worker process" not in err


def test_a_folder_that_the_user_named_for_scenes_is_never_emptied(
    moeseg: Command, tmp_path: Path
) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    precious = tmp_path / "precious" / "keep.txt"
    precious.parent.mkdir()
    precious.write_text("mine")
    scenes = ["--set", "data.reader=synthetic", "--set", f"data.root={precious.parent}"]
    scenes += ["--set", "data.taxonomy=a2d2-38", "--set", "experts={highway: {}, urban: {}}"]
    code, _, err = moeseg("study", file, *scenes)
    assert code == 1
    assert str(precious.parent) in err
    assert precious.read_text() == "mine"


def test_a_foreign_folder_is_no_place_for_a_run(moeseg: Command, tmp_path: Path) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    (tmp_path / "home" / "cache").mkdir(parents=True)
    code, _, err = moeseg("study", file, "--out", tmp_path / "home")
    assert code == 2
    assert "not of a run" in err
    (tmp_path / "file").write_text("")
    code, _, err = moeseg("study", file, "--out", tmp_path / "file")
    assert code == 2
    assert (tmp_path / "home" / "cache").is_dir()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("experts.day.weights=nowhere", "nowhere"),
        ("training.accelerator=gpu", "training.accelerator"),
        ("eval.subsets=[nigt]", "unknown subset 'nigt'"),
    ],
)
def test_mistakes_are_told_before_any_training(
    moeseg: Command, tmp_path: Path, setting: str, expected: str
) -> None:
    import torch

    if "gpu" in setting and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    file = write_study(tmp_path, tmp_path / "run")
    code, _, err = moeseg("study", file, "--set", setting)
    assert code in (1, 2)
    assert expected in err
    assert not (tmp_path / "run" / "models").exists()


def test_no_validation_frames_are_told_before_any_training(moeseg: Command, tmp_path: Path) -> None:
    file = write_study(tmp_path, tmp_path / "run")
    manifest = tmp_path / "manifest.csv"
    lines = [line for line in manifest.read_text().splitlines() if ",val," not in line]
    manifest.write_text("\n".join(lines) + "\n")
    code, _, err = moeseg("study", file)
    assert code == 2
    assert "training.choose: last" in err
    code, _, err = moeseg("study", file, "--set", "training.choose=last")
    assert code == 2
    assert "gate.choose: last" in err


def test_models_of_two_sizes_need_a_size(moeseg: Command, study_run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    info = {"taxonomy": study_run.catalogue.taxonomy.to_json(), "size": [48, 64]}
    save(build_expert({"name": "tiny:TinyExpert"}), other, info=info)
    words = ["evaluate", study_run.model("expert-day"), other, "--data", data_of(study_run)]
    code, _, err = moeseg(*words, "--subset", "day")
    assert code == 2
    assert "eval.size" in err
    rows = tmp_path / "rows.jsonl"
    code, _, err = moeseg("evaluate", other, *words[3:], "--subset", "day", "--out", rows)
    assert code == 0, err
    assert {tuple(row["size"]) for row in read_rows(rows)} == {(48, 64)}


def test_a_model_without_taxonomy_is_explained(moeseg: Command, tmp_path: Path) -> None:
    save(build_expert({"name": "tiny:TinyExpert"}), tmp_path / "bare")
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(tmp_path / "a.png")
    code, _, err = moeseg("predict", tmp_path / "bare", tmp_path / "a.png", "--out", tmp_path / "p")
    assert code == 1
    assert "taxonomy" in err


def test_a_portrait_photo_is_predicted_upright(
    moeseg: Command, study_run: Run, tmp_path: Path
) -> None:
    stored = Image.fromarray(np.zeros((30, 50, 3), np.uint8))
    exif = stored.getexif()
    exif[0x0112] = 6  # turn by 90 degrees
    stored.save(tmp_path / "a.jpg", exif=exif)
    words = ("predict", study_run.model("expert-day"), tmp_path / "a.jpg", "--out", tmp_path / "p")
    code, _, err = moeseg(*words)
    assert code == 0, err
    assert np.asarray(Image.open(tmp_path / "p" / "a_mask.png")).shape == (50, 30, 3)


# -- the original's checkpoints --------------------------------------------------------------------


def original_checkpoint(path: Path, num_classes: int) -> Path:
    """Write an expert of the original whose weights are all 0."""
    name = "frrn-a-original"
    with torch.device("meta"):
        expert = build_expert({"name": name, "normalisation": "none", "num_classes": num_classes})
    state = {key: torch.zeros_like(v, device="cpu") for key, v in expert.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3, "best_pred": np.float64(0.4)}, path)
    return path


def test_an_originals_checkpoint_is_imported_used_and_exported(
    moeseg: Command, tmp_path: Path
) -> None:
    file, model = original_checkpoint(tmp_path / "a.pth", 11), tmp_path / "model"
    words = ("--out", model, "--input-size", 32, 48, "--taxonomy", "camvid-11")
    code, out, err = moeseg("import-original", file, *words)
    assert code == 0, err
    assert out == f"{model}: expert frrn-a-original, 11 classes\n"
    info = read_info(model)
    assert info["size"] == [32, 48]
    assert info["imported"] == ["a.pth"]
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "a.png")
    code, _, err = moeseg("predict", model, tmp_path / "a.png", "--out", tmp_path / "p")
    assert code == 0, err
    assert (np.asarray(Image.open(tmp_path / "p" / "a_ids.png")) == 0).all()
    code, out, err = moeseg("export-original", model, "--out", tmp_path / "back.pth")
    assert code == 0, err
    before, after = (
        torch.load(tmp_path / name, weights_only=name == "back.pth")
        for name in ("a.pth", "back.pth")
    )
    assert list(before["state_dict"]) == list(after["state_dict"])
    assert (after["epoch"], after["best_pred"]) == (0, 0.0)
    code, _, err = moeseg(
        "import-original", file, file, "--out", tmp_path / "both", "--rule", "max"
    )
    assert code == 0, err
    assert read_info(tmp_path / "both") == {
        "name": "both",
        "imported": ["a.pth", "a.pth"],
        "fit": "squeeze",
        "settings": {"architecture.normalisation": "none", "data.fit": "squeeze"},
    }
    code, _, err = moeseg("predict", tmp_path / "both", tmp_path / "a.png", "--out", tmp_path / "q")
    assert code == 1
    assert "--taxonomy and --input-size" in err


def test_rows_of_an_import_say_nothing_of_the_study_that_it_is_scored_by(
    moeseg: Command, study_run: Run, tmp_path: Path
) -> None:
    file, model = original_checkpoint(tmp_path / "a.pth", 3), tmp_path / "imported"
    labels = data_of(study_run).with_name("taxonomy.yaml")
    words = ("--out", model, "--input-size", 32, 48, "--taxonomy", labels)
    assert moeseg("import-original", file, *words)[0] == 0
    rows = tmp_path / "rows.jsonl"
    habits = ("data.fit=squeeze", "data.shuffle=false", "data.label_colours=first-only", "seed=7")
    code, out, err = moeseg(
        *("evaluate", model, "--data", data_of(study_run), "--subset", "day", "--out", rows),
        *(word for habit in habits for word in ("--set", habit)),
    )
    assert code == 0, err
    assert "imported" in out
    known = {"architecture.normalisation": "none", "data.fit": "squeeze"}
    found = read_rows(rows)
    assert found
    assert all((row["seed"], row["settings"]) == (None, known) for row in found)


def original_mixture(path: Path) -> Path:
    """Write a mixture of the original, 11 classes at 33x65, whose weights are all 0.5."""
    common = {"normalisation": "none", "num_classes": 11, "backbone": "resnet18"}
    with torch.device("meta"):
        experts = [build_expert({"name": "deeplabv3plus", **common}) for _ in range(2)]
        held = to_original(build_mixture(experts, "classwise", True, size=(33, 65)))
    half = torch.tensor(0.5)  # one number in the file stands for all of a tensor
    state = {key: half.to(value.dtype).expand(value.shape) for key, value in held.items()}
    torch.save({"state_dict": state, "epoch": 3, "best_pred": 0.4}, path)
    return path


def test_an_originals_mixture_is_imported_and_exported(moeseg: Command, tmp_path: Path) -> None:
    file, model = original_mixture(tmp_path / "moe.pth"), tmp_path / "model"
    words = ("import-original", file, "--out", model, "--taxonomy", "camvid-11", "--input-size")
    code, _, err = moeseg(*words, 64, 80)
    assert code == 2
    assert "moe.pth: gate.gates.0.fc1.weight: expected an input size of 15 cells" in err
    assert [path.name for path in tmp_path.iterdir()] == ["moe.pth"]
    code, out, err = moeseg(*words, 33, 65)
    assert code == 0, err
    assert out == (
        f"{model}: mixture of 2 experts deeplabv3plus on resnet18, 11 classes, class-wise gate of "
        "3x5 cells, a 3x3 head\n"
    )
    assert read_info(model)["size"] == [33, 65]
    code, out, err = moeseg("export-original", model, "--out", tmp_path / "back.pth")
    assert code == 0, err
    assert out.startswith(f"{tmp_path / 'back.pth'}: mixture of 2 experts")
    before, after = (
        torch.load(tmp_path / name, weights_only=True)["state_dict"]
        for name in ("moe.pth", "back.pth")
    )
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    for path in (tmp_path / "back.pth", model / "model.safetensors"):
        path.unlink()  # hundreds of MB


def test_what_cannot_be_imported_or_exported_is_explained(
    moeseg: Command, study_run: Run, tmp_path: Path
) -> None:
    file, other = (original_checkpoint(tmp_path / f"{n}.pth", n) for n in (11, 3))
    text, half = tmp_path / "text.pth", tmp_path / "half.pth"
    text.write_text("no checkpoint")
    half.write_bytes(file.read_bytes()[:1000])
    out = tmp_path / "model"
    for words, expected, expected_code in (
        ((text,), "text.pth: expected a checkpoint", 1),
        ((half,), "half.pth: expected a checkpoint", 1),
        ((tmp_path / "none.pth",), "No such file", 1),
        ((file, other), "3.pth: out_conv.weight: expected 11 classes", 1),
        ((file, "--taxonomy", "a2d2-38"), "11.pth: out_conv.weight: expected the 38 classes", 2),
        ((file, "--taxonomy", "a2d2"), "unknown taxonomy 'a2d2'", 2),
        ((file, "--output-stride", 8), "11.pth: output stride: expected 16", 2),
        ((file, "--rule", "max"), "11.pth: rule: expected an ensemble", 2),
        ((file, other.with_name("11.pth"), "--rule", "maxx"), "Did you mean 'max'", 2),
    ):
        code, _, err = moeseg("import-original", *words, "--out", out)
        assert code == expected_code, words
        assert expected in err
        assert not out.exists()
    model = study_run.model("moe-simple")
    code, _, err = moeseg("export-original", model, "--out", tmp_path / "out.pth")
    assert code == 2
    assert "expert 2: architecture tiny:TinyExpert" in err
    assert sorted(path.name for path in tmp_path.glob(".*")) == []
    assert not (tmp_path / "out.pth").exists()
