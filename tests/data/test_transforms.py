from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from contracts_data import random_ids, random_photo
from moeseg.data.transforms import (
    Augment,
    augmented,
    fit_image,
    fit_label,
    fitted_extent,
    resize_image,
    resize_label,
    unit_range,
)
from moeseg.errors import UsageError
from moeseg.types import IGNORE, Size


def pair(size: Size = (12, 20)) -> tuple[Tensor, Tensor]:
    """Make a photo whose red channel shows the label, so that both can be compared."""
    label = torch.from_numpy(random_ids(1, 200, size))
    photo = torch.from_numpy(random_photo(1, size)).permute(2, 0, 1).clone()
    photo[0] = label
    return photo, label


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def together(image: Tensor, label: Tensor) -> bool:
    """Whether photo and label moved together, apart from padding."""
    red = (image[0] * 255).round().to(torch.uint8)
    return bool(((red == label) | (label == IGNORE)).all())


@pytest.mark.parametrize("size", [(7, 11), (24, 40), (5, 33)])
def test_resizing_agrees_with_pillow(size: Size) -> None:
    photo, ids = random_photo(2, (29, 47)), random_ids(2, 38, (29, 47))
    image = resize_image(torch.from_numpy(photo).permute(2, 0, 1), size)
    label = resize_label(torch.from_numpy(ids), size)
    bilinear = Image.fromarray(photo).resize(size[::-1], Image.Resampling.BILINEAR)
    nearest = Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST)
    assert image.dtype == label.dtype == torch.uint8
    off = image.permute(1, 2, 0).numpy().astype(int) - np.array(bilinear).astype(int)
    assert np.abs(off).max() <= 1
    assert np.array_equal(label.numpy(), np.array(nearest))


def test_a_label_pixel_takes_the_id_at_its_centre() -> None:
    label = torch.arange(9, dtype=torch.uint8).reshape(3, 3)
    assert resize_label(label, (1, 1)).tolist() == [[4]]
    assert resize_label(label[:, :2], (3, 4)).tolist() == [
        [0, 0, 1, 1],
        [3, 3, 4, 4],
        [6, 6, 7, 7],
    ]


def test_resizing_to_the_same_size_changes_nothing() -> None:
    photo, label = pair()
    assert resize_image(photo, (12, 20)) is photo
    assert resize_label(label, (12, 20)) is label


def test_unit_range_by_hand() -> None:
    image = unit_range(torch.tensor([[[0, 51, 255]]], dtype=torch.uint8))
    assert image.dtype == torch.float32
    assert image.flatten().tolist() == pytest.approx([0, 0.2, 1])


def test_without_changes_the_pair_is_as_it_was() -> None:
    photo, label = pair()
    image, ids = augmented(photo, label, Augment(flip=False), generator(0))
    assert torch.equal(image, unit_range(photo))
    assert torch.equal(ids, label)


def test_flip_mirrors_both_in_half_of_the_draws() -> None:
    photo, label = pair()
    flipped = 0
    for seed in range(200):
        image, ids = augmented(photo, label, Augment(flip=True), generator(seed))
        assert together(image, ids)
        mirrored = torch.equal(ids, label.flip(-1))
        assert mirrored or torch.equal(ids, label)
        flipped += mirrored
    assert 70 < flipped < 130


def test_scale_up_crops_from_the_enlarged_frame() -> None:
    label = torch.arange(20, dtype=torch.uint8).repeat(12, 1)
    photo = label.expand(3, 12, 20).clone()
    starts = set()
    for seed in range(40):
        image, ids = augmented(photo, label, Augment(False, scale=(2.0, 2.0)), generator(seed))
        assert image.shape == (3, 12, 20)
        assert ids.shape == (12, 20)
        start = int(ids[0, 0])
        wide = label[0].repeat_interleave(2)
        assert any(torch.equal(ids[0], wide[p : p + 20]) for p in (2 * start, 2 * start + 1))
        assert (image[0] * 255 - ids).abs().max() <= 0.5 + 1e-4
        starts.add(start)
    assert len(starts) > 5
    assert max(starts) <= 10


def test_scale_down_pads_the_label_with_ignore_and_the_photo_with_its_edge() -> None:
    label = torch.full((12, 20), 7, dtype=torch.uint8)
    photo = torch.full((3, 12, 20), 90, dtype=torch.uint8)
    corners = set()
    for seed in range(40):
        image, ids = augmented(photo, label, Augment(False, scale=(0.5, 0.5)), generator(seed))
        assert (ids == 7).sum() == 6 * 10
        assert (ids == IGNORE).sum() == 12 * 20 - 60
        assert torch.allclose(image, torch.tensor(90 / 255))
        rows, columns = torch.nonzero(ids == 7, as_tuple=True)
        corners.add((int(rows.min()), int(columns.min())))
        assert int(rows.max() - rows.min()) == 5
        assert int(columns.max() - columns.min()) == 9
    assert len(corners) > 10
    assert {0} < {top for top, _ in corners} <= set(range(7))


def test_scale_covers_its_range() -> None:
    label = torch.zeros((50, 50), dtype=torch.uint8)
    photo = torch.zeros((3, 50, 50), dtype=torch.uint8)
    shares = [
        augmented(photo, label, Augment(False, (0.2, 1.0)), generator(s))[1].eq(0).float().mean()
        for s in range(100)
    ]
    sides = torch.stack(shares).sqrt()
    assert 0.2 <= sides.min() < 0.27
    assert 0.93 < sides.max() <= 1.0


def test_jitter_changes_colours_within_bounds_and_never_labels() -> None:
    photo, label = pair()
    plain = unit_range(photo)
    moved = []
    for seed in range(20):
        image, ids = augmented(photo, label, Augment(False, jitter=0.5), generator(seed))
        assert torch.equal(ids, label)
        assert float(image.min()) >= 0
        assert float(image.max()) <= 1
        moved.append(float((image - plain).abs().mean()))
    assert min(moved) > 0.005
    small = augmented(photo, label, Augment(False, jitter=0.01), generator(0))[0]
    assert float((small - plain).abs().mean()) < 0.02


def test_same_generator_same_result_and_the_global_one_is_left_alone() -> None:
    photo, label = pair()
    change = Augment(True, (0.5, 2.0), 0.3)
    before = torch.get_rng_state()
    first = augmented(photo, label, change, generator(5))
    torch.rand(7)
    again = augmented(photo, label, change, generator(5))
    other = augmented(photo, label, change, generator(6))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])
    torch.set_rng_state(before)
    augmented(photo, label, change, generator(5))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": (0.0, 1.0)}, "augment.scale: expected 0 < low <= high, got [0.0, 1.0]"),
        ({"scale": (2.0, 1.0)}, "got [2.0, 1.0]"),
        ({"jitter": 1.5}, "augment.jitter: expected 0..1, got 1.5"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Augment(**settings)  # type: ignore[arg-type]
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("size", "target", "extent"),
    [
        ((1208, 1920), (720, 1152), (720, 1144)),
        ((1208, 1920), (912, 912), (574, 912)),
        ((10, 10), (4, 8), (4, 4)),
        ((12, 20), (6, 10), (6, 10)),
        ((1, 500), (4, 8), (1, 8)),
    ],
)
def test_padding_keeps_proportions(size: Size, target: Size, extent: Size) -> None:
    assert fitted_extent(size, target, "pad") == extent
    assert fitted_extent(size, target, "squeeze") == target


def test_padded_pixels_repeat_the_edge_and_do_not_count() -> None:
    photo, label = pair((12, 20))
    image, ids = fit_image(photo, (10, 10), "pad"), fit_label(label, (10, 10), "pad")
    assert image.shape == (3, 10, 10)
    assert torch.equal(image[:, :6], resize_image(photo, (6, 10)))
    assert torch.equal(ids[:6], resize_label(label, (6, 10)))
    assert (ids[6:] == IGNORE).all()
    assert torch.equal(image[:, 6:], image[:, 5:6].expand(-1, 4, -1))
    squeezed = fit_image(photo, (10, 10), "squeeze"), fit_label(label, (10, 10), "squeeze")
    assert torch.equal(squeezed[0], resize_image(photo, (10, 10)))
    assert torch.equal(squeezed[1], resize_label(label, (10, 10)))
