"""Figures: that each mark lies where its number says, worked out by hand."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from moeseg.report import figures, marks
from moeseg.report.figures import Dot, Line
from moeseg.report.series import Series, series

BLUE, YELLOW = "#0072b2", "#f0e442"


def parsed(svg: str) -> ElementTree.Element:
    """Return an SVG as a tree; one that is not well formed is an error."""
    return ElementTree.fromstring(svg)


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"-?[\d.]+", text)]


def titles(svg: str) -> list[str]:
    return [title.text or "" for title in parsed(svg).iter("title")]


def test_a_curve_goes_through_its_corners() -> None:
    svg = figures.curves([Line("one", [0, 1], [0.0, 0.5], BLUE)], "x", "y", top=0.5)
    (path,) = [p for p in parsed(svg).iter("path") if p.get("class") == "curve"]
    x1, y1, x2, y2 = numbers(path.get("d", ""))
    assert (x1, y1) == (52.0, 250.0)  # the axes' corner
    assert (x2, y2) == (388.0, 10.0)  # right end, top


def test_a_curve_has_a_gap_where_a_value_is_missing() -> None:
    xs = [0, 0.25, 0.5, 0.75, 1]
    svg = figures.curves([Line("one", xs, [None, 0.1, None, 0.2, 0.3], BLUE, "2 3")], "x", "y")
    paths = [p for p in parsed(svg).iter("path") if p.get("class") == "curve"]
    assert [len(numbers(p.get("d", ""))) for p in paths] == [2, 4]
    assert {p.get("stroke-dasharray") for p in paths} == {"2 3"}


def test_dots_lie_by_their_values_and_hollow_ones_are_undecided() -> None:
    values = [Dot("a", 0.1, (0.05, 0.2)), Dot("b", -0.1, None, filled=False), Dot("c", None, None)]
    svg = figures.dots(["head", *values], "difference", zero=True)
    tree = parsed(svg)
    first, second = tree.iter("circle")
    (zero,) = [line for line in tree.iter("line") if line.get("class") == "zero"]
    middle = (float(first.get("cx", "0")) + float(second.get("cx", "0"))) / 2
    assert float(zero.get("x1", "0")) == pytest.approx(middle, abs=0.1)
    assert [circle.get("class") for circle in (first, second)] == ["dot", "dot hollow"]
    assert "a: 10.00 [5.00, 20.00]" in titles(svg)
    assert "no value" in svg
    assert "head" in svg


def test_dots_of_one_value_or_none_still_have_an_axis() -> None:
    assert "<circle" in figures.dots([Dot("a", 0.5, None)], "x")
    assert "no value" in figures.dots([Dot("a", None, None)], "x")
    assert parsed(figures.dots([], "x")).tag == "svg"


def test_stacked_parts_fill_the_bar() -> None:
    svg = figures.stacked_bars(["all"], ["p", "q", "r"], [[0.5, 0.25, 0.25]], [BLUE, YELLOW, BLUE])
    parts = list(parsed(svg).iter("rect"))
    widths = [float(part.get("width", "0")) for part in parts]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    end = float(parts[2].get("x", "0")) + widths[2]
    assert end == pytest.approx(392.0, abs=0.2)
    assert "all, p: 50.0 %" in titles(svg)
    # dark on yellow, light on blue
    inks = re.findall(r'style="fill:(#\w+)">(\d+) %', svg)
    assert inks == [("#ffffff", "50"), ("#111111", "25"), ("#ffffff", "25")]


def test_a_bar_without_pixels_says_so() -> None:
    svg = figures.stacked_bars(["none"], ["p"], [[None]], [BLUE])
    assert "no pixels" in svg
    assert "<rect" not in svg


def test_histograms_share_one_scale() -> None:
    svg = figures.histograms(["a", "b"], [[2, 2, 0, 0], [4, 0, 0, 0]], [BLUE, YELLOW], "weight")
    heights = [float(r.get("height", "0")) for r in parsed(svg).iter("rect")]
    assert heights == pytest.approx([29.0, 29.0, 58.0])
    assert "a: weight 0.25 to 0.50: 50.0 % of frames" in titles(svg)
    assert parsed(figures.histograms(["a"], [[0, 0]], [BLUE], "weight")).tag == "svg"


def test_a_heat_map_is_white_at_0_and_dark_at_1() -> None:
    svg = figures.heat_map(["road"], ["a", "b", "c c"], [[0.0, 1.0, None]])
    cells = list(parsed(svg).iter("rect"))
    assert [cell.get("fill") for cell in cells] == ["#ffffff", "#004882"]
    assert ">-<" in svg
    assert "road, b: 1.000" in titles(svg)


def test_a_heat_map_frames_marked_cells_and_prints_percent() -> None:
    svg = figures.heat_map(
        ["1 a", "2 b"],
        ["a", "b"],
        [[0.25, 0.5], [0.125, 0.0]],
        heads=["1", "2"],
        top=0.5,
        percent=True,
        marked={(0, 1)},
    )
    cells = list(parsed(svg).iter("rect"))
    assert [cell.get("class") for cell in cells] == ["cell", "cell", "cell", "cell framed"]
    assert cells[-1].get("fill") == "#004882"  # its value is the top
    assert "1 a, b: 50.00" in titles(svg)
    assert {"25.0", "50.0", "12.5", "0.0", "1", "2"} <= set(parsed(svg).itertext())


def test_a_curve_may_end_at_any_x() -> None:
    svg = figures.curves([Line("one", [0, 5, 10], [0.0, 2.0, 4.0], BLUE)], "x", "y", top=4, last=10)
    (path,) = [p for p in parsed(svg).iter("path") if p.get("class") == "curve"]
    assert numbers(path.get("d", "")) == [52.0, 250.0, 220.0, 130.0, 388.0, 10.0]


def test_points_of_a_series_lie_by_value_and_beside_each_other() -> None:
    lines = [
        Series("one", [0.5, 0.25, None], [(0.4, 0.5), None, None], BLUE, "", {1}),
        Series("two", [0.5, None, 0.0], [None, None, (-0.1, 0.1)], YELLOW, "2 3"),
    ]
    svg = series(lines, ["clean", "1", "2"], "radius", "mIoU in percent")
    points = list(parsed(svg).iter("circle"))
    # 240 units for 0.5 * 1.04; three levels of 112 units, two lines 5 units apart
    heights = [float(point.get("cy", "0")) for point in points]
    full = 240 / 1.04
    assert heights == pytest.approx([250 - full, 250 - full / 2, 250 - full, 250.0], abs=0.06)
    xs = [float(point.get("cx", "0")) for point in points]
    assert xs == pytest.approx([105.5, 217.5, 110.5, 334.5])
    assert [point.get("class") for point in points] == ["point", "point hollow", "point", "point"]
    bars = [line for line in parsed(svg).iter("line") if line.get("class") == "bar"]
    ends = [float(bars[1].get(key, "0")) for key in ("y1", "y2")]
    assert ends == pytest.approx([250.0, 250 - full / 5], abs=0.06)  # nothing hangs below the axis
    assert "one, clean: 50.00 [40.00, 50.00]" in titles(svg)
    paths = [p for p in parsed(svg).iter("path") if p.get("class") == "curve"]
    assert [len(numbers(p.get("d", ""))) for p in paths] == [4, 2, 2]
    assert parsed(series([], [], "x", "y")).tag == "svg"


def test_names_are_escaped_and_long_ones_cut_with_their_whole_as_title() -> None:
    name = '<b>"Straße" & mehr</b> ' + "x" * 40
    svg = figures.stacked_bars([name], ["<p>"], [[1.0]], [BLUE])
    assert "<b>" not in svg
    assert name in titles(svg)
    assert f"{name}, <p>: 100.0 %" in titles(svg)
    shown = [text for text in parsed(svg).itertext() if text.endswith("\N{HORIZONTAL ELLIPSIS}")]
    assert len(shown) == 1
    assert len(shown[0]) == 32


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.0, 1.0, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-4.0, 13.0, [0.0, 5.0, 10.0]),
        (13.4, 24.1, [14.0, 16.0, 18.0, 20.0, 22.0, 24.0]),
        (0.0, 0.3, [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]),
        (0.0, 6e-5, [0.0, 1e-5, 2e-5, 3e-5, 4e-5, 5e-5, 6e-5]),
    ],
)
def test_ticks_are_round_and_few(low: float, high: float, expected: list[float]) -> None:
    assert marks.ticks(low, high) == pytest.approx(expected)
