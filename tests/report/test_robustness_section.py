"""The section on robustness: its numbers, its sentences, and what other sections leave out."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from moeseg.evaluation.changes import CORRUPTIONS
from moeseg.evaluation.rows import FRAMES, write_rows
from moeseg.report import render, write_report
from moeseg.report.parts import Figure, Section
from moeseg.report.robustness import CHANGE, robustness
from moeseg.report.robustness_told import checks_told, how_robust, strongest
from moeseg.types import Row
from robust_rows import (
    CLEAN,
    RADII,
    SEVERITIES,
    SUBSETS,
    attack_row,
    attack_rows,
    attacked_miou,
    clean_miou,
    clean_rows,
    corrupted_miou,
    corruption_rows,
    segmentation,
    write_robust_run,
)

JOIN = "highway+urban"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_robust_run(tmp_path_factory.mktemp("robust") / "run")


@pytest.fixture(scope="module")
def section() -> Section:
    found = robustness([*clean_rows(), *attack_rows(), *corruption_rows()])
    assert found is not None
    return found


def figure(section: Section, title: str) -> Figure:
    (found,) = (f for f in section.group.figures if f.title == title)
    return found


def data_of(one: Figure) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(one.data.text)))


# -- figures ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["pgd-10", "sea-20"])
@pytest.mark.parametrize("subset", SUBSETS)
def test_curves_go_through_every_radius(section: Section, attack: str, subset: str) -> None:
    one = figure(section, f"mIoU under {attack} on {subset}")
    read = {(line["model"], float(line["epsilon"])): line for line in data_of(one)}
    assert len(read) == len(CLEAN) * (1 + len(RADII))
    for model in CLEAN:
        assert float(read[model, 0.0]["miou"]) == clean_miou(model, subset)
        for radius, epsilon in RADII.items():
            expected = attacked_miou(model, model, attack, radius, subset)
            line = read[model, epsilon]
            assert float(line["miou"]) == expected
            assert float(line["low"]) == pytest.approx(expected - min(0.02, 0.3 * expected))
    assert one.svg.count("<circle") == len(read)
    assert [key.name for key in one.legend] == list(CLEAN)
    assert one.choice == {"scored on": "synthetic test, 96 x 160", "subset": subset, CHANGE: attack}
    # hollow: the one attack that failed a check
    assert one.svg.count("point hollow") == (attack == "pgd-10")


def test_a_model_is_drawn_alike_everywhere(section: Section) -> None:
    drawn: dict[str, set[tuple[str, str | None]]] = {}
    for one in section.group.figures:
        for key in one.legend if "model" not in one.choice else ():
            drawn.setdefault(key.name, set()).add((key.colour, key.dash))
    assert set(drawn) == set(CLEAN)
    assert all(len(styles) == 1 for styles in drawn.values())
    assert len(set.union(*drawn.values())) == len(CLEAN)


def test_losses_are_those_of_the_rows(section: Section) -> None:
    one = figure(section, f"Loss along the steps of sea-20: baseline on {JOIN}")
    read = data_of(one)
    for radius in RADII:
        losses = [float(line["loss"]) for line in read if line["radius"] == radius]
        assert losses == attack_row("baseline", "baseline", "sea-20", radius, JOIN)["losses"]
    assert one.choice["model"] == "baseline"


def test_transfer_frames_a_model_attacked_by_itself(section: Section) -> None:
    one = figure(section, f"Transfer of pgd-10 at 4/255 on {JOIN}")
    for line in data_of(one):
        expected = attacked_miou(line["scored"], line["made_for"], "pgd-10", "4/255", JOIN)
        assert float(line["miou"]) == expected
    framed = re.findall(r'class="cell framed"[^>]*><title>\d (\S+), (\S+):', one.svg)
    assert framed == [(model, model) for model in CLEAN]
    assert not any("Transfer of sea-20" in f.title for f in section.group.figures)


def test_corruptions_by_severity_and_by_name(section: Section) -> None:
    read = data_of(figure(section, f"mIoU by severity on {JOIN}"))
    for line in read:
        model, severity = line["model"], int(line["severity"])
        values = [corrupted_miou(model, name, severity, JOIN) for name in CORRUPTIONS]
        expected = fmean(values) if severity else clean_miou(model, JOIN)
        assert float(line["miou"]) == pytest.approx(expected)
    assert len(read) == len(CLEAN) * (1 + len(SEVERITIES))
    read = data_of(figure(section, f"mIoU by corruption on {JOIN}"))
    assert [line["corruption"] for line in read] == list(CORRUPTIONS)
    for line in read:
        for model in CLEAN:
            values = [corrupted_miou(model, line["corruption"], s, JOIN) for s in SEVERITIES]
            assert float(line[model]) == pytest.approx(fmean(values))


def test_every_table_and_figure_is_found_by_its_choice(section: Section) -> None:
    group = section.group
    assert group.choices["subset"] == list(SUBSETS)
    attacks = ["pgd-10", "pgd-10:weights", "sea-20"]
    assert group.choices[CHANGE] == [*attacks, "corruptions", "attacks side by side"]
    opened = [table.choice for table in group.tables if table.open]
    assert len(opened) == len(SUBSETS) * (4 + len(RADII))  # one a choice, or one a radius
    assert all(len(one.caption) > 40 for one in group.figures)


# -- sentences -------------------------------------------------------------------------------------


def test_the_section_opens_at_the_attack_of_the_summary(section: Section) -> None:
    assert opening(section)[CHANGE] == "sea-20"  # of which the summary tells, below
    marked = [row | {FRAMES: "0a1b"} for row in attack_rows()]
    assert opening(robustness([*clean_rows(), *marked]))[CHANGE] == "sea-20"


def test_the_section_opens_where_there_is_something_to_see() -> None:
    rows = attack_rows()
    few = [row for row in rows if row["subset"] == JOIN or "sea-20" not in row["condition"]]
    assert opening(robustness([*clean_rows(), *few])) == {
        "scored on": "synthetic test, 96 x 160",
        "subset": JOIN,
        CHANGE: "sea-20",
    }


def test_the_section_opens_at_the_first_place_by_its_rows_alone() -> None:
    rows = [*clean_rows(), *attack_rows()]
    # elsewhere sea-20 is harmless, which makes it the weaker one on average
    other = [
        row | {"dataset": "zoo"} | ({"miou": 0.4} if "sea-20" in row["condition"] else {})
        for row in rows
    ]
    opened = opening(robustness([*rows, *other]))
    assert (opened["scored on"], opened[CHANGE]) == ("synthetic test, 96 x 160", "sea-20")


def opening(section: Section | None) -> dict[str, str]:
    """Return what is chosen when the page opens, which some figure and some table must show."""
    assert section is not None
    group = section.group
    assert any(one.choice.items() >= group.opens.items() for one in group.figures)
    assert any(one.choice.items() >= group.opens.items() for one in group.tables)
    for name, values in group.choices.items():
        assert name not in group.opens or group.opens[name] in values
    return dict(group.opens)


def test_failed_checks_are_told(section: Section) -> None:
    # by hand: 5 models x 2 attacks and 2 mixtures x 1, at 4 radii on 3 subsets
    assert section.told == (
        "Trust check `budget` (more steps or restarts are never weaker) had nothing to compare "
        "with in any row.",
        "Trust check `radius` (a larger radius is never weaker) fails in 3 of 144 rows: baseline "
        "under pgd-10 (8/255).",
        "Trust check `collapse` (at 32/255 or more, the same attack leaves an mIoU below 0.01) had "
        "nothing to compare with in any row.",
        "Trust check `white-box` (at least as strong as transfer and black-box) holds in all 144 "
        "rows.",
        "Trust check `progress` (the best loss so far rises along the steps, for sea above the "
        "clean image's) fails in 12 of 144 rows: moe-simple-conv under pgd-10:weights (1/255, "
        "2/255, 4/255, 8/255).",
    )


def test_many_failures_are_cut() -> None:
    rows = [
        attack_row("baseline", "baseline", "pgd-10", "1/255", JOIN)
        | {"model": f"m{number}", "source": f"m{number}", "checks": {"odd": False}}
        for number in range(9)
    ]
    told = next(one for one in checks_told(rows) if "`odd`" in one)
    assert told.startswith("Trust check `odd` fails in 9 of 9 rows: m0 under pgd-10 (1/255), m1")
    assert told.endswith("m5 under pgd-10 (1/255) and 3 more.")


def test_the_strongest_attack_is_told_with_who_keeps_most() -> None:
    rows = [*clean_rows(), *attack_rows(), *corruption_rows()]
    one = strongest(rows)
    assert one is not None
    # sea-20 leaves least; at 4/255 it leaves nobody 5 %: 44 % * exp(-1.6 * 0.6 * 4) = 0.9 %
    assert one.condition.text == "sea-20@2/255"
    (answer,) = how_robust(rows)
    told = dict(answer.sentences)
    assert told["Attacks"] == (
        "under sea-20 at 2/255, the strongest attack of that radius, on highway+urban (24 frames) "
        "moe-simple-conv keeps most, 6.5 % mIoU of 44.0 %, and expert-urban least, 1.5 % mIoU of "
        "38.0 %. Of 6 paired comparisons of a mixture with another model there, 4 are won and 0 "
        "lost; the others are undecided."
    )
    failing = [
        row | {"checks": {"radius": False}}
        if (row["kind"], row["model"]) == ("attack", "expert-urban")
        else row
        for row in rows
    ]
    (answer,) = how_robust(failing)
    assert dict(answer.sentences)["Attacks"].endswith(
        "4 are won and 0 lost; the others are undecided. Of these 4 won or lost, 2 rest on an "
        "attack that failed a trust check."
    )
    assert told["Corruptions"].startswith("over 15 corruptions on highway+urban moe-simple-conv ")
    assert told["Trust"].startswith("15 of 144 attack rows that could be checked fail")
    assert how_robust(clean_rows()) == []


def test_attacks_are_compared_on_the_models_they_share() -> None:
    def row(model: str, attack: str, miou: float, epsilon: float = 0.02) -> Row:
        return attack_row(model, model, "pgd-10", "1/255", JOIN) | {
            "condition": f"{attack}@{epsilon}",
            "attack": attack,
            "epsilon": epsilon,
            "miou": miou,
        }

    weak = [row("baseline", "weak", 0.3), row("expert-urban", "weak", 0.01)]
    strong = [row("baseline", "strong", 0.2)]
    published = [row("baseline", "fgsm-published", 0.1)]
    part = [row("baseline", "strong:weights", 0.06)]
    # a study may call its own attacks as it likes
    settings = {"kind": "pgd", "through": "weights"}
    part.append(row("baseline", "gate", 0.06) | {"attack_settings": settings})
    settings = {"kind": "pgd-published", "through": "all"}
    published.append(row("baseline", "paper", 0.1) | {"attack_settings": settings})
    one = strongest([*weak, *strong, *published, *part])
    assert one is not None
    assert one.condition.name == "strong"
    # more than a smaller ball left: what is strong there was not tried, and this is weak
    loose = [row("baseline", "loose", 0.25, 0.1), row("expert-urban", "loose", 0.4, 0.1)]
    assert strongest([*weak, *strong, *loose]) == one
    broken = [row("baseline", "strong", 0.001, 0.1)]
    assert strongest([*weak, *strong, *broken]) == strongest([*weak, *strong])
    fewer = row("baseline", "strong", 0.1) | {"images": 6}
    assert strongest([*weak, *strong, fewer]) == one  # more frames say more
    # unless they are of fewer models
    several = [*strong, row("expert-urban", "strong", 0.2)]
    more = row("baseline", "strong", 0.1) | {"images": 600}
    widest = strongest([*several, more])
    assert widest is not None
    assert (widest.images, list(widest.mious)) == (24, ["baseline", "expert-urban"])
    # easier frames: more is left of more, in a ball that is not weaker for it
    easy = row("baseline", "strong", 0.22, 0.1) | {"images": 600, "clean_miou": 0.9}
    wide = strongest([*strong, easy])
    assert wide is not None
    assert wide.condition.level == 0.1
    assert strongest(published) is not None
    assert strongest(part) is None


# -- the page --------------------------------------------------------------------------------------


def test_the_section_stands_behind_routing_and_in_the_nav(run: Path) -> None:
    page = render(run)
    anchors = re.findall(r'<section id="([\w-]+)">', page)
    assert anchors[anchors.index("routing") + 1] == "robustness"
    assert '<a href="#robustness">Robustness</a>' in page
    assert "How robust are the models?" in page
    assert render(run) == page
    text = re.sub(r"data:[\w/+-]+;base64,[\w+/=]*", "", page)
    assert not re.findall(r"https?://|@import|url\(", text)


def test_without_such_rows_there_is_no_section(tmp_path: Path) -> None:
    write_rows(tmp_path / "results.jsonl", clean_rows())
    page = render(tmp_path)
    assert "obustness" not in page.split("<script", 1)[0].split("</style>", 1)[1]
    assert "How robust" not in page
    assert robustness(clean_rows()) is None


def test_other_sections_look_at_clean_rows_alone(run: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "results.jsonl", clean_rows())
    page, alone = render(run), render(tmp_path)

    def part(text: str, anchor: str) -> str:
        found = re.search(rf'<section id="{anchor}">.*?</section>', text, re.DOTALL)
        assert found
        return found.group()

    for anchor in ("scores", "classes", "agreement", "detectors", "routing"):
        assert part(page, anchor) == part(alone, anchor)


def test_a_run_with_robustness_alone_has_a_report(tmp_path: Path) -> None:
    run = write_robust_run(tmp_path / "run")
    (run / "results.jsonl").unlink()
    page = render(run)
    assert "How robust are the models?" in page
    assert "There are no scores of clean images in this run yet" in page
    assert "synthetic test, 96 x 160, fog-3" not in page


def test_rows_that_clash_leave_out_their_attack_alone() -> None:
    again = segmentation("baseline", JOIN, "sea-20@1/255", 24, 0.5)
    found = robustness([*clean_rows(), *attack_rows(), again])
    assert found is not None
    assert "highway+urban: sea-20 on 24 frames is left out: expected one" in found.lacking
    titles = {one.title for one in found.group.figures}
    assert f"mIoU under pgd-10 on {JOIN}" in titles
    assert f"mIoU under sea-20 on {JOIN}" not in titles
    assert "mIoU under sea-20 on urban" in titles


def test_rows_without_values_are_shown_without(tmp_path: Path) -> None:
    keys = ("miou", "clean_miou", "lost", "ci95", "losses", "checks", "route_moved", "difference")
    run = write_robust_run(tmp_path / "run")
    bare = [
        row | {key: None for key in keys if key in row}
        for row in [*attack_rows(), *corruption_rows()]
    ]
    write_rows(run / "robustness" / "attack-main.jsonl", bare)
    (run / "robustness" / "corruptions.jsonl").unlink()
    page = render(run)
    body = re.sub(r"<style>.*?</style>|<script.*?</script>", "", page, flags=re.DOTALL)
    assert "pgd-10 on 24 frames: mIoU in percent" in body
    assert "None" not in body


def test_fewer_frames_are_another_choice() -> None:
    rows = [
        segmentation("baseline", "urban", "pgd-10@1/255", 12, 0.2),
        segmentation("baseline", "urban", "pgd-10@1/255", 120, 0.3),
    ]
    found = robustness(rows)
    assert found is not None
    assert found.group.choices[CHANGE] == ["pgd-10", "pgd-10, fewer frames"]


def test_names_stay_text(tmp_path: Path) -> None:
    name = "<b>moe</b>"
    rows = [
        row | {key: name for key in ("model", "source") if row.get(key) == "baseline"}
        for row in [*clean_rows(), *attack_rows()]
    ]
    write_rows(tmp_path / "results.jsonl", rows)
    page = render(tmp_path)
    assert name not in page
    assert "&lt;b&gt;moe" in page


# -- in a browser ----------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [375, 1440])
def test_choices_show_their_figures_and_tables(
    chromium: Any,  # noqa: ANN401
    run: Path,
    tmp_path: Path,
    width: int,
) -> None:
    path = write_report(run, tmp_path / "report.html")
    told: list[str] = []
    page = chromium.new_page(viewport={"width": width, "height": 900})
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto(path.as_uri())
    part = page.locator("#robustness")

    def seen(selector: str) -> list[str]:
        return [one.inner_text() for one in part.locator(f"{selector}:visible").all()]

    part.locator('select[data-name="model"]').select_option("baseline")
    assert seen("h4") == [
        f"mIoU under sea-20 on {JOIN}",
        f"Loss along the steps of sea-20: baseline on {JOIN}",
    ]
    assert seen("summary") == [
        f"{JOIN}: sea-20 on 24 frames: mIoU in percent",
        f"{JOIN}: sea-20 on 24 frames: mixture minus another model",
        f"{JOIN}: sea-20 on 24 frames: mixtures part by part",
    ]
    part.locator("summary:visible").nth(2).click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    table = part.locator("table:visible").first
    table.locator("thead button").nth(2).click()
    assert table.locator("tbody tr").first.inner_text().startswith("moe-simple-conv")
    part.locator(f'select[data-name="{CHANGE}"]').select_option("corruptions")
    assert seen("h4") == [f"mIoU by severity on {JOIN}", f"mIoU by corruption on {JOIN}"]
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.close()
    assert told == []
