"""A peer that is missing in CI fails its tests there, and only there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SKIPPING = """
import pytest

@pytest.mark.skipif(True, reason="the peer is not installed")
def test_marked(): ...

def test_itself():
    pytest.skip("the peer is not installed")
"""


@pytest.mark.parametrize(
    ("ci", "code", "said"),
    [("true", 1, "1 failed, 1 error"), ("", 0, "2 skipped"), ("false", 0, "2 skipped")],
)
def test_a_skip_is_a_failure_in_ci(tmp_path, ci, code, said):
    (tmp_path / "test_with_a_peer.py").write_text(SKIPPING)
    outer = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", tmp_path],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**outer, "CI": ci, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr
