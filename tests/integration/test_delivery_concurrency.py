"""Many workers at once on a real database: nobody sends what another sends, and caps hold."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from broker.db.unit_of_work import SqlUnitsOfWork
from broker.domain.delivery import DeliveryState
from broker.workflow.clock import SystemClock
from broker.workflow.deliveries import deliver
from broker.workflow.sending import SendingLimits, Worker
from tests.builders import a_delivery, a_message_delivery, an_instance
from tests.fakes.destination import FakeBroker
from tests.fakes.task_queue import RecordingTaskQueue


@pytest.fixture
def broker(engine):
    clock = SystemClock()
    return FakeBroker(SqlUnitsOfWork(engine, RecordingTaskQueue(), clock), clock)


class Watched:
    """Counts who is inside at once."""

    def __init__(self, plugin, pause_s=0.004):
        self.plugin, self.pause_s = plugin, pause_s
        self.inside, self.most = 0, 0
        self.seen: Counter[int] = Counter()
        self.order: list[str] = []
        self.lock = threading.Lock()
        plugin.script = None
        plugin.send = self.send

    def send(self, parcel, settled):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.seen[parcel.delivery] += 1
            if parcel.payload:
                self.order.append(parcel.payload.decode())
        time.sleep(self.pause_s)
        outcome = self.plugin.accept(parcel, settled)
        with self.lock:
            self.inside -= 1
        return outcome


def everybody_at_once(broker, keys, *, threads=8):
    """Wake every delivery several times from many threads, as lost, late and doubled messages would."""
    limits = SendingLimits(drain_s=0.5)

    def work(number):
        for key in keys[number:] + keys[:number]:
            deliver(key, broker, worker=Worker(f"w{number}", limits))

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, number) for number in range(threads)]:
            done.result(60)


@pytest.mark.timeout(120)
def test_each_delivery_is_sent_once_and_no_more_at_once_than_the_cap(broker):
    archive, film = Watched(broker.add("archive", concurrency=3)), Watched(broker.add("film", concurrency=1))
    keys = []
    with broker.units_of_work() as uow:
        now = broker.clock.now()
        for number in range(40):
            name = "film" if number % 4 == 0 else "archive"
            delivery = a_delivery(number, destination=name, due_at=now, created_at=now)
            key = uow.deliveries.add(delivery, now=now)
            images = [an_instance(number * 10 + image) for image in range(2)]
            uow.deliveries.add_items(key, uow.instances.add_many(images))
            keys.append(key)
        uow.commit()
    everybody_at_once(broker, keys)
    with broker.units_of_work() as uow:
        rows = [uow.deliveries.get(key) for key in keys]
    assert {row.state for row in rows} == {DeliveryState.DELIVERED}
    assert {row.attempt for row in rows} == {1}
    assert set((archive.seen + film.seen).values()) == {1}
    assert 1 < archive.most <= 3
    assert film.most == 1


@pytest.mark.timeout(120)
def test_messages_of_one_order_never_overtake_each_other(broker):
    ris = Watched(broker.add("ris", concurrency=4))
    keys = []
    with broker.units_of_work() as uow:
        now = broker.clock.now()
        for number in range(30):
            order = number % 3
            delivery = a_message_delivery(f"order {order}", number, destination="ris")
            payload = f"{order}:{number:02}".encode()
            keys.append(
                uow.deliveries.add(replace(delivery, payload=payload, due_at=now, created_at=now), now=now)
            )
        uow.commit()
    everybody_at_once(broker, keys)
    for order in range(3):
        sent = [text for text in ris.order if text.startswith(f"{order}:")]
        assert sent == sorted(sent)
        assert len(sent) == 10
