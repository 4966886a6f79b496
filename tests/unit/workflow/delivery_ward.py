"""A broker with one destination, and what a test owes it, sends and asks."""

from dataclasses import replace

from broker.workflow.deliveries import deliver
from broker.workflow.lease_watch import LeaseWatch
from broker.workflow.sending import SendingLimits, Worker
from broker.workflow.sweep import SweepLimits, sweep
from tests.builders import a_delivery, a_message_delivery, an_instance
from tests.fakes.destination import FakeBroker

LIMITS = SendingLimits()
SWEEP = SweepLimits()


class Ward:
    """A broker with one destination, and what a test asks of it."""

    def __init__(self, units_of_work, clock, queue):
        self.broker = FakeBroker(units_of_work, clock)
        self.archive = self.broker.add("archive")
        self.clock, self.queue = clock, queue
        self.numbers = iter(range(1, 10_000))
        self.worker = Worker("w1", LIMITS)
        self.watch = LeaseWatch()

    def owe(self, images=3, **changes):
        """Store a delivery with images of its own."""
        number = next(self.numbers)
        with self.broker.units_of_work() as uow:
            key = uow.deliveries.add(
                a_delivery(number, **{"due_at": self.clock.now(), "created_at": self.clock.now(), **changes}),
                now=self.clock.now(),
            )
            uow.commit()
        self.join(key, images)
        return key

    def owe_message(self, text, key="order 1"):
        number = next(self.numbers)
        with self.broker.units_of_work() as uow:
            delivery = a_message_delivery(key, number, payload=text.encode(), destination="archive")
            found = uow.deliveries.add(
                replace(delivery, due_at=self.clock.now(), created_at=self.clock.now()), now=self.clock.now()
            )
            uow.commit()
        return found

    def join(self, key, images):
        with self.broker.units_of_work() as uow:
            new = [an_instance(next(self.numbers)) for _ in range(images)]
            uow.deliveries.add_items(key, uow.instances.add_many(new))
            uow.commit()

    def row(self, key):
        with self.broker.units_of_work() as uow:
            return uow.deliveries.get(key)

    def health(self, name="archive"):
        with self.broker.units_of_work() as uow:
            return uow.destinations.get(name)

    def deliver(self, key, **changes):
        attempts = deliver(key, self.broker, worker=replace(self.worker, **changes))
        self.see()
        return attempts

    def see(self):
        """Let the sweeper see what is held, as it does every two seconds."""
        with self.broker.units_of_work() as uow:
            self.watch.abandoned(uow.deliveries.held(limit=5), now_s=self.clock.monotonic())

    def sweep(self, *, thorough=False):
        return sweep(self.broker, limits=SWEEP, watch=self.watch, thorough=thorough)


def without_drain(**changes):
    return {"limits": SendingLimits(drain_s=-1, **changes)}
