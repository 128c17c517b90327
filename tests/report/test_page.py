"""The page as text: what is on it, what it says is missing, and that names stay names."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from moeseg import cli
from moeseg.errors import DataError, UsageError
from moeseg.evaluation.rows import read_rows, write_rows
from moeseg.report import render, write_report
from moeseg.report.layers import Explorer, read_layers
from moeseg.report.reading import read_run
from moeseg.types import Row
from report_run import CLASSES, MIXTURES, MODELS, SUBSETS, rows, write_layers, write_run
from uncertain_run import rows as uncertain_rows

NULLABLE = (
    *("miou", "difference", "ci95", "right", "right_ci95", "auroc", "aupr", "fpr95", "aurc"),
    *(
        "aurc_ci95",
        "aupr_ci95",
        "fpr95_ci95",
        "error_bound",
        "positives",
        "prefers_better",
        "oracle_lost",
    ),
    *("subset_accuracy", "collapsed"),
)
VOID = {"meta", "input", "img", "link", "br", "hr"}


class Reader(HTMLParser):
    """Collects text, references and scripts of a page, and checks that its tags close."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.data: dict[str, str] = {}
        self.open: list[tuple[str, str]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {key: value or "" for key, value in attrs}
        self.references += [known[key] for key in ("src", "href", "xlink:href") if key in known]
        self.ids += [known["id"]] if "id" in known else []
        if tag not in VOID:
            self.open.append((tag, known.get("id", "")))

    def handle_endtag(self, tag: str) -> None:
        last, _ = self.open.pop()
        assert last == tag, f"</{tag}> closes <{last}>"

    def handle_data(self, data: str) -> None:
        tag, name = self.open[-1] if self.open else ("", "")
        if tag == "script":
            self.data[name] = self.data.get(name, "") + data
        elif tag != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def page(whole: Path) -> Reader:
    return Reader(render(whole))


@pytest.fixture
def run(tmp_path: Path, whole: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def missing(text: str) -> str:
    found = re.search(r'<aside class="missing".*?</aside>', text, re.DOTALL)
    return Reader(found.group()).text if found else ""


def keep(run: Path, *kinds: str) -> None:
    write_rows(run / "results.jsonl", [row for row in rows() if row["kind"] in kinds])


# -- what a whole run shows ------------------------------------------------------------------------


def test_a_whole_run_lacks_nothing(whole: Path, page: Reader) -> None:
    assert missing(render(whole)) == ""
    for heading in (
        "Summary",
        "Scores",
        "Classes",
        "Frames",
        "Agreement of the experts",
        "Routing",
    ):
        assert heading in page.texts
    for name in (*MODELS, *SUBSETS, *CLASSES):
        assert name in page.text
    assert len(page.ids) == len(set(page.ids))


def test_same_input_same_bytes_wherever_it_lies(whole: Path, run: Path) -> None:
    first = write_report(whole, whole / "one.html").read_bytes()
    assert write_report(run).read_bytes() == first
    assert run / "report.html" == write_report(run)


def test_nothing_outside_is_referred_to(whole: Path, page: Reader) -> None:
    assert all(reference.startswith(("#", "data:")) for reference in page.references)
    text = re.sub(r"data:[\w/+-]+;base64,[\w+/=]*", "", render(whole))
    assert not re.findall(r"https?://|@import|url\(", text)
    assert str(whole) not in text


def test_names_cannot_leave_their_place(page: Reader) -> None:
    # a script that was opened by a name would stand among the page's own
    assert set(page.data) == {"", "bars-data", "frames-data"}
    assert "alert(1)" not in page.data[""]
    bars = json.loads(page.data["bars-data"])
    assert bars["grounds"][0]["bars"][0]["classes"] == list(CLASSES)
    frames = json.loads(page.data["frames-data"])
    assert frames[0]["classes"] == list(CLASSES)


def test_other_conditions_stand_apart_from_clean_ones(page: Reader) -> None:
    assert "tiny test, 12 x 16, clean: mIoU in percent" in page.text
    assert "tiny test, 12 x 16, pgd@4/255" not in page.text
    assert "day: pgd@4/255 on 3 frames" not in page.text
    assert "day: pgd on 3 frames: mIoU in percent" in page.text
    assert f"Also measured: pgd@4/255 ({len(MODELS)} rows)" in page.text
    bars = json.loads(page.data["bars-data"])
    assert [ground["place"] for ground in bars["grounds"]] == ["tiny test, 12 x 16, clean"]


def test_a_kind_of_the_future_is_told_and_can_be_saved(page: Reader) -> None:
    assert "Not shown: calibration <x>, 1 row" in page.text


def test_every_figure_has_a_caption_and_data(whole: Path) -> None:
    figures = re.findall(r"<figure.*?</figure>", render(whole), re.DOTALL)
    assert len(figures) > 30
    for figure in figures:
        caption = re.search(r"<figcaption>(.*?)</figcaption>", figure, re.DOTALL)
        assert caption
        assert len(Reader(caption.group(1)).text) > 40
        assert "download=" in caption.group(1)


# -- the summary -----------------------------------------------------------------------------------


def test_the_summary_speaks_from_the_rows(page: Reader) -> None:
    text = page.text
    assert "expert-day (trained on day) and expert-dusk (trained on dusk)" in text
    assert "of the mixtures moe-classwise is best (60.0 % mIoU)" in text
    assert "it wins against expert-day, its best expert (+20.0), baseline (+10.0)" in text
    assert "against baseline, 3 of 6 are won and 3 lost" in text
    join = SUBSETS[2]
    assert f"moe-simple: collapsed: on {join} its largest weight is on day 100 % of" in text
    assert f"moe-classwise: alive: on {join} its top expert, day, leads 70 % of the time" in text
    assert "agree with the mixture on 70 % of the pixels, and are right on 90 % of those" in text
    # by hand: (150 * 0.6 + 100 * 0.5 + 50 * 0.2) / 300 = 0.5
    assert "elsewhere the mixture is right on 50 %" in text
    assert 'Most disputed: Auto "alt" & neu (75 %)' in text


def test_an_interval_above_zero_of_few_units_wins_nothing(run: Path) -> None:
    few = {"ci_units": 3, "wins": False}
    weak = [row | few if row["kind"] == "difference" else row for row in rows()]
    write_rows(run / "results.jsonl", weak)
    text = Reader(render(run)).text
    assert "wins against" not in text
    assert "loses against" not in text
    assert "0 of 6 are won and 0 lost" in text


# -- bad input -------------------------------------------------------------------------------------


def test_no_folder_and_no_rows_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"found none at .*moeseg study"):
        write_report(tmp_path / "absent")
    with pytest.raises(UsageError, match=r"expected results.jsonl in .*moeseg study"):
        write_report(tmp_path)
    (tmp_path / "results.jsonl").write_text("no json\n")
    with pytest.raises(DataError, match=r"results.jsonl:1: expected one JSON object"):
        write_report(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["results.jsonl"]


def test_a_run_without_insight_shows_its_scores(run: Path) -> None:
    keep(run, "segmentation", "difference")
    shutil.rmtree(run / "insight")
    text = render(run)
    for what in ("agreement of experts", "detectors", "routing", "pictures of frames"):
        assert f"No {what} in this run" in missing(text)
    shown = Reader(text)
    assert "mIoU in percent" in shown.text
    assert "frames-data" not in shown.data


def test_single_experts_alone(run: Path) -> None:
    alone = [r for r in rows() if r["kind"] == "segmentation" and r["model"].startswith("expert-")]
    write_rows(run / "results.jsonl", alone)
    settings = (run / "study.yaml").read_text(encoding="utf-8")
    settings = re.sub(r"mixtures:\n(  .*\n)+", "mixtures: {}\n", settings)
    settings = re.sub(r"ensembles:\n- mean\n", "ensembles: []\n", settings) + "baseline: null\n"
    (run / "study.yaml").write_text(settings, encoding="utf-8")
    text = render(run)
    assert "the study has no mixture" in missing(text)
    assert "expert-dusk" in text
    assert "the run is not finished" not in missing(text)


def test_a_half_finished_run_names_what_is_not_scored(run: Path) -> None:
    done = [row for row in rows() if row["model"] not in ("moe-simple", "ensemble-mean")]
    write_rows(run / "results.jsonl", done)
    told = missing(render(run))
    assert "No scores of ensemble-mean, moe-simple: the run is not finished." in told


def test_a_run_with_no_row_at_all(run: Path) -> None:
    (run / "results.jsonl").write_text("")
    shutil.rmtree(run / "insight")
    (run / "study.yaml").unlink()
    told = missing(render(run))
    assert "Nothing is scored yet" in told
    assert "study.yaml is not in the run's folder" in told


def test_missing_and_wrong_layers_are_named_and_the_rest_is_shown(run: Path) -> None:
    layers = run / "insight" / "layers" / "clean"
    (layers / "0001" / "moe-simple.png").unlink()
    (layers / "0002" / "label.png").write_bytes(b"no picture")
    shutil.copy(layers / "0003" / "photo.png", layers / "0003" / "baseline.png")
    text = render(run)
    told = missing(text)
    assert "clean/0001/moe-simple.png of drive <1>/001: the file is missing." in told
    assert "clean/0002/label.png of drive <0>/002: no picture could be read" in told
    assert "clean/0003/baseline.png" in told
    assert "expected 8-bit ids of 12 x 16 pixels, got RGB of 12 x 16" in told
    frames = json.loads(Reader(text).data["frames-data"])[0]["frames"]
    assert [len(frame["layers"]) for frame in frames] == [7, 6, 6, 6]


@pytest.mark.parametrize(
    ("index", "told"),
    [
        ("{", "could not read it"),
        ("[]", "expected condition, dataset, size"),
        ('{"condition": 1, "dataset": 1, "size": 1, "classes": 1, "colours": 1, "models": 1, '
         '"mixtures": 1, "frames": 1}', "is not as expected"),
    ],
)  # fmt: skip
def test_a_broken_index_is_told(run: Path, index: str, told: str) -> None:
    (run / "insight" / "layers" / "clean" / "index.json").write_text(index)
    text = render(run)
    assert told in missing(text)
    assert "clean/index.json" in missing(text)


def test_rows_that_are_not_as_expected_are_left_out_and_told(run: Path) -> None:
    lines = (run / "results.jsonl").read_text(encoding="utf-8").splitlines()
    wrong = json.loads(lines[0])
    del wrong["miou"]
    again = json.loads(lines[1])  # a second row for one cell: no table can be made
    (run / "results.jsonl").write_text("\n".join([*lines, json.dumps(wrong), json.dumps(again)]))
    told = missing(render(run))
    assert "Left out: a segmentation row of 'baseline' on 'day' is not as expected" in told
    assert "The tables are left out: expected one segmentation row" in told


def test_settings_of_another_version_do_not_stop_the_report(run: Path) -> None:
    with (run / "study.yaml").open("a", encoding="utf-8") as file:
        file.write("novelty: 1\n")
    told = missing(render(run))
    assert "The settings are not told: study.yaml: 1 setting to mend" in told
    assert "novelty" in told


def test_rows_without_values_are_shown_without(run: Path) -> None:
    """What nothing was counted for is null in the rows, and a dash or a gap on the page."""
    bare = []
    for row in rows():
        empty = row | {key: None for key in NULLABLE if key in row}
        for key in ("per_class_iou", "per_class_share", "per_class_right"):
            if key in row:
                empty[key] = dict.fromkeys(CLASSES)
        if "roc" in row:
            empty |= {"risk": [None] * 101, "roc": [[0.0, None, 1.0], [None] * 3]}
        bare.append(empty)
    write_rows(run / "results.jsonl", bare)
    page = Reader(render(run))
    assert "no difference could be measured" in page.text
    assert "moe-simple: not judged: that needs frames of several subsets" in page.text
    assert "no value" in page.text
    assert "None" not in page.text.replace("None of", "")


def test_rows_of_two_seeds_are_told_apart(run: Path) -> None:
    two = [*rows(), *(row | {"seed": 1} for row in rows())]
    write_rows(run / "results.jsonl", two)
    text = render(run)
    assert "2 seeds" in Reader(text).text
    assert '<select data-name="seed"><option>0</option><option>1</option></select>' in text
    assert "baseline, seed 1" in Reader(text).text


def test_a_best_expert_that_changes_with_the_seed_is_told_with_it(run: Path) -> None:
    def other(row: Row) -> Row:
        best = "expert-dusk" if row.get("minus") == "expert-day" else row.get("minus")
        return row | {"seed": 1} | ({"minus": best} if best else {})

    write_rows(run / "results.jsonl", [*rows(), *map(other, rows())])
    text = Reader(render(run)).text
    assert "minus expert-day, seed 0" in text
    assert "minus expert-dusk, seed 1" in text


# -- layers ----------------------------------------------------------------------------------------


def pictures(found: Explorer) -> int:
    """Return how many bytes of pictures the first condition holds."""
    frames = found.sets[0]["frames"]
    return sum(len(f["photo"]) + sum(map(len, f["layers"].values())) for f in frames)


def test_a_small_limit_keeps_frames_of_every_subset(tmp_path: Path) -> None:
    place = write_layers(tmp_path, frames=6)
    everything = read_layers(place.parent)
    assert everything.missing == []
    spent = pictures(everything)
    some = read_layers(place.parent, limit=spent // 2)
    assert spent // 4 < pictures(some) <= spent // 2
    assert {frame["subset"] for frame in some.sets[0]["frames"]} == set(SUBSETS[:2])
    kept = [frame["key"] for frame in some.sets[0]["frames"]]
    assert kept == [frame["key"] for frame in everything.sets[0]["frames"]][: len(kept)]
    assert f"{6 - len(kept)} of 6 frames (clean) are left out" in some.missing[0]


def test_clean_layers_come_first(tmp_path: Path) -> None:
    run = tmp_path
    write_layers(run, "aaa-fog")
    write_layers(run)
    found = read_layers(run / "insight" / "layers")
    assert [one["condition"] for one in found.sets] == ["clean", "aaa-fog"]


def test_what_a_study_no_longer_asks_for_is_not_shown(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    write_layers(run, "pgd-1@8-255")
    write_rows(run / "uncertainty.jsonl", uncertain_rows(False, ("expert-day",)))
    outside = read_run(run)
    assert len(outside.uncertainty) > 0
    assert [one["condition"] for one in outside.explorer.sets] == ["clean"]
    settings = yaml.safe_load((run / "study.yaml").read_text())
    asked = {"uncertainty": {"measure": True}, "robustness": {"show": ["pgd-1@8/255"]}}
    (run / "study.yaml").write_text(yaml.safe_dump(settings | asked))
    (run / "stages").mkdir()
    for finished in (True, False):
        for stage in ("uncertainty", "attack-pictures"):
            (run / "stages" / f"{stage}.json").write_text(json.dumps({"finished": finished}))
        found = read_run(run)
        assert (len(found.uncertainty) > 0) == finished
        conditions = [one["condition"] for one in found.explorer.sets]
        assert conditions == ["clean", *(["pgd-1@8-255"] * finished)]


# -- the command -----------------------------------------------------------------------------------


def command(*words: object) -> int:
    """Run the command line in this process; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["moeseg", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return int(end.value.code or 0)


def test_the_command_names_its_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("report", run) == 0
    assert capsys.readouterr().out == f"report: {run / 'report.html'}\n"
    assert command("report", run, "--out", run / "deep" / "own.html") == 0
    assert (run / "deep" / "own.html").read_bytes() == (run / "report.html").read_bytes()
    assert command("report", run / "absent") == 2
    err = capsys.readouterr().err
    assert "expected the folder of a run" in err
    assert "Traceback" not in err


def test_the_fixture_is_as_a_run_writes_it(whole: Path) -> None:
    read: list[Row] = read_rows(whole / "results.jsonl")
    assert {row["model"] for row in read} == set(MODELS)
    assert set(MIXTURES) <= set(MODELS)


def test_a_run_that_has_only_begun_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "results.jsonl").unlink()
    page = render(run)
    assert "Nothing is scored yet" in page
    assert "moe-simple" in page  # from its settings
    (run / "study.yaml").unlink()
    with pytest.raises(UsageError, match=r"expected results\.jsonl in"):
        render(run)


@pytest.mark.parametrize("change", [{"ci95": 3}, {"miou": "x"}, {"size": None}])
def test_a_row_of_wrong_types_is_left_out_and_told(
    tmp_path: Path, change: dict[str, object]
) -> None:
    run = write_run(tmp_path / "run")
    path = run / "results.jsonl"
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | change), *rest]), encoding="utf-8")
    assert "Left out: a segmentation row" in render(run)
