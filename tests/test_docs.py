"""What the documents state is run here: their code, study files, commands, links and names."""

from __future__ import annotations

import copy
import functools
import importlib
import importlib.util
import io
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import typer
import yaml
from PIL import Image
from torch import Tensor
from torchvision.models.segmentation import deeplabv3_resnet50

import contracts
import contracts_attack
import contracts_data
import tiny
from contracts import ExpertContract, GateContract
from contracts_data import FAKE_SIZE, DatasetContract, random_ids, random_photo
from moeseg.ablation import load_ablation
from moeseg.ablation.table import render_table
from moeseg.cli import app
from moeseg.config import GateConfig, load_study
from moeseg.data import Catalogue, SegmentationDataset, Taxonomy, check, read_manifest, write_png
from moeseg.errors import UsageError
from moeseg.evaluation.conditions import condition_tables
from moeseg.evaluation.rows import read_rows, validate_row
from moeseg.evaluation.table import as_markdown, render_markdown
from moeseg.models import Expert, Gate, Mixture, build_expert, build_mixture, load, save
from moeseg.run import Run
from moeseg.study import ledger, run_study
from moeseg.training.cache import LiveOutputs
from moeseg.training.gate import train_gates
from moeseg.types import IGNORE

REPO = Path(__file__).resolve().parents[1]
EXAMPLES = REPO / "docs" / "examples"
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", REPO / "CHANGELOG.md"]
PAGES += sorted((REPO / "docs").glob("*.md"))
SHOWN = sorted(path.parent for path in (REPO / "docs" / "results").rglob("results.jsonl"))
TORCHVISION = "torchvision_deeplab:TorchvisionDeepLab"
QUICK = [
    "data.size=[24,32]",
    "data.workers=0",
    "architecture.name=tiny:TinyExpert",
    "training.epochs=1",
    "training.accelerator=cpu",
    "gate.epochs=1",
    "gate.pixels=16",
    "eval.sheet=1",
]


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def example(name: str) -> ModuleType:
    """Import one of docs/examples."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(autouse=True)
def examples_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def run_code(code: str) -> tuple[dict[str, Any], list[str]]:
    """Run a block; return its names and the lines that it printed."""
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(code, "document", "exec"), names)
    return names, printed.getvalue().splitlines()


def said(code: str) -> list[str]:
    """Return what a block's comments say that its prints print."""
    return re.findall(r"print\(.*# (\([\d, ]+\))", code)


# ---- README and quickstart -------------------------------------------------------------------


def test_the_ten_lines_print_the_shapes_they_say() -> None:
    (code,) = blocks(REPO / "README.md", "python")
    _, printed = run_code(code)
    assert len(printed) == 3
    assert printed == said(code)


def own_data(folder: Path) -> None:
    """Write the README's three files, and random pictures where its manifest names them."""
    text = (REPO / "README.md").read_text()
    files = re.findall(r"`(mydata/[\w.]+)`[^`]*?```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in files] == [
        "mydata/manifest.csv",
        "mydata/taxonomy.yaml",
        "mydata/study.yaml",
    ]
    for name, content in files:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)
    taxonomy = Taxonomy.load(folder / "mydata" / "taxonomy.yaml")
    for number, line in enumerate((folder / "mydata/manifest.csv").read_text().splitlines()[1:]):
        image, label = line.split(",")[:2]
        ids = random_ids(number, len(taxonomy) + 1, tiny.SIZE)
        ids[ids == len(taxonomy)] = IGNORE
        for name, pixels in ((image, random_photo(number, tiny.SIZE)), (label, None)):
            path = folder / "mydata" / name
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(taxonomy.decode(ids) if pixels is None else pixels).save(path)


def test_own_data_from_the_readme_becomes_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    run = Run(load_study(Path("mydata/study.yaml"), QUICK))
    assert check(run.catalogue).ok
    run_study(run)
    rows = read_rows(tmp_path / "runs/mine/results.jsonl")
    assert {row["subset"] for row in rows} == {"day", "night", "day+night"}
    assert {row["model"] for row in rows if row["model"].startswith("moe")} == {
        "moe-simple",
        "moe-classwise-conv",
    }
    assert "moe-classwise-conv" in (tmp_path / "runs/mine/table.md").read_text()


def test_networks_trained_apart_are_done_in_the_joined_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README's recipe for several machines: one network a machine, folders copied together."""
    own_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    study = load_study(Path("mydata/study.yaml"), QUICK)
    names = ("expert-day", "expert-night", "baseline")
    for number, name in enumerate(names):
        run_study(Run(study, Path(f"runs/node{number}")), [name])
        shutil.copytree(f"runs/node{number}", study.out, dirs_exist_ok=True)
    book = ledger(Run(study))
    assert [book.state(book.stages[f"train-{name}"]) for name in names] == ["done"] * 3
    changed = ledger(Run(load_study(Path("mydata/study.yaml"), [*QUICK, "training.devices=2"])))
    assert changed.state(changed.stages["train-baseline"]) == "stale"


def test_quickstart_study_file_is_valid(tmp_path: Path) -> None:
    whole = [block for block in blocks(REPO / "docs/quickstart.md", "yaml") if "name:" in block]
    assert len(whole) == 1
    (tmp_path / "small.yaml").write_text(whole[0])
    study = load_study(tmp_path / "small.yaml")
    assert study.training_of("expert-urban").epochs == 4
    assert study.training_of("expert-urban").batch_size == 8


def fragments() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for number, block in enumerate(blocks(page, "yaml")):
            if "classes:" not in block and "name: small" not in block and "out:" not in block:
                yield f"{page.name}-{number}", block


@pytest.mark.parametrize("block", [pytest.param(text, id=name) for name, text in fragments()])
def test_parts_of_study_files_are_valid(block: str, tmp_path: Path) -> None:
    part = yaml.safe_load(block)
    whole: dict[str, Any] = {
        "name": "part",
        "out": "runs/part",
        "data": {"reader": "camvid", "size": [24, 32]},
        "experts": {"day": {}, "dusk": {}},
    }
    whole |= {**part, "data": whole["data"] | part.get("data", {})}
    (tmp_path / "part.yaml").write_text(yaml.safe_dump(whole))
    load_study(tmp_path / "part.yaml")


def test_mistakes_are_reported_as_the_quickstart_shows(tmp_path: Path) -> None:
    (shown,) = blocks(REPO / "docs/quickstart.md", "text")
    raw = tiny.study_settings(tmp_path, tmp_path) | {
        "mixtures": {"moe-simple": {"gate": "simpel"}},
        "eval": {"splt": "val"},
    }
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(UsageError) as caught:
        load_study(tmp_path / "small.yaml")
    message = str(caught.value).replace(f"{tmp_path}/", "")
    assert f"moeseg: {message}\n" == shown


def test_python_of_the_quickstart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks(REPO / "docs/quickstart.md", "python")
    experts = [tiny.tiny_expert(seed) for seed in (1, 2)]
    taxonomy = Taxonomy.load(tiny.write_data(tmp_path / "data", 1, 1).parent / "taxonomy.yaml")
    save(
        build_mixture(experts, "simple", size=tiny.SIZE),
        tmp_path / "runs/small/models/moe-simple",
        info={"size": list(tiny.SIZE), "taxonomy": taxonomy.to_json()},
    )
    write_png(tmp_path / "photo.png", random_photo(0, (40, 60)))
    monkeypatch.chdir(tmp_path)
    names, _ = run_code(code)
    assert names["ids"].shape == (1, *tiny.SIZE)
    assert names["expert_ids"].shape == (1, 2, *tiny.SIZE)
    assert names["images"].max() <= 1
    assert names["names"] == list(tiny.CLASSES)


# ---- commands, links, names ------------------------------------------------------------------


def commands() -> Iterator[tuple[Path, list[str]]]:
    """Every `moeseg ...` line of the pages' shell blocks, continued lines joined."""
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if "moeseg" in words:
                    yield page, words[words.index("moeseg") + 1 :]


def test_every_command_of_the_documents_is_one() -> None:
    found = list(commands())
    assert len(found) > 20
    root: Any = typer.main.get_command(app)
    for page, words in found:
        command, rest = root, list(words)
        while hasattr(command, "commands"):
            assert rest[0] in command.commands, f"{page.name}: moeseg {' '.join(words)}"
            command = command.commands[rest.pop(0)]
        command.make_context("moeseg", rest)  # raises for an unknown option


def test_every_setting_of_the_documents_commands_is_one(tmp_path: Path) -> None:
    checked = 0
    for page, words in commands():
        overrides = [after for word, after in pairwise(words) if word == "--set"]
        named = [word for word in words if word.endswith(".yaml")]
        file = REPO / named[0] if named and named[0].startswith("configs/") else None
        if file is None:
            continue
        load = load_ablation if words[0] == "ablation" else load_study
        load(file, overrides)
        assert page.exists()
        checked += 1
    assert checked > 10


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_are_there(page: Path) -> None:
    for target in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", page.read_text()):
        assert (page.parent / target).is_file(), f"{page.name} shows {target}, which is not there"


def test_files_and_contracts_that_pages_name_exist() -> None:
    roots = (REPO, REPO / "src" / "moeseg")
    for page in PAGES:
        text = page.read_text()
        for name in re.findall(
            r"`((?:tests|configs|models|evaluation|training|data)/[\w/]+\.(?:py|yaml))`", text
        ):
            assert any((root / name).exists() for root in roots), f"{page.name}: {name}"
        for name in re.findall(r"`(\w+Contract)`", text):
            homes = (contracts, contracts_data, contracts_attack)
            assert any(hasattr(home, name) for home in homes), name


def test_settings_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("settings_page", REPO / "docs/settings.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert (REPO / "docs/settings.md").read_text() == page.render(), (
        "moeseg.config has changed: run `make docs`"
    )


def test_settings_page_names_every_setting_with_its_range() -> None:
    text = (REPO / "docs/settings.md").read_text()
    assert "| `lr` | number > 0 | `0.01` |" in text
    assert "| `jitter` | number ≥ 0, ≤ 1 | `0.0` |" in text
    assert "| `size` | [H, W] | (needed) |" in text
    assert "{name: adam, lr: 0.001, weight_decay: 0.0}" in text


@pytest.mark.parametrize("folder", SHOWN, ids=lambda folder: folder.name)
def test_tables_of_shown_results_follow_from_the_rows_beside_them(folder: Path) -> None:
    rows = read_rows(folder / "results.jsonl")
    for row in rows:
        validate_row(row)
    if folder.name.startswith("ablation"):
        variants = load_ablation(REPO / "configs" / f"{folder.name}.yaml").variants
        made = render_table(rows, list(variants))
    else:
        made = render_markdown(rows)
    assert (folder / "table.md").read_text() == made
    changed = folder / "robustness.md"
    if changed.exists():
        assert changed.read_text() == as_markdown(condition_tables(rows))


def test_citation_names_the_four_papers() -> None:
    citation = yaml.safe_load((REPO / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == "MIT"
    assert [paper["year"] for paper in citation["references"]] == [2020, 2022, 2024, 2025]
    assert citation["references"][1]["doi"] == "10.1007/978-3-031-01233-4_11"


def test_published_table_is_the_one_in_the_configs() -> None:
    text = (REPO / "README.md").read_text()
    studies = [load_study(REPO / f"configs/a2d2_{name}.yaml") for name in ("frrn", "deeplab")]
    rows = re.findall(r"^\| [^|]+ \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    in_configs = [
        tuple(f"{study.published[model]['highway+urban']:.2f}" for study in studies)
        for model in studies[0].published
    ]
    assert rows == in_configs
    assert len(rows) == 9


# ---- the examples ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("add_a_data_set", "folders"),
        ("add_an_expert", "torchvision_deeplab"),
        ("add_a_gate", "pooled_gate"),
    ],
)
def test_pages_show_the_examples_as_they_are(page: str, name: str) -> None:
    code = (EXAMPLES / f"{name}.py").read_text()
    body = code.split("from __future__ import annotations\n", 1)[1].strip()
    shown = [block.strip() for block in blocks(REPO / "docs" / f"{page}.md", "python")]
    assert body in shown


@functools.cache
def torchvision_expert() -> Expert:
    sys.path.insert(0, str(EXAMPLES))
    try:
        torch.manual_seed(0)
        return build_expert({"name": TORCHVISION, "num_classes": 5})
    finally:
        sys.path.remove(str(EXAMPLES))


class TestTorchvisionDeepLab(ExpertContract):
    @pytest.fixture
    def expert(self) -> Expert:
        return copy.deepcopy(torchvision_expert())

    def test_trains_on_a_single_image(self, expert: Expert) -> None:
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            expert.train()(torch.rand(1, 3, 33, 47))


def test_torchvision_expert_gives_torchvisions_logits() -> None:
    expert = torchvision_expert().eval()
    torch.manual_seed(0)
    network = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=5).eval()
    images = torch.rand(1, 3, 33, 47)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normal = (images - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(expert(images).logits, network(normal)["out"])


def test_torchvision_expert_in_a_study_file(tmp_path: Path) -> None:
    (block,) = blocks(REPO / "docs/add_an_expert.md", "yaml")
    settings = tiny.study_settings(tmp_path, tmp_path / "run")
    splits = ("train", "test")
    settings["data"]["select"] = {s: {p: {"source": s} for p in splits} for s in ("day", "dusk")}
    settings["experts"]["day"] = yaml.safe_load(block)
    settings["training"] |= {"epochs": 1, "choose": "last"}
    settings["training"]["optimizer"] = {"name": "sgd", "momentum": 0.0}
    settings["gate"] |= {"epochs": 1, "choose": "last"}
    settings["mixtures"] = {"moe-simple": {"gate": "simple"}}
    settings |= {"baseline": None, "ensembles": []}
    tiny.write_data(tmp_path, frames=1)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings))
    run_study(Run(load_study(tmp_path / "study.yaml")), ["moe-simple"])
    mixture = load(tmp_path / "run/models/moe-simple")
    assert isinstance(mixture, Mixture)
    day, dusk = mixture.experts
    assert (day.num_classes, day.gate_channels, day.stride) == (3, 256, 8)
    assert day.description["mean"] == [0.5, 0.5, 0.5]
    assert dusk.description["name"] == "tiny:TinyExpert"
    with torch.inference_mode():
        assert mixture(torch.rand(1, 3, *tiny.SIZE)).logits.shape == (1, 3, *tiny.SIZE)


OWN = Taxonomy.load("camvid-11")


class TestFolders(DatasetContract):
    def catalogue(self, root: Path) -> Catalogue:
        places = [
            (split, subset, frame)
            for split, frames in (("train", 2), ("test", 1))
            for subset in ("day", "night")
            for frame in range(frames)
        ]
        for number, (split, subset, frame) in enumerate(places):
            folder = root / split / subset / f"drive-{split}-{subset}"
            write_png(folder / f"{frame:04d}.png", random_photo(number))
            write_png(folder / f"{frame:04d}_ids.png", random_ids(number, len(OWN), FAKE_SIZE))
        found: Catalogue = example("folders").read_folders(root, OWN)
        return found

    def read_missing(self, root: Path) -> object:
        return example("folders").read_folders(root, OWN)


class TestPooledGate(GateContract):
    grids = ((4, 6), (3, 9))

    @pytest.fixture
    def gate(self) -> Gate:
        generator = torch.Generator().manual_seed(0)
        made: Gate = example("pooled_gate").PooledGate((3, 5), columns=4, generator=generator)
        return made

    def test_permuting_experts_permutes_weights(self, gate: Gate) -> None:
        maps = self.maps(gate)
        linear: Any = gate.linear
        turned = example("pooled_gate").PooledGate((5, 3), columns=4)
        first, second = torch.split(linear.weight, [3, 5], dim=1)
        weight = torch.cat([second, first], dim=1).reshape(2, 4, 8).flip(0).reshape(8, 8)
        bias = linear.bias.reshape(2, 4).flip(0).flatten()
        turned.linear.load_state_dict({"weight": weight, "bias": bias})
        torch.testing.assert_close(turned(maps[::-1]), gate(maps).flip(1), rtol=0, atol=1e-6)

    def test_against_numpy(self, gate: Gate) -> None:
        maps = self.maps(gate)
        linear: Any = gate.linear
        means = np.concatenate([one.numpy().mean((2, 3)) for one in maps], axis=1)
        scores = means @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
        powers = np.exp(scores.reshape(3, 2, 4))
        expected = powers / powers.sum(1, keepdims=True)
        np.testing.assert_allclose(gate(maps).detach().numpy(), expected, rtol=1e-5)


def test_gate_example_runs_as_the_page_shows() -> None:
    code = next(
        block for block in blocks(REPO / "docs/add_a_gate.md", "python") if "print" in block
    )
    _, printed = run_code(code)
    assert printed == said(code) == ["(2, 2, 11)"]


def test_gate_example_can_be_fitted(tmp_path: Path) -> None:
    csv = tiny.write_data(tmp_path / "data", frames=2, sequences=1)
    found = read_manifest(csv, Taxonomy.load(csv.parent / "taxonomy.yaml"))
    frames = SegmentationDataset(found.select("day+dusk", "train"), found.read_label, tiny.SIZE)
    experts = [tiny.tiny_expert(seed) for seed in (1, 2)]
    gate = example("pooled_gate").PooledGate([e.gate_channels for e in experts])
    before = gate.linear.weight.clone()
    config = GateConfig(epochs=1, batch_size=2, pixels=16, choose="last")
    live = LiveOutputs(experts, frames, batch_size=2)
    train_gates({"moe-pooled": Mixture(experts, gate)}, live, None, config, tmp_path / "fit")
    after: Tensor = gate.linear.weight
    assert not torch.equal(after, before)
