"""Tables over changed images: by hand, and against cells looked up one by one."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path
from statistics import fmean

import pytest

from moeseg.errors import DataError
from moeseg.evaluation.changes import (
    CORRUPTIONS,
    FAILED,
    failed_checks,
    read_condition,
    rests_on_failed,
    trials,
)
from moeseg.evaluation.condition_csv import render_condition_csv
from moeseg.evaluation.conditions import (
    condition_tables,
    render_conditions,
    write_condition_tables,
)
from moeseg.evaluation.contents import TextTable
from moeseg.evaluation.corruption_means import corruption_means
from moeseg.evaluation.rows import read_run_rows, write_rows
from moeseg.evaluation.table import as_markdown
from moeseg.report.robustness import robustness
from moeseg.report.robustness_told import how_robust
from moeseg.types import Row
from robust_rows import (
    ALL_FRAMES,
    CLEAN,
    FRAMES,
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
    difference,
    segmentation,
    write_robust_run,
)

JOIN = "highway+urban"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [*clean_rows(), *attack_rows(), *corruption_rows()]


@pytest.fixture(scope="module")
def made(rows: list[Row]) -> dict[str, TextTable]:
    tables = condition_tables(rows)
    assert len({table.heading for table in tables}) == len(tables)
    return {table.heading: table for table in tables}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("clean", ("clean", "clean", "", 0.0)),
        ("pgd-10@4/255", ("attack", "pgd-10", "4/255", 4 / 255)),
        ("fgsm-published@0.02", ("attack", "fgsm-published", "0.02", 0.02)),
        ("pgd-10:weights@8/255", ("attack", "pgd-10:weights", "8/255", 8 / 255)),
        ("jpeg-compression-5", ("corruption", "jpeg-compression", "5", 5.0)),
        ("fog-6", ("other", "fog-6", "", 0.0)),
        ("pgd@4/0", ("other", "pgd@4/0", "", 0.0)),
        ("pgd@much", ("other", "pgd@much", "", 0.0)),
        ("night", ("other", "night", "", 0.0)),
    ],
)
def test_what_the_name_of_a_condition_says(
    text: str, expected: tuple[str, str, str, float]
) -> None:
    read = read_condition(text)
    assert (read.kind, read.name, read.told, read.level) == expected
    assert read.text == text


EXPECTED = """\
## synthetic test, 96 x 160, urban: pgd-9 on 12 frames: mIoU in percent

| model | clean | 2/255 | 0.02 | 16/255 |
|---|--:|--:|--:|--:|
| baseline | 46.20 [44.20, 48.20] | **20.00 [18.00, 22.00]** | - | **5.00 [3.50, 6.50]** |
| moe-simple | - | 10.00 [8.00, 12.00] | **7.50 [5.50, 9.50]** | - |

12 frames; brackets: 95 % interval by bootstrap over 12 blocks. Clean: the same frames. Best of a \
column in bold.

## synthetic test, 96 x 160, urban: pgd-9 on 12 frames: mixture minus another model

| mixture | minus | 2/255 |
|---|---|--:|
| moe-simple | best expert | +2.50 [+0.50, +4.50] wins (expert-urban) |
| moe-simple | baseline | -10.00 [-12.00, -8.00] loses |

Percentage points of mIoU, each model attacked by itself. 12 frames; brackets: 95 % interval by \
bootstrap over 12 blocks. Wins or loses: the paired interval excludes 0 and rests on 8 units or more.
"""  # noqa: E501


def small() -> list[Row]:
    return [
        segmentation("baseline", "urban", "clean", 12, 0.462),
        segmentation("moe-simple", "urban", "clean", 120, 0.5),  # of other frames
        segmentation("baseline", "urban", "pgd-9@16/255", 12, 0.05),
        segmentation("baseline", "urban", "pgd-9@2/255", 12, 0.2),
        segmentation("moe-simple", "urban", "pgd-9@2/255", 12, 0.1),
        segmentation("moe-simple", "urban", "pgd-9@0.02", 12, 0.075),
        difference("moe-simple", "baseline", "urban", "pgd-9@2/255", 12, -0.1),
        difference("moe-simple", "expert-urban", "urban", "pgd-9@2/255", 12, 0.025),
    ]


def test_markdown_as_written_by_hand() -> None:
    assert as_markdown(condition_tables(small())) == EXPECTED


def test_order_of_rows_has_no_effect(rows: list[Row]) -> None:
    text, lines = as_markdown(condition_tables(rows)), render_condition_csv(rows)
    shuffled = random.Random(0).sample(rows, len(rows))
    assert as_markdown(condition_tables(shuffled)) == text
    assert render_condition_csv(shuffled) == lines


def cell(table: TextTable, line: str, column: str) -> str:
    lines = {texts[0]: texts for texts in table.cells}
    return lines[line][table.columns.index(column)]


@pytest.mark.parametrize("attack", ["pgd-10", "sea-20"])
@pytest.mark.parametrize("subset", SUBSETS)
def test_each_cell_of_an_attack_is_of_its_model_and_radius(
    made: dict[str, TextTable], attack: str, subset: str
) -> None:
    title = f"synthetic test, 96 x 160, {subset}: {attack} on {FRAMES[subset]} frames: "
    table = made[title + "mIoU in percent"]
    assert table.columns == ("model", "clean", *RADII)
    assert [texts[0] for texts in table.cells] == list(CLEAN)
    for model in CLEAN:
        assert cell(table, model, "clean") == f"{100 * clean_miou(model, subset):.2f}"
        for radius in RADII:
            value = 100 * attacked_miou(model, model, attack, radius, subset)
            text = cell(table, model, radius)
            assert text.startswith(f"{value:.2f} [")
            failed = (model, attack, radius) == ("baseline", "pgd-10", "8/255")
            assert text.endswith(FAILED) == failed
    assert ("failed a trust check" in table.note) == (attack == "pgd-10")
    assert ("radius: baseline (8/255)." in table.note) == (attack == "pgd-10")


def test_attacks_at_one_radius_stand_side_by_side(made: dict[str, TextTable]) -> None:
    for radius in RADII:
        table = made[
            f"synthetic test, 96 x 160, {JOIN}: attacks at {radius} on 24 frames: mIoU in percent"
        ]
        assert table.columns == ("model", "clean", "pgd-10", "sea-20")  # no part of a mixture
        for model in CLEAN:
            assert cell(table, model, "clean") == f"{100 * clean_miou(model, JOIN):.2f}"
            for attack in table.columns[2:]:
                text = f"{100 * attacked_miou(model, model, attack, radius, JOIN):.2f}"
                failed = (model, attack, radius) == ("baseline", "pgd-10", "8/255")
                assert cell(table, model, attack) == text + (f" {FAILED}" if failed else "")


def test_published_attacks_come_first_each_with_its_correct_twin() -> None:
    names = ("apgd-9", "fgsm", "fgsm-published", "pgd-9", "pgd-published-9", "square-9")
    made = [
        attack_row("baseline", "baseline", "pgd-10", "1/255", "urban")
        | {"attack": name, "condition": f"{name}@0.04", "attack_settings": {"kind": name}}
        for name in names
    ]
    first = condition_tables(made)[0]
    assert first.columns[2:] == (
        *("fgsm-published", "fgsm", "pgd-published-9", "pgd-9"),
        *("apgd-9", "square-9"),
    )
    assert len(condition_tables(made[:1])) == 1  # nothing stands beside it


def test_only_mixtures_come_part_by_part(made: dict[str, TextTable]) -> None:
    title = f"synthetic test, 96 x 160, {JOIN}: pgd-10 on 24 frames: mixtures part by part"
    table = made[title]
    assert {texts[0] for texts in table.cells} == {"moe-simple-conv", "moe-classwise-conv"}
    at = {texts[:2]: dict(zip(table.columns, texts, strict=True)) for texts in table.cells}
    read = at["moe-simple-conv", "4/255"]
    miou = attacked_miou("moe-simple-conv", "moe-simple-conv", "pgd-10", "4/255", JOIN)
    assert read["attacked"] == f"{100 * miou:.2f}"
    assert read["gate held"] == f"{105 * miou:.2f}"
    assert read["logits held"] == f"{97 * CLEAN['moe-simple-conv']:.2f}"
    assert read["urban mIoU"] == f"{80 * miou:.2f}"
    moves = ("route moved", "route flipped", "mask changed", "highway changed", "urban changed")
    assert [read[name] for name in moves] == ["24.00", "16.00", "40.00", "32.00", "20.00"]


def test_failed_checks_mark_differences_and_parts(made: dict[str, TextTable]) -> None:
    title = f"synthetic test, 96 x 160, {JOIN}: pgd-10 on 24 frames: "
    table = made[title + "mixture minus another model"]
    marked = {
        (texts[1], radius)
        for texts in table.cells
        for radius, text in zip(table.columns[2:], texts[2:], strict=True)
        if text.endswith(FAILED)
    }
    assert marked == {("baseline", "8/255")}
    assert f"{FAILED} an attack on one of the two failed a trust check" in table.note
    assert (
        FAILED not in made[title.replace("pgd-10", "sea-20") + "mixture minus another model"].note
    )
    parts = made[f"{title.replace('pgd-10', 'pgd-10:weights')}mixtures part by part"]
    column = parts.columns.index("attacked")
    assert {texts[0] for texts in parts.cells if FAILED in texts[column]} == {"moe-simple-conv"}
    assert "progress: moe-simple-conv (1/255, 2/255, 4/255, 8/255)" in parts.note


def test_an_opponent_of_another_seed_that_failed_marks_the_difference() -> None:
    condition = "pgd-10@1/255"
    of = "moe-simple-conv"
    gap = difference(of, "baseline", JOIN, condition, 24, 0.1) | {"seed": 1}
    mine = attack_row(of, of, "pgd-10", "1/255", JOIN) | {"seed": 1}
    bad = {"checks": {"radius": False}}
    other = attack_row("baseline", "baseline", "pgd-10", "1/255", JOIN)
    assert other["seed"] == 0
    assert not rests_on_failed([gap], [mine, other])
    assert rests_on_failed([gap], [mine, other | bad])
    # where both seeds were attacked, the mixture's own counts
    assert not rests_on_failed([gap], [mine, other | bad, other | {"seed": 1}])
    assert rests_on_failed([gap], [mine, other, other | bad | {"seed": 1}])


def test_the_transfer_matrix_is_source_by_scored_model(made: dict[str, TextTable]) -> None:
    found = {heading: table for heading, table in made.items() if "transfer at" in heading}
    assert len(found) == len(SUBSETS) * len(RADII)  # of the one attack that was transferred
    title = f"synthetic test, 96 x 160, {JOIN}: pgd-10 on 24 frames: "
    table = found[title + "transfer at 2/255, mIoU in percent"]
    for source in CLEAN:
        for model in CLEAN:
            value = attacked_miou(model, source, "pgd-10", "2/255", JOIN)
            assert cell(table, source, model) == f"{100 * value:.2f}"
        assert cell(table, "none (clean)", source) == f"{100 * clean_miou(source, JOIN):.2f}"
    models = list(table.columns[1:])
    assert {(table.cells[line][0], models[c - 1]) for line, c in table.best} == {
        (model, model) for model in CLEAN
    }


def test_transfer_of_two_architectures_is_told_apart() -> None:
    made = [
        attack_row(model, source, "pgd-10", "1/255", "urban")
        | {"architecture": architecture, "fingerprint": architecture, "miou": miou}
        for architecture, miou in (("deeplab", 0.1), ("frrn", 0.2))
        for model in ("baseline", "expert-urban")
        for source in ("baseline", "expert-urban")
    ]
    (table,) = (t for t in condition_tables(made) if "transfer at" in t.heading)
    names = [f"{m} ({a})" for m in ("baseline", "expert-urban") for a in ("deeplab", "frrn")]
    assert table.columns == ("made for", *names)
    assert [texts[0] for texts in table.cells[1:]] == names
    assert cell(table, "baseline (frrn)", "expert-urban (frrn)") == "20.00"
    assert cell(table, "baseline (frrn)", "expert-urban (deeplab)") == "-"
    section = robustness(made)
    assert section is not None
    assert not section.lacking
    assert any(one.title.startswith("Transfer of pgd-10") for one in section.group.figures)


def test_means_over_corruptions(rows: list[Row], made: dict[str, TextTable]) -> None:
    (trial,) = (t for t in trials(rows) if t.kind == "corruption" and t.subset == JOIN)
    means = corruption_means(trial)
    title = f"synthetic test, 96 x 160, {JOIN}: corruptions on 240 frames: "
    by_severity = made[title + "mean mIoU in percent"]
    by_name = made[title + "mIoU in percent by corruption"]
    for model in CLEAN:
        values = {
            (name, s): corrupted_miou(model, name, s, JOIN)
            for name in CORRUPTIONS
            for s in SEVERITIES
        }
        whole = fmean(value / CLEAN[model] for value in values.values())
        assert means.relative(model) == pytest.approx(whole)
        assert cell(by_severity, model, "relative") == f"{100 * whole:.2f}"
        assert cell(by_severity, model, "all") == f"{100 * fmean(values.values()):.2f}"
        for severity in SEVERITIES:
            mean = fmean(value for (_, s), value in values.items() if s == severity)
            assert cell(by_severity, model, f"severity {severity}") == f"{100 * mean:.2f}"
        for name in CORRUPTIONS:
            mean = fmean(value for (n, _), value in values.items() if n == name)
            assert cell(by_name, name, model) == f"{100 * mean:.2f}"
    assert [texts[0] for texts in by_name.cells] == list(CORRUPTIONS)


def test_wins_under_corruptions_are_counted() -> None:
    mixture, images = "moe-simple", 12
    gaps = {"fog-1": 0.05, "snow-1": -0.05, "frost-1": 0.01, "fog-3": 0.03}
    made = [segmentation(mixture, "urban", condition, images, 0.3) for condition in gaps]
    made += [difference(mixture, "baseline", "urban", c, images, gap) for c, gap in gaps.items()]
    table = condition_tables(made)[-1]
    assert table.cells == (
        ("moe-simple", "baseline", "+0.33 (1 won, 1 lost of 3)", "+3.00 (1 won, 0 lost of 1)"),
    )


def test_a_mean_is_there_only_if_all_of_it_is() -> None:
    made = [
        segmentation("a", "urban", "fog-1", 9, 0.2),
        segmentation("a", "urban", "snow-1", 9, 0.4),
        segmentation("b", "urban", "fog-1", 9, 0.2),
        segmentation("a", "urban", "clean", 9, 0.6),
        segmentation("b", "urban", "clean", 90, 0.6),  # of other frames
    ]
    severities = condition_tables(made)[0]
    assert severities.cells == (
        ("a", "60.00", "30.00", "30.00", "50.00"),
        ("b", "-", "-", "-", "-"),
    )


def test_other_frames_are_another_table() -> None:
    made = [
        segmentation("a", "urban", "pgd-1@1/255", 12, 0.2),
        segmentation("b", "urban", "pgd-1@1/255", 120, 0.3),
        segmentation("a", "urban", "night", 12, 0.1),
    ]
    tables = condition_tables(made)
    assert [(t.heading.split(": ")[1], [line[0] for line in t.cells]) for t in tables] == [
        ("pgd-1 on 120 frames", ["b"]),
        ("pgd-1 on 12 frames", ["a"]),
        ("other conditions on 12 frames", ["a"]),
    ]
    assert tables[-1].columns == ("model", "clean", "night")
    assert [trial.part for trial in trials(made)] == [False, True, False]


def test_as_many_other_frames_are_another_table_too(tmp_path: Path) -> None:
    """`frames: 24` and `25` may choose as many frames of a subset, and hardly one in common."""
    made = [
        row | {"frames": mark, "condition": "pgd-10@1/255"}
        for mark, gap in (("aa", 0.05), ("bb", -0.05))
        for row in (
            attack_row("baseline", "baseline", "pgd-10", "1/255", "urban"),
            segmentation("baseline", "urban", "", 12, 0.3 + gap),
            difference("moe-simple-conv", "baseline", "urban", "", 12, gap),
        )
    ]
    for place, part in enumerate((made[:3], made[3:], made[3:])):
        write_rows(tmp_path / "robustness" / f"attack-{place}.jsonl", part)
    read = read_run_rows(tmp_path)
    assert read == made  # the third sweep is of the second's frames
    tables = condition_tables(read)
    assert [(t.heading.split(": ")[1], t.cells[0][2]) for t in tables if t.names == 1] == [
        ("pgd-10 on 12 frames (aa)", "35.00 [33.00, 37.00]"),
        ("pgd-10 on 12 frames (bb)", "25.00 [23.00, 27.00]"),
    ]
    assert len(render_condition_csv(read).splitlines()) == 3
    told = [text for _, text in how_robust(read)[0].sentences]
    assert "Of 1 paired comparison of a mixture with another model there, 1 are won" in told[0]


def test_two_seeds_give_mean_and_range() -> None:
    two = [
        segmentation("a", "urban", "pgd-1@1/255", 12, miou) | {"seed": seed}
        for seed, miou in enumerate((0.2, 0.3))
    ]
    (table,) = condition_tables(two)
    assert table.cells[0] == ("a", "-", "25.00 (20.00 to 30.00, 2 seeds)")
    with pytest.raises(DataError, match="got two"):
        condition_tables([*two, two[0]])


def test_clean_scores_alone_make_no_table() -> None:
    assert condition_tables(clean_rows()) == []
    assert render_conditions(clean_rows()).renderables == []


def test_a_line_a_row_in_the_csv(rows: list[Row]) -> None:
    lines = list(csv.DictReader(io.StringIO(render_condition_csv(rows))))
    attacks = sum(row["kind"] == "attack" for row in rows)
    plain = len(clean_rows()) - sum(row["kind"] == "difference" for row in clean_rows())
    corrupted = len(CORRUPTIONS) * len(SEVERITIES) * len(SUBSETS) * len(CLEAN)
    assert len(lines) == attacks + plain + corrupted
    (own,) = (
        line
        for line in lines
        if (line["condition"], line["model"], line["source"], line["subset"])
        == ("pgd-10@8/255", "baseline", "baseline", JOIN)
    )
    row = attack_row("baseline", "baseline", "pgd-10", "8/255", JOIN)
    assert own["attack"] == "pgd-10"
    assert float(own["epsilon"]) == 8 / 255
    assert float(own["miou_percent"]) == round(100 * row["miou"], 4)
    assert float(own["miou_low_percent"]) == pytest.approx(70 * row["miou"], abs=1e-4)
    assert float(own["lost_percent"]) == round(100 * row["lost"], 4)
    assert float(own["lost_high_percent"]) == round(100 * row["lost"] + 2, 4)
    assert own["checks_failed"] == "radius"
    assert own["images"] == "24"
    (fog,) = (
        line
        for line in lines
        if (line["condition"], line["model"], line["subset"]) == ("fog-3", "baseline", JOIN)
    )
    assert (fog["corruption"], fog["severity"], fog["epsilon"]) == ("fog", "3", "")
    assert fog["images"] == str(ALL_FRAMES[JOIN])


def test_failed_checks_are_named_once() -> None:
    checks = [{"checks": c} for c in ({"b": False, "a": True, "c": None}, {"b": False}, None)]
    assert failed_checks(checks) == ["b"]


def test_files_of_a_run(tmp_path: Path, rows: list[Row]) -> None:
    run = write_robust_run(tmp_path / "run")
    read = read_run_rows(run)
    assert read == rows
    write_condition_tables(run, read)
    assert (run / "robustness.md").read_text() == as_markdown(condition_tables(rows))
    assert (run / "robustness.csv").read_text() == render_condition_csv(rows)
    assert len(render_conditions(rows).renderables) == len(condition_tables(rows))
    (run / "results.jsonl").unlink()
    assert read_run_rows(run) == [*attack_rows(), *corruption_rows()]
    assert read_run_rows(tmp_path) == []
