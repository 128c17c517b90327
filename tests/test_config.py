from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from moeseg.config import HABITS, Study, data_root, load_study, parse_epsilon, parse_study
from moeseg.errors import UsageError

SHIPPED = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))
CONFIGS = [path for path in SHIPPED if not path.stem.startswith("ablation")]
SMALL: dict[str, Any] = {
    "name": "x",
    "out": "runs/x",
    "data": {"reader": "synthetic", "size": [4, 8]},
    "experts": {"highway": {}, "urban": {}},
}


MOE: dict[str, Any] = {"moe-simple": {"gate": "simple"}}
SQUEEZED: dict[str, Any] = SMALL["data"] | {"fit": "squeeze"}


def changed(**changes: object) -> dict[str, Any]:
    return SMALL | changes


def complaint(raw: dict[str, Any]) -> str:
    with pytest.raises(UsageError) as caught:
        parse_study(raw, "study.yaml")
    return str(caught.value)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_study_files_are_valid_and_open_with_their_command(path: Path) -> None:
    study = load_study(path)
    assert study.mixtures.keys() == {
        "moe-simple",
        "moe-simple-conv",
        "moe-classwise",
        "moe-classwise-conv",
    }
    assert path.read_text().startswith(f"# moeseg study configs/{path.name}")


def test_no_shipped_study_has_a_habit_but_those_that_say_so() -> None:
    for path in CONFIGS:
        habits = load_study(path).habits()
        if path.stem in ("a2d2_deeplab", "a2d2_frrn"):  # at the published sizes
            assert habits == {"data.fit": "squeeze"}, path.name
        elif not path.stem.endswith("as_published"):
            assert habits == {}, path.name
    deeplab, frrn = (
        load_study(path).habits() for path in CONFIGS if path.stem.endswith("as_published")
    )
    assert deeplab == HABITS
    momentum = {"training.optimizer.schedule", "training.optimizer.momentum"}  # FRRN took Adam
    assert frrn == {key: value for key, value in HABITS.items() if key not in momentum}


SWINGING = {"name": "sgd", "momentum": 0.99, "schedule": "constant"}


def test_habits_of_single_networks_and_of_gates_are_found_where_they_are_set() -> None:
    urban = {"training": {"optimizer": SWINGING}, "architecture": {"normalisation": "none"}}
    raw = changed(
        experts={"highway": {}, "urban": urban},
        mixtures={"moe-simple": {"gate": "simple"}},
        controls=["constant", "two-seed", "mean-gate-moe-simple"],
        gate={"optimizer": SWINGING},
    )
    study = parse_study(raw, "x")
    own = {
        "experts.urban.architecture.normalisation": "none",
        "experts.urban.training.optimizer.schedule": "constant",
        "experts.urban.training.optimizer.momentum": 0.99,
    }
    gates = {"gate.optimizer.schedule": "constant", "gate.optimizer.momentum": 0.99}
    assert study.habits() == own | gates
    for name, expected in (
        ("expert-urban", own),
        ("ensemble-mean", own),
        ("expert-highway", {}),
        ("baseline", {}),
        ("two-seed", {}),
        ("moe-simple", own | gates),
        ("constant", own | gates),
        ("mean-gate-moe-simple", own | gates),
    ):
        assert study.habits_of(name) == expected, name
    shared = {f"training.optimizer.{key}": SWINGING[key] for key in ("schedule", "momentum")}
    study = parse_study(raw | {"training": {"optimizer": SWINGING}}, "x")
    assert study.habits() == shared | {"experts.urban.architecture.normalisation": "none"}
    assert study.habits_of("expert-highway") == shared


def test_habits_of_settings_that_nothing_uses_are_none() -> None:
    own_class = {"name": "tiny:TinyExpert", "normalisation": "none"}
    given = {"weights": "models/a", "training": {"optimizer": SWINGING}}
    calm = {"training": {"optimizer": {"momentum": 0.9, "schedule": "poly"}}}
    for changes in (
        {"training": {"optimizer": {"name": "adamw", "momentum": 0.99}}},
        {"gate": {"optimizer": {"name": "adam", "momentum": 0.99}}, "mixtures": MOE},
        {"gate": {"optimizer": SWINGING}},  # without gates
        {"architecture": own_class},
        {"experts": {"highway": given, "urban": {}}},
        {
            "training": {"optimizer": SWINGING},
            "experts": {"highway": calm, "urban": calm},
            "baseline": calm,
        },
    ):
        assert parse_study(changed(**changes), "x").habits() == {}, changes
    hidden = {"name": "frrn-a", "arguments": {"normalisation": "none"}}
    kept = parse_study(changed(architecture=hidden), "x").habits()
    assert kept == {"architecture.normalisation": "none"}
    union: dict[str, object] = {"training": {"miou_classes": "truth"}}
    raw = changed(
        training={"miou_classes": "union"},
        experts={"highway": union, "urban": union},
        baseline=union,
    )
    assert parse_study(raw, "x").habits() == {}
    gated = parse_study(raw | {"mixtures": MOE}, "x")  # whose epoch is chosen by the study's own
    assert gated.habits() == {"training.miou_classes": "union"}
    assert gated.habits_of("expert-urban") == {}


def test_habits_of_the_gates_touch_no_network() -> None:
    raw = changed(mixtures=MOE, gate={"expert_batchnorm": "adapt"}, data=SQUEEZED)
    study = parse_study(raw, "x")
    squeezed = {"data.fit": "squeeze"}
    assert study.habits() == squeezed | {"gate.expert_batchnorm": "adapt"}
    assert study.habits_of("moe-simple") == study.habits()
    for name in ("expert-urban", "baseline", "ensemble-max"):
        assert study.habits_of(name) == squeezed, name


def test_every_habit_says_that_it_is_one_and_what_is_wrong() -> None:
    for path in HABITS:
        kind: Any = Study
        *parents, last = path.split(".")
        for parent in parents:
            kind = kind.model_fields[parent].annotation
        if path == "training.optimizer.schedule":
            continue  # told with the momentum
        text = " ".join(kind.model_fields[last].description.split())
        assert "A habit of the original" in text, path
        assert "rong" in text, path


def test_controls_are_models_with_what_they_stand_on() -> None:
    mixtures = {"moe-simple": {"gate": "simple"}}
    controls = ["constant", "shared-trunk", "mean-gate-moe-simple", "two-seed", "merged"]
    study = parse_study(changed(mixtures=mixtures, controls=controls, seed=3), "x")
    assert list(study.gated()) == ["moe-simple", "constant", "shared-trunk"]
    assert list(study.networks()) == [
        "baseline",
        "baseline-2",
        "expert-highway",
        "expert-urban",
    ]
    assert study.subset_of("baseline-2") == "highway+urban"
    assert (study.seed_of("baseline"), study.seed_of("baseline-2")) == (3, 4)
    text = complaint(changed(mixtures=mixtures, controls=["merge", "mean-gate-moe-simpel"]))
    assert "unknown control 'merge'. Did you mean 'merged'?" in text
    assert "Did you mean 'mean-gate-moe-simple'?" in text
    given = {"weights": "models/baseline"}
    for baseline in (None, given):
        text = complaint(changed(controls=["two-seed"], baseline=baseline))
        assert "needs a baseline that is trained" in text
    alone: dict[str, object] = {"highway": {}}
    text = complaint(changed(controls=["constant"], experts=alone, ensembles=[]))
    assert "controls need two or more experts" in text


def test_all_mistakes_are_reported_at_once_with_the_nearest_name() -> None:
    text = complaint(
        changed(
            data={"reader": "a2d3", "size": [0, 8], "augment": {"flp": True}},
            traning={},
            experts={"highway": {"training": {"epochs": 0}}, "urban": {"wheights": "x"}},
            mixtures={"moe-simple": {"gate": "simpel"}},
        )
    )
    assert "study.yaml: 7 settings to mend" in text
    for expected in (
        "data.reader: unknown value 'a2d3'. Did you mean 'a2d2'?",
        "data.size.0: expected greater than or equal to 1, got 0",
        "data.augment.flp: unknown setting 'flp'. Did you mean 'flip'?",
        "traning: unknown setting 'traning'. Did you mean 'training'?",
        "experts.highway.training.epochs: expected greater than or equal to 1, got 0",
        "experts.urban.wheights: unknown setting 'wheights'. Did you mean 'weights'?",
        "mixtures.moe-simple.gate: unknown value 'simpel'. Did you mean 'simple'?",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        *(("8/255", 8 / 255), (" 4 / 255 ", 4 / 255), ("0.5/255", 0.5 / 255), ("255/255", 1.0)),
        *(("0.03", 0.03), (0.03, 0.03), ("8e-3", 0.008), (1, 1.0)),
    ],
)
def test_epsilon_is_a_number_or_a_fraction(value: str | float, expected: float) -> None:
    assert parse_epsilon(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *(0, -0.1, 1.5, 8, 10**400, True, None, [4, 255]),
        *("8", "256/255", "1/0", "4/", "/255", "1/2/3", "four", "", "nan", "inf/inf"),
    ],
)
def test_epsilon_of_another_kind_is_refused(value: Any) -> None:  # noqa: ANN401 - anything
    with pytest.raises(UsageError) as caught:
        parse_epsilon(value)
    assert str(caught.value) == (
        f"epsilon: expected a number in (0, 1] such as 4/255, got {value!r}"
    )


def test_mistakes_in_adversarial_settings_are_reported_at_once() -> None:
    text = complaint(
        changed(
            training={"adversarial": {"epsilon": "8", "steps": 0, "share": 0}},
            gate={"adversarial": {"epsilon": "1/0", "stepz": 3}},
            experts={"highway": {"training": {"adversarial": {"steps": 3}}}, "urban": {}},
        )
    )
    assert "study.yaml: 7 settings to mend" in text
    for expected in (
        "training.adversarial.epsilon: expected a number in (0, 1] such as 4/255, got '8'",
        "training.adversarial.steps: expected greater than or equal to 1, got 0",
        "training.adversarial.share: expected greater than 0, got 0",
        "gate.adversarial.epsilon: expected a number in (0, 1] such as 4/255, got '1/0'",
        "gate.adversarial.stepz: unknown setting 'stepz'. Did you mean 'steps'?",
        "gate.adversarial.steps: is not set and has no default",
        "experts.highway.training.adversarial.epsilon: is not set and has no default",
    ):
        assert expected in text


def test_a_network_may_have_its_own_adversarial_settings() -> None:
    own = {"epsilon": "8/255", "steps": 2}
    study = parse_study(
        changed(
            training={"adversarial": {"epsilon": "4/255", "steps": 7, "share": 0.5}},
            experts={
                "highway": {"training": {"adversarial": None}},
                "urban": {"training": {"adversarial": own}},
            },
        ),
        "x",
    )
    found = [study.training_of(name).adversarial for name in study.networks()]
    assert found[0] is not None
    assert found[2] is not None
    assert found[0].model_dump() == {"epsilon": 4 / 255, "steps": 7, "share": 0.5}
    assert found[1] is None
    assert found[2].model_dump() == {"epsilon": 8 / 255, "steps": 2, "share": 0.5}
    written = parse_study(study.model_dump(mode="json", exclude_unset=True), "x")
    assert written == study


def test_a_missing_setting_is_named() -> None:
    text = complaint({key: value for key, value in SMALL.items() if key != "experts"})
    assert "experts: is not set and has no default" in text


def test_one_expert_makes_no_mixture() -> None:
    assert "need two or more experts" in complaint(changed(experts={"urban": {}}))
    alone = parse_study(changed(experts={"urban": {}}, ensembles=[]), "study.yaml")
    assert list(alone.networks()) == ["baseline", "expert-urban"]


def test_an_experts_own_settings_lie_over_the_studys() -> None:
    study = parse_study(
        changed(
            training={"epochs": 7, "optimizer": {"lr": 0.5}},
            architecture={"backbone": "resnet34"},
            experts={
                "highway": {},
                "urban": {
                    "training": {"optimizer": {"weight_decay": 0.25}},
                    "architecture": {"channels": 32},
                },
            },
        ),
        "study.yaml",
    )
    urban = study.training_of("expert-urban")
    assert (urban.epochs, urban.optimizer.lr, urban.optimizer.weight_decay) == (7, 0.5, 0.25)
    assert study.training_of("expert-highway").optimizer.weight_decay == 1e-4
    architecture = study.architecture_of("expert-urban")
    assert (architecture.backbone, architecture.channels) == ("resnet34", 32)


def test_the_baseline_trains_on_all_experts_subsets() -> None:
    study = parse_study(SMALL, "study.yaml")
    assert study.joined == "highway+urban"
    assert study.subset_of("baseline") == "highway+urban"
    assert study.subset_of("expert-urban") == "urban"
    own = changed(experts={"a": {"subset": "highway+urban"}, "b": {"subset": "urban"}})
    assert parse_study(own, "study.yaml").joined == "highway+urban"


def test_set_replaces_and_adds_settings(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    study = load_study(
        path, ["training.epochs=3", "data.size=[10, 20]", "gate.pixels=all", "baseline=null"]
    )
    assert study.training.epochs == 3
    assert study.data.size == (10, 20)
    assert study.gate.pixels == "all"
    assert study.baseline is None


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("training.epochs", "expects a.b=value, got 'training.epochs'"),
        ("=3", "expects a.b=value"),
        ("data.size=[1", "is not a YAML value"),
        ("training.epoch=3", "training.epoch: unknown setting 'epoch'. Did you mean 'epochs'?"),
    ],
)
def test_a_bad_set_is_explained(tmp_path: Path, item: str, expected: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(SMALL))
    with pytest.raises(UsageError) as caught:
        load_study(path, [item])
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [("a: [", "is not valid YAML"), ("- a", "expected a mapping"), (None, "cannot read")],
)
def test_an_unreadable_file_is_explained(
    tmp_path: Path, content: str | None, expected: str
) -> None:
    path = tmp_path / "study.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=expected):
        load_study(path)


def test_data_root_comes_from_settings_or_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    study: Study = parse_study(changed(data={"reader": "a2d2", "size": [4, 8]}), "study.yaml")
    monkeypatch.delenv("MOESEG_DATA", raising=False)
    with pytest.raises(UsageError, match=r"data\.root is not set.*--set data\.root.*MOESEG_DATA"):
        data_root(study.data)
    monkeypatch.setenv("MOESEG_DATA", "/data/a2d2")
    assert data_root(study.data) == Path("/data/a2d2")
    named = study.data.model_copy(update={"root": Path("elsewhere")})
    assert data_root(named) == Path("elsewhere")
