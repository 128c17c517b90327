"""The CSV of frames: columns, numbers by hand and by slow loops, ranks, failures."""

from __future__ import annotations

import gc
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from moeseg.errors import DataError, MoesegError
from moeseg.insight.frames import FrameCollector, contested, frame_columns, read_frames
from moeseg.types import Frame, Prediction
from routed import CLASSES, EXPERTS, SIZE, frames, labels, part, prediction

ORIGINAL = "id_id,perfect_case,moe_agrees_with_expert_1,moe_agrees_with_expert_2,critical_case"


def written(
    path: Path, whole: Prediction, *, batch: int = 5, experts: Sequence[str] = EXPERTS
) -> list[dict[str, str]]:
    collector = FrameCollector("moe-x", experts, CLASSES, frames(), path)
    feed(collector, whole, range(0, 42, batch), batch)
    collector.sync()
    assert collector.rows() == []
    return list(read_frames(path))


def feed(
    collector: FrameCollector, whole: Prediction, starts: Sequence[int], batch: int = 1
) -> None:
    label, keys = labels(42), [frame.key for frame in frames()]
    for start in starts:
        chosen = slice(start, start + batch)
        collector.update(part(whole, chosen), label[chosen], keys[chosen])


def test_columns_of_the_original_come_first() -> None:
    columns = frame_columns(EXPERTS, CLASSES, labelled=True)
    assert ",".join(columns[:5]) == ORIGINAL
    assert columns[5:] == [
        "key", "sequence", "frame", "subset", "image", "label",
        "disagreement", "disagreement_Car", "disagreement_Sky", f"disagreement_{CLASSES[2]}",
        "entropy", "gate_uncertainty", "weight_highway", "weight_urban",
        "miou", "miou_highway", "miou_urban", "preferred", "better",
        "rank_disagreement", "rank_gate_uncertainty",
        "rank_disagreement_Car", "rank_disagreement_Sky", f"rank_disagreement_{CLASSES[2]}",
    ]  # fmt: skip
    assert frame_columns("abc", (), labelled=False)[1:9] == [
        "perfect_case",
        "moe_agrees_with_expert_1",
        "moe_agrees_with_expert_2",
        "moe_agrees_with_expert_1_and_2",
        "moe_agrees_with_expert_3",
        "moe_agrees_with_expert_1_and_3",
        "moe_agrees_with_expert_2_and_3",
        "critical_case",
    ]
    unlabelled = frame_columns(EXPERTS, CLASSES, labelled=False)
    assert not [c for c in unlabelled if "miou" in c or c in ("label", "subset", "better")]


def test_contested_by_hand() -> None:
    ids = torch.tensor([[0, 0, 1, 2]])
    each = torch.tensor([[[0, 1, 1, 0]], [[0, 1, 1, 1]]])
    # pixel 2 is disputed between 0 and 1, pixel 4 between 2, 0 and 1
    assert contested(ids, each, 4).tolist() == [0.5, 0.5, 0.25, 0.0]


def test_a_frame_by_hand(tmp_path: Path) -> None:
    listed = [Frame("d", "1", Path("p, q.png"), None, "fog", "test")]
    ids = torch.tensor([[[0, 0, 1, 1]]])
    each = torch.tensor([[[[0, 0, 1, 0]], [[0, 1, 0, 0]]]])  # (1, 2, 1, 4)
    logits = torch.zeros(1, 3, 1, 4)
    label = torch.tensor([[[0, 0, 1, 255]]], dtype=torch.uint8)
    weights = torch.tensor([[[0.25], [0.75]]])
    collector = FrameCollector("m", ("a", "b"), CLASSES, listed, tmp_path / "f" / "frames.csv")
    assert collector.needs_experts
    collector.update(Prediction(logits, weights, ids=ids, expert_ids=each), label, ["d/1"])
    collector.sync()
    (line,) = read_frames(tmp_path / "f" / "frames.csv")
    assert line == {
        "id_id": "0",
        "perfect_case": "1",
        "moe_agrees_with_expert_1": "2",
        "moe_agrees_with_expert_2": "0",
        "critical_case": "1",
        "key": "d/1",
        "sequence": "d",
        "frame": "1",
        "subset": "fog",
        "image": "p, q.png",
        "label": "",
        "disagreement": "0.5",  # 0, 1/2, 1/2, 1
        "disagreement_Car": "0.75",
        "disagreement_Sky": "0.75",
        f"disagreement_{CLASSES[2]}": "0",
        "entropy": "1",
        "gate_uncertainty": f"{-0.25 * math.log2(0.25) - 0.75 * math.log2(0.75):.6g}",
        "weight_a": "0.25",
        "weight_b": "0.75",
        "miou": "1",
        "miou_a": "1",
        "miou_b": "0.166667",  # 1 of the 3 pixels that are or are called class 0; none of class 1
        "preferred": "b",
        "better": "a",
        "rank_disagreement": "1",
        "rank_gate_uncertainty": "1",
        **{f"rank_disagreement_{name}": "1" for name in CLASSES},
    }


def slow_miou(ids: NDArray[Any], label: NDArray[Any]) -> float:
    ious = []
    for c in set(label[label != 255].tolist()):
        a, b = (ids == c) & (label != 255), label == c
        ious.append((a & b).sum() / (a | b).sum())
    return float(np.mean(ious)) if ious else math.nan


@pytest.mark.parametrize(("experts", "columns"), [(2, 1), (3, 3)])
def test_lines_against_slow_loops(tmp_path: Path, experts: int, columns: int) -> None:
    names = ("highway", "urban", 'a"ü,')[:experts]
    whole = prediction(42, experts=experts, columns=columns)
    lines = written(tmp_path / "frames.csv", whole, experts=names)
    assert whole.ids is not None
    assert whole.expert_ids is not None
    assert whole.weights is not None
    ids, each = whole.ids.numpy(), whole.expert_ids.numpy()
    w, truth = whole.weights.double().numpy(), labels(42).numpy()
    z = np.exp(whole.logits.double().numpy())
    p = z / z.sum(axis=1, keepdims=True)
    heads = frame_columns(names, CLASSES, labelled=True)
    assert list(lines[0]) == heads
    for n, (line, frame) in enumerate(zip(lines, frames(), strict=True)):
        assert line["id_id"] == str(n)
        assert (line["key"], line["sequence"], line["frame"]) == (
            frame.key,
            frame.sequence,
            frame.frame,
        )
        assert (line["image"], line["label"]) == (str(frame.image), str(frame.label))
        agree = each[n] == ids[n]  # (E, H, W)
        cases = {"perfect_case": agree.all(axis=0), "critical_case": ~agree.any(axis=0)}
        cases["moe_agrees_with_expert_2"] = agree[1] & (agree.sum(axis=0) == 1)
        if experts == 3:
            cases["moe_agrees_with_expert_1_and_3"] = agree[0] & agree[2] & ~agree[1]
        for head, where in cases.items():
            assert line[head] == str(where.sum())
        assert sum(int(line[head]) for head in heads[1 : 1 + 2**experts]) == ids[n].size
        assert float(line["disagreement"]) == pytest.approx((~agree).mean(), rel=1e-5)
        for c, name in enumerate(CLASSES):
            says = np.concatenate([ids[n][None], each[n]]) == c
            share = (says.any(axis=0) & ~says.all(axis=0)).mean()
            assert float(line[f"disagreement_{name}"]) == pytest.approx(share, rel=1e-5)
        entropy = -(p[n] * np.log(p[n])).sum(axis=0).mean() / math.log(3)
        assert float(line["entropy"]) == pytest.approx(entropy, rel=1e-5)
        gate = -(w[n] * np.log(w[n])).sum(axis=0).mean() / math.log(experts)
        assert float(line["gate_uncertainty"]) == pytest.approx(gate, rel=1e-5)
        mean = w[n].mean(axis=1)
        assert [float(line[f"weight_{x}"]) for x in names] == pytest.approx(mean, rel=1e-5)
        assert line["preferred"] == names[int(mean.argmax())]
        own, *of_experts = (slow_miou(x, truth[n]) for x in (ids[n], *each[n]))
        if n == 1:  # all ignored
            assert (line["miou"], line["miou_urban"], line["better"]) == ("", "", "")
            continue
        assert float(line["miou"]) == pytest.approx(own, rel=1e-5)
        got = [float(line[f"miou_{x}"]) for x in names]
        assert got == pytest.approx(of_experts, rel=1e-5)
        if of_experts.count(max(of_experts)) == 1:
            assert line["better"] == names[int(np.argmax(of_experts))]
    for score in ("disagreement", "gate_uncertainty"):
        ordered = sorted(lines, key=lambda line: int(line[f"rank_{score}"]))
        assert [line[f"rank_{score}"] for line in ordered] == [str(r) for r in range(1, 43)]
        values = [float(line[score]) for line in ordered]
        assert values == sorted(values, reverse=True)


def test_batching_does_not_matter(tmp_path: Path) -> None:
    whole = prediction(42, columns=3)
    written(tmp_path / "1.csv", whole, batch=1)
    written(tmp_path / "42.csv", whole, batch=42)
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "42.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.csv", "42.csv"]


def test_an_ensemble_has_no_weights_and_no_labels_leave_out_columns(tmp_path: Path) -> None:
    whole = replace(part(prediction(42), slice(0, 2)), weights=None)
    listed = frames()[:2]
    path = tmp_path / "frames.csv"
    collector = FrameCollector("e", EXPERTS, CLASSES, listed, path, labelled=False)
    # the second photo is padded: only a quarter of the frame is photo
    padded = replace(whole, extents=(SIZE, (3, 4)))
    nothing = torch.zeros(2, *SIZE, dtype=torch.uint8)
    collector.update(padded, nothing, [frame.key for frame in listed])
    collector.sync()
    first, second = read_frames(path)
    assert (first["gate_uncertainty"], first["weight_urban"], first["preferred"]) == ("", "", "")
    assert (first["rank_gate_uncertainty"], first["rank_disagreement"] in "12") == ("", True)
    counts = [sum(int(n) for n in list(line.values())[1:5]) for line in (first, second)]
    assert counts == [48, 12]
    assert whole.ids is not None
    assert whole.expert_ids is not None
    differs = (whole.expert_ids[1, :, :3, :4] != whole.ids[1, :3, :4]).double().mean()
    assert float(second["disagreement"]) == pytest.approx(float(differs), rel=1e-5)
    assert "miou" not in first


def test_no_frame_gives_an_empty_list(tmp_path: Path) -> None:
    collector = FrameCollector("m", EXPERTS, CLASSES, [], tmp_path / "frames.csv")
    collector.sync()
    collector.sync()
    assert (tmp_path / "frames.csv").read_text().startswith(ORIGINAL)
    assert list(read_frames(tmp_path / "frames.csv")) == []


def test_a_run_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "frames.csv"
    path.write_text("before")
    collector = FrameCollector("moe-x", EXPERTS, CLASSES, frames(), path)
    feed(collector, prediction(42), range(3))
    with pytest.raises(DataError, match=r"moe-x: expected .* got \['x/1'\]"):
        collector.update(part(prediction(42), slice(0, 1)), labels(42)[:1], ["x/1"])
    del collector
    gc.collect()
    assert path.read_text() == "before"
    assert [one.name for one in tmp_path.iterdir()] == ["frames.csv"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    collector = FrameCollector("m", EXPERTS, CLASSES, frames(), tmp_path / "file" / "frames.csv")
    with pytest.raises(MoesegError, match=r"cannot write .*frames\.csv"):
        feed(collector, prediction(42), range(1))


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        next(read_frames(tmp_path / "frames.csv"))
    (tmp_path / "frames.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="expected the frames of a mixture"):
        next(read_frames(tmp_path / "frames.csv"))
    (tmp_path / "frames.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="expected the frames of a mixture"):
        next(read_frames(tmp_path / "frames.csv"))
