"""Every failpoint has one place in the code and one line that says where a process stands there."""

import ast
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from broker.failpoints import FAILPOINTS, VARIABLE, failpoint

ROOT = Path(__file__).parents[2]


def places():
    """Count the calls of each failpoint in the product."""
    found = Counter()
    for package in ("broker", "workers"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "failpoint":
                    (name,) = node.args
                    assert isinstance(name, ast.Constant), f"{path}:{node.lineno} names no failpoint"
                    found[name.value] += 1
    return found


def test_every_failpoint_is_described_and_stands_in_one_place():
    assert places() == Counter(FAILPOINTS.keys())
    assert len(FAILPOINTS) >= 30


def test_an_armed_failpoint_ends_the_first_process_that_comes_by_and_no_other(tmp_path):
    come_by = [sys.executable, "-c", "from broker.failpoints import failpoint; failpoint('hl7.received')"]
    environment = {VARIABLE: str(tmp_path)}

    def ended():
        return subprocess.run(come_by, cwd=ROOT, env=environment, check=False).returncode

    assert ended() == 0
    (tmp_path / "hl7.received").touch()
    assert ended() == -9
    assert ended() == 0
    (tmp_path / "hl7.received").write_text("SIGTERM")
    assert ended() == -15
    assert list(tmp_path.iterdir()) == []


def test_without_the_variable_a_failpoint_does_not_even_look():
    assert VARIABLE not in os.environ
    assert failpoint.__code__.co_names == ()
