"""Synthetic scenes: geometry against hand-worked cases, exact labels, stable bytes, layout."""

from __future__ import annotations

import json
import math
import re
import resource
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from moeseg.data.synthetic import (
    SUBSETS,
    SyntheticSpec,
    draw_drive,
    plan_drives,
    render_frame,
    write_dataset,
)
from moeseg.data.synthetic.camera import NEAR, Camera, clip_near
from moeseg.data.synthetic.colours import CLASS_COLOURS, CLASS_LIST, CLASS_NAMES
from moeseg.data.synthetic.ground import Arrow, Band, Dashes, Patch, Zone, zones_at
from moeseg.data.synthetic.mesh import Sketch, join, moved, rectangle
from moeseg.data.synthetic.raster import merge, paint_faces, planes, shadow_masks
from moeseg.data.synthetic.road import Road
from moeseg.data.synthetic.traffic import CLEARANCE, Lane, movers
from moeseg.data.synthetic.vehicles import car
from moeseg.errors import DataError, MoesegError, UsageError

TINY = (48, 80)
SMALL = SyntheticSpec(
    seed=3,
    size=TINY,
    drives={
        "highway": {"train": 1, "val": 1},
        "urban": {"train": 1, "test": 1},
        "ambiguous": {"test": 1},
    },
    frames_per_drive=2,
)
A2D2_SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "a2d2_sample"
Bytes = dict[str, bytes]


def contents(root: Path) -> Bytes:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def names_in(label: npt.NDArray[np.uint8]) -> set[str]:
    """Names with instance numbers, decoded one pixel colour after the other."""
    return {
        CLASS_LIST[f"#{r:02x}{g:02x}{b:02x}"] for r, g, b in np.unique(label.reshape(-1, 3), axis=0)
    }


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one_worker")
    write_dataset(root, SMALL, workers=1)
    return root


# ---- camera and road ----


def test_projection_by_hand() -> None:
    camera = Camera((100, 200), focal=100.0, height=1.5, pitch=0.0)
    pixels = camera.project(np.array([[0.0, 1.5, 10.0], [2.0, 0.0, 10.0], [-1.0, 3.5, 5.0]]))
    np.testing.assert_allclose(pixels, [[100, 50], [120, 65], [80, 10]])
    assert camera.horizon == 50


@pytest.mark.parametrize("pitch", [-0.05, 0.0, 0.04])
def test_ground_point_to_pixel_and_back(pitch: float) -> None:
    camera = Camera((192, 320), focal=280.0, height=1.5, pitch=pitch)
    points = np.array([(x, 0.0, z) for x in (-8.0, 0.0, 5.0) for z in (4.0, 20.0, 150.0)])
    pixels = camera.project(points)
    x, z = camera.ground(pixels[:, 0], pixels[:, 1])
    np.testing.assert_allclose(np.stack([x, z]), points[:, [0, 2]].T, rtol=1e-9, atol=1e-9)
    assert (pixels[:, 1] > camera.horizon).all()


def test_pitch_against_a_rotation_matrix() -> None:
    camera = Camera((96, 160), focal=140.0, height=1.4, pitch=0.03)
    points = np.random.default_rng(0).uniform(1, 30, (20, 3))
    sin, cos = math.sin(0.03), math.cos(0.03)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    lens = (points - [0, 1.4, 0]) @ turn.T
    expected = np.stack(
        [80 + 140 * lens[:, 0] / lens[:, 2], 48 - 140 * lens[:, 1] / lens[:, 2]], axis=1
    )
    np.testing.assert_allclose(camera.project(points), expected)
    far = camera.project(np.array([[0.0, 0.0, 1e9]]))[0]
    assert far[1] == pytest.approx(camera.horizon)


def test_clip_near_by_hand() -> None:
    polygon = np.array([[0.0, 0, NEAR - 1], [0.0, 0, NEAR + 1], [4.0, 0, NEAR + 1]])
    clipped = clip_near(polygon)
    np.testing.assert_allclose(
        clipped, [[0, 0, NEAR], [0, 0, NEAR + 1], [4, 0, NEAR + 1], [2, 0, NEAR]]
    )
    assert len(clip_near(polygon - [0, 0, 5.0])) == 0


def test_road_on_a_straight_and_in_a_bend() -> None:
    points = np.array([[2.0, 1.0, 130.0], [-3.0, 0.0, 101.0]])
    straight = Road((0.0,), (500.0,), (0.0,)).view(s=100.0, d=1.5)
    np.testing.assert_allclose(straight.bend(points), [[0.5, 1, 30], [-4.5, 0, 1]], atol=1e-9)

    road = Road((0.2,), (600.0,), (0.7,))
    view = road.view(s=100.0, d=1.5)
    # slow integration of the heading, a centimetre at a time
    steps = np.arange(100.0, 130.0, 0.01) + 0.005
    turn = road.heading(steps) - float(road.heading(np.array(100.0)))
    end = float(road.heading(np.array(130.0)) - road.heading(np.array(100.0)))
    x = np.sin(turn).sum() * 0.01 - 1.5 + 2.0 * math.cos(end)
    z = np.cos(turn).sum() * 0.01 - 2.0 * math.sin(end)
    np.testing.assert_allclose(view.bend(points)[0], [x, 1.0, z], atol=5e-3)
    back_s, back_d = view.locate(np.array([[x]]), np.array([[z]]))
    assert (back_s.item(), back_d.item()) == pytest.approx((130.0, 2.0), abs=0.05)


# ---- what is seen at a pixel ----


def test_zones_by_hand() -> None:
    profile: list[Band | Dashes] = [Band(-3.0, 3.0, Zone.ASPHALT), Dashes(0.0, 0.2, 3.0, 9.0)]
    patches: list[Patch | Arrow] = [Patch(10, 14, -3, 3, Zone.ZEBRA), Arrow(40.0, 1.5, 0)]
    s = np.array([1.0, 4.0, 1.0, 12.0, 39.5, 36.0, 36.0])
    d = np.array([0.0, 0.0, 5.0, 0.0, 1.5, 1.5, 2.0])
    expected = [
        Zone.DASHED,
        Zone.ASPHALT,
        Zone.GRASS,
        Zone.ZEBRA,
        Zone.ARROW,
        Zone.ARROW,
        Zone.ASPHALT,
    ]
    assert zones_at(s, d, profile, patches).tolist() == expected


def test_near_faces_cover_far_ones_and_backs_are_not_seen() -> None:
    def board(z: float, width: float, label: str, *, flip: bool = False) -> None:
        sketch.thing((0.0, 1.5, z))
        quad = np.array([(-width, 0.0, z), (width, 0, z), (width, 3, z), (-width, 3, z)])
        sketch.face(quad[::-1] if flip else quad, (1, 1, 1), label)

    sketch = Sketch()
    board(5.0, 0.5, "Car")  # added first, yet nearest
    board(10.0, 4.0, "Truck")
    board(3.0, 1.0, "Bicycle", flip=True)
    mesh = sketch.mesh()
    camera = Camera((60, 100), focal=80.0, height=1.5, pitch=0.0)
    numbers, order = paint_faces(mesh, planes(mesh), camera, reach=100.0)
    seen = [CLASS_NAMES[mesh.labels[order[n - 1]]] if n else "" for n in numbers[30]]
    assert seen[50] == "Car"
    assert seen[35] == "Truck"
    assert seen[2] == ""
    assert "Bicycle" not in seen
    # the near board is 1 m wide at 5 m: 16 pixels, give or take the edge pixels
    assert abs(seen.count("Car") - 16) <= 1
    assert not paint_faces(mesh, planes(mesh), camera, reach=2.0)[0].any()


def test_merge_takes_the_second_largest_of_four() -> None:
    fours = np.array(list(product([0, 3, 7, 9], repeat=4)))
    doubled = fours.reshape(-1, 2, 2)
    got = [merge(block).item() for block in doubled]
    assert got == np.sort(fours, axis=1)[:, 2].tolist()


def test_shadow_falls_away_from_the_sun() -> None:
    sketch = Sketch()
    sketch.thing((0.0, 0.0, 10.0))
    sketch.caster(rectangle(-0.5, 0.5, 9.5, 10.5), 0.0, 2.0)
    camera = Camera((60, 100), focal=80.0, height=1.5, pitch=0.0)
    sun = np.array([-1.0, 1.0, 0.0]) / math.sqrt(2)  # from the left, 45 degrees high
    cast, contact = shadow_masks(sketch.mesh(), camera, sun, thrown=True)
    u, v = camera.project(np.array([[1.8, 0.0, 10.0], [-1.8, 0.0, 10.0], [0, 0, 10.0]])).T.astype(
        int
    )
    assert cast[v, u].tolist() == [1, 0, 1]
    assert contact[v, u].tolist() == [0, 0, 1]
    assert not shadow_masks(sketch.mesh(), camera, sun, thrown=False)[0].any()


def test_join_renumbers_groups_and_things() -> None:
    one = car(np.random.default_rng(1))
    both = join([one, moved(one, 3.0, 20.0, math.pi)])
    assert both.things.tolist() == [*one.things, *(one.things + 1 + one.things.max())]
    assert both.group.max() == len(both.anchors) - 1
    assert both.counts.sum() == len(both.vertices)
    np.testing.assert_allclose(both.anchors[len(one.anchors)], [3.0, 0.5, 20.0], atol=1e-12)


def test_traffic_moves_at_its_speed_and_keeps_off_the_camera() -> None:
    lanes = [Lane(0.0, 20.0, 15.0, 1.0, (("car", 1.0),), ego=True)]
    for time in (0.0, 3.0):
        places = [m.anchors[0, 2] for m in movers(lanes, 5, time, 20.0 * time, (-40.0, 200.0))]
        relative = np.array(places) - 20.0 * time
        assert (np.abs(relative) >= CLEARANCE - 1e-9).all()
        if time == 0:
            first = relative
    np.testing.assert_allclose(relative, first)


# ---- frames ----


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("size", [(48, 80), (64, 64)])
def test_frame_has_its_size_and_known_colours(subset: str, size: tuple[int, int]) -> None:
    photo, label = render_frame(subset, 11, 0, size)
    assert photo.shape == label.shape == (*size, 3)
    assert photo.dtype == label.dtype == np.uint8
    assert photo.std() > 10
    names_in(label)  # a colour that is not in the list is a KeyError


CHARACTERISTIC = {
    "highway": {"Sidebars", "Solid line", "Dashed line", "Truck", "Grid structure", "Traffic sign"},
    "urban": {"Sidewalk", "Curbstone", "Pedestrian", "Bicycle", "Parking area", "Zebra crossing",
              "Traffic signal", "Signal corpus"},
    "ambiguous": {"Buildings", "Dashed line", "Sidewalk"},
}  # fmt: skip
SHARED = {"Car", "RD normal street", "Sky", "Nature object", "Poles"}


@pytest.mark.parametrize("subset", SUBSETS)
def test_subset_shows_its_classes_and_instances(subset: str) -> None:
    names: set[str] = set()
    for seed in range(6):
        drive = draw_drive(subset, seed)
        for index in (0, 4):
            names |= names_in(drive.frame(index, (72, 120))[1])
    classes = {re.sub(r" \d$", "", name) for name in names}
    assert classes >= CHARACTERISTIC[subset] | SHARED
    assert {"Car 1", "Car 2", "Truck 1"} <= names
    if subset == "highway":
        assert "Truck 2" in names
        assert not classes & {"Sidewalk", "Pedestrian", "Zebra crossing", "Curbstone"}
    if subset == "urban":
        assert {"Pedestrian 2", "Bicycle 2"} <= names
        assert not classes & {"Sidebars", "Electronic traffic"}


def test_road_lies_below_and_sky_above_the_horizon() -> None:
    drive = draw_drive("highway", 2)
    _, label = drive.frame(0, (96, 160))
    horizon = Camera((96, 160), drive.focal * 160, drive.height, drive.pitch).horizon
    road = np.flatnonzero((label == CLASS_COLOURS["RD normal street"][0]).all(-1).any(1))
    sky = np.flatnonzero((label == CLASS_COLOURS["Sky"][0]).all(-1).any(1))
    assert road.min() >= horizon - 2
    assert sky.max() <= horizon + 2


def test_neighbouring_frames_show_the_same_street() -> None:
    drive = draw_drive("urban", 4)
    labels = [drive.frame(k, TINY)[1] for k in (0, 1, 12)]
    other = render_frame("urban", 5, 0, TINY)[1]

    def agreement(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
        return float((a == b).all(-1).mean())

    assert agreement(labels[0], labels[1]) > agreement(labels[0], other)
    assert agreement(labels[0], labels[1]) < 1


def test_a_frame_hangs_on_nothing_drawn_before_it() -> None:
    drive = draw_drive("ambiguous", 9)
    drive.frame(0, TINY)
    for got, expected in zip(
        drive.frame(5, TINY), render_frame("ambiguous", 9, 5, TINY), strict=True
    ):
        np.testing.assert_array_equal(got, expected)


# ---- files ----


def test_same_bytes_with_two_workers(written: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path, SMALL, workers=2)
    assert contents(tmp_path) == contents(written)


def test_other_seed_gives_other_frames(written: Path, tmp_path: Path) -> None:
    spec = SyntheticSpec(seed=4, size=TINY, drives={"highway": {"train": 1}}, frames_per_drive=1)
    write_dataset(tmp_path, spec, workers=1)
    mine = {c for name, c in contents(tmp_path).items() if name.endswith(".png")}
    assert mine.isdisjoint(contents(written).values())


def test_layout_and_lists(written: Path) -> None:
    lists = {path.name: path.read_text().splitlines() for path in (written / "lists").iterdir()}
    assert set(lists) == {
        "highway_train_gt.txt", "highway_val_gt.txt", "urban_train_gt.txt", "urban_test_gt.txt",
        "ambiguous_test_gt.txt", "all_train_gt.txt", "all_val_gt.txt", "all_test_gt.txt",
    }  # fmt: skip
    assert lists["all_train_gt.txt"] == lists["highway_train_gt.txt"] + lists["urban_train_gt.txt"]
    assert lists["all_test_gt.txt"] == lists["urban_test_gt.txt"]
    for name, lines in lists.items():
        split = name.split("_")[1]
        folder = "test" if split == "test" else "train_val"
        for line in lines:
            match = re.fullmatch(
                rf"(highway|urban|ambiguous)/{folder}/GT/(\d{{8}})(\d{{6}})_label_frontcenter_\d{{9}}\.png",
                line,
            )
            assert match, line
            drive = written / "camera_lidar_semantic" / f"{match[2]}_{match[3]}"
            label = drive / "label" / "cam_front_center" / Path(line).name
            photo = (
                drive / "camera" / "cam_front_center" / label.name.replace("_label_", "_camera_")
            )
            with Image.open(label) as a, Image.open(photo) as b:
                assert a.size == b.size == (TINY[1], TINY[0])
                assert a.mode == b.mode == "RGB"
    classes = json.loads((written / "camera_lidar_semantic" / "class_list.json").read_text())
    assert len(classes) == 55
    assert not list(written.rglob("*.part"))
    assert not (written / "spec.partial.json").exists()


def test_class_list_is_that_of_a2d2() -> None:
    path = A2D2_SAMPLE / "camera_lidar_semantic" / "class_list.json"
    if not path.is_file():
        pytest.skip("the A2D2 sample is not here")
    assert json.loads(path.read_text()) == CLASS_LIST


def test_default_spec() -> None:
    drives = plan_drives(SyntheticSpec())
    assert sum(len(drive.numbers) for drive in drives) == 1200
    for subset in SUBSETS:
        assert sum(drive.subset == subset for drive in drives) >= 10
    assert len({drive.name for drive in drives}) == len({drive.seed for drive in drives}) == 50
    steps = {
        b - a for drive in drives for a, b in zip(drive.numbers, drive.numbers[1:], strict=False)
    }
    assert steps == {15}


def test_more_drives_change_no_other_drive() -> None:
    few = plan_drives(SyntheticSpec(drives={"urban": {"test": 2}}))
    many = plan_drives(SyntheticSpec(drives={"highway": {"train": 3}, "urban": {"test": 205}}))
    assert set(few) <= set(many)
    assert len({drive.name for drive in many}) == 208


def test_resumes_after_lost_files(written: Path, tmp_path: Path) -> None:
    expected = contents(written)
    for name, content in expected.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    pictures = [name for name in expected if name.endswith(".png")]
    (tmp_path / pictures[0]).unlink()
    (tmp_path / pictures[-1]).unlink()
    kept = (tmp_path / pictures[4]).stat().st_mtime_ns
    # as a killed run leaves it: no final spec, a half-written file
    (tmp_path / "spec.json").rename(tmp_path / "spec.partial.json")
    lost = tmp_path / pictures[0]
    lost.with_name(f".{lost.name}.part").write_bytes(b"half")
    calls: list[tuple[int, int]] = []
    write_dataset(tmp_path, SMALL, workers=1, progress=lambda a, b: calls.append((a, b)))
    assert contents(tmp_path) == expected
    assert (tmp_path / pictures[4]).stat().st_mtime_ns == kept
    assert calls == [(8, 10), (9, 10), (10, 10)]


@pytest.mark.parametrize("name", ["spec.json", "spec.partial.json"])
def test_other_spec_in_the_folder_is_an_error(tmp_path: Path, name: str) -> None:
    spec = SyntheticSpec(size=TINY, drives={}, frames_per_drive=1)
    write_dataset(tmp_path, spec, workers=1)
    (tmp_path / "spec.json").rename(tmp_path / name)
    write_dataset(tmp_path, spec, workers=1)
    (tmp_path / "spec.json").rename(tmp_path / name)
    with pytest.raises(DataError, match=r"another spec.*Choose another folder"):
        write_dataset(tmp_path, SMALL, workers=1)


def test_foreign_data_in_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "camera_lidar_semantic").mkdir()
    with pytest.raises(DataError, match=r"no spec\.json"):
        write_dataset(tmp_path, SMALL, workers=1)


def test_full_disk_leaves_nothing_half_written(written: Path, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1500, limits[1]))  # bytes; less than a photo
    try:
        with pytest.raises(MoesegError, match=r"_frontcenter_\d{9}\.png.*choose another folder"):
            write_dataset(tmp_path, SMALL, workers=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".png", ".part"}]
    write_dataset(tmp_path, SMALL, workers=1)
    assert contents(tmp_path) == contents(written)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"size": (16, 320)}, "size"),
        ({"frames_per_drive": 0}, "frames_per_drive"),
        ({"drives": {"higway": {"train": 1}}}, "Did you mean 'highway'"),
        ({"drives": {"highway": {"tran": 1}}}, "Did you mean 'train'"),
        ({"drives": {"urban": {"test": -2}}}, "drives.urban.test"),
    ],
)
def test_bad_spec(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SyntheticSpec(**values)  # type: ignore[arg-type]


def test_bad_arguments(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="workers"):
        write_dataset(tmp_path, SMALL, workers=0)
    with pytest.raises(UsageError, match="Did you mean 'urban'"):
        draw_drive("urbann", 0)
