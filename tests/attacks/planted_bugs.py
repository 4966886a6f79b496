"""Eight bugs, planted from outside into the classes of the product: the ledger is to find each of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import select, update

import broker.bootstrap
import broker.db.engine
import broker.workflow.deliveries
import workers.sweeper
from broker.db.repositories.delivery_items import SqlDeliveryItems
from broker.db.repositories.delivery_queue import SqlDeliveryQueue
from broker.db.schema import DELIVERY
from broker.dicom.destinations.store import StoreDestination
from broker.dicom.services.group_commit import GroupCommit
from broker.domain.delivery import Delivered, DeliveryState, ItemState
from broker.files.disk import LocalDisk
from broker.workflow.claims import Claimed
from broker.workflow.destinations_port import ItemResult
from broker.workflow.images import Receipt, Reception
from broker.workflow.sweep import Work

LATE_S = 5.0
Patch = Callable[[object, str, object], None]


def ack_before_commit(patch: Patch) -> None:
    """Answer 0000 and commit a little later."""
    commit = GroupCommit.submit

    def submit(self: Any, item: Any) -> Receipt:
        later = threading.Timer(LATE_S, commit, (self, item))
        later.daemon = True
        later.start()
        return Receipt(0, Reception.NEW, item.file.path)

    patch(GroupCommit, "submit", submit)


def sqlite_normal(patch: Patch) -> None:
    """Follow the popular recipe WAL + NORMAL, and no longer ask whether the database is durable."""
    prepare = broker.db.engine._prepare_sqlite

    def normal(connection: Any, entry: Any) -> None:
        prepare(connection, entry)
        connection.execute("PRAGMA synchronous=NORMAL")

    patch(broker.db.engine, "_prepare_sqlite", normal)
    patch(broker.bootstrap, "assert_durable", lambda *_, **__: [])


def forgotten_folder_sync(patch: Patch) -> None:
    """Give files their names and never sync a folder."""
    patch(LocalDisk, "sync_folder", lambda self, path: None)


def rename_before_sync(patch: Patch) -> None:
    """Give a file its final name first, and sync its content then."""
    for name in ("rename", "link"):
        given = getattr(LocalDisk, name)

        def give(self: Any, source: Path, target: Path, given: Any = given) -> None:
            given(self, source, target)
            descriptor = os.open(target, os.O_RDWR)
            os.fdatasync(descriptor)
            os.close(descriptor)

        patch(LocalDisk, name, give)
    patch(LocalDisk, "sync", lambda self, handle: None)


def no_sweep(patch: Patch) -> None:
    """Trust the wake-ups."""
    patch(workers.sweeper, "sweep", lambda *_, **__: Work())


def double_claim(patch: Patch) -> None:
    """Look whether a delivery is free in one transaction, and take it in the next."""
    both_have_looked = threading.Barrier(2)

    def claim(delivery_id: int, wired: Any, worker: Any) -> Claimed | None:
        with wired.units_of_work() as uow:
            delivery = uow.deliveries.get(delivery_id)
        with suppress(threading.BrokenBarrierError):
            both_have_looked.wait(LATE_S)
        if delivery.state is not DeliveryState.PENDING:
            return None
        with wired.units_of_work() as uow:
            now = wired.clock.now()
            taken = {"state": "IN_PROGRESS", "attempt": DELIVERY.c.attempt + 1, "worker": worker.name}
            uow._transaction.execute(
                update(DELIVERY)
                .where(DELIVERY.c.id == delivery_id)
                .values(taken | {"lease_until": now + worker.limits.lease})
            )
            delivery = uow.deliveries.get(delivery_id)
            contexts = uow.deliveries.contexts(delivery_id)
            uow.commit()
        return Claimed(delivery, wired.destination(delivery.destination), contexts)

    patch(broker.workflow.deliveries, "claim", claim)


def settled_by_a_zombie(patch: Patch) -> None:
    """Settle a delivery without asking whose it is."""

    def settle(self: Any, delivery: int, attempt: int, **values: Any) -> bool:
        now = values.pop("now")
        values["state"] = values["state"].value
        self._transaction.execute(
            update(DELIVERY)
            .where(DELIVERY.c.id == delivery)
            .values(values | {"updated_at": now, "lease_until": None, "worker": None})
        )
        return True

    patch(SqlDeliveryQueue, "renew", lambda self, delivery, attempt, **_: True)
    patch(SqlDeliveryQueue, "settle", settle)
    settle_items = SqlDeliveryItems.settle_items

    def settle_all(self: Any, delivery: int, attempt: int, results: Any, **values: Any) -> bool:
        whose = self._transaction.execute(select(DELIVERY.c.attempt).where(DELIVERY.c.id == delivery))
        settle_items(self, delivery, whose.scalar_one(), results, **values)
        return True

    patch(SqlDeliveryItems, "settle_items", settle_all)


def swallowed_send_error(patch: Patch) -> None:
    """Take whatever happened to a send for success."""
    send = StoreDestination.send

    def swallowing(self: Any, parcel: Any, settled: Any) -> Any:
        items = list(parcel.items)
        outcome = send(self, replace(parcel, items=iter(items)), settled)
        if isinstance(outcome, Delivered):
            return outcome
        settled([ItemResult(item.id, ItemState.DELIVERED, "0000") for item in items])
        return Delivered()

    patch(StoreDestination, "send", swallowing)


BUGS: dict[str, Callable[[Patch], None]] = {
    bug.__name__: bug
    for bug in (
        ack_before_commit,
        sqlite_normal,
        forgotten_folder_sync,
        no_sweep,
        rename_before_sync,
        double_claim,
        settled_by_a_zombie,
        swallowed_send_error,
    )
}


def plant(name: str) -> None:
    """Plant a bug in this process for good."""
    BUGS[name](setattr)


@contextmanager
def planted(name: str | None) -> Iterator[None]:
    """Plant a bug while the block lasts; None plants nothing."""
    before: list[tuple[object, str, object]] = []

    def patch(owner: object, attribute: str, value: object) -> None:
        before.append((owner, attribute, getattr(owner, attribute)))
        setattr(owner, attribute, value)

    try:
        if name is not None:
            BUGS[name](patch)
        yield
    finally:
        for owner, attribute, value in reversed(before):
            setattr(owner, attribute, value)
