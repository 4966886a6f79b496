"""Redis is killed, emptied, frozen and absent: it costs time, not work."""

import base64
import json
import os
import signal
import time
import uuid

import pytest
import redis

from broker.domain.delivery import DeliveryState
from broker.queue import CeleryQueue, RedisProbe
from tests.faults.bench import Bench, wake

S = DeliveryState
DUE_WITHIN_S = 15.0
"""After a sweep could have seen it."""


@pytest.fixture
def bench(sqlite_url, tmp_path):
    bench = Bench(tmp_path, sqlite_url)
    yield bench
    bench.close()


def delivered(bench, count):
    return lambda: bench.states()["DELIVERED"] == count


@pytest.mark.timeout(240)
def test_without_redis_the_sweep_does_the_work(bench):
    bench.start("sweep")
    bench.until(lambda: "does the work" in bench.logs(), within_s=60)
    for _ in range(10):
        bench.owe(2)
    bench.until(delivered(bench, 10), within_s=DUE_WITHIN_S)
    assert set(bench.receiver.counts().values()) == {1}


@pytest.mark.timeout(240)
def test_an_emptied_redis_costs_one_sweep(bench):
    bench.valkey.start()
    bench.start("worker")
    bench.start("sweep")
    bench.owe()
    bench.until(delivered(bench, 1), within_s=60)
    client = redis.Redis(unix_socket_path=bench.redis_url.removeprefix("redis+socket://"))
    for turn in range(5):
        client.flushall()
        bench.owe()
        bench.until(delivered(bench, turn + 2), within_s=DUE_WITHIN_S)
    client.close()


@pytest.mark.timeout(240)
def test_a_frozen_redis_stops_nothing(bench):
    bench.valkey.start()
    bench.start("worker")
    bench.start("sweep")
    bench.owe()
    bench.until(delivered(bench, 1), within_s=60)
    os.kill(bench.valkey.pid, signal.SIGSTOP)
    for _ in range(5):
        bench.owe()
    bench.until(delivered(bench, 6), within_s=DUE_WITHIN_S + 2)
    os.kill(bench.valkey.pid, signal.SIGCONT)


@pytest.mark.timeout(240)
def test_a_worker_with_a_task_in_hand_survives_a_restart_of_redis(bench):
    bench.settings = {"lease_s": 20}
    bench.valkey.start()
    worker = bench.start("worker")
    bench.receiver.hold_at = 1
    first = bench.owe()
    queue = CeleryQueue(bench.redis_url)
    queue.wake([wake(first)])
    assert bench.receiver.held.wait(60), bench.logs()
    os.kill(bench.valkey.pid, signal.SIGKILL)
    time.sleep(1)
    bench.receiver.go_on.set()
    bench.until(lambda: bench.row(first).state is S.DELIVERED, within_s=20)
    bench.valkey.stop()
    bench.valkey.start()
    second = bench.owe()

    def woken():
        queue.wake([wake(second)])
        time.sleep(0.2)
        return bench.row(second).state is S.DELIVERED

    bench.until(woken, within_s=60)
    queue.close()
    assert worker.poll() is None, bench.logs()
    assert set(bench.receiver.counts().values()) == {1}


@pytest.mark.timeout(240)
def test_without_a_worker_the_sweep_does_the_work_after_a_while(bench):
    bench.settings = {"overdue_s": 2}
    bench.valkey.start()
    bench.start("sweep")
    for _ in range(4):
        bench.owe()
    bench.until(delivered(bench, 4), within_s=60)
    probe = RedisProbe(bench.redis_url, ["dicom", "print"])
    assert probe.backlog() < 100  # what nobody takes does not fill Redis
    probe.close()


@pytest.mark.timeout(240)
def test_garbage_in_redis_does_not_stop_a_worker(bench):
    """Whoever can write to Redis can say what is to be looked at, and nothing else."""
    bench.valkey.start()
    key = bench.owe()
    queue = CeleryQueue(bench.redis_url)
    queue.wake([wake(4711)])  # a row that does not exist
    with redis.Redis(unix_socket_path=bench.redis_url.removeprefix("redis+socket://")) as client:
        while client.llen("deliver.dicom") < 1:
            time.sleep(0.01)
        good = json.loads(client.lindex("deliver.dicom", 0))

        def forged(args, task="workers.deliver", content_type="application/json"):
            body = base64.b64encode(json.dumps([args, {}, {}]).encode()).decode()
            headers = good["headers"] | {"task": task, "id": str(uuid.uuid4())}
            properties = good["properties"] | {"delivery_tag": str(uuid.uuid4())}
            return json.dumps(
                good
                | {"body": body, "headers": headers, "properties": properties, "content-type": content_type}
            )

        for args in (
            [],
            ["1; DROP TABLE delivery"],
            [None],
            [True],
            [-1],
            [2**70],
            [[1]],
            [{"id": 1}],
            [1, 2],
        ):
            client.lpush("deliver.dicom", forged(args))
        client.lpush("deliver.dicom", forged([1], task="os.system"))
        client.lpush("deliver.dicom", forged([1], content_type="application/x-python-serialize"))
    worker = bench.start("worker")
    queue.wake([wake(key)])
    bench.until(lambda: bench.row(key).state is S.DELIVERED, within_s=60)
    queue.close()
    assert worker.poll() is None
    assert bench.receiver.counts().total() == 1


@pytest.mark.timeout(240)
def test_a_hung_destination_does_not_hold_up_another(bench):
    bench.valkey.start()
    bench.settings = {"threads": 4}
    bench.start("worker", other_port=bench.receiver.port)
    bench.receiver.hold_at = 1
    hung = bench.owe(destination="other")
    queue = CeleryQueue(bench.redis_url)
    queue.wake([wake(hung)])
    assert bench.receiver.held.wait(60), bench.logs()
    stuck = [bench.owe(destination="other") for _ in range(20)]
    good = [bench.owe() for _ in range(20)]
    queue.wake([wake(key) for key in stuck + good])
    bench.until(lambda: all(bench.row(key).state is S.DELIVERED for key in good), within_s=60)
    assert bench.row(hung).state is S.IN_PROGRESS
    queue.close()
