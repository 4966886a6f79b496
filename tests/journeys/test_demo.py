"""The demo is a test: a whole hospital day through real sockets, judged by what the peers saw."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_demo_passes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "broker", "demo", "--once"],
        capture_output=True,
        text=True,
        timeout=580,
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "160", "TMPDIR": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("│ PASS") == 12
    assert "FAIL" not in done.stdout
    # Nothing is left behind after a day that went well.
    assert list(tmp_path.glob("broker-demo-*")) == []
