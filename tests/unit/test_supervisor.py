"""The supervisor restarts what dies and stops what it started."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

PROGRAM = textwrap.dedent(
    """
    import os, signal, sys
    from broker.logs import configure_logging
    from broker.supervisor import Role, Supervisor

    configure_logging(role="test")

    def note(line):
        os.write(1, (line + "\\n").encode())

    def waits():
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        note(f"up {os.getpid()}")
        signal.sigwait({signal.SIGTERM})
        note("bye")
        return 0

    def deaf():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note(f"up {os.getpid()}")
        while True:
            signal.pause()

    def yields():
        note(f"nice {os.nice(0)}")
        return waits()

    roles = {"waits": (waits, 0), "deaf": (deaf, 0), "yields": (yields, 3)}
    wanted = [Role(name, roles[name][0], niceness=roles[name][1]) for name in sys.argv[3:]]
    supervisor = Supervisor(wanted, grace_s=float(sys.argv[1]))
    sys.exit(supervisor.run(reload=lambda: sys.argv[2] == "True"))
    """
)


@pytest.fixture
def start():
    running = []

    def begin(grace_s, *roles, reload=False):
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, grace_s, str(reload), *roles],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()
        process.wait()


def test_a_killed_role_is_started_again(start):
    supervisor = start("5", "waits")
    first = int(supervisor.stdout.readline().split()[1])
    os.kill(first, signal.SIGKILL)

    second = int(supervisor.stdout.readline().split()[1])

    assert second != first
    supervisor.terminate()
    assert supervisor.stdout.readline() == "bye\n"
    assert supervisor.wait(10) == 0


def test_a_role_that_can_wait_steps_back_and_comes_back_so(start):
    supervisor = start("5", "yields")
    expected = f"nice {min(os.nice(0) + 3, 19)}\n"
    assert supervisor.stdout.readline() == expected
    os.kill(int(supervisor.stdout.readline().split()[1]), signal.SIGKILL)

    assert supervisor.stdout.readline() == expected


def test_a_role_that_ignores_sigterm_is_killed_after_the_grace(start):
    supervisor = start("0.3", "deaf")
    pid = int(supervisor.stdout.readline().split()[1])

    supervisor.terminate()

    assert supervisor.wait(10) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_roles_do_not_outlive_a_killed_supervisor(start):
    supervisor = start("5", "waits")
    supervisor.stdout.readline()

    supervisor.kill()

    assert supervisor.stdout.readline() == "bye\n"


def test_stopping_waits_for_the_slowest_not_for_the_grace(start):
    supervisor = start("60", "waits", "waits")
    supervisor.stdout.readline()
    supervisor.stdout.readline()
    before = time.monotonic()

    supervisor.terminate()

    assert supervisor.wait(50) == 0
    assert time.monotonic() - before < 30


def test_sighup_replaces_roles_in_order_when_the_reload_is_good(start):
    supervisor = start("5", "waits", reload=True)
    first = supervisor.stdout.readline()

    supervisor.send_signal(signal.SIGHUP)

    assert supervisor.stdout.readline() == "bye\n"
    assert supervisor.stdout.readline().startswith("up ")
    assert first != ""
    supervisor.terminate()
    assert supervisor.wait(10) == 0


def test_sighup_changes_nothing_when_the_reload_is_bad(start):
    supervisor = start("5", "waits", reload=False)
    supervisor.stdout.readline()

    supervisor.send_signal(signal.SIGHUP)
    supervisor.terminate()

    assert supervisor.stdout.readline() == "bye\n"
    assert supervisor.stdout.read() == ""
    assert supervisor.wait(10) == 0
