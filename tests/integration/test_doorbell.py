"""Wake-ups that cannot be published reach the sweep of this host."""

import os
import socket
import threading

import pytest

from broker.doorbell import MAX_NAMED, Doorbell, DoorbellListener
from broker.errors import ConfigurationError
from broker.queue import MAX_SOCKET_PATH_BYTES, CeleryQueue, doorbell_path
from broker.workflow.wake_ups import Task, WakeUp
from tests.broker_process import wait_until
from tests.ports import free_port


class Ear:
    """Hears at a path."""

    def __init__(self, path):
        self.heard = []
        self.came = threading.Event()
        self.listener = DoorbellListener(path, self._hear)
        self.listener.start()

    def _hear(self, wake_ups):
        self.heard += wake_ups
        self.came.set()


@pytest.fixture
def path(tmp_path):
    folder = tmp_path / "own"
    folder.mkdir(mode=0o700)
    return folder / "bell.sock"


@pytest.fixture
def ear(path):
    ear = Ear(path)
    yield ear
    ear.listener.stop()


def test_what_is_rung_is_heard(ear, path):
    Doorbell(path).ring([WakeUp(Task.ROUTE, 7), WakeUp(Task.DELIVER, 2**40, "dicom", "archive")])

    wait_until(lambda: len(ear.heard) == 2)
    assert ear.heard == [WakeUp(Task.ROUTE, 7), WakeUp(Task.DELIVER, 2**40)]


@pytest.mark.parametrize("wake_ups", [[], [WakeUp(Task.ROUTE, 1)]])
def test_ringing_where_nobody_listens_is_nothing(path, wake_ups):
    Doorbell(path).ring(wake_ups)


def test_ringing_never_waits_for_a_sweep_that_does_not_read(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(str(path))
        bell = Doorbell(path)
        for number in range(5_000):
            bell.ring([WakeUp(Task.ROUTE, number + 1)])


def test_a_storm_is_cut_to_one_datagram(ear, path):
    Doorbell(path).ring([WakeUp(Task.DELIVER, 10**17 + number) for number in range(10_000)])

    wait_until(lambda: len(ear.heard) == MAX_NAMED)


@pytest.mark.parametrize(
    "datagram",
    [
        b"\xff\x00",
        b"workers.route",
        b"workers.route -1",
        b"workers.route x",
        b"os.system 1",
        b"workers.route \n\n",
    ],
)
def test_a_datagram_that_is_not_ours_is_left_out(ear, path, datagram):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(datagram, str(path))
        stranger.sendto(b"workers.deliver 5", str(path))

    wait_until(ear.came.is_set)
    wait_until(lambda: ear.heard)
    assert ear.heard == [WakeUp(Task.DELIVER, 5)]


def test_a_new_sweep_takes_the_bell_over_and_the_old_one_ends_without_taking_it_away(ear, path):
    heir = Ear(path)
    ear.listener.stop()

    Doorbell(path).ring([WakeUp(Task.ROUTE, 1)])

    wait_until(lambda: heir.heard == [WakeUp(Task.ROUTE, 1)])
    heir.listener.stop()


def test_stopping_ends_the_thread(ear):
    ear.listener.stop()

    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "doorbell"])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(path):
    os.chown(path.parent, 65534, 65534)

    with pytest.raises(ConfigurationError):
        DoorbellListener(path, lambda _: None).start()


def test_the_queue_rings_while_redis_is_away_at_once_and_for_each(ear, path):
    queue = CeleryQueue(
        f"redis://127.0.0.1:{free_port()}/0", ring=Doorbell(path).ring, first_pause_s=30, max_pause_s=30
    )

    queue.wake([WakeUp(Task.ROUTE, 1)])
    wait_until(lambda: ear.heard == [WakeUp(Task.ROUTE, 1)])
    queue.wake([WakeUp(Task.ROUTE, 2)])

    wait_until(lambda: ear.heard == [WakeUp(Task.ROUTE, 1), WakeUp(Task.ROUTE, 2)], timeout_s=10)
    queue.close(timeout_s=0.1)


def test_wherever_valkey_has_its_socket_there_is_room_for_the_bell(tmp_path):
    for length in range(1, 120):
        folder = tmp_path / "d" / ("x" * length)
        assert len(os.fsencode(doorbell_path(folder))) <= MAX_SOCKET_PATH_BYTES
