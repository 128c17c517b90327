"""Settings and fixtures of the whole suite."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from command import Command
from moeseg import cli

# workers of pytest-xdist share the cores; more threads than cores make every test slower
torch.set_num_threads(1)


@pytest.fixture
def moeseg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command line in this process; return exit code, standard output and error."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["moeseg", *map(str, words)])
        capsys.readouterr()
        code: int | str | None = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return int(code or 0), out, err

    return run


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium that is on this machine; without one, its tests are skipped."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("no Chromium: install it, e.g. `sudo apt-get install chromium`, and run again")
    with sync_api.sync_playwright() as driver:
        alone = ["--no-sandbox"] if os.geteuid() == 0 else []  # its sandbox refuses root
        browser = driver.chromium.launch(
            executable_path=path, args=[*alone, "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()
