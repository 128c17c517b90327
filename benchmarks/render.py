"""Make `docs/benchmarks.md` from the JSON files of the benchmarks, and from nothing else.

`python benchmarks/render.py [--results FOLDER] [--out FILE]`; same files, same bytes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measure import RESULTS, number, verdict
from moeseg.errors import DataError
from moeseg.files import write_text

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"

_HEAD = """# Speed and memory

Rendered by `python benchmarks/render.py` from `benchmarks/results/*.json`; do not edit. A figure is
the median over repetitions, its spread the least and the greatest. Variants are timed in turn in
one process, and ratios are taken round by round.
"""


def main(argv: Sequence[str] | None = None) -> None:
    line = argparse.ArgumentParser(prog="benchmarks/render.py", description=__doc__)
    line.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    line.add_argument("--out", type=Path, default=PAGE, help="the page")
    options = line.parse_args(argv)
    files = sorted(options.results.glob("*.json"))
    if not files:
        raise DataError(f"{options.results}: expected JSON files of benchmarks, got none; run them")
    page = render([json.loads(path.read_text(encoding="utf-8")) for path in files])
    write_text(options.out, page)
    print(f"written: {options.out}")


def render(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the page: first what was promised, then all figures of each benchmark."""
    promised = [
        (f"[{result['name']}](#{result['name']})", one)
        for result in results
        for one in result["figures"]
        if one["goal"] is not None
    ]
    parts = [
        _HEAD,
        "## Goals\n",
        _table(
            ("benchmark", "what", "figure", "goal", "met"),
            [
                (link, one["what"], _value(one), one["goal"], verdict(one["met"]))
                for link, one in promised
            ],
        ),
    ]
    for result in results:
        parts += [_section(result)]
    return "\n".join(parts)


def _section(result: Mapping[str, Any]) -> str:
    rows = [
        (
            one["what"],
            _value(one),
            _spread(one),
            one["goal"] or "",
            verdict(one["met"]),
        )
        for one in result["figures"]
    ]
    machine, versions = result["machine"], result["versions"]
    smoke = " **Tiny sizes (`--smoke`): these figures say nothing.**" if _smoke(result) else ""
    lines = [
        f"## {result['name']}\n",
        f"{result['title']}.{smoke}\n",
        f"Command: `{result['command']}`\n",
        _table(("what", "figure", "spread", "bound or goal", "met"), rows),
        *(f"- {note}" for note in result["notes"]),
        f"- Machine: {machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, "
        f"{machine['memory_gib']:g} GiB, {machine['isa']}, load before the run "
        f"{machine['load_before']:g}.",
        "- Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
        "- Settings: "
        + ", ".join(
            f"{name} {_plain(v)}" for name, v in result["settings"].items() if name != "smoke"
        )
        + ".\n",
    ]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return (
        "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _value(one: Mapping[str, Any]) -> str:
    return f"{number(one['median'])} {one['unit']}"


def _spread(one: Mapping[str, Any]) -> str:
    if one["min"] == one["max"]:
        return ""
    return f"{number(one['min'])} to {number(one['max'])}"


def _plain(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_plain, value)) + "]"
    return str(value)


def _smoke(result: Mapping[str, Any]) -> bool:
    return bool(result["settings"]["smoke"])


if __name__ == "__main__":
    main()
