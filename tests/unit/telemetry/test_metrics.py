"""The metrics of many processes, one of which died early."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from gateway.telemetry.metrics import exposition

COUNTS = "from gateway.telemetry.metrics import counter; counter('things', 'Things').inc(3)"


def test_a_file_that_was_only_just_made_hides_no_other(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", COUNTS], env=environment, check=True, timeout=60)
    (tmp_path / "counter_1.db").touch()
    (tmp_path / "gauge_livesum_1.db").touch()
    assert "things_total 3.0" in exposition(str(tmp_path)).decode().splitlines()
