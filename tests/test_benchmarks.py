"""The benchmarks run at tiny sizes and say what they measured; no time is asserted."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[1]
FOLDER = REPO / "benchmarks"
NAMES = (
    "attacks",
    "corruptions",
    "gate_cache",
    "gate_fused",
    "gate_quality",
    "insight",
    "labels",
    "loader",
    "mixture_forward",
    "scenes",
    "ten_models",
    "uncertainty",
)
# what the issue promises, by benchmark; a goal that gets lost would go unseen
GOALS = {
    "attacks": {"at most 1.1"},
    "corruptions": {"at least 5"},
    "gate_cache": {"at least 30"},
    "insight": {"at most 1.25"},
    "labels": {"at least 20"},
    "mixture_forward": {"at most 1.03"},
    "scenes": {"at most 120"},
    "ten_models": {"at most 1.5"},
    "uncertainty": {"at least 15", "at most 1.5"},
}

Import = Callable[[str], ModuleType]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Import:
    """Return a function that imports a benchmark as `python benchmarks/<name>.py` would."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


def result_of(what: str, median: float, *, goal: str | None = None) -> dict[str, Any]:
    return {
        "what": what,
        "median": median,
        "min": median / 2,
        "max": median * 2,
        "unit": "s",
        "goal": goal,
        "met": None if goal is None else median <= 1,
    }


def handmade(name: str, *figures: dict[str, Any], smoke: bool = False) -> dict[str, Any]:
    return {
        "name": name,
        "title": f"Title of {name}",
        "command": f"python benchmarks/{name}.py",
        "machine": {
            "cpu": "Some CPU",
            "cores": 2,
            "threads": 1,
            "memory_gib": 8.0,
            "isa": "AVX2",
            "load_before": 0.25,
        },
        "versions": {"python": "3.11.0", "torch": "2.6.0"},
        "settings": {"smoke": smoke, "size": [24, 32]},
        "figures": list(figures),
        "notes": ["A note."],
    }


def test_every_benchmark_is_listed() -> None:
    files = {path.stem for path in FOLDER.glob("*.py")}
    assert files - {"measure", "render", "subjects"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_smoke_run_writes_its_figures(
    name: str, bench: Import, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "result.json"
    bench(name).main(["--smoke", "--out", str(out)])
    text = out.read_text()
    result = json.loads(text)

    keys = ("name", "title", "command", "machine", "versions", "settings", "figures", "notes")
    assert tuple(result) == keys
    assert result["name"] == name
    assert result["command"] == f"python benchmarks/{name}.py --smoke"
    assert {"cpu", "cores", "threads"} <= set(result["machine"])
    assert {"python", "torch", "torchvision", "moeseg"} <= set(result["versions"])
    assert result["settings"]["smoke"] is True
    assert str(tmp_path.parent) not in text  # nothing of this machine's folders
    for one in result["figures"]:
        assert set(one) == {"what", "median", "min", "max", "unit", "goal", "met"}
        assert one["min"] <= one["median"] <= one["max"]
        assert (one["goal"] is None) == (one["met"] is None)
        if one["unit"] not in ("%", "points"):  # a tiny network may well be wrong everywhere
            assert one["min"] >= 0 if "above rest" in one["what"] else one["min"] > 0
    assert {one["goal"] for one in result["figures"]} - {None} == GOALS.get(name, set())
    assert "time of the whole run" in capsys.readouterr().out


def test_smoke_run_without_out_leaves_the_results_alone(
    bench: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench("measure"), "RESULTS", tmp_path)
    bench("gate_fused").main(["--smoke"])
    assert list(tmp_path.iterdir()) == []


def test_projected_cache_size_is_what_lies_on_disk(bench: Import, tmp_path: Path) -> None:
    gate_cache, measure = bench("gate_cache"), bench("measure")
    at = gate_cache.SMOKE
    subjects = bench("subjects")
    experts = subjects.random_experts(at.experts, at.backbone, at.channels, at.classes)
    frames = subjects.RandomFrames(at.frames, at.size, at.classes)
    expected = gate_cache.frame_bytes(gate_cache.planned(at), at.size, at.pixels)
    # by hand: 2 gates of 16 x 2 x 2, 2 maps of 5 x 8 x 8, 32 x 32 labels; 9 x 16 points, their
    # places, their labels and the count of labelled pixels as int64
    assert expected == (
        2 * (2 * 16 * 4 + 2 * 5 * 64) + 32 * 32,
        2 * (2 * 16 * 4 + 2 * 5 * 9 * 16) + 8 * (2 * 16 + 1),
    )
    for name, limit, each in (("whole", 50.0, expected[0]), ("points", 1e-9, expected[1])):
        gate_cache.build(experts, frames, tmp_path / name, at, limit)
        arrays = list((tmp_path / name).glob("*.npy"))
        headers = 128 * len(arrays)
        layout = (tmp_path / name / "layout.json").stat().st_size
        assert measure.folder_bytes(tmp_path / name) == each * at.frames + headers + layout


def test_figure_by_hand(bench: Import) -> None:
    measure = bench("measure")
    plain = measure.figure("a", [3.0, 1.0, 2.5], "s")
    assert (plain.median, plain.min, plain.max, plain.goal, plain.met) == (2.5, 1, 3, None, None)
    at_most = measure.figure("a", [1.0, 1.03], "x", at_most=1.02)
    assert (at_most.goal, at_most.met) == ("at most 1.02", True)
    assert measure.figure("a", [1.2], "x", at_most=1.03).met is False
    assert measure.figure("a", [20.0], "x", at_least=20).met is True
    assert measure.figure("a", [19.0, 19.5, 40.0], "x", at_least=20).met is False
    assert measure.ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    assert measure.scaled([2.0, 9.0], 10) == [20.0, 90.0]
    assert [measure.number(x) for x in (12264, 1.03049, 0.00123456)] == [
        "12,264",
        "1.03",
        "0.001235",
    ]


def test_variants_run_in_turn(bench: Import) -> None:
    calls: list[str] = []
    variants = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    seconds = bench("measure").interleaved(variants, 3, warmups=1)
    assert calls == ["a", "b"] * 4
    assert {name: len(several) for name, several in seconds.items()} == {"a": 3, "b": 3}


def test_peak_memory_sees_what_was_freed_again(bench: Import) -> None:
    measure = bench("measure")
    if not measure._LINUX:
        pytest.skip("the peak of one piece of work can be told on Linux only")
    measure.peak_memory(lambda: np.ones(96 * 2**20, np.uint8).sum())
    before, peak = measure.peak_memory(lambda: np.ones(32 * 2**20, np.uint8).sum())
    assert 30 <= peak - before < 80


def test_comparisons_that_encode_is_measured_against_by_hand(bench: Import) -> None:
    labels = bench("labels")
    taxonomy = labels.Taxonomy(
        "two", ("road", "sky"), (((1, 2, 3),), ((1, 2, 4), (9, 2, 3))), ignore=((0, 0, 0),)
    )
    picture = np.array([[[1, 2, 3], [1, 2, 4]], [[9, 2, 3], [0, 0, 0]]], np.uint8)
    for slow in (labels.by_pixel, labels.by_channel):
        assert slow(taxonomy, picture).tolist() == [[0, 1], [1, 255]]


def test_page_is_a_function_of_the_results(bench: Import, tmp_path: Path) -> None:
    render = bench("render")
    one = handmade("one", result_of("fast | enough", 0.5, goal="at most 1"), result_of("b", 2.0))
    two = handmade("two", result_of("slow", 3.0, goal="at most 1"), smoke=True)
    for result in (two, one):
        (tmp_path / f"{result['name']}.json").write_text(json.dumps(result))
    pages = []
    for turn in range(2):
        render.main(["--results", str(tmp_path), "--out", str(tmp_path / f"{turn}.md")])
        pages.append((tmp_path / f"{turn}.md").read_bytes())
    assert pages[0] == pages[1]
    page = pages[0].decode()
    assert page == render.render([one, two])  # in order of the names
    assert "| [one](#one) | fast \\| enough | 0.5 s | at most 1 | yes |" in page
    assert "| [two](#two) | slow | 3 s | at most 1 | NO |" in page
    assert "| b | 2 s | 1 to 4 |  |  |" in page
    assert "Command: `python benchmarks/one.py`" in page
    assert page.count("Tiny sizes") == 1  # two was a smoke run


def test_page_without_results_is_an_error(bench: Import, tmp_path: Path) -> None:
    from moeseg.errors import DataError

    with pytest.raises(DataError, match="expected JSON files"):
        bench("render").main(["--results", str(tmp_path), "--out", str(tmp_path / "page.md")])
    assert not (tmp_path / "page.md").exists()


def test_page_in_the_docs_is_that_of_the_results(bench: Import) -> None:
    render = bench("render")
    files = sorted((FOLDER / "results").glob("*.json"))
    if not files:
        pytest.skip("no benchmark has been run at full size yet")
    results = [json.loads(path.read_text()) for path in files]
    assert [result["name"] for result in results] == [path.stem for path in files]
    assert not any(result["settings"]["smoke"] for result in results)
    assert (REPO / "docs" / "benchmarks.md").read_text() == render.render(results)
