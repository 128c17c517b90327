"""Tables against markdown written by hand; order, names, sizes, seeds, published figures."""

from __future__ import annotations

import csv
import io
import random
from operator import itemgetter

import pytest
from rich.console import Console

from moeseg.errors import DataError
from moeseg.evaluation.cells import ordered, temperature_of, with_seeds
from moeseg.evaluation.contents import TextTable, tables
from moeseg.evaluation.rows import validate_row
from moeseg.evaluation.table import (
    render_class_csv,
    render_csv,
    render_markdown,
    render_terminal,
)
from moeseg.types import Row
from uncertain_run import rows as uncertain_rows


def _base(kind: str, model: str, subset: str, **changes: object) -> Row:
    return {
        "kind": kind,
        "model": model,
        "subset": subset,
        "condition": "clean",
        "split": "test",
        "dataset": "toy",
        "size": [96, 160],
        "architecture": "tiny",
        "images": 40,
        "seed": 0,
        "settings": {},
        "fingerprint": "f",
        **changes,
    }


def _scored(
    model: str, subset: str, miou: float | None, ci95: list[float] | None, **changes: object
) -> Row:
    row = _base("segmentation", model, subset) | {
        "miou": miou,
        "miou_union": None if miou is None else miou / 2,
        "pixel_accuracy": 0.9,
        "class_accuracy": 0.625,
        "fw_iou": 0.8125,
        "per_class_iou": {"Car": miou, "Sky": None},
        "per_class_pixels": {"Car": 7, "Sky": 0},
        "classes_used": 1,
        "ci95": ci95,
        "ci_unit": "block",
        "ci_units": 10,
        **changes,
    }
    validate_row(row)
    return row


def _minus(model: str, minus: str, subset: str, by: float, ci95: list[float], **c: object) -> Row:
    row = _base("difference", model, subset) | {
        "minus": minus,
        "difference": by,
        "ci95": ci95,
        "ci_unit": "block",
        "ci_units": 10,
        "wins": ci95[0] > 0,
        **c,
    }
    validate_row(row)
    return row


def _study() -> list[Row]:
    return [
        _scored("baseline", "urban", 0.5, [0.45, 0.555]),
        _scored("baseline", "highway+urban", 0.4, [0.3, 0.5]),
        _scored("expert-urban", "urban", 0.625, [0.6, 0.65]),
        _scored("moe-simple", "urban", 0.61, [0.6, 0.62]),
        _scored("moe-simple", "highway+urban", 0.45, [0.35, 0.55]),
        _minus("moe-simple", "baseline", "urban", 0.11, [0.05, 0.15]),
        _minus("moe-simple", "expert-urban", "urban", -0.015, [-0.02, -0.01]),
        _minus("moe-simple", "baseline", "highway+urban", 0.05, [-0.01, 0.1]),
        {"kind": "routing", "model": "moe-simple"},
    ]


PUBLISHED = {"moe-simple": {"highway+urban": 42.85}, "moe-classwise": {"highway+urban": 44.35}}

EXPECTED = """\
## toy test, 96 x 160, clean: mIoU in percent

| model | urban | highway+urban | highway+urban (published) |
|---|--:|--:|--:|
| baseline | 50.00 [45.00, 55.50] | 40.00 [30.00, 50.00] | - |
| expert-urban | **62.50 [60.00, 65.00]** | - | - |
| moe-simple | 61.00 [60.00, 62.00] | **45.00 [35.00, 55.00]** | 42.85 |
| moe-classwise | - | - | 44.35 |

Mean over the classes in the ground truth; best measured model of a column in bold; brackets: \
95 % interval by bootstrap over 10 blocks (urban), 10 blocks (highway+urban). Published figures \
are a paper's, at its size and by its reading of mIoU.

## toy test, 96 x 160, clean: other readings in percent

| subset | model | mIoU, union | pixel accuracy | class accuracy | fwIoU | classes | images |
|---|---|--:|--:|--:|--:|--:|--:|
| urban | baseline | 25.00 | 90.00 | 62.50 | 81.25 | 1 | 40 |
| urban | expert-urban | 31.25 | 90.00 | 62.50 | 81.25 | 1 | 40 |
| urban | moe-simple | 30.50 | 90.00 | 62.50 | 81.25 | 1 | 40 |
| highway+urban | baseline | 20.00 | 90.00 | 62.50 | 81.25 | 1 | 40 |
| highway+urban | moe-simple | 22.50 | 90.00 | 62.50 | 81.25 | 1 | 40 |

Union: mean over the classes in the ground truth or the prediction.

## toy test, 96 x 160, clean: mixture minus another model

| mixture | minus | urban | highway+urban |
|---|---|--:|--:|
| moe-simple | best expert | -1.50 [-2.00, -1.00] loses (expert-urban) | - |
| moe-simple | baseline | +11.00 [+5.00, +15.00] wins | +5.00 [-1.00, +10.00] undecided |

Percentage points of mIoU; brackets: 95 % interval of the paired difference, from the same \
resamples of both models, over 10 blocks (urban), 10 blocks (highway+urban). Wins or loses: the \
interval excludes 0 (of every seed) and rests on 8 units or more; the best expert is chosen on the scored frames.
"""  # noqa: E501


def test_markdown_as_written_by_hand() -> None:
    assert render_markdown(_study(), PUBLISHED) == EXPECTED


def test_order_of_rows_has_no_effect() -> None:
    rows = _study()
    for seed in range(5):
        shuffled = random.Random(seed).sample(rows, len(rows))
        assert render_markdown(shuffled, PUBLISHED) == EXPECTED
        assert render_csv(shuffled) == render_csv(rows)
        assert render_class_csv(shuffled) == render_class_csv(rows)


def test_models_stand_in_the_order_of_a_study() -> None:
    names = ["baseline", "expert-a", "expert-b", "ensemble-mean", "ensemble-max"]
    names += ["ensemble-mean-probability", "moe-simple", "moe-simple-conv", "moe-classwise"]
    names += ["moe-classwise-conv", "another"]
    text = render_markdown(_scored(name, "urban", 0.5, None) for name in reversed(names))
    first = text.split("##")[1]
    assert [line.split(" ")[1].strip("*") for line in first.split("\n")[4:15]] == names


def test_all_that_share_the_best_are_marked() -> None:
    text = render_markdown(
        [_scored("a", "x", 0.5, None), _scored("b", "x", 0.5, None), _scored("c", "x", 0.4, None)]
    )
    assert "| a | **50.00** |" in text
    assert "| b | **50.00** |" in text
    assert "| c | 40.00 |" in text


def test_other_sizes_get_tables_of_their_own() -> None:
    rows = [
        _scored("baseline", "urban", 0.5, None),
        _scored("baseline", "urban", 0.6, None, size=[480, 640]),
        _scored("baseline", "urban", 0.2, None, condition="fog-3"),
    ]
    text = render_markdown(rows, {"baseline": {"urban": 50.32}})
    assert headings(text) == [
        "## toy test, 96 x 160, clean: mIoU in percent",
        "## toy test, 480 x 640, clean: mIoU in percent",
    ]
    assert "| baseline | **50.00** | 50.32 |" in text
    assert "20.00" not in text  # fog is `conditions`'
    assert "| baseline | **60.00** | 50.32 |" in text
    assert len(render_terminal(rows).renderables) == 4
    assert render_class_csv(rows) == render_class_csv(rows[:2])
    assert render_csv(rows).count("fog-3") == 1


def test_other_conditions_get_tables_where_nothing_is_clean() -> None:
    rows = [
        _scored("baseline", "urban", 0.1, None, condition="pgd-10@4/255"),
        _scored("baseline", "urban", 0.2, None, condition="fog-3"),
    ]
    text = render_markdown(rows, {"baseline": {"urban": 50.32}})
    assert headings(text) == [
        "## toy test, 96 x 160, fog-3: mIoU in percent",
        "## toy test, 96 x 160, pgd-10@4/255: mIoU in percent",
    ]
    assert "| baseline | **20.00** |\n" in text  # no published figure beside a corruption
    assert render_class_csv(rows).count("fog-3") == 2


def headings(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.startswith("##") and "mIoU" in line]


def test_seeds_give_mean_and_range() -> None:
    rows = [_scored("m", "x", v, [0.1, 0.9], seed=s) for s, v in enumerate((0.5, 0.6, 0.4))]
    rows.append(_scored("n", "x", 0.49, [0.1, 0.9]))
    rows += [
        _minus("moe-a", "baseline", "x", 0.1, [0.05, 0.2], seed=0),
        _minus("moe-a", "baseline", "x", 0.2, [0.1, 0.3], seed=1),
        _minus("moe-b", "baseline", "x", 0.1, [0.05, 0.2], seed=0),
        _minus("moe-b", "baseline", "x", 0.0, [-0.1, 0.1], seed=1),
    ]
    text = render_markdown(rows)
    assert "| m | **50.00 (40.00 to 60.00, 3 seeds)** |" in text
    assert "| n | 49.00 [10.00, 90.00] |" in text
    assert "| moe-a | baseline | +15.00 (+10.00 to +20.00, 2 seeds) wins |" in text
    assert "| moe-b | baseline | +5.00 (+0.00 to +10.00, 2 seeds) undecided |" in text


def test_a_seed_that_is_not_known_is_one_of_several() -> None:
    rows = [_scored("m", "x", v, None, seed=s) for v, s in ((0.5, 1), (0.6, None), (0.4, 0))]
    assert [row["seed"] for row in ordered(rows, "segmentation")] == [None, 0, 1]
    assert "| m | **50.00 (40.00 to 60.00, 3 seeds)** |" in render_markdown(rows)
    call = with_seeds(rows, itemgetter("model"))
    assert [call(row) for row in rows] == ["m, seed 1", "m", "m, seed 0"]


def test_models_of_one_seed_each_are_called_without_it() -> None:
    rows = [
        _scored("baseline", "x", 0.5, None, seed=0),
        _scored("baseline-2", "x", 0.6, None, seed=1),
    ]
    call = with_seeds(rows, itemgetter("model"))
    assert [call(row) for row in rows] == ["baseline", "baseline-2"]


def test_two_rows_for_one_cell_are_an_error() -> None:
    rows = [_scored("m", "x", 0.5, None), _scored("m", "x", 0.6, None, fingerprint="g")]
    with pytest.raises(DataError, match=r"row of 'm' on 'x' with seed 0, got two .*'f'.*'g'"):
        render_markdown(rows)
    rows[1]["architecture"] = "large"
    text = render_markdown(rows)
    assert "| m (large) | **60.00** |" in text
    assert "| m (tiny) | 50.00 |" in text


def test_unusual_names_survive() -> None:
    name = 'Straße "a|b" [red]_x_*'
    rows = [_scored(name, "x", 0.5, None, per_class_iou={'Rad, "alt"': 0.5},
                    per_class_pixels={'Rad, "alt"': 9})]  # fmt: skip
    text = render_markdown(rows)
    assert '| Straße "a\\|b" [red]\\_x\\_\\* | **50.00** |' in text
    assert len({line.replace("\\|", "").count("|") for line in text.split("\n")[2:5]}) == 1
    (line,) = csv.DictReader(io.StringIO(render_csv(rows)))
    assert line["model"] == name
    (line,) = csv.DictReader(io.StringIO(render_class_csv(rows)))
    assert (line["class"], line["iou_percent"], line["pixels"]) == ('Rad, "alt"', "50.0", "9")
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(render_terminal(rows))
    assert name in console.export_text()


def test_csv_by_hand() -> None:
    rows = [_scored("m", "x", 0.5, [0.25, 0.75]), _scored("n", "x", None, None)]
    assert render_csv([*rows, {"kind": "routing"}]) == (
        "model,subset,condition,split,dataset,architecture,images,seed,fingerprint,height,width,"
        "miou_percent,miou_union_percent,pixel_accuracy_percent,class_accuracy_percent,"
        "fw_iou_percent,ci95_low_percent,ci95_high_percent,classes_used,ci_unit,ci_units\n"
        "m,x,clean,test,toy,tiny,40,0,f,96,160,50.0,25.0,90.0,62.5,81.25,25.0,75.0,1,block,10\n"
        "n,x,clean,test,toy,tiny,40,0,f,96,160,,,90.0,62.5,81.25,,,1,block,10\n"
    )
    assert render_class_csv(rows) == (
        "dataset,split,condition,model,architecture,seed,subset,height,width,class,iou_percent,"
        "pixels\n"
        "toy,test,clean,m,tiny,0,x,96,160,Car,50.0,7\n"
        "toy,test,clean,m,tiny,0,x,96,160,Sky,,0\n"
        "toy,test,clean,n,tiny,0,x,96,160,Car,,7\n"
        "toy,test,clean,n,tiny,0,x,96,160,Sky,,0\n"
    )


def test_nothing_to_show_is_empty() -> None:
    assert render_markdown([{"kind": "routing"}]) == ""
    assert render_terminal([]).renderables == []
    assert render_csv([]).count("\n") == 1


def test_null_scores_print_a_dash() -> None:
    text = render_markdown([_scored("m", "x", None, None)])
    assert "| m | - |" in text


# -- uncertainty -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def doubt() -> list[Row]:
    return uncertain_rows(False, ("baseline", "moe-simple"))


def test_uncertainty_of_several_seeds_gives_mean_and_range(doubt: list[Row]) -> None:
    found = doubt
    trusted = next(
        row
        for row in found
        if (row["kind"], row["model"], row["subset"]) == ("calibration", "moe-simple", "urban")
    )
    alone = {table.heading: table for table in tables(found)}
    value, (low, high) = trusted["ece"], trusted["ci95"]
    told = [f"{value:.4f} [{low:.4f}, {high:.4f}]"]
    assert [c for c in line(alone["toy test, 6 x 8, clean: calibration"]) if "[" in c][:1] == told
    again = []
    for row in found:
        moved = {"ece": row["ece"] + 0.01} if row["kind"] == "calibration" else {}
        worse = {"better": False} if row["kind"] == "uncertainty-difference" else {}
        again.append(row | {"seed": row["seed"] + 1} | moved | worse)
    both = {table.heading: table for table in tables([*found, *again])}
    for heading in alone:
        assert len(both[heading].cells) == len(alone[heading].cells)
    spread = f"{value + 0.005:.4f} ({value:.4f} to {value + 0.01:.4f}, 2 seeds)"
    assert spread in line(both["toy test, 6 x 8, clean: calibration"])
    paired = "toy test, 6 x 8, clean: paired differences"
    assert any(" better" in cell for cells in alone[paired].cells for cell in cells)
    assert not any(" better" in cell for cells in both[paired].cells for cell in cells)


def line(table: TextTable) -> tuple[str, ...]:
    """Return the cells of moe-simple on urban, without temperature."""
    return next(c for c in table.cells if c[:3] == ("urban", "moe-simple", "none"))


def test_what_binning_may_do_to_an_auroc_is_told(doubt: list[Row]) -> None:
    found = [row for row in doubt if row["model"] == "moe-simple"]
    (shown,) = (table for table in tables(found) if table.heading.endswith("clean: detection"))
    for row in found:
        if (row["kind"], row["condition"], row.get("task")) == (
            "detector",
            "clean",
            "wrong-pixels",
        ):
            column = shown.columns.index(row["score"])
            at = ("wrong-pixels", row["subset"], "moe-simple", temperature_of(row))
            (cell,) = (cells[column] for cells in shown.cells if cells[:4] == at)
            assert ("\N{PLUS-MINUS SIGN}" in cell) == (row["error_bound"] >= 5e-4)
            assert cell.startswith(f"{row['auroc']:.4f} [")
