from __future__ import annotations

from xml.etree import ElementTree

import pytest

from moeseg.ablation.table import gains, render_plot, render_table
from moeseg.types import Row

VARIANTS = ("as-published", "held<&>")


def some_rows() -> list[Row]:
    """Two variants, two seeds, one mixture, two experts of which the better one changes."""
    rows: list[Row] = []
    for variant, gain in zip(VARIANTS, (0.05, -0.01), strict=True):
        for seed in (0, 1):
            best, other = ("expert-a", "expert-b") if seed == 0 else ("expert-b", "expert-a")
            mious = {best: 0.30 + 0.1 * seed, other: 0.2, "moe-simple": 0.30 + 0.1 * seed + gain}
            base = {"subset": "a+b", "seed": seed, "settings": {"variant": variant}}
            for model, miou in mious.items():
                rows.append(
                    base
                    | {
                        "kind": "segmentation",
                        "model": model,
                        "miou": miou,
                        "miou_union": miou / 2,
                    }
                )
            for minus, difference in ((best, gain), ("ensemble-mean", 0.5)):
                rows.append(
                    base
                    | {
                        "kind": "difference",
                        "model": "moe-simple",
                        "minus": minus,
                        "difference": difference,
                        "ci95": [difference - 0.02, difference + 0.02],
                        "ci_units": 20,
                        "wins": difference > 0.02,
                    }
                )
            rows.append(
                base
                | {
                    "kind": "routing",
                    "model": "moe-simple",
                    "collapsed": "constant" if variant == VARIANTS[1] else False,
                }
            )
    return rows


def test_gains_by_hand() -> None:
    published, held = gains(some_rows(), VARIANTS, "a+b")
    assert published.best == pytest.approx((0.30, 0.40))
    assert published.mious == pytest.approx((0.35, 0.45))
    assert published.unions == pytest.approx((0.175, 0.225))
    assert published.differences == (0.05, 0.05)
    assert published.verdicts == ("wins", "wins")
    assert held.verdicts == ("undecided", "undecided")
    assert (published.collapsed, held.collapsed) == ((), ("constant", "constant"))


def test_table_by_hand() -> None:
    table = render_table(some_rows(), VARIANTS)
    assert "## a+b" in table
    line = "| as-published | moe-simple | 35.0 | 40.0 | +5.0 (+5.0 to +5.0), wins 2, loses 0 of 2 |"
    assert line + " 17.5, 20.0 |" in table
    assert "loses 0 of 2; gate collapsed in 2: constant, constant |" in table
    one = [row for row in some_rows() if row["seed"] == 0]
    assert "| +5.0 [+3.0, +7.0], wins 1, loses 0 of 1 |" in render_table(one, VARIANTS)


def test_one_unit_has_no_interval_and_few_units_no_verdict() -> None:
    rows = [row for row in some_rows() if row["seed"] == 0]
    for row in rows:
        if row["kind"] == "difference":
            row["ci95"], row["wins"], row["ci_units"] = None, False, 1
    assert "| +5.0, wins 0, loses 0 of 1 |" in render_table(rows, VARIANTS)
    assert render_plot(rows, VARIANTS, "a+b").count("<circle") == 2
    for row in rows:
        if row["kind"] == "difference":
            row["ci95"] = [-0.3, -0.1]
    assert "wins 0, loses 0 of 1" in render_table(rows, VARIANTS)  # one unit decides nothing


def test_seeds_without_a_score_are_left_out() -> None:
    rows = [row for row in some_rows() if row["settings"]["variant"] == VARIANTS[0]]
    null: Row = {"miou": None, "miou_union": None, "difference": None, "ci95": None, "wins": False}
    for row in rows:
        if row["seed"] == 1:
            row |= {key: value for key, value in null.items() if key in row}
    line = "| as-published | moe-simple | 30.0 | 35.0 | +5.0 (+5.0 to +5.0), wins 1, loses 0 of 2 |"
    assert line + " 15.0, 17.5 |" in render_table(rows, VARIANTS)
    assert render_plot(rows, VARIANTS, "a+b").count("<circle") == 1
    for row in rows:
        row |= {key: value for key, value in null.items() if key in row}
    line = "| as-published | moe-simple | - | - | -, wins 0, loses 0 of 2 | -, - |"
    assert line in render_table(rows, VARIANTS)
    assert "no value" in render_plot(rows, VARIANTS, "a+b")


def test_plot_shows_every_seed_of_every_variant() -> None:
    plot = render_plot(some_rows(), VARIANTS, "a+b")
    tree = ElementTree.fromstring(plot)
    assert len(tree.findall(".//{*}circle")) == 4
    places = [float(one.get("cx", "")) for one in tree.findall(".//{*}circle")]
    zero = float(tree.findall(".//{*}line[@class='zero']")[0].get("x1", ""))
    assert [place > zero for place in places] == [True, True, False, False]
    filled = [one.get("class") == "dot" for one in tree.findall(".//{*}circle")]
    assert filled == [True, True, False, False]
    assert "held&lt;&amp;&gt;" in plot
    assert tree.find("{http://www.w3.org/2000/svg}style") is not None
    assert render_plot(list(reversed(some_rows())), VARIANTS, "a+b") == plot
