"""`moeseg insight` through the real command line: photos without labels, and labelled frames."""

from __future__ import annotations

import csv
import gc
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from command import Command
from moeseg.data import Taxonomy, fit_image, read_rgb
from moeseg.evaluation.rows import read_rows
from moeseg.models import Model, build_ensemble, build_mixture, load, save
from tiny import SIZE, draw_scene, study_settings, tiny_expert, write_data

ODD = "ü 'quoted', <b>&.png"


@pytest.fixture
def insight(moeseg: Command) -> Command:
    """Run `moeseg insight` in this process; return exit code, standard output and error."""
    return lambda *words: moeseg("insight", *words)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with labelled data, a study file and saved models."""
    folder = tmp_path_factory.mktemp("insight")
    write_data(folder)
    settings = study_settings(folder, folder / "run")
    (folder / "study.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    taxonomy = Taxonomy.load(folder / "taxonomy.yaml")
    info = {"taxonomy": taxonomy.to_json(), "size": list(SIZE), "fit": "pad"}
    experts = {f"expert-{name}": tiny_expert(n) for n, name in enumerate(("day", "dusk"))}
    for name, expert in experts.items():
        save(expert, folder / "models" / name, info=info | {"subset": name[len("expert-") :]})
    paths = [folder / "models" / name for name in experts]
    pair = list(experts.values())
    generator = torch.Generator().manual_seed(0)
    joined: dict[str, Model] = {
        "moe-simple": build_mixture(pair, "simple", size=SIZE, generator=generator),
        "moe-classwise": build_mixture(pair, "classwise", pool=(2, 2), generator=generator),
        "ensemble-mean": build_ensemble(pair, "mean"),
    }
    for name, model in joined.items():
        save(model, folder / "models" / name, info=info, experts=paths)
    save(joined["moe-simple"], folder / "models" / "moe-alone", info=info)
    return folder


def photos(folder: Path, count: int = 5) -> Path:
    """Write photos of several sizes and kinds of name, in a folder and one below it."""
    rng = np.random.default_rng(1)
    (folder / "sub").mkdir(parents=True)
    names = ["a.jpg", "b.JPEG", "sub/a.png", f"sub/{ODD}", "c.png"][:count]
    for n, name in enumerate(names):
        scene, _ = draw_scene(rng, dusk=n % 2 == 0)
        size = (48 + 10 * n, 36) if n < 4 else (30, 60)  # wide ones, and one that stands upright
        Image.fromarray(scene).resize(size).save(folder / name)
    (folder / "notes.txt").write_text("no photo")
    (folder / ".hidden.png").write_text("no photo either")
    return folder


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


# -- photos without labels -------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["moe-simple", "moe-classwise", "ensemble-mean", "moe-alone"])
def test_photos_are_ranked_and_the_first_drawn(
    insight: Command, place: Path, tmp_path: Path, model: str
) -> None:
    folder, out = photos(tmp_path / "in"), tmp_path / "out"
    code, said, err = insight(
        place / "models" / model, "--data", folder, "--unlabelled", "--out", out, "--top", 3
    )
    assert code == 0, err
    found = lines(out / "frames.csv")
    assert [line["rank_disagreement"] for line in found] == list("12345")
    scores = [float(line["disagreement"]) for line in found]
    assert scores == sorted(scores, reverse=True)
    assert {line["image"] for line in found} == {
        (folder / name).as_posix() for name in ("a.jpg", "b.JPEG", "c.png", "sub/a.png")
    } | {(folder / "sub" / ODD).as_posix()}
    assert {line["key"] for line in found} >= {"in/a.jpg", "in/sub/a.png", f"in/sub/{ODD}"}
    assert not [c for c in found[0] if c.startswith("miou") or c in ("label", "subset", "better")]
    assert [f"   {n}  {found[n - 1]['key']}" in said for n in (1, 2, 3)] == [True] * 3
    drawn = sorted(path.name for path in (out / "overlays").iterdir())
    assert [name[:5] for name in drawn] == ["0001_", "0002_", "0003_"]
    assert contents(out) == {"frames.csv", *(f"overlays/{name}" for name in drawn)}
    names = ["day", "dusk"] if model != "moe-alone" else ["1", "2"]
    assert [c for c in found[0] if c.startswith("weight_")] == [f"weight_{n}" for n in names]


def test_numbers_are_those_of_the_photo_without_padding(
    insight: Command, place: Path, tmp_path: Path
) -> None:
    folder, out = photos(tmp_path / "in"), tmp_path / "out"
    model = place / "models" / "moe-simple"
    assert insight(model, "--data", folder, "--unlabelled", "--out", out)[0] == 0
    (line,) = (one for one in lines(out / "frames.csv") if one["key"] == "in/c.png")
    pixels = torch.from_numpy(read_rgb(folder / "c.png")).permute(2, 0, 1)  # 60 x 30
    image = fit_image(pixels, SIZE, "pad").float()[None] / 255
    with torch.inference_mode():
        said = load(model)(image, expert_logits=True)
    assert said.expert_logits is not None
    own = said.logits[0].argmax(0)[:, :12]  # (24, 32) of which 24 x 12 are photo
    each = said.expert_logits[0].argmax(1)[:, :, :12]
    assert float(line["disagreement"]) == pytest.approx(float((each != own).double().mean()))
    assert sum(int(n) for n in list(line.values())[1:5]) == 24 * 12


def test_photos_stand_upright(insight: Command, place: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    scene = Image.fromarray(draw_scene(np.random.default_rng(1), dusk=False)[0])
    scene.save(tmp_path / "in" / "upright.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # stored lying on its left side
    scene.rotate(90, expand=True).save(tmp_path / "in" / "stored.png", exif=turned)
    out = tmp_path / "out"
    words = ("--data", tmp_path / "in", "--unlabelled", "--out", out)
    assert insight(place / "models" / "moe-simple", *words)[0] == 0
    one, other = (list(line.values()) for line in lines(out / "frames.csv"))
    assert one[1:5] == other[1:5]


def test_another_run_leaves_no_picture_of_the_first(
    insight: Command, place: Path, tmp_path: Path
) -> None:
    folder = photos(tmp_path / "in")
    out = folder / "out"  # inside the photos: its overlays are no photos
    model = place / "models" / "moe-simple"
    words = (model, "--data", folder, "--unlabelled", "--out", out)
    assert insight(*words, "--colours", "original")[0] == 0
    before = {p: p.read_bytes() for p in out.rglob("*.png")}
    (out / "overlays" / "mine.png").write_bytes(b"kept")
    assert insight(*words, "--top", 2)[0] == 0
    assert len(lines(out / "frames.csv")) == 5
    after = sorted((out / "overlays").iterdir())
    assert [p.name[:4] for p in after] == ["0001", "0002", "mine"]
    assert after[0].read_bytes() != before[after[0]]  # other colours


def test_another_size(insight: Command, place: Path, tmp_path: Path) -> None:
    folder, out = photos(tmp_path / "in", 3), tmp_path / "out"
    words = ("--data", folder, "--unlabelled", "--out", out, "--size", 48, 64)
    assert insight(place / "models" / "moe-classwise", *words)[0] == 0
    (line,) = (one for one in lines(out / "frames.csv") if one["key"] == "in/a.jpg")
    assert sum(int(n) for n in list(line.values())[1:5]) == 48 * 64
    code, _, err = insight(place / "models" / "moe-simple", *words[:-5], "--out", tmp_path / "no",
                           "--size", 48, 64)  # fmt: skip
    assert code == 2
    assert "fixed to the image size" in err
    assert not (tmp_path / "no").exists()


# -- what a user gets wrong ------------------------------------------------------------------------


def test_mistakes_are_told_and_nothing_is_written(
    insight: Command, place: Path, tmp_path: Path
) -> None:
    model, out = place / "models" / "moe-simple", tmp_path / "out"
    folder = photos(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "z.png").write_text("no picture")
    study = place / "study.yaml"
    for words, code, text in (
        ((model, "--data", tmp_path / "none", "--unlabelled"), 1, "no such folder"),
        ((model, "--data", tmp_path / "empty", "--unlabelled"), 1, "expected photos"),
        ((model, "--data", tmp_path / "bad", "--unlabelled"), 1, "z.png: unreadable picture"),
        ((place, "--data", folder, "--unlabelled"), 1, "model.json"),
        (
            (place / "models" / "expert-day", "--data", folder, "--unlabelled"),
            2,
            "expected a mixture or an ensemble",
        ),
        (
            (place / "models" / "expert-day", "--data", study, "--subset", "day"),
            2,
            "expected a mixture or an ensemble",
        ),
        ((model, "--data", folder, "--unlabelled", "--colours", "save"), 2, "Did you mean 'safe'"),
        ((model, "--data", folder, "--unlabelled", "--subset", "day"), 2, "photos alone"),
        ((model, "--data", study), 2, "--subset: expected"),
        ((model, "--data", study, "--subset", "dai"), 2, "Did you mean 'day'"),
        ((model, "--data", folder, "--subset", "day"), 2, "study file"),
    ):
        got, _, err = insight(*words, "--out", out)
        assert got == code, (words, err)
        assert text in err, words
        assert not out.exists(), words


def test_a_broken_photo_among_good_ones_leaves_what_was_there(
    insight: Command, place: Path, tmp_path: Path
) -> None:
    folder, out = photos(tmp_path / "in"), tmp_path / "out"
    words = (place / "models" / "moe-simple", "--data", folder, "--unlabelled", "--out", out)
    assert insight(*words)[0] == 0
    before = {name: (out / name).read_bytes() for name in contents(out)}
    whole = (folder / "c.png").read_bytes()
    (folder / "c.png").write_bytes(whole[: len(whole) // 2])  # a good header, half the pixels
    code, _, err = insight(*words)
    gc.collect()
    assert code == 1
    assert "c.png: unreadable picture" in err
    assert {name: (out / name).read_bytes() for name in contents(out)} == before


# -- labelled frames -------------------------------------------------------------------------------


def test_labelled_frames_give_rows_frames_and_overlays(
    insight: Command, place: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, said, err = insight(
        place / "models" / "moe-classwise", "--data", place / "study.yaml", "--subset", "day+dusk",
        "--subset", "dusk", "--split", "val", "--out", out, "--top", 2,
    )  # fmt: skip
    assert code == 0, err
    assert "oracle-image" in said
    assert f"frames: {out / 'frames.csv'}" in said
    rows = read_rows(out / "results.jsonl")
    found: dict[str, set[Any]] = {}
    for row in rows:
        found.setdefault(row["kind"], set()).add(row["model"])
        assert row["split"] == "val"
    each = {"expert-day", "expert-dusk", "moe-classwise"}
    assert found["segmentation"] == each | {"oracle-image", "oracle-pixel"}
    assert found["agreement"] == found["routing"] == found["detector"] == {"moe-classwise"}
    (routing,) = (r for r in rows if r["kind"] == "routing" and r["subset"] == "day+dusk")
    assert (routing["experts"], routing["columns"]) == (["day", "dusk"], 3)
    assert routing["subset_accuracy"] is not None
    miou = {(r["model"], r["subset"]): r["miou"] for r in rows if r["kind"] == "segmentation"}
    gap = miou["oracle-image", "day+dusk"] - miou["moe-classwise", "day+dusk"]
    assert routing["oracle_lost"] == pytest.approx(gap)
    frames = lines(out / "frames.csv")
    assert len(frames) == 8
    assert {line["subset"] for line in frames} == {"day", "dusk"}
    assert all(0 <= float(line["miou"]) <= 1 for line in frames)
    first = sorted(frames, key=lambda line: int(line["rank_disagreement"]))[:2]
    drawn = sorted(path.name for path in (out / "overlays").iterdir())
    assert [name[5:-4] for name in drawn] == [line["key"].replace("/", "_") for line in first]
    assert contents(out) == {
        "results.jsonl", "frames.csv", *(f"overlays/{name}" for name in drawn)
    }  # fmt: skip
    assert not (place / "run").exists()  # nothing is written into the study's own folder


def test_an_ensemble_has_agreement_and_no_routing(
    insight: Command, place: Path, tmp_path: Path
) -> None:
    words = ("--data", place / "study.yaml", "--subset", "day+dusk", "--out", tmp_path / "out")
    code, _, err = insight(place / "models" / "ensemble-mean", *words)
    assert code == 0, err
    rows = [json.loads(x) for x in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    kinds = {row["kind"] for row in rows if row["model"] == "ensemble-mean"}
    assert kinds == {"segmentation", "agreement"}
    assert contents(tmp_path / "out") == {"results.jsonl"}
