from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from moeseg.data import Catalogue, LabelFormat, Pick, Taxonomy, limit, overlaps, reselect
from moeseg.errors import DataError, UsageError
from moeseg.types import Frame, Split

CAMVID = Taxonomy.load("camvid-11")


def frames(place: str, keys: str) -> list[Frame]:
    """Make frames of one ``subset/split`` from keys like ``s/1 s/2``."""
    subset, word = place.split("/")
    split = next(s for s in get_args(Split) if s == word)
    return [
        Frame(key.split("/")[0], key.split("/")[1], Path(f"{key}.png"), None, subset, split)
        for key in keys.split()
    ]


def catalogue(*places: list[Frame], strict: bool = True) -> Catalogue:
    every = tuple(frame for place in places for frame in place)
    return Catalogue("d", every, LabelFormat("ids", CAMVID, CAMVID), "lists-here", strict)


def keys(chosen: tuple[Frame, ...]) -> str:
    return " ".join(frame.key for frame in chosen)


def example() -> Catalogue:
    return catalogue(
        frames("b/train", "s/2 s/1"),
        frames("a/train", "t/1 u/5 t/3 t/2"),
        frames("a/test", "v/1"),
        frames("c/test", "v/2"),
    )


def test_select_keeps_the_order_of_lists_and_joins() -> None:
    assert keys(example().select("b", "train")) == "s/2 s/1"
    assert keys(example().select("a+b", "train")) == "t/1 u/5 t/3 t/2 s/2 s/1"
    assert keys(example().select(" b + a ", "train")) == "s/2 s/1 t/1 u/5 t/3 t/2"
    assert example().subsets() == ("b", "a", "c")
    assert example().subsets("test") == ("a", "c")
    assert example().sequences() == ("s", "t", "u", "v")


def test_select_refuses_what_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"unknown subset 'aa'\. Did you mean 'a'.*lists-here"):
        example().select("b+aa", "train")
    with pytest.raises(DataError, match=r"'c' has no frames in split 'train', only in test.*lists"):
        example().select("c", "train")
    with pytest.raises(UsageError, match="each subset once"):
        example().select("a+a", "train")
    with pytest.raises(UsageError, match="Did you mean 'train'"):
        example().select("a", "trai")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="unknown subset ''"):
        example().select("a+", "train")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("b/train", "a/train and b/train share 2 frames: s/1, s/2"),
        ("a/test", "a/train and a/test share 2 frames: s/1, s/2"),
        ("a/train", "a/train lists 2 frames twice: s/1, s/2"),
    ],
)
def test_overlaps_are_refused_and_named(second: str, message: str) -> None:
    places = frames("a/train", "s/1 s/2 s/3"), frames(second, "s/1 s/2 s/9")
    with pytest.raises(DataError) as caught:
        catalogue(*places)
    assert message in str(caught.value)
    assert "lists-here" in str(caught.value)
    assert len(catalogue(*places, strict=False).frames) == 6


def test_overlaps_are_grouped_by_place_and_shortened() -> None:
    many = " ".join(f"s/{i}" for i in range(9))
    found = overlaps([*frames("a/train", many), *frames("b/val", many), *frames("c/val", "s/0")])
    assert [(o.first, o.second, len(o.keys)) for o in found] == [
        (("a", "train"), ("b", "val"), 9),
        (("a", "train"), ("c", "val"), 1),
    ]
    assert str(found[0]).endswith("share 9 frames: s/0, s/1, s/2 ...")
    assert overlaps(frames("a/train", many)) == ()


def test_subset_names_must_be_joinable() -> None:
    with pytest.raises(DataError, match=r"without '\+'.*'a\+b'"):
        catalogue(frames("a+b/train", "s/1"))


def test_in_taxonomy_changes_only_the_labels() -> None:
    fine, coarse = Taxonomy.load("a2d2-38"), Taxonomy.load("a2d2-11")
    found = Catalogue("d", example().frames, LabelFormat("ids", fine, fine), "x")
    assert found.in_taxonomy(coarse).taxonomy == coarse
    assert found.in_taxonomy(coarse).frames == found.frames
    with pytest.raises(UsageError, match="no mapping"):
        found.in_taxonomy(CAMVID)


def test_reselect_by_sequence_and_place() -> None:
    new = reselect(
        example(),
        {
            "dusk": {
                "train": Pick("a", "train", sequences=("t",), frames=(0, 2)),
                "test": Pick("a", "train", sequences=("t",), frames=(2, None)),
            },
            "day": {"train": Pick(None, "train", exclude=("t", "v")), "val": Pick("c", "test")},
        },
    )
    assert keys(new.select("dusk", "train")) == "t/1 t/2"
    assert keys(new.select("dusk", "test")) == "t/3"
    assert keys(new.select("day", "train")) == "s/2 s/1 u/5"
    assert keys(new.select("day", "val")) == "v/2"
    assert {(f.subset, f.split) for f in new.frames if f.sequence == "t"} == {
        ("dusk", "train"),
        ("dusk", "test"),
    }


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        (Pick("aa", "train"), "unknown subset 'aa'. Did you mean 'a'"),
        (Pick("a", "train", sequences=("tt",)), "unknown sequence 'tt'. Did you mean 't'"),
        (Pick("a", "train", exclude=("ss",)), "unknown sequence 'ss'"),
        (Pick("a", "val"), "no frame of lists-here meets"),
        (Pick("a", "train", frames=(2, 5)), "within 0..4, first < end, got [2, 5]"),
        (Pick("a", "train", frames=(2, 2)), "got [2, 2]"),
        (Pick("a", "train", frames=(-1, 2)), "got [-1, 2]"),
        (Pick("a", "dev", frames=None), "unknown split 'dev'"),  # type: ignore[arg-type]
    ],
)
def test_impossible_picks_name_their_place(pick: Pick, message: str) -> None:
    with pytest.raises((UsageError, DataError)) as caught:
        reselect(example(), {"new": {"test": pick}})
    assert str(caught.value).startswith("new/test: ")
    assert message in str(caught.value)


def test_picks_that_overlap_are_refused() -> None:
    with pytest.raises(DataError, match="x/train and y/test share 2 frames: s/2, s/1"):
        reselect(example(), {"x": {"train": Pick("b", "train")}, "y": {"test": Pick("b", "train")}})


def test_limit_is_evenly_spaced() -> None:
    ten = tuple(frames("a/train", " ".join(f"s/{i}" for i in range(10))))
    assert keys(limit(ten, 5)) == "s/0 s/2 s/4 s/6 s/8"
    assert keys(limit(ten, 3)) == "s/0 s/3 s/6"
    assert limit(ten, 10) == limit(ten, 99) == ten
    with pytest.raises(UsageError, match="got 0"):
        limit(ten, 0)
