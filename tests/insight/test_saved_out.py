from __future__ import annotations

from pathlib import Path

import pytest

from moeseg.errors import UsageError
from moeseg.insight.saved import refuse_runs


def test_results_do_not_go_into_a_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "stages").mkdir(parents=True)
    (run / "study.yaml").write_text("name: x")
    for out in (run, run / "insight", run / "insight" / "moe-simple"):
        with pytest.raises(UsageError, match=r"--out: .* belongs to the run in"):
            refuse_runs(out)
    refuse_runs(tmp_path / "elsewhere")
