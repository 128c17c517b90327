"""Rows: validation, and reading and writing all or nothing."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from moeseg.errors import DataError
from moeseg.evaluation.rows import read_files, read_rows, validate_row, write_rows
from moeseg.types import Row
from robust_rows import attack_row


def _row(**changes: object) -> Row:
    row: Row = {
        "kind": "difference",
        "model": 'moe "ü" | x',
        "subset": "highway",
        "condition": "clean",
        "split": "test",
        "dataset": "toy",
        "size": [6, 8],
        "architecture": "tiny",
        "images": 3,
        "seed": 0,
        "settings": {"a": None},
        "fingerprint": "f",
        "minus": "baseline",
        "difference": 0.1,
        "ci95": [-0.1, 0.3],
        "ci_unit": "block",
        "ci_units": 10,
        "wins": False,
    }
    return {**row, **changes}


def test_round_trip_keeps_rows_of_any_kind(tmp_path: Path) -> None:
    rows: list[Row] = [_row(), {"kind": "another", "text": "line\u2028separator \n"}]
    path = tmp_path / "new" / "results.jsonl"
    write_rows(path, rows)
    assert read_rows(path) == rows
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [json.loads(line)["kind"] for line in lines[:-1]] == ["difference", "another"]
    assert "ü" in lines[0]
    assert [file.name for file in path.parent.iterdir()] == ["results.jsonl"]


def test_validation_names_all_that_is_wrong() -> None:
    validate_row(_row())
    validate_row(_row(ci95=None, difference=None))
    row = _row(wonn=True)
    del row["wins"]
    with pytest.raises(DataError) as caught:
        validate_row(row)
    assert "key 'wins' is missing" in str(caught.value)
    assert "unknown key 'wonn'" in str(caught.value)
    with pytest.raises(DataError, match="unknown kind of row 'diference'"):
        validate_row(_row(kind="diference"))
    for changes in ({"ci95": [0.2, 0.1]}, {"ci_unit": "frame"}, {"size": [6]}):
        with pytest.raises(DataError, match=next(iter(changes))):
            validate_row(_row(**changes))


def test_shares_are_checked_however_deep() -> None:
    row = {
        key: value for key, value in _row().items() if key not in ("minus", "difference", "wins")
    }
    row |= {"kind": "agreement", "category": "unanimous", "pixels": 9, "labelled": 9}
    row |= {"share": 0.5, "right": None, "right_ci95": None}
    row |= {"per_class_share": {"a": 1.0, "b": None}, "per_class_right": {"a": 0, "b": None}}
    validate_row(row)
    for changes in (
        {"share": -0.1},
        {"per_class_share": {"a": 1.01, "b": None}},
        {"per_class_right": {"a": [0.5, float("nan")]}},
        {"right_ci95": [0.2, 0.1]},
    ):
        with pytest.raises(DataError, match=next(iter(changes))):
            validate_row(row | changes)


def test_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write_rows(path, [_row()])
    before = path.read_bytes()
    for bad in (_row(settings={1, 2}), _row(difference=float("nan")), _row(size=None)):
        with pytest.raises(DataError):
            write_rows(path, [_row(), bad])
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["results.jsonl"]


def test_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    write_rows(path, [{"kind": "other", "number": 1}])
    code = (
        "import sys, pathlib, moeseg.errors\n"
        "from moeseg.evaluation.rows import write_rows\n"
        "try:\n"
        "    write_rows(pathlib.Path(sys.argv[1]), [{'kind': 'x', 'text': 'a' * 100_000}])\n"
        "except moeseg.errors.MoesegError as error:\n"
        "    sys.exit(str(error))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)),
        check=False,
    )
    assert done.returncode == 1
    assert f"cannot write {path}" in done.stderr
    assert read_rows(path) == [{"kind": "other", "number": 1}]
    assert [file.name for file in tmp_path.iterdir()] == ["results.jsonl"]


def test_only_sweeps_of_one_run_are_joined(tmp_path: Path) -> None:
    row = attack_row("baseline", "baseline", "pgd-10", "1/255", "urban")
    failed = row | {"checks": dict.fromkeys(row["checks"], False)}
    paths = {
        name: tmp_path / name
        for name in (
            *("a/robustness/attack-x.jsonl", "a/robustness/attack-y.jsonl"),
            *("b/robustness/attack-x.jsonl", "a/results.jsonl", "a/other.jsonl"),
        )
    }
    for path in paths.values():
        write_rows(path, [failed if path.stem == "attack-y" else row])
    x, y, of_other, *plain = paths.values()
    assert read_files([x, y]) == [failed]
    assert read_files([x, of_other]) == [row, row]  # another run: to be told, not merged
    assert read_files([*plain, plain[0]]) == [row] * 3
    for key, value in (("seed", 1), ("frames", "aa")):
        write_rows(y, [row | {key: value}])
        assert len(read_files([x, y])) == 2


@pytest.mark.parametrize("line", ["{", "3", "[]", '{"model": "x"}'])
def test_bad_lines_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"kind": "x"}\n\n' + line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"results\.jsonl:3: expected"):
        read_rows(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.jsonl"):
        read_rows(tmp_path / "gone.jsonl")
