"""Waiting for signals with a time, through being stopped and continued."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

PROGRAM = textwrap.dedent(
    """
    import signal, sys
    from broker.signals import block, wait_for

    told = {signal.SIGTERM, signal.SIGHUP}
    block(told)
    print("up", flush=True)
    while True:
        came = wait_for(told, float(sys.argv[1]))
        print(came.name if came else "time", flush=True)
    """
)


@pytest.fixture
def waiting():
    started = []

    def begin(wait_s):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(wait_s)], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "up\n"
        return process

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def asleep(process):
    """Wait until the process waits in the kernel."""
    until = time.monotonic() + 10
    while Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        assert time.monotonic() < until


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_that_comes_is_answered(waiting, name):
    process = waiting(60)

    process.send_signal(signal.Signals[name])

    assert process.stdout.readline() == f"{name}\n"


@pytest.mark.parametrize("wait_s", [0, -1, 0.01])
def test_the_time_ends_the_wait(waiting, wait_s):
    process = waiting(wait_s)

    assert process.stdout.readline() == "time\n"
    assert process.stdout.readline() == "time\n"


def test_a_process_that_was_stopped_beyond_its_time_takes_nothing_for_a_signal(waiting):
    process = waiting(0.5)
    for _ in range(5):
        asleep(process)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.6)  # beyond the time it waits: being stopped cannot be told from outside otherwise
        process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGTERM)

    said = []
    while (line := process.stdout.readline()) != "SIGTERM\n":
        said.append(line)
    assert set(said) <= {"time\n"}
