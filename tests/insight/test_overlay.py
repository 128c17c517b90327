"""Overlays by hand and against slow loops; the sheet holds every picture and every colour."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from moeseg.errors import DataError, UsageError
from moeseg.insight.overlay import (
    ALPHA,
    OVERRULES,
    FrameView,
    Scheme,
    agreement_overlay,
    category_colours,
    error_overlay,
    expert_colours,
    frame_sheet,
    scheme_of,
    weight_bars,
    winner_overlay,
    winning_expert,
)

SIZE = (12, 20)
CLASSES = ("Car", 'a "<b>" ü|', "Sky")
COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
RNG = np.random.default_rng(4)


def ids(*leading: int) -> NDArray[np.uint8]:
    return RNG.integers(0, 3, (*leading, *SIZE)).astype(np.uint8)


def photo() -> NDArray[np.uint8]:
    return RNG.integers(0, 256, (*SIZE, 3)).astype(np.uint8)


def test_colours_of_two_experts() -> None:
    assert category_colours(2, "original") == ((255, 0, 0), (0, 255, 0), (0, 0, 255), None)
    overrules, first, second, unanimous = category_colours(2)
    assert unanimous is None
    assert overrules == OVERRULES["safe"] == (213, 94, 0)
    assert (first, second) == expert_colours(2) == ((0, 114, 178), (240, 228, 66))


@pytest.mark.parametrize("scheme", ["safe", "original"])
@pytest.mark.parametrize("experts", [2, 3, 4, 6])
def test_every_category_has_a_colour_and_few_experts_one_of_its_own(
    scheme: Scheme, experts: int
) -> None:
    colours = category_colours(experts, scheme)
    assert len(colours) == 2**experts
    assert [c is None for c in colours] == [False] * (2**experts - 1) + [True]
    if experts <= 3:
        assert len(set(colours)) == 2**experts
    for e, colour in enumerate(expert_colours(experts, scheme)):
        assert colours[1 << e] == colour


@pytest.mark.parametrize("scheme", ["safe", "original"])
@pytest.mark.parametrize("experts", [2, 3])
def test_agreement_against_a_slow_loop(scheme: Scheme, experts: int) -> None:
    picture, own, each = photo(), ids(), ids(experts)
    drawn = agreement_overlay(picture, own, each, scheme=scheme)
    colours = category_colours(experts, scheme)
    for y, x in np.ndindex(*SIZE):
        mask = sum(1 << e for e in range(experts) if each[e, y, x] == own[y, x])
        colour = colours[mask]
        if colour is None:
            assert (drawn[y, x] == picture[y, x]).all()
        else:
            mixed = picture[y, x] * (1 - ALPHA) + np.array(colour) * ALPHA
            assert np.abs(drawn[y, x] - mixed).max() <= 0.51


def test_published_overlay_by_hand() -> None:
    grey = np.full((1, 4, 3), 100, np.uint8)
    own = np.array([[0, 0, 0, 0]], np.uint8)
    each = np.array([[[0, 0, 1, 1]], [[0, 1, 0, 2]]], np.uint8)
    drawn = agreement_overlay(grey, own, each, scheme="original")
    # 100 * 155 / 255 = 60.8, plus 100 where the colour is 255
    assert drawn.tolist() == [[[100] * 3, [61, 161, 61], [61, 61, 161], [161, 61, 61]]]


def test_errors_are_marked_and_what_has_no_label_is_dark() -> None:
    grey = np.full((1, 3, 3), 99, np.uint8)
    label = np.array([[0, 1, 255]], np.uint8)
    drawn = error_overlay(grey, np.array([[0, 0, 0]], np.uint8), label, alpha=1.0)
    assert drawn.tolist() == [[[177] * 3, [213, 94, 0], [60, 60, 60]]]


def test_the_winner_has_the_largest_weight_of_the_predicted_class() -> None:
    own = np.array([[0, 1, 2]], np.uint8)
    classwise = np.array([[0.9, 0.2, 0.5], [0.1, 0.8, 0.5]])
    assert winning_expert(own, classwise).tolist() == [[0, 1, 0]]
    assert winning_expert(own, np.array([[0.4], [0.6]])).tolist() == [[1, 1, 1]]
    black = np.zeros((1, 3, 3), np.uint8)
    drawn = winner_overlay(black, own, classwise, alpha=1.0)
    first, second = (list(colour) for colour in expert_colours(2))
    assert drawn.tolist() == [[first, second, first]]


def test_bars_are_as_long_as_the_weights() -> None:
    own = np.zeros(SIZE, np.uint8)
    own[:, :3] = 2
    classwise = np.array([[0.75, 0.5, 0.25], [0.25, 0.5, 0.75]])
    drawn = weight_bars(classwise, own, CLASSES, (60, 320))
    first, second = expert_colours(2)
    for line, share in ((0, 0.75), (1, 0.25)):  # class 0 has most pixels; class 1 has none
        strip = drawn[line * 15 + 7]
        counts = [int((strip == colour).all(axis=1).sum()) for colour in (first, second)]
        assert counts[0] / sum(counts) == pytest.approx(share, abs=0.02)
    assert not (drawn[35:] == first).all(axis=2).any()
    one = weight_bars(np.array([[1.0], [0.0]]), own, CLASSES, (60, 320))
    assert (one == first).all(axis=2).any()
    assert not (one == second).all(axis=2).any()


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("columns", [0, 1, 3])
def test_a_sheet_holds_everything(labelled: bool, columns: int) -> None:
    weights = np.full((2, columns), 0.5) if columns else None
    view = FrameView(
        head=("day <x>", "drive/ü"),
        photo=photo(),
        label=ids() if labelled else None,
        model="moe-simple",
        ids=ids(),
        experts=("expert-day", "expert-dusk"),
        expert_ids=ids(2),
        weights=weights,
    )
    sheet = np.asarray(frame_sheet(view, CLASSES, COLOURS))
    for colour in (*COLOURS, *expert_colours(2), OVERRULES["safe"]):
        assert (sheet == colour).all(axis=2).sum() > 50  # in the legend at least
    masks = 4 if labelled else 3  # of 320 x 192 pixels each
    classes = sum(int((sheet == colour).all(axis=2).sum()) for colour in COLOURS)
    assert masks * 320 * 192 <= classes < (masks + 0.1) * 320 * 192
    again = np.asarray(frame_sheet(view, CLASSES, COLOURS))
    assert (sheet == again).all()


def test_large_frames_are_brought_down() -> None:
    big = FrameView(
        ("k",), np.zeros((500, 1000, 3), np.uint8), None, "m", np.zeros((500, 1000), np.uint8),
        ("a", "b"), np.zeros((2, 500, 1000), np.uint8), None,
    )  # fmt: skip
    assert frame_sheet(big, CLASSES, COLOURS).width < 4 * 660


def test_mistakes_are_named() -> None:
    assert scheme_of("original") == "original"
    with pytest.raises(UsageError, match="Did you mean 'safe'"):
        scheme_of("save")
    with pytest.raises(DataError, match="at most 8 experts"):
        category_colours(9)
