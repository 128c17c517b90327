"""The report in a real headless Chromium: what a person clicks, reads, drags and types."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from moeseg.report import write_report
from report_run import CLASSES, COLOURS, EXPERTS, MODELS, SIZE, SUBSETS, ids_of, write_run
from uncertain_run import map_of, write_uncertainty

CATEGORIES = {
    (True, True): "unanimous",
    (True, False): "follows day",
    (False, True): "follows dusk",
    (False, False): "overrules",
}
PIXELS = """number => {
  const shown = document.querySelectorAll("#x-views canvas")[number];
  const canvas = new OffscreenCanvas(shown.width, shown.height);
  const copy = canvas.getContext("2d", { willReadFrequently: true });
  copy.drawImage(shown, 0, 0);
  return [...copy.getImageData(0, 0, shown.width, shown.height).data];
}"""


@dataclass
class Visit:
    """An open page with what it said and asked for."""

    page: Any
    told: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def frames(self) -> list[str]:
        """Return the frames in the strip, by subset and key."""
        cards = self.page.query_selector_all("#x-strip button")
        return [card.get_attribute("title") for card in cards]

    def shown(self, key: str) -> None:
        """Wait until a frame is on the page."""
        self.page.wait_for_selector(f'#explorer[data-shown="{key}"]')

    def pixels(self, pane: int) -> list[tuple[int, ...]]:
        """Return (red, green, blue, alpha) of each pixel of a pane's layer."""
        flat = self.page.evaluate(PIXELS, pane)
        return [tuple(flat[i : i + 4]) for i in range(0, len(flat), 4)]

    def layer(self, pane: int, name: str) -> None:
        self.page.locator(".pane select").nth(pane).select_option(name)

    def point(self, x: int, y: int) -> None:
        """Move the pointer into a pixel of the first pane, as it lies when the whole is seen."""
        view = self.page.locator(".view").nth(0)
        view.scroll_into_view_if_needed()
        box = view.bounding_box()
        self.page.mouse.move(
            box["x"] + (x + 0.5) * box["width"] / SIZE[1],
            box["y"] + (y + 0.5) * box["height"] / SIZE[0],
        )


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("report") / "run")
    write_uncertainty(run, ("baseline", "moe-simple"))
    return write_report(run)


def visit_at(chromium: Any, report: Path, width: int) -> Iterator[Visit]:  # noqa: ANN401
    page = chromium.new_page(viewport={"width": width, "height": 900}, accept_downloads=True)
    visit = Visit(page)
    page.on("console", lambda message: visit.told.append(message.text))
    page.on("pageerror", lambda error: visit.told.append(str(error)))
    page.on("dialog", lambda dialog: visit.told.append(f"dialog {dialog.message}"))
    page.on("request", lambda request: visit.asked.append(request.url))
    page.goto(report.as_uri())
    visit.shown("drive <1>/003")
    yield visit
    page.close()
    assert visit.told == []
    away = [url for url in visit.asked if not url.startswith(("data:", "blob:"))]
    assert away == [report.as_uri()]


@pytest.fixture
def visit(chromium: Any, report: Path) -> Iterator[Visit]:  # noqa: ANN401
    yield from visit_at(chromium, report, 1440)


@pytest.fixture
def phone(chromium: Any, report: Path) -> Iterator[Visit]:  # noqa: ANN401
    yield from visit_at(chromium, report, 375)


# -- tables and figures ----------------------------------------------------------------------------


def column(visit: Visit, number: int) -> list[str]:
    rows = visit.page.query_selector_all("#scores table >> nth=0 >> tbody tr")
    return [row.query_selector_all("th, td")[number].inner_text() for row in rows]


def test_a_table_sorts_by_number_and_by_name(visit: Visit) -> None:
    heads = visit.page.locator("#scores table >> nth=0 >> thead th")
    button = heads.nth(1).locator("button")
    button.click()
    values = [float(text.split()[0]) for text in column(visit, 1)]
    assert values == sorted(values, reverse=True)
    assert values[0] == 60.0
    assert heads.nth(1).get_attribute("aria-sort") == "descending"
    assert column(visit, 0)[:2] == ["moe-classwise", "baseline"]
    button.press("Enter")
    assert [float(text.split()[0]) for text in column(visit, 1)] == values[::-1]
    heads.nth(0).locator("button").press("Space")
    assert column(visit, 0) == sorted(column(visit, 0))
    assert heads.nth(0).get_attribute("aria-sort") == "ascending"
    assert heads.nth(1).get_attribute("aria-sort") == "none"


def test_a_figure_is_found_by_its_choice(visit: Visit) -> None:
    group = visit.page.locator("#detectors .group")

    def seen() -> list[str]:
        return [figure.inner_text() for figure in group.locator("h4:visible").all()]

    group.locator("select[data-name=model]").select_option("moe-simple")
    group.locator("select[data-name=subset]").select_option(SUBSETS[0])
    assert seen() == ["Risk and coverage: moe-simple on day", "ROC: moe-simple on day"]
    group.locator("select[data-name=task]").select_option("unseen-frames")
    assert seen() == []
    assert "Nothing was measured" in group.inner_text()
    group.locator("select[data-name=subset]").select_option(SUBSETS[1])
    assert seen()[0] == f"Risk and coverage: moe-simple on {SUBSETS[1]}"


def test_maps_of_doubt_are_painted_in_steps(visit: Visit) -> None:
    visit.layer(0, "doubt:moe-simple.entropy")
    visit.page.wait_for_function("document.querySelector('#x-views canvas').width == 16")
    seen = visit.pixels(0)
    steps = (map_of(3).astype(int) * 10 // 256).flatten().tolist()
    assert {step for step, pixel in zip(steps, seen, strict=True) if pixel[3] == 0} == {0}
    painted: dict[int, set[tuple[int, ...]]] = {}
    for step, pixel in zip(steps, seen, strict=True):
        painted.setdefault(step, set()).add(pixel)
    assert all(len(colours) == 1 for colours in painted.values())
    darkness = [-sum(next(iter(painted[step]))[:3]) for step in sorted(painted) if step]
    assert darkness == sorted(darkness)
    assert "0.9 to 1.0" in visit.text("#x-views .pane .legend")


def test_a_plot_of_uncertainty_asks_for_what_it_hangs_on(visit: Visit) -> None:
    group = visit.page.locator("#uncertainty .group")

    def asked() -> list[str]:
        shown = group.locator("select:visible")
        return [str(one.get_attribute("data-name")) for one in shown.all()]

    assert asked() == ["plot", "subset", "model"]
    group.locator('select[data-name="plot"]').select_option("PAvPU")
    assert asked() == ["plot", "subset", "score"]
    group.locator('select[data-name="score"]').select_option("expert-variance")
    assert group.locator("figure:visible h4").all_inner_texts() == [
        "PAvPU: expert-variance on highway+urban"
    ]
    group.locator('select[data-name="plot"]').select_option("reliability of a class")
    assert asked() == ["plot", "subset", "class"]


def test_bars_by_class_follow_models_and_subset(visit: Visit) -> None:
    assert "</script><script>" not in visit.text("#bars")  # a class without pixels is left out
    assert visit.text(".class >> nth=0").startswith("<b>Himmel</b> 61.22 % of pixels")
    before = len(visit.page.query_selector_all(".class >> nth=0 >> .bar"))
    visit.page.get_by_label("ensemble-mean", exact=True).check()
    bars = visit.page.query_selector_all(".class >> nth=0 >> .bar")
    assert len(bars) == before + 1
    told = {bar.get_attribute("title"): bar.inner_text() for bar in bars}
    assert told["ensemble-mean: 40.0"] == "40.0"
    visit.page.locator("#bars-subset").select_option(SUBSETS[1])
    assert SUBSETS[1] in visit.text("#bars-title")


def test_data_can_be_saved(visit: Visit) -> None:
    with visit.page.expect_download() as waiting:
        visit.page.locator("#agreement .get:visible").first.click()
    text = Path(waiting.value.path()).read_text(encoding="utf-8")
    assert text.splitlines()[0].startswith("model,subset,category,pixels,share")
    assert f"moe-classwise,{SUBSETS[0]},unanimous,700,0.7" in text


# -- the frame explorer ----------------------------------------------------------------------------


def test_frames_filter_and_sort(visit: Visit) -> None:
    assert [name[-3:] for name in visit.frames()] == ["003", "002", "001", "000"]
    visit.page.locator("#x-order").select_option("low")
    assert [name[-3:] for name in visit.frames()] == ["000", "001", "002", "003"]
    visit.page.locator("#x-score").select_option("entropy")
    assert [name[-3:] for name in visit.frames()] == ["003", "002", "001", "000"]
    visit.page.locator("#x-subset").select_option(SUBSETS[0])
    assert [name[-3:] for name in visit.frames()] == ["002", "000"]
    visit.page.locator("#x-least").fill("80")
    assert [name[-3:] for name in visit.frames()] == ["000"]
    assert visit.text("#x-least-told") == "0.80"
    visit.shown("drive <0>/000")
    visit.page.locator("#x-least").fill("95")
    assert visit.frames() == []
    assert "None of 4 frames passes" in visit.text("#x-status")
    assert not visit.page.is_visible("#x-views")
    visit.page.locator("#x-least").fill("0")
    assert len(visit.frames()) == 2
    visit.shown("drive <0>/002")


def test_layers_show_the_ids_that_were_written(visit: Visit) -> None:
    def colour(text: str) -> tuple[int, ...]:
        return (*(int(text[i : i + 2], 16) for i in (1, 3, 5)), 255)

    visit.layer(0, "label")
    label = ids_of(3, "label").ravel()
    expected = [(0, 0, 0, 0) if i == 255 else colour(COLOURS[i]) for i in label]
    assert visit.pixels(0) == expected
    visit.layer(0, "class:expert-dusk")
    assert visit.pixels(0) == [colour(COLOURS[i]) for i in ids_of(3, "expert-dusk").ravel()]
    assert "Straße 25 %" in visit.text(".pane >> nth=0")

    own, day, dusk = (
        ids_of(3, layer).ravel() for layer in ("moe-simple", "expert-day", "expert-dusk")
    )
    safe = {1: colour("#0072b2"), 2: colour("#f0e442"), 0: colour("#d55e00"), 3: (0, 0, 0, 0)}
    published = {1: (0, 255, 0, 255), 2: (0, 0, 255, 255), 0: (255, 0, 0, 255), 3: (0, 0, 0, 0)}
    masks = [int(a == m) + 2 * int(b == m) for m, a, b in zip(own, day, dusk, strict=True)]
    assert set(masks) == {0, 1, 3}
    visit.layer(0, "agreement:moe-simple")
    assert visit.pixels(0) == [safe[mask] for mask in masks]
    visit.page.locator("#x-original").check()
    visit.page.wait_for_function("document.querySelector('.pane .legend i').style.background")
    assert visit.pixels(0) == [published[mask] for mask in masks]

    visit.layer(0, "error:expert-day")
    wrong = (day != label) & (label != 255)
    assert [pixel[3] > 0 for pixel in visit.pixels(0)] == wrong.tolist()
    visit.layer(0, "winner:moe-classwise")
    assert set(visit.pixels(0)) == {colour("#f0e442")}  # weights of frame 3: 0.3 and 0.7
    visit.layer(0, "photo")
    assert set(visit.pixels(0)) == {(0, 0, 0, 0)}


def test_the_readout_gives_the_values_under_the_pointer(visit: Visit) -> None:
    for x, y in ((0, 0), (5, 1), (9, 4), (15, 11)):
        visit.point(x, y)
        assert visit.text("#x-read h3") == f"Pixel x {x}, y {y}"
        read = {}
        for line in visit.page.query_selector_all("#x-read li"):
            name, value = line.query_selector_all(":scope > span")
            read[name.inner_text()] = value.inner_text().strip()
        label = int(ids_of(3, "label")[y, x])
        assert read["label"] == ("no label" if label == 255 else CLASSES[label])
        found = {name: int(ids_of(3, name)[y, x]) for name in MODELS}
        for model, value in found.items():
            mark = "" if label == 255 else "\u00a0\u2713" if value == label else "\u00a0\u2717"
            assert read[model] == CLASSES[value] + mark
        day, dusk = (found[name] == found["moe-simple"] for name in EXPERTS)
        assert read["agreement of moe-simple"] == CATEGORIES[day, dusk]


def test_arrow_keys_step_and_move_the_point(visit: Visit) -> None:
    visit.page.locator(".view").nth(0).focus()
    visit.page.keyboard.press("ArrowRight")
    visit.shown("drive <0>/002")
    assert "Frame 2 of 4: drive <0>/002 (day)" in visit.text("#x-status")
    visit.page.keyboard.press("ArrowLeft")
    visit.shown("drive <1>/003")
    visit.page.keyboard.press("ArrowLeft")  # there is none before the first
    visit.shown("drive <1>/003")
    visit.point(4, 4)
    visit.page.keyboard.press("Shift+ArrowRight")
    visit.page.keyboard.press("Shift+ArrowUp")
    assert "Pixel x 5, y 3" in visit.text("#x-read")
    visit.page.locator("#x-subset").focus()
    visit.page.keyboard.press("ArrowRight")  # a control keeps its own keys
    assert visit.page.locator("#x-subset").input_value() != ""


def test_opacity_zoom_and_panes_act_on_all_panes(visit: Visit) -> None:
    visit.page.locator("#x-opacity").fill("30")
    found = visit.page.eval_on_selector_all(
        "#x-views canvas", "all => all.map(c => c.style.opacity)"
    )
    assert found == ["0.3", "0.3", "0.3"]
    assert visit.text("#x-opacity-told") == "30 %"
    visit.page.locator("#x-panes").select_option("3")
    assert visit.page.locator(".pane:visible").count() == 3

    def places() -> set[str]:
        found = visit.page.eval_on_selector_all(".stack", "all => all.map(s => s.style.transform)")
        return set(found)

    def moved(transform: str) -> tuple[float, ...]:
        return tuple(float(number) for number in re.findall(r"(-?[\d.]+)%", transform))

    whole = places()
    assert len(whole) == 1
    view = visit.page.locator(".view").nth(1)
    view.click()
    visit.page.mouse.wheel(0, -600)
    visit.page.wait_for_function(
        "document.querySelector('.stack').style.transform.includes('scale(4)')"
    )
    (near,) = places()
    assert moved(near) == pytest.approx((-150, -150), abs=1)  # 4 times, about the middle
    box = view.bounding_box()
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] + 0.25 * box["width"], box["y"] + 0.4 * box["height"], steps=3)
    visit.page.mouse.up()
    (dragged,) = places()
    assert moved(dragged) == pytest.approx((-175, -160), abs=1)  # a quarter left, a tenth up
    visit.page.locator("#x-fit").click()
    assert places() == whole


def test_a_zoomed_pane_reads_the_pixel_that_is_seen(visit: Visit) -> None:
    view = visit.page.locator(".view").nth(0)
    view.click(position={"x": 1, "y": 1})
    for _ in range(2):
        visit.page.locator("#x-in").click()  # 2.25 times, about the middle
    box = view.bounding_box()
    visit.page.mouse.move(box["x"] + 2, box["y"] + 2)
    # the left edge shows 0.5 - 0.5 / 2.25 = 0.278 of the frame: 4.4 of 16 columns, 3.3 of 12 lines
    assert "Pixel x 4, y 3" in visit.text("#x-read")


def test_gate_weights_of_the_frame_are_told(visit: Visit) -> None:
    bars = visit.page.query_selector_all("#x-gate .weight")
    assert [part.inner_text() for part in bars[0].query_selector_all("i")] == ["0.30", "0.70"]
    assert len(bars) == 1 + len(CLASSES)
    visit.page.locator("#x-mixture").select_option("moe-simple")
    visit.page.wait_for_function("document.querySelectorAll('#x-gate .weight').length === 1")
    assert "agreement: moe-simple" in visit.page.locator(".pane select").nth(1).evaluate(
        "select => select.selectedOptions[0].text"
    )


# -- widths, paper, names --------------------------------------------------------------------------


def fits(visit: Visit) -> bool:
    return bool(visit.page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_nothing_hangs_over_at_1440_pixels(visit: Visit) -> None:
    assert fits(visit)


def test_nothing_hangs_over_at_375_pixels(phone: Visit) -> None:
    assert fits(phone)
    phone.page.locator("details.table").nth(1).locator("summary").click()
    phone.page.locator("#x-panes").select_option("3")
    assert fits(phone)
    boxes = [pane.bounding_box() for pane in phone.page.locator(".pane:visible").all()]
    assert len({box["x"] for box in boxes}) == 1  # one below the other


def test_paper_shows_figures_and_no_controls(visit: Visit) -> None:
    visit.page.emulate_media(media="print")
    assert visit.page.locator(".controls:visible, nav:visible, .get:visible").count() == 0
    assert visit.page.locator("figure:visible").count() > 8


def test_names_stay_text(visit: Visit) -> None:
    assert visit.page.evaluate("document.querySelectorAll('main b, main Meer').length") > 0
    assert (
        visit.page.evaluate(
            "[...document.querySelectorAll('b')].some(b => b.textContent === 'Himmel')"
        )
        is False
    )
    assert "<b>Himmel</b>" in visit.text("#agreement")
    assert 'Auto "alt" & neu' in visit.text("#summary")


def test_focus_is_seen(visit: Visit) -> None:
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Tab")
    style = "getComputedStyle(document.activeElement).outlineStyle"
    assert visit.page.evaluate("document.activeElement.tagName") == "A"
    assert visit.page.evaluate(style) == "solid"
