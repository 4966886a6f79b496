"""Whose lease it is: a process that has ended is told from one that lives, and nothing is guessed."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from workers.owner import is_gone, worker_name

ROOT = Path(__file__).parents[3]
PROGRAM = "from workers.owner import worker_name; print(worker_name(), flush=True); input()"


@pytest.fixture
def other():
    """Another process and its name."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield process, process.stdout.readline().strip()
        process.kill()


def test_a_living_process_is_not_gone(other):
    assert not is_gone(worker_name())
    assert not is_gone(other[1])


def test_a_killed_process_is_gone_as_soon_as_its_parent_knows(other):
    process, name = other
    process.kill()
    process.wait()
    assert is_gone(name)


def test_a_killed_process_is_gone_before_its_parent_asks_for_it(other):
    process, name = other
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and keeps its number
    assert Path(f"/proc/{process.pid}").exists()
    assert is_gone(name)


def test_a_process_that_got_the_number_of_a_dead_one_is_another():
    began = re.search(r"\.(\d+)$", worker_name())
    assert is_gone(worker_name()[: began.start(1)] + str(int(began[1]) - 1))


@pytest.mark.parametrize(
    "change",
    [
        lambda name: "x" + name,  # another machine, or a container with a name of its own
        lambda name: re.sub(r":[0-9a-f]{12}\.", ":0123456789ab.", name),  # before the last boot
        lambda name: re.sub(r"\.\d+\.", ".1.", name),  # a container with this one's host name
        lambda name: name.rpartition(":")[0] + ":-",  # one that could not tell
        lambda name: name.rpartition(":")[0],
        lambda name: f"{socket.gethostname()}:{os.getpid()}:1",
        lambda _: "",
        lambda _: "w1",
    ],
)
def test_of_a_process_of_another_place_nothing_is_said(other, change):
    process, name = other
    process.kill()
    process.wait()
    assert change(name) != name
    assert not is_gone(change(name))


def test_the_name_of_a_thread_is_short_enough_for_its_row():
    assert len(worker_name()) - len(socket.gethostname()) < 64
