"""Layers: which frames are chosen, that files hold what the models say, that failures leave all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from moeseg.data import SegmentationDataset, Taxonomy, read_manifest
from moeseg.errors import DataError, UsageError
from moeseg.insight.layers import choose_frames, write_layers, write_sheets
from moeseg.metrics import confusion_matrix, scores
from moeseg.models import Model, build_ensemble, build_mixture
from routed import frames
from tiny import CLASSES, SIZE, tiny_expert, write_data


def test_half_is_chosen_by_disagreement_and_half_by_place() -> None:
    listed = frames(20, ("highway", "urban"))
    score = {f.key: (n * 7 % 20) / 20 for n, f in enumerate(listed)}
    chosen = choose_frames(listed, 6, score)
    assert chosen == tuple(sorted(chosen, key=listed.index))  # in the order given, none twice
    for subset in ("highway", "urban"):
        own = [f for f in listed if f.subset == subset]
        taken = [f for f in chosen if f.subset == subset]
        assert len(taken) == len(set(taken)) == 6
        top = sorted(own, key=lambda f: -score[f.key])[:3]
        assert set(top) <= set(taken)
        left = [f for f in own if f not in top]
        assert set(taken) - set(top) == {left[n] for n in (2, 8, 14)}  # middles of three thirds
    assert choose_frames(listed, 6, score) == chosen


def test_few_frames_ties_and_no_scores() -> None:
    listed = frames(3, ("highway",))
    assert choose_frames(listed, 8, {}) == tuple(listed)
    assert choose_frames(listed, 8, {listed[1].key: 1.0}) == tuple(listed)
    assert choose_frames(listed, 0, {}) == ()
    assert choose_frames(listed, 1, {}) == (listed[1],)
    many = frames(10, ("urban",))
    assert choose_frames(many, 2, {f.key: 0.5 for f in many}) == (many[0], many[5])
    assert len(choose_frames(many, 5, {f.key: 0.5 for f in many})) == 5


def some_models() -> dict[str, Model]:
    day, dusk = tiny_expert(1), tiny_expert(2)
    return {
        "expert-day": day,
        "expert-dusk": dusk,
        "ensemble-mean": build_ensemble([day, dusk], "mean"),
        "moe-simple": build_mixture([day, dusk], "simple", size=SIZE),
        "moe-classwise": build_mixture([dusk, day], "classwise", size=SIZE),
        "moe-other": build_mixture([day, tiny_expert(3)], "simple", size=SIZE),
    }


@pytest.fixture
def data(tmp_path: Path) -> SegmentationDataset:
    csv = write_data(tmp_path)
    catalogue = read_manifest(csv, taxonomy(tmp_path))
    chosen = catalogue.select("day+dusk", "test")[::3]
    return SegmentationDataset(chosen, catalogue.read_label, SIZE)


def taxonomy(folder: Path) -> Taxonomy:
    return Taxonomy.load(folder / "taxonomy.yaml")


def write(models: dict[str, Model], data: SegmentationDataset, folder: Path) -> dict[str, Any]:
    place = folder / "layers" / "clean"
    write_layers(models, data, place, taxonomy=taxonomy(folder), dataset="tiny", batch_size=2)
    index: dict[str, Any] = json.loads((place / "index.json").read_text())
    return index


def test_files_hold_what_the_models_say(data: SegmentationDataset, tmp_path: Path) -> None:
    models = some_models()
    index = write(models, data, tmp_path)
    assert (index["condition"], index["dataset"], index["size"]) == ("clean", "tiny", list(SIZE))
    assert index["classes"] == list(CLASSES)
    assert index["colours"] == list(CLASSES.values())
    assert index["models"] == list(models)
    assert index["mixtures"] == {
        "moe-simple": {"experts": ["expert-day", "expert-dusk"], "columns": 1},
        "moe-classwise": {"experts": ["expert-dusk", "expert-day"], "columns": 3},
    }
    assert index["ensembles"] == {"ensemble-mean": {"experts": ["expert-day", "expert-dusk"]}}
    assert len(index["frames"]) == len(data) == 3
    for n, frame in enumerate(index["frames"]):
        image, label, key = data[n]
        folder = tmp_path / "layers" / "clean" / frame["dir"]
        assert (frame["key"], frame["subset"]) == (key, data.frames[n].subset)
        assert {p.stem for p in folder.iterdir()} == {"photo", "label", *models}
        photo = np.asarray(Image.open(folder / "photo.png"))
        assert np.abs(photo / 255 - image.permute(1, 2, 0).numpy()).max() < 1e-6
        assert (np.asarray(Image.open(folder / "label.png")) == label.numpy()).all()
        masks = {}
        for name, model in models.items():
            with torch.inference_mode():
                said = model(image[None])
            picture = Image.open(folder / f"{name}.png")
            assert picture.mode == "L"
            masks[name] = np.asarray(picture)
            assert (masks[name] == said.logits[0].argmax(0).numpy()).all()
            own = scores(confusion_matrix(said.logits.argmax(1)[0], label, 3)).miou
            assert frame["miou"][name] == pytest.approx(own, abs=1e-6)
            if name not in index["mixtures"]:
                assert name not in frame["weights"]
                continue
            assert said.weights is not None
            assert np.array(frame["weights"][name]) == pytest.approx(
                said.weights[0].numpy(), abs=1e-5
            )
            p = said.logits[0].softmax(0).double()
            entropy = float(-(p * p.log()).sum(0).mean()) / np.log(3)
            assert frame["scores"][name]["entropy"] == pytest.approx(entropy, abs=1e-5)
            w = said.weights[0].double()
            gate = float(-(w * w.log()).sum(0).mean()) / np.log(2)
            assert frame["scores"][name]["gate_uncertainty"] == pytest.approx(gate, abs=1e-5)
        unlike = [(masks[e] != masks["moe-simple"]).mean() for e in ("expert-day", "expert-dusk")]
        found = frame["scores"]["moe-simple"]["disagreement"]
        assert found == pytest.approx(np.mean(unlike), abs=1e-6)
        assert set(frame["scores"]["ensemble-mean"]) == {"disagreement", "entropy"}


def test_the_same_again_and_no_frame_of_before(data: SegmentationDataset, tmp_path: Path) -> None:
    models = some_models()
    write(models, data, tmp_path)
    place = tmp_path / "layers" / "clean"
    before = {p.name: p.read_bytes() for p in place.rglob("*.*")}
    write(models, data, tmp_path)
    assert {p.name: p.read_bytes() for p in place.rglob("*.*")} == before
    fewer = SegmentationDataset(data.frames[:1], data.read_label, SIZE)
    write(models, fewer, tmp_path)
    assert sorted(p.name for p in place.iterdir()) == ["0001", "index.json"]


def test_a_failure_replaces_nothing(data: SegmentationDataset, tmp_path: Path) -> None:
    models = some_models()
    before = write(models, data, tmp_path)
    data.frames[-1].image.write_bytes(b"no picture")
    with pytest.raises(DataError, match="unreadable picture"):
        write(models, data, tmp_path)
    place = tmp_path / "layers"
    assert json.loads((place / "clean" / "index.json").read_text()) == before
    assert [p.name for p in place.iterdir()] == ["clean"]
    with pytest.raises(UsageError, match="at least one frame"):
        write(models, SegmentationDataset([], data.read_label, SIZE), tmp_path)
    with pytest.raises(UsageError, match="not called label"):
        write({"label": models["moe-simple"]}, data, tmp_path)


@pytest.mark.parametrize("mixture", ["moe-classwise", "ensemble-mean"])
def test_a_sheet_for_each_frame(data: SegmentationDataset, tmp_path: Path, mixture: str) -> None:
    write(some_models(), data, tmp_path)
    sheets = write_sheets(tmp_path / "layers" / "clean", mixture, tmp_path / "out")
    assert [key for key, _ in sheets] == [frame.key for frame in data.frames]
    assert {path for _, path in sheets} == set((tmp_path / "out").iterdir())
    for place, (key, path) in enumerate(sheets, start=1):
        assert path.name == f"{place:04d}_{key.replace('/', '_')}.png"
        assert np.asarray(Image.open(path)).shape[1] > 3 * 320


def test_sheets_of_missing_layers_are_refused(data: SegmentationDataset, tmp_path: Path) -> None:
    place = tmp_path / "layers" / "clean"
    with pytest.raises(DataError, match="expected layers of 'moe-simple'"):
        write_sheets(place, "moe-simple", tmp_path)
    write(some_models(), data, tmp_path)
    with pytest.raises(DataError, match="expected layers of 'moe-other'"):
        write_sheets(place, "moe-other", tmp_path)
    (place / "0001" / "moe-simple.png").unlink()
    with pytest.raises(DataError, match=r"moe-simple\.png"):
        write_sheets(place, "moe-simple", tmp_path / "out")
