from __future__ import annotations

import csv
from pathlib import Path

import pytest

from moeseg.errors import MoesegError
from moeseg.files import fingerprint, log_epoch, remove, replacing, write_text


def test_a_file_takes_its_place_only_if_all_went_well(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "old")

    def fail_halfway() -> None:
        with replacing(path) as unfinished:
            unfinished.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert path.read_text() == "old"
    assert [one.name for one in path.parent.iterdir()] == ["a.txt"]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MoesegError, match=r"cannot write .*file/a\.txt.*run the same command"):
        write_text(tmp_path / "file" / "a.txt", "text")


def test_an_epoch_made_again_replaces_its_row_and_later_ones(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    for epoch, loss in ((0, 3.0), (1, 2.0), (2, 1.0), (1, 2.5)):
        log_epoch(path, {"epoch": epoch, "loss": loss})
    with path.open() as file:
        assert list(csv.DictReader(file)) == [
            {"epoch": "0", "loss": "3.0"},
            {"epoch": "1", "loss": "2.5"},
        ]


def test_fingerprints_hang_on_values_and_not_on_their_order() -> None:
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})
    assert fingerprint([1, 2]) != fingerprint([2, 1])


def test_remove_takes_files_folders_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    for name in ("link", "file", "none"):
        remove(tmp_path / name)
    assert [one.name for one in tmp_path.iterdir()] == ["folder"]
    remove(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
