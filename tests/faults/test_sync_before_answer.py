"""The order of system calls: file, name and row are synced before 0000 leaves, as the kernel saw it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_storage_service import SERVER
from tests.storage_listener import a_data_set, an_association, store

STRACE = shutil.which("strace")
CALLS = "openat,rename,renameat,renameat2,fsync,fdatasync,sendto,sendmsg"
OBJECTS = 5


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
def test_file_name_and_row_are_synced_before_the_answer_leaves(tmp_path: Path, sqlite_url: str) -> None:
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
    finally:
        server.kill()
        server.wait(10)
        if watcher is not None:
            watcher.wait(10)
    steps = "".join(_steps(trace.read_text(errors="replace")))
    # F: content synced · N: renamed · D: folder of the name synced · R: row synced · A: an answer
    answers = re.findall(r"F[^A]*N[^A]*D[^A]*R[^A]*A", steps)
    assert len(answers) == OBJECTS, steps


def _steps(trace: str) -> list[str]:
    steps = []
    for line in trace.splitlines():
        if "fdatasync(" in line and "/incoming/" in line:
            steps.append("F")
        elif "rename" in line and "/incoming/" in line:
            steps.append("N")
        elif "fsync(" in line and re.search(r"/objects/\d{8}/\d{4}>", line):
            steps.append("D")
        elif "sync(" in line and "sqlite3" in line:
            steps.append("R")
        elif re.search(r"send(msg|to)\(\d+<(TCP|socket)", line):
            steps.append("A")
    return steps
