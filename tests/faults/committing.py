"""A process that stores one order after the other and says so only after each commit; it is made to be killed."""

import sys

from broker.db.engine import open_engine
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.domain.events import Event, EventName, Subject
from tests.builders import a_stored_entry
from tests.fakes.clock import FakeClock
from tests.fakes.task_queue import RecordingTaskQueue


def main(url: str, first: int, count: int) -> None:
    """Store orders number `first` and on."""
    units_of_work = SqlUnitsOfWork(open_engine(url), RecordingTaskQueue(), FakeClock())
    for number in range(first, first + count):
        with units_of_work() as uow:
            entry = a_stored_entry(uow, number)
            uow.record(Event(EventName.ORDER_PLACED, Subject.ORDER, entry.order.id, order=entry.order.id))
            uow.commit()
        sys.stdout.write(f"stored {number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
