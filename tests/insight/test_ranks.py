"""Routing, oracle and the CSV of frames over two processes: what one process gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from moeseg.evaluation.collectors import Collector
from moeseg.evaluation.intervals import Blocks
from moeseg.insight.frames import FrameCollector
from moeseg.insight.routing import OracleCollector, RoutingCollector
from routed import BASE, CLASSES, EXPERTS, SUBSETS, frames, labels, part, prediction

COUNT = 41
"""Of frames; odd, so that one rank has more than the other."""


def collectors(folder: Path) -> dict[str, Collector]:
    """Return fresh ones; `late` is for frames that only one rank sees."""
    listed = [frame for frame in frames() if frame.key != frames()[-1].key]
    blocks = Blocks.of(listed)
    own = {name: name for name in EXPERTS}
    return {
        "oracle": OracleCollector(CLASSES, blocks, SUBSETS, BASE),
        "frames": FrameCollector("moe-x", EXPERTS, CLASSES, listed, folder / "frames.csv"),
        "late": RoutingCollector("moe-x", EXPERTS, CLASSES, blocks, SUBSETS, BASE, own),
        "routing": RoutingCollector("moe-x", EXPERTS, CLASSES, blocks, SUBSETS, BASE, own),
    }


def feed(collector: Collector, places: Sequence[int]) -> None:
    whole, label, keys = prediction(42, columns=3), labels(42), [f.key for f in frames()]
    with torch.inference_mode():  # as the inference loop calls it
        for n in places:
            chosen = slice(n, n + 1)
            collector.update(part(whole, chosen), label[chosen], keys[chosen])


def take_part(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    try:
        made = collectors(folder / "two")
        rows = {}
        for name, collector in made.items():
            if name != "late":
                feed(collector, range(rank, COUNT, 2))
            elif rank == 0:
                feed(collector, range(COUNT))
            collector.sync()
            collector.sync()  # a second call must not sum again
            with pytest.raises(RuntimeError, match="after sync"):
                feed(collector, [0])
            rows[name] = collector.rows()
        (folder / f"{rank}.json").write_text(json.dumps(rows))
    finally:
        dist.destroy_process_group()


def test_two_processes_give_what_one_gives(tmp_path: Path) -> None:
    spawn(take_part, (tmp_path,), nprocs=2)  # type: ignore[no-untyped-call]
    alone = collectors(tmp_path / "one")
    for collector in alone.values():
        feed(collector, range(COUNT))
        collector.sync()
    csv = (tmp_path / "one" / "frames.csv").read_bytes()
    assert (tmp_path / "two" / "frames.csv").read_bytes() == csv
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["frames.csv"]
    expected = {name: json.loads(json.dumps(c.rows())) for name, c in alone.items()}
    for rank in range(2):
        got = json.loads((tmp_path / f"{rank}.json").read_text())
        for name in ("oracle", "frames", "late"):
            assert got[name] == expected[name]
        for one, other in zip(got["routing"], expected["routing"], strict=True):
            for key, value in one.items():  # sums of floats in another order
                if key in ("mean_weights", "entropy", "concentration", "subset_accuracy"):
                    assert value == pytest.approx(other[key], abs=1e-12)
                elif key == "class_weights":
                    for label in CLASSES:
                        assert value[label] == pytest.approx(other[key][label], abs=1e-12)
                else:
                    assert value == other[key], key
