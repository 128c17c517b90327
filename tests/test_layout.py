"""The structure of the package: who may import whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "moeseg"
LAYERS: tuple[tuple[str, ...], ...] = (
    ("types", "errors"),
    ("config", "files", "progress", "metrics"),
    ("data", "models"),
    ("run", "interop"),
    ("training",),
    ("evaluation",),
    ("insight",),
    ("robustness", "uncertainty"),
    ("report",),
    ("study",),
    ("ablation",),
    ("cli",),
    ("__main__",),
)
"""From the bottom to the top; a part sees the layers below its own, and of its own only itself."""

RANK = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    """Return the part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and part of each import of moeseg in a file, relative ones and late ones too."""
    module = ("moeseg", *path.relative_to(PACKAGE).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif not isinstance(node, ast.ImportFrom):
            continue
        else:
            base = ".".join(module[: len(module) - node.level]) if node.level else ""
            origin = ".".join(filter(None, (base, node.module)))
            names = [f"{origin}.{alias.name}" for alias in node.names]
        for name in names:
            words = name.split(".")
            if words[0] == "moeseg" and len(words) > 1 and words[1] in RANK:
                yield node.lineno, words[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = part_of(path)
    for line, part in imported_parts(path):
        below = RANK[part] < RANK[own]
        within_base = RANK[own] <= 1 and RANK[part] <= RANK[own]
        assert part == own or below or within_base, f"{path.name}:{line} imports {part} from {own}"


def test_every_part_has_its_place() -> None:
    assert {part_of(path) for path in FILES} == set(RANK)


def test_the_reader_of_imports_sees_them() -> None:
    found = {part for _, part in imported_parts(PACKAGE / "study.py")}
    assert {"data", "training", "evaluation", "run"} <= found
