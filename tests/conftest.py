"""Settings and fixtures of the whole suite."""

from __future__ import annotations

import sys

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
