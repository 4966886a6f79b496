"""The order of system calls before 0000 leaves, as the kernel saw it: durable name, synced file, link, synced row."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.storage_listener import SERVER, a_data_set, an_association, store

STRACE = shutil.which("strace")
CALLS = "openat,link,linkat,unlink,unlinkat,fsync,fdatasync,sendto,sendmsg"
OBJECTS = 5


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_incoming_name_file_and_row_are_synced_before_the_answer_leaves(
    tmp_path: Path, sqlite_url: str
) -> None:
    trace = tmp_path / "trace"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, sqlite_url, str(tmp_path / "objects")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    watcher = None
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        watcher = subprocess.Popen(
            [STRACE, "-f", "-y", "-e", f"trace={CALLS}", "-o", str(trace), "-p", str(server.pid)],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert watcher.stderr is not None
        said = watcher.stderr.readline()
        if "attached" not in said:
            pytest.skip(f"strace may not look: {said.strip()}")
        with an_association(port) as association:
            for number in range(OBJECTS):
                assert store(association, a_data_set(f"1.2.{number}"), f"1.2.{number}") == 0x0000
        deadline = time.monotonic() + 30
        while sum(step == "U" for step, _ in _steps(trace.read_text(errors="replace"))) < OBJECTS:
            assert time.monotonic() < deadline, "the incoming names stay"
            time.sleep(0.05)
    finally:
        server.kill()
        server.wait(10)
        if watcher is not None:
            watcher.wait(10)
    steps = _steps(trace.read_text(errors="replace"))
    seen = "".join(step for step, _ in steps)
    # F: content synced · L: linked to its final name · R: row synced · A: an answer
    answers = re.findall(r"F[^LA]*L[^A]*R[^A]*A", seen)
    assert len(answers) == OBJECTS, seen
    for place, (step, name) in enumerate(steps):
        before = steps[:place]
        if step == "F":  # its name was durable before anything was written into it
            made = before.index(("C", name))
            assert ("I", "") in before[made:], f"{name} was not ready: {seen}"
        elif step == "U" and ("L", name) in before:  # the final name is durable before the incoming one goes
            assert ("D", "") in before[before.index(("L", name)) :], f"{name} unlinked too early: {seen}"


def _steps(trace: str) -> list[tuple[str, str]]:
    """Answer what happened, each with the id of the file it happened to, if it was to one."""
    steps = []
    for line in trace.splitlines():
        found = re.search(r"/incoming/([0-9a-f]{32})\.part", line)
        name = found[1] if found else ""
        if name and "O_CREAT" in line:
            steps.append(("C", name))
        elif name and "fdatasync(" in line:
            steps.append(("F", name))
        elif name and "link" in line and re.search(r"/\d{8}/\d{4}/[0-9a-f]{32}\.dcm", line):
            steps.append(("L", name))
        elif name and "unlink" in line:
            steps.append(("U", name))
        elif "fsync(" in line and "/objects/incoming>" in line:
            steps.append(("I", ""))
        elif "fsync(" in line and re.search(r"/objects/\d{8}/\d{4}>", line):
            steps.append(("D", ""))
        elif "sync(" in line and "sqlite3" in line:
            steps.append(("R", ""))
        elif re.search(r"send(msg|to)\(\d+<(TCP|socket)", line):
            steps.append(("A", ""))
    return steps
