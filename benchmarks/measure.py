"""What the benchmarks share: interleaved timing, peak memory, figures with goals, table and JSON.

What is measured lies in the other files; `render.py` makes the page of the docs from the JSON.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

import moeseg
from moeseg.files import write_text

RESULTS = Path(__file__).resolve().parent / "results"
MIB = 2**20
_highest = [0.0]  # MiB; resetting the kernel's mark must not lose what was before


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number.

    Attributes:
        what: in words.
        median: of the repetitions.
        min: the least of them.
        max: the greatest of them; both ends together are the spread.
        unit: e.g. ``s``, ``ms``, ``x`` for a ratio, ``MiB``.
        goal: e.g. ``at most 1.03``; None where nothing was promised.
        met: whether the median keeps the goal.
    """

    what: str
    median: float
    min: float
    max: float
    unit: str
    goal: str | None = None
    met: bool | None = None


def figure(
    what: str,
    values: Sequence[float],
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
) -> Figure:
    """Sum repetitions up as a figure; at most one of the two goals may be given."""
    middle = statistics.median(values)
    goal, met = None, None
    if at_most is not None:
        goal, met = f"at most {at_most:g}", middle <= at_most
    if at_least is not None:
        goal, met = f"at least {at_least:g}", middle >= at_least
    least, greatest = _short(min(values)), _short(max(values))
    return Figure(what, _short(middle), least, greatest, unit, goal, met)


def interleaved(
    variants: Mapping[str, Callable[[], object]], repeats: int, warmups: int = 1
) -> dict[str, list[float]]:
    """Time variants in turn, A B A B ..., so that a drift of the machine meets all of them.

    Args:
        variants: what is timed, by name.
        repeats: timed rounds.
        warmups: rounds before them that do not count.

    Returns:
        Seconds of each round, by name; the same place is the same round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(-warmups, repeats):
        for name, work in variants.items():
            began = time.perf_counter()
            work()
            spent = time.perf_counter() - began
            if turn >= 0:
                seconds[name].append(spent)
                print(f"  {turn + 1}/{repeats} {name}: {spent:.4g} s", flush=True)
    return seconds


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Divide round by round, so that what slowed a whole round down cancels."""
    return [a / b for a, b in zip(above, below, strict=True)]


def scaled(seconds: Sequence[float], factor: float) -> list[float]:
    """Multiply every repetition, e.g. by 1000 for ms or by 1/frames for a share of the work."""
    return [value * factor for value in seconds]


def peak_memory(work: Callable[[], object]) -> tuple[float, float]:
    """Return resident MiB before some work and at its peak.

    On Linux the peak is that of this work alone. Elsewhere it is the process's highest so far.
    """
    if not _LINUX:
        work()
        return _resident("VmHWM"), _resident("VmHWM")
    ctypes.CDLL(None).malloc_trim(0)  # what earlier work freed must not count
    _highest.append(_resident("VmHWM"))
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    work()
    return before, _resident("VmHWM")


def parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the command line that all benchmarks share; a benchmark may add to it."""
    line = argparse.ArgumentParser(prog=f"benchmarks/{name}.py", description=description)
    line.add_argument("--smoke", action="store_true", help="tiny sizes: only shows that it runs")
    line.add_argument("--out", type=Path, help=f"JSON file (benchmarks/results/{name}.json)")
    line.add_argument("--threads", type=int, help="threads of torch; its own choice if left out")
    return line


def parse(line: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse arguments, keep the command for the JSON and set the threads."""
    given = list(sys.argv[1:] if argv is None else argv)
    options = line.parse_args(given)
    if "--out" in given:
        place = given.index("--out")
        del given[place : place + 2]
    options.command = " ".join(["python", line.prog, *given])
    if options.threads:
        torch.set_num_threads(options.threads)
    options.began = time.perf_counter()
    options.load = os.getloadavg()[0]
    return options


def report(
    name: str,
    title: str,
    options: argparse.Namespace,
    settings: Mapping[str, Any],
    figures: Sequence[Figure],
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Print a table and write the JSON; a smoke run writes only where `--out` says.

    Args:
        name: of the benchmark.
        title: one line on what was measured.
        options: from `parse`.
        settings: sizes and counts.
        figures: what came out.
        notes: how to read the figures.
    """
    peak = max(*_highest, _resident("VmHWM"))
    whole = [
        figure("peak memory of the whole run", [peak], "MiB"),
        figure("time of the whole run", [time.perf_counter() - options.began], "s"),
    ]
    result = {
        "name": name,
        "title": title,
        "command": options.command,
        "machine": machine() | {"load_before": round(options.load, 2)},
        "versions": versions(),
        "settings": {"smoke": options.smoke, **settings},
        "figures": [asdict(one) for one in (*figures, *whole)],
        "notes": list(notes),
    }
    print(f"\n{title}\n{table(result['figures'])}")
    out = options.out or (None if options.smoke else RESULTS / f"{name}.json")
    if out is not None:
        write_text(out, json.dumps(result, indent=1) + "\n")
        print(f"written: {out}")
    return result


def table(figures: Sequence[Mapping[str, Any]]) -> str:
    """Return figures as lines of aligned columns."""
    rows = [("", "median", "min", "max", "unit", "goal", "met")]
    for one in figures:
        numbers = (number(one[key]) for key in ("median", "min", "max"))
        rows.append((one["what"], *numbers, one["unit"], one["goal"] or "", verdict(one["met"])))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    left = (0, 4, 5, 6)  # columns of words; numbers stand to the right
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def number(value: float) -> str:
    """Return a number with four significant digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def verdict(met: bool | None) -> str:
    """Return whether a goal is met, in a word; empty without a goal."""
    return "" if met is None else "yes" if met else "NO"


def machine() -> dict[str, Any]:
    """Return what the figures were measured on."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if _LINUX else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "isa": torch.backends.cpu.get_cpu_capability(),
        "system": platform.system(),
    }


def versions() -> dict[str, str]:
    """Return the versions that the figures depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "moeseg": moeseg.__version__,
    }


def folder_bytes(folder: Path) -> int:
    """Return what the files of a folder hold."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _resident(key: str) -> float:
    """Return VmRSS or VmHWM (the peak) of this process in MiB; elsewhere always the peak."""
    if _LINUX:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) / 1024  # kB
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())


_LINUX = platform.system() == "Linux"
