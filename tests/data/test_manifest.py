from __future__ import annotations

from pathlib import Path

import pytest

from contracts_data import DatasetContract, fake_manifest
from moeseg.data import Catalogue, Taxonomy, read_manifest
from moeseg.errors import DataError

OWN = Taxonomy("own", ("a", "b", "c"), (((1, 1, 1),), ((2, 2, 2),), ((3, 3, 3),)))
ROWS = [
    ("d1", "000", "rain", "train"),
    ("d1", "001", "rain", "train"),
    ("d2", "000", "sun", "train"),
    ("d3", "000", "sun", "test"),
]


class TestManifest(DatasetContract):
    def catalogue(self, root: Path) -> Catalogue:
        return read_manifest(fake_manifest(root, ROWS), OWN, "ids")

    def read_missing(self, root: Path) -> object:
        return read_manifest(root / "frames.csv", OWN)


def test_names_and_paths(tmp_path: Path) -> None:
    found = read_manifest(fake_manifest(tmp_path / "mine", ROWS), OWN, "ids")
    assert found.dataset == "mine"
    assert read_manifest(tmp_path / "mine" / "frames.csv", OWN, "ids", "x").dataset == "x"
    frame = found.select("sun", "train")[0]
    assert frame.key == "d2/000"
    assert frame.image == tmp_path / "mine" / "photos" / "d2" / "000.png"


def test_sequence_column_and_a_spreadsheets_mark(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_bytes(
        b"\xef\xbb\xbfimage, label,subset,split,sequence\r\np/a.png,l/a.png,s,train,drive\r\n"
        b"p/b.png,l/b.png,s,train,\r\n"
    )
    assert [f.key for f in read_manifest(path, OWN).frames] == ["drive/a", "p/b"]


def test_all_bad_lines_are_named(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(
        "image,label,subset,split,sequence\n"
        "p/a.png,l/a.png,s,tran,\n"
        "p/b.png,,s,train,\n"
        "p/c.png,l/c.png,s+t,train,\n"
        "\n"
        "p/d.png,l/d.png,s\n"
        "p/e.png,l/e.png,s,train,../up\n"
    )
    with pytest.raises(DataError) as caught:
        read_manifest(path, OWN)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{path}:2: unknown split 'tran'. Did you mean 'train'? " + (
        "Choose from: test, train, val."
    )
    assert lines[1] == f"{path}:3: label is empty."
    assert lines[2].startswith(f"{path}:4: expected a subset without '+'")
    assert lines[3] == f"{path}:6: expected 5 values, got 3."
    assert lines[4].startswith(f"{path}:7: expected a sequence without slashes")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column 'image' is missing"),
        ("image,label,subset,split,sequnce\n", "Did you mean 'sequence'"),
        ("image,label,label,subset,split\n", "column 'label' stands twice"),
        ("image,label,subset,split\n", "got none below the header"),
        ('image,label,subset,split\n"a,b\n', "can't read the manifest"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        read_manifest(path, OWN)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_one_name_in_two_folders_of_one_name_clashes(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("image,label,subset,split\na/p/0.png,l,s,train\nb/p/0.png,l,s,val\n")
    with pytest.raises(DataError, match="s/train and s/val share 1 frame: p/0"):
        read_manifest(path, OWN)
