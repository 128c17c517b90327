"""The contact sheet: where pictures land, that colours stay, that overlays blend by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from moeseg.errors import DataError
from moeseg.evaluation.sheet import Pixels, SheetRow, contact_sheet, overlay, photo


def _flat(colour: tuple[int, int, int], height: int = 30, width: int = 50) -> Pixels:
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[:] = colour
    return picture


def test_overlay_by_hand() -> None:
    mixed = overlay(_flat((100, 0, 255)), _flat((200, 100, 0)), 0.25)
    assert mixed.dtype == np.uint8
    assert np.unique(mixed.reshape(-1, 3), axis=0).tolist() == [[125, 25, 191]]
    assert (overlay(_flat((9, 8, 7)), _flat((1, 1, 1)), 0.0) == _flat((9, 8, 7))).all()
    with pytest.raises(DataError, match="alpha"):
        overlay(_flat((0, 0, 0)), _flat((0, 0, 0)), 100)
    with pytest.raises(DataError, match="shape"):
        overlay(_flat((0, 0, 0)), _flat((0, 0, 0), 31), 0.5)


def test_photo_is_rounded_and_clamped() -> None:
    image = torch.tensor([0.0, 0.5, 1.2]).view(3, 1, 1).expand(3, 2, 4)
    assert photo(image).shape == (2, 4, 3)
    assert photo(image)[0, 0].tolist() == [0, 128, 255]


def test_every_cell_stands_in_its_place_with_its_colour() -> None:
    colours = [[(250, 0, 0), (0, 250, 0)], [(0, 0, 250), (250, 250, 0)]]
    rows = [
        SheetRow(("highway", f"drive/{number}"), tuple(_flat(colour) for colour in line))
        for number, line in enumerate(colours)
    ]
    sheet = contact_sheet(["photo", "label"], rows, {}, cell_width=100)
    pixels = np.asarray(sheet)
    places = {}
    for line in colours:
        for colour in line:
            ys, xs = np.nonzero((pixels == colour).all(axis=2))
            assert len(ys) == 100 * 60  # twice the size, every pixel
            places[colour] = (ys.min(), xs.min())
    assert places[250, 0, 0][0] == places[0, 250, 0][0] < places[0, 0, 250][0]
    assert places[250, 0, 0][1] == places[0, 0, 250][1] < places[0, 250, 0][1]


def test_masks_are_not_blended_and_photos_are() -> None:
    stripes = _flat((0, 0, 0))
    stripes[:, ::2] = (200, 0, 0)
    sheet = contact_sheet(["photo", "mask"], [SheetRow(("a",), (stripes, stripes))], {},
                          cell_width=33)  # fmt: skip
    pixels = np.asarray(sheet)
    mask, smooth = pixels[-30:, -39:-6], pixels[-30:, -78:-45]
    found = {tuple(colour) for colour in mask.reshape(-1, 3).tolist()}
    assert found <= {(0, 0, 0), (200, 0, 0), (255, 255, 255)}
    assert any(0 < red < 200 for red in smooth[..., 0].flatten().tolist())


def test_legend_holds_every_colour_below_the_pictures() -> None:
    legend = {f"Klasse {n} ü": (n * 6, 255 - n * 6, 90) for n in range(38)}
    rows = [SheetRow(("urban", "a" * 200), (_flat((1, 2, 3)),))]
    pixels = np.asarray(contact_sheet(["photo of a very long name " * 5], rows, legend))
    ground = np.nonzero((pixels == (1, 2, 3)).all(axis=2))[0].max()
    for colour in legend.values():
        ys, _ = np.nonzero((pixels == colour).all(axis=2))
        assert len(ys) > 50
        assert ys.min() > ground


def test_missing_pictures_are_an_error() -> None:
    with pytest.raises(DataError, match="expected 2 pictures for 'urban k', got 1"):
        contact_sheet(["a", "b"], [SheetRow(("urban", "k"), (_flat((0, 0, 0)),))], {})
    with pytest.raises(DataError, match="at least one frame"):
        contact_sheet(["a"], [], {})
