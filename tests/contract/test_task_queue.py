"""Wake-ups: never in the way, never alone responsible. Against a real Valkey."""

import ast
import base64
import functools
import itertools
import json
import os
import signal
import stat
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
import redis
from structlog.testing import capture_logs

from broker.errors import ConfigurationError
from broker.queue import (
    MAX_PER_DESTINATION,
    MAX_SOCKET_PATH_BYTES,
    CeleryQueue,
    RedisProbe,
    celery_settings,
    coalesced,
    embedded_socket,
    queue_names,
    redis_url,
)
from broker.valkey import EmbeddedValkey
from broker.workflow.wake_ups import Task, WakeUp
from tests.fakes.task_queue import RecordingTaskQueue
from workers.app import make_app
from workers.desk import Desk
from workers.tasks import checked_id

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 5.0
DELIVER = [WakeUp(Task.DELIVER, number, "dicom") for number in range(1, 101)]


@pytest.fixture
def valkey(tmp_path):
    server = EmbeddedValkey(tmp_path, embedded_socket(tmp_path))
    server.start()
    yield server
    if server.pid is not None and psutil.pid_exists(server.pid):
        os.kill(server.pid, signal.SIGCONT)
    server.stop()


@pytest.fixture
def client(valkey):
    with redis.Redis(unix_socket_path=valkey.url.removeprefix("redis+socket://")) as client:
        yield client


@pytest.fixture
def wakes(valkey):
    # What Redis does not take in time is dropped: a server that is merely slow has to get its wake-ups.
    queue = CeleryQueue(valkey.url, socket_timeout_s=TIMEOUT_S, first_pause_s=0.05, max_pause_s=0.2)
    yield queue
    queue.close()


def until(condition, *, within_s=30.0):
    began_s = time.monotonic()
    while not condition():
        assert time.monotonic() - began_s < within_s
        time.sleep(0.01)


# ---- what every task queue does


@pytest.fixture(params=["fake", "celery"])
def any_queue(request):
    if request.param == "fake":
        recording = RecordingTaskQueue()
        return recording, lambda: [wake_up.id for wake_up in recording.wake_ups]
    client = request.getfixturevalue("client")

    def ids():
        return [json.loads(body)["headers"]["argsrepr"] for body in client.lrange("deliver.dicom", 0, -1)]

    return request.getfixturevalue("wakes"), lambda: [int(text.strip("[]")) for text in reversed(ids())]


def test_wake_ups_come_out_in_order(any_queue):
    queue, ids = any_queue
    queue.wake(DELIVER[:3])
    queue.wake([])
    queue.wake(iter(DELIVER[3:5]))
    until(lambda: ids() == [1, 2, 3, 4, 5])


# ---- Celery's


def test_each_kind_of_destination_has_a_queue_of_its_own(wakes, client):
    wakes.wake(
        [
            WakeUp(Task.ROUTE, 1),
            WakeUp(Task.DELIVER, 2, "dicom"),
            WakeUp(Task.DELIVER, 3, "print"),
            WakeUp(Task.DELIVER, 4),
        ]
    )
    names = queue_names(["dicom", "print"])
    assert names == ("route", "deliver", "deliver.dicom", "deliver.print")
    until(lambda: all(client.llen(name) == 1 for name in names))


def test_a_message_is_the_name_of_a_task_and_one_integer(wakes, client):
    wakes.wake([WakeUp(Task.DELIVER, 42, "dicom", "archive")])
    until(lambda: client.llen("deliver.dicom") == 1)
    message = json.loads(client.lindex("deliver.dicom", 0))
    headers = message["headers"]
    assert (headers["task"], headers["eta"], headers["retries"]) == ("workers.deliver", None, 0)
    assert message["content-type"] == "application/json"
    args, kwargs, embedded = json.loads(base64.b64decode(message["body"]))
    assert (args, kwargs) == ([42], {})
    assert not any(embedded.values())


def test_a_burst_becomes_a_few(wakes, client):
    burst = [WakeUp(Task.DELIVER, number, "dicom", "archive") for number in range(500)]
    burst += [WakeUp(Task.ROUTE, number) for number in range(500)] + DELIVER[:30]
    kept = coalesced(burst)
    assert [wake_up.task for wake_up in kept].count(Task.ROUTE) == 1
    assert len(kept) == MAX_PER_DESTINATION + 1 + 30
    wakes.wake(burst)
    until(lambda: client.llen("deliver.dicom") == MAX_PER_DESTINATION + 30)


def test_wake_ups_that_come_densely_are_published_together_and_at_the_latest_at_the_end(valkey, client):
    queue = CeleryQueue(valkey.url, socket_timeout_s=20.0, rest_s=60.0, max_rest_s=60.0)
    queue.wake(DELIVER[:1])
    until(lambda: client.llen("deliver.dicom") == 1)
    for wake_up in DELIVER[1:5]:
        queue.wake([wake_up])
    assert client.llen("deliver.dicom") == 1, "it rests"
    queue.close(timeout_s=20.0)
    assert client.llen("deliver.dicom") == 5


def test_the_caller_waits_less_than_a_millisecond_while_redis_is_frozen(wakes, valkey, client):
    wakes.wake(DELIVER[:1])
    until(lambda: client.llen("deliver.dicom") == 1)
    os.kill(valkey.pid, signal.SIGSTOP)
    took_s = []
    for wake_up in DELIVER * 2:
        began_s = time.perf_counter()
        wakes.wake([wake_up])
        took_s.append(time.perf_counter() - began_s)
        time.sleep(0.002)
    os.kill(valkey.pid, signal.SIGCONT)
    # A busy machine may take the processor away now and then; nobody may have waited for Redis even once.
    assert statistics.median(took_s) < 0.001
    assert max(took_s) < TIMEOUT_S / 2


def test_the_caller_never_hears_of_a_redis_that_is_not_there(tmp_path):
    queue = CeleryQueue(redis_url(tmp_path), first_pause_s=0.05)
    with capture_logs() as logs:
        for wake_up in DELIVER:
            queue.wake([wake_up])
            time.sleep(0.005)
        until(lambda: queue.dropped > 0)
        queue.close(timeout_s=20.0)
    assert not queue.is_connected
    assert about_wake_ups(logs) == ["wake-ups are not published"]


def about_wake_ups(logs):
    """Leave out what threads of other tests say meanwhile."""
    return [entry["event"] for entry in logs if "wake-ups" in entry["event"]]


def test_publishing_goes_on_by_itself_after_an_outage(wakes, valkey, client):
    wakes.wake(DELIVER[:1])
    until(lambda: client.llen("deliver.dicom") == 1)
    with capture_logs() as logs:
        valkey.stop()
        wakes.wake(DELIVER[1:2])
        until(lambda: not wakes.is_connected)
        valkey.start()
        numbers = itertools.count(1000)

        def heard():
            wakes.wake([WakeUp(Task.DELIVER, next(numbers), "dicom")])
            return wakes.is_connected

        until(heard)
    assert about_wake_ups(logs) == ["wake-ups are not published", "wake-ups are published again"]


def test_an_emptied_redis_takes_new_wake_ups_at_once(wakes, client):
    wakes.wake(DELIVER[:1])
    until(lambda: client.llen("deliver.dicom") == 1)
    client.flushall()
    wakes.wake(DELIVER[1:2])
    until(lambda: client.llen("deliver.dicom") == 1)


def test_what_waits_is_bounded(tmp_path):
    queue = CeleryQueue(redis_url(tmp_path), max_waiting=10, first_pause_s=30)
    queue.wake(DELIVER[:1])
    until(lambda: queue.dropped == 1)  # the outage begins, the thread pauses
    queue.wake(DELIVER)
    queue.wake(DELIVER)  # the same again takes no more room
    assert queue.dropped == 1 + 2 * (len(DELIVER) - 10)
    queue.close()


def test_no_thread_runs_before_the_first_wake_up_and_a_fork_starts_its_own(valkey, client):
    queue = CeleryQueue(valkey.url, socket_timeout_s=20.0)
    assert queue._thread is None
    queue.wake(DELIVER[:1])
    until(lambda: client.llen("deliver.dicom") == 1)
    child = os.fork()
    if child == 0:
        try:
            queue.wake(DELIVER[1:2])
            queue.close(timeout_s=60)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert client.llen("deliver.dicom") == 2
    queue.close()


def test_the_probe_counts_what_nobody_has_taken(wakes, valkey):
    probe = RedisProbe(valkey.url, ["dicom"], timeout_s=2.0)
    until(lambda: probe.backlog() == 0)
    wakes.wake(DELIVER[:7])
    until(lambda: probe.backlog() == 7)
    os.kill(valkey.pid, signal.SIGSTOP)
    began_s = time.monotonic()
    assert probe.backlog() is None
    assert time.monotonic() - began_s < 10
    os.kill(valkey.pid, signal.SIGCONT)
    until(lambda: probe.backlog() == 7)
    probe.close()


# ---- what a worker accepts


@pytest.mark.parametrize("body", [None, True, "1", 1.0, [1], {"id": 1}, 0, -1, 2**63])
def test_a_message_that_is_not_one_positive_integer_is_refused(body):
    with pytest.raises((TypeError, ValueError)):
        checked_id(body)


def test_the_tasks_take_one_integer_and_nothing_else():
    done = []

    class Recorder(Desk):
        def deliver(self, delivery_id):
            done.append(delivery_id)

    app = make_app("memory://", ["dicom"], Recorder(lambda: None))
    deliver = app.tasks["workers.deliver"]
    deliver.apply(args=[7], throw=True)
    assert done == [7]
    for args in ([], [1, 2], ["7"], [[7]]):
        with pytest.raises((TypeError, ValueError)):
            deliver.apply(args=args, throw=True)
    assert done == [7]
    assert {name for name in app.tasks if not name.startswith("celery.")} == {
        "workers.route",
        "workers.deliver",
    }


def test_celery_is_used_as_decided():
    conf = make_app("memory://", ["dicom", "print"], Desk(lambda: None)).conf
    assert conf.task_acks_late
    assert conf.task_reject_on_worker_lost
    assert conf.worker_prefetch_multiplier == 1
    assert conf.task_ignore_result
    assert conf.result_backend is None
    assert list(conf.accept_content) == ["json"]
    assert conf.worker_pool == "threads"
    assert [(queue.name, queue.routing_key) for queue in conf.task_queues] == [
        (name, name) for name in queue_names(["dicom", "print"])
    ]


def test_nothing_uses_celerys_retry_eta_or_beat():
    """Due times, attempts and leases are rows; Celery's own repeat work, or lose it."""
    forbidden = {"retry", "countdown", "eta", "beat_schedule", "autoretry_for", "apply_async", "delay"}
    for path in [ROOT / "broker/queue.py", *sorted(ROOT.glob("workers/*.py"))]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg in forbidden:
                is_off = isinstance(node.value, ast.Constant) and node.value.value is False
                is_off = is_off or "Retry(NoBackoff(), 0)" in ast.unparse(node.value)
                assert (node.arg, is_off) == ("retry", True), f"{path}:{node.value.lineno} {node.arg}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                assert node.func.attr not in forbidden, f"{path}:{node.lineno} .{node.func.attr}()"
    assert "beat_schedule" not in celery_settings("memory://", [])


def test_importing_the_workers_connects_and_reads_nothing():
    code = (
        "import socket, os; socket.socket.connect = None; os.environ.pop('BROKER_CONFIG', None);"
        "import workers.app, workers.sweeper, threading;"
        "assert threading.active_count() == 1; assert not workers.app._apps"
    )
    subprocess.run([sys.executable, "-c", code], cwd="/", check=True, env={"PYTHONPATH": str(ROOT)})


# ---- the bundled server


def test_the_bundled_server_listens_on_a_private_socket_only(valkey):
    path = Path(valkey.url.removeprefix("redis+socket://"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert not [c for c in psutil.Process(valkey.pid).net_connections("inet") if c.status == "LISTEN"]


def test_a_live_server_is_adopted_and_left_alone(valkey, tmp_path):
    other = EmbeddedValkey(tmp_path, embedded_socket(tmp_path))
    other.answers = functools.partial(other.answers, timeout_s=30)  # it is slow on a busy machine, not dead
    other.start()
    assert other.pid is None
    other.stop()
    assert valkey.answers(timeout_s=30)


def test_a_dead_servers_traces_are_cleared_and_its_messages_are_there_again(valkey, client, tmp_path):
    client.rpush("route", "kept")
    until(lambda: any(b"kept" in path.read_bytes() for path in tmp_path.rglob("*.aof")))
    os.kill(valkey.pid, signal.SIGKILL)
    valkey.stop()
    assert Path(valkey.url.removeprefix("redis+socket://")).exists()
    again = EmbeddedValkey(tmp_path, embedded_socket(tmp_path))
    again.start()
    assert client.lrange("route", 0, -1) == [b"kept"]
    again.stop()


def test_a_hung_orphan_is_ended(valkey, tmp_path):
    os.kill(valkey.pid, signal.SIGSTOP)
    other = EmbeddedValkey(tmp_path, embedded_socket(tmp_path))
    threading.Timer(0.5, valkey._process.wait).start()  # its parent must collect it
    other.start()
    assert other.pid not in {None, valkey.pid}
    other.stop()


def test_the_server_ends_with_its_parent(tmp_path):
    code = (
        "import sys, os; from pathlib import Path; from broker.valkey import EmbeddedValkey;"
        "from broker.queue import embedded_socket; d = Path(sys.argv[1]);"
        "v = EmbeddedValkey(d, embedded_socket(d)); v.start(); print('PID', v.pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, check=False, timeout=30
    )
    pid = int(done.stdout.decode().split("PID ")[1].split()[0])

    def has_ended():
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    until(has_ended)


def test_a_path_too_long_for_a_socket_gets_a_short_one(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)
    socket_path = embedded_socket(deep)
    assert len(os.fsencode(socket_path)) <= MAX_SOCKET_PATH_BYTES
    assert socket_path == embedded_socket(deep)
    server = EmbeddedValkey(deep, socket_path)
    server.start()
    assert stat.S_IMODE(socket_path.parent.stat().st_mode) == 0o700
    server.stop()
    socket_path.parent.rmdir() if not any(socket_path.parent.iterdir()) else None


def test_a_directory_of_somebody_else_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ConfigurationError, match="somebody else"):
        EmbeddedValkey(tmp_path, tmp_path / "s" / "valkey.sock").start()


def test_odd_names_of_the_data_directory_do_no_harm(tmp_path):
    folder = tmp_path / "Röntgen 1+2 %41 #x"
    folder.mkdir()
    server = EmbeddedValkey(folder, embedded_socket(folder))
    server.start()
    queue = CeleryQueue(redis_url(folder))
    probe = RedisProbe(redis_url(folder), ["dicom"])
    queue.wake(DELIVER[:3])
    until(lambda: probe.backlog() == 3)
    queue.close()
    probe.close()
    server.stop()


def test_a_configured_redis_is_used_as_it_is(tmp_path):
    assert redis_url(tmp_path, "rediss://somewhere/1") == "rediss://somewhere/1"
