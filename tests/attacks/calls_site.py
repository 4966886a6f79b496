"""A broker in one thread, and what is done to it while calls fail: orders, images, performed steps, deliveries."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

from sqlalchemy import Engine

from broker.db.engine import open_engine
from broker.db.unit_of_work import SqlUnitsOfWork
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.service import ServiceError
from broker.dicom.services.storage import StorageService
from broker.domain.steps import PerformedStatus
from broker.errors import BrokerError
from broker.files.folder import FolderDestination, FolderOptions
from broker.files.store import DiskFileStore
from broker.hl7.exchange import InboundMessage
from broker.hl7.intake import Intake
from broker.hl7.mapping import MappingSet
from broker.hl7.tokenizer import tokenize
from broker.hl7.use_cases import UseCases
from broker.strays import remove_strays, remove_unfinished, restore_names
from broker.workflow.deliveries import deliver
from broker.workflow.images import ResendPolicy, receive_images
from broker.workflow.lease_watch import LeaseWatch
from broker.workflow.operations import retry
from broker.workflow.order_policy import OrderPolicy
from broker.workflow.procedure_steps import (
    PerformedPolicy,
    PerformedState,
    PerformedWork,
    create_performed_step,
    update_performed_step,
)
from broker.workflow.sending import SendingLimits, Worker
from broker.workflow.sweep import SweepLimits, sweep
from tests.attacks.calls_faults import listen
from tests.attacks.sim_world import KINDS, WANTED, SimulatedBroker, policy
from tests.attacks.simulation import Says
from tests.fakes.clock import FakeClock
from tests.fakes.task_queue import RecordingTaskQueue
from tests.parcels import a_context
from tests.ris import ReadableEncoder
from tests.storage_listener import CT, EXPLICIT, a_data_set
from tests.unit.hl7.messages import orm

UID = "1.2.3.4"
PERFORMED = "1.2.826.0.3.1"
DATA = a_data_set(UID)
DATABASE = "broker.sqlite3"
COLLECTED_AFTER_S = 60
"""No more images come to a series then."""


@lru_cache
def _mappings() -> MappingSet:
    return MappingSet.load(None, site_zone=UTC)


def an_engine(folder: Path) -> Engine:
    """Open the database of a folder; what is prepared for an engine serves run after run."""
    engine = open_engine(f"sqlite:///{folder / DATABASE}", busy_timeout_s=0.05)
    listen(engine)
    return engine


class Site:
    """A broker on a folder: database, store, folders to send to. What it does in the background is done here."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder, self.engine = folder, engine
        self.clock = FakeClock()
        self.units = SqlUnitsOfWork(self.engine, RecordingTaskQueue(), self.clock)
        self.files = self.a_store()
        self.broker = SimulatedBroker(self.units, self.clock, policy=policy())
        self.broker.files = self.files
        for name in KINDS:
            options = FolderOptions(path=f"copies/{name}", keep_free_mib=0)
            self.broker.add(name, FolderDestination(options, a_context(folder)))
        resend = ResendPolicy(frozenset({"archive"}))
        self.service = StorageService(
            self.files, lambda batch: receive_images(batch, self.units, self.clock, policy=resend)
        )
        orders = OrderPolicy(UUID(int=7), stations={"CT": ("CT1",)})
        use_cases = UseCases(self.clock, ReadableEncoder(), orders)
        self.intake = Intake(self.units, use_cases, _mappings, clock=self.clock)
        self.worker = Worker("w", SendingLimits(drain_s=-1))
        self.watch = LeaseWatch()

    def a_store(self) -> DiskFileStore:
        return DiskFileStore(
            self.folder / "images",
            self.clock,
            implementation_class_uid="2.25.1",
            implementation_version_name="TEST",
            free_reserve_bytes=1,
            free_reserve_percent=0,
            ready_files=2,
            in_background=False,
        )

    def close(self) -> None:
        self.files.close()
        self.engine.dispose()

    def rows(self, statement: str) -> list[tuple]:
        """Look from outside, as another process does."""
        connection = sqlite3.connect(self.folder / DATABASE, timeout=0)
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()

    # ---- what is done: each answers whether it said yes --------------------------------------------------

    def order(self, message: str) -> bool:
        (answer,) = self.intake.handle_batch(
            [InboundMessage("10.0.0.1:1", message.encode(), self.clock.now())]
        )
        return bool(answer.messages) and tokenize(answer.messages[0].decode()).value("MSA-1") == "AA"

    def receive(self) -> bool:
        """Receive an image, with the store's background work before and after."""
        self.in_background(self.files.make_ready)
        said = self._store()
        self.in_background(self.files.settle)
        return said

    def in_background(self, work: Callable[[], object]) -> None:
        try:
            work()
        except OSError:  # as the store's own thread does, which logs it and goes on
            return

    def _store(self) -> bool:
        request = SimpleNamespace(
            command=Command(
                field=CommandField.C_STORE_RQ,
                affected_sop_class_uid=CT,
                affected_sop_instance_uid=UID,
                has_data_set=True,
            ),
            context=SimpleNamespace(transfer_syntax=EXPLICIT),
            peer=SimpleNamespace(
                calling_ae_title="CT1", called_ae_title="BROKER", address="127.0.0.1", association_id="a"
            ),
        )
        try:
            receiver = self.service.begin(request)
            receiver.write(memoryview(DATA))
        except ServiceError:
            return False
        (response,) = receiver.finish(lambda: False)
        return response.status == 0

    def performed(self, status: PerformedStatus) -> bool:
        state = PerformedState(status, status.value.encode())
        try:
            with self.units() as uow:
                allowed = PerformedPolicy(idempotent_create=True)
                work = PerformedWork(uow, self.clock, ReadableEncoder(), None, allowed)
                if status is PerformedStatus.IN_PROGRESS:
                    create_performed_step(work, PERFORMED, state, calling_ae_title="CT1")
                else:
                    update_performed_step(work, PERFORMED, Says(state))
                uow.commit()
        except BrokerError:
            return False
        return True

    def send(self) -> bool:
        """Sweep, route what waits and send what is due, as a sweeper without Redis does."""
        try:
            work = sweep(self.broker, limits=SweepLimits(), watch=self.watch, thorough=True)
            if work.unrouted:
                self.broker.route(work.unrouted)
            self.clock.advance(COLLECTED_AFTER_S)
            for wake_up in sweep(self.broker, limits=SweepLimits(), watch=self.watch).due:
                deliver(wake_up.id, self.broker, worker=self.worker)
        except BrokerError:
            return False
        states = self.rows("SELECT state FROM delivery")
        return bool(states) and all(state == ("DELIVERED",) for state in states)

    def attend(self) -> None:
        """Send again what waits for a person, as that person does: a stored file that could not be read."""
        for (delivery,) in self.rows("SELECT id FROM delivery WHERE state = 'DEAD'"):
            retry(delivery, self.units, self.clock, actor="on call")

    def start(self) -> bool:
        """Open the store as a process does that starts; a trouble ends it, and it is started again."""
        try:
            store = self.a_store()
            store.prepare()
            restore_names(store, self.units)
        except (BrokerError, OSError):
            return False
        return True

    def reconcile(self) -> bool:
        """Do the two chores that bring files and rows together; a trouble ends one, and it comes again."""
        try:
            remove_unfinished(self.files, self.units, now=self.clock.now())
            remove_strays(self.files, self.units, now=self.clock.now())
        except (BrokerError, OSError):
            return False
        return True

    def grow_old(self) -> None:
        """Let two hours pass over every file."""
        self.clock.advance(7200)
        at = self.clock.now().timestamp() - 5400
        for path in (self.folder / "images").rglob("*.*"):
            os.utime(path, (at, at))


@dataclass(frozen=True)
class Flow:
    """What is done, after what, and what must be true when it was said to be done."""

    name: str
    do: Callable[[Site], bool]
    holds: Callable[[Site], bool]
    before: tuple[Callable[[Site], object], ...] = ()
    keeps: Callable[[Site], bool] = lambda site: True
    """What was said before, and holds whatever fails now."""
    patience_s: float = 0
    """How long a lease or a retry may hold up the next try."""
    is_final: bool = False
    """Once done it is refused (PS3.4 F.7.2.2)."""


def images(site: Site) -> list[Path]:
    """Answer the files of the rows."""
    return [site.folder / "images" / path for (path,) in site.rows("SELECT path FROM instance")]


def is_whole(path: Path) -> bool:
    """Tell whether a file is all of the image."""
    content = path.read_bytes()
    return content[128:132] == b"DICM" and content.endswith(DATA)


def _prepare(site: Site) -> None:
    site.files.prepare()


def _is_stored(site: Site) -> bool:
    return [path.exists() and is_whole(path) for path in images(site)] == [True]


def _is_stored_after_start(site: Site) -> bool:
    """Tell whether the image is here, or would be after a start."""
    (path,) = images(site)
    return any(one.exists() and is_whole(one) for one in (path, _incoming(path)))


def _incoming(path: Path) -> Path:
    return path.parents[2] / "incoming" / f"{path.stem}.part"


def _lose_names(site: Site) -> None:
    """Take the final name of the image away, as a power cut does."""
    assert site._store()
    for path in images(site):
        assert _incoming(path).exists()
        path.unlink()
    site.files = site.a_store()  # the one that died settles nothing


def _earlier(site: Site) -> None:
    site.clock.advance(-7200)


def _leave_strays(site: Site) -> None:
    """Leave what receivers leave that die: one file before it had its final name, one after."""
    (path,) = images(site)
    name = f"{path.stem[:12]}{'0' * 20}"
    path.with_name(f"{name}.dcm").write_bytes(path.read_bytes())
    _incoming(path).with_name(f"{name[:-1]}1.part").write_bytes(b"half")
    site.grow_old()


def _is_reconciled(site: Site) -> bool:
    folder = site.folder / "images"
    return list(folder.rglob("*.dcm")) == images(site) and not list((folder / "incoming").iterdir())


def _is_copied(site: Site) -> bool:
    copies = {name: list((site.folder / "copies" / name).rglob("*.dcm")) for name in KINDS}
    return all(
        [is_whole(path) for path in found] == ([True] if name in WANTED["CT"] else [])
        for name, found in copies.items()
    )


def _is(status: PerformedStatus) -> Callable[[Site], bool]:
    return lambda site: site.rows("SELECT status FROM performed_procedure_step") == [(status.value,)]


def _steps(*expected: tuple[object, ...]) -> Callable[[Site], bool]:
    return lambda site: (
        site.rows("SELECT status, offered, start_time FROM scheduled_procedure_step") == list(expected)
    )


def _either(*ways: Callable[[Site], bool]) -> Callable[[Site], bool]:
    return lambda site: any(way(site) for way in ways)


def _order(control: str, at: str) -> Callable[[Site], bool]:
    timing, number = f"1^^^20261121{at}^^R", f"M-{control}"
    status = "CA" if control == "CA" else "SC"
    message = orm(control=control, status=status, timing=timing, control_id=number)
    return lambda site: site.order(message)


def _create(site: Site) -> bool:
    return site.performed(PerformedStatus.IN_PROGRESS)


def _complete(site: Site) -> bool:
    return site.performed(PerformedStatus.COMPLETED)


_NEW, _CHANGED, _CANCELLED = (_order("NW", "1000"), _order("XO", "1200"), _order("CA", "1000"))
_AS_NEW = _steps(("SCHEDULED", 1, "100000"))
_AS_CHANGED = _steps(("SCHEDULED", 1, "120000"))
_AS_CANCELLED = _steps(("CANCELED", 0, "100000"))
_IS_CREATED, _IS_COMPLETED = _is(PerformedStatus.IN_PROGRESS), _is(PerformedStatus.COMPLETED)

FLOWS = (
    Flow("order, new", _NEW, _AS_NEW),
    Flow("order, changed", _CHANGED, _AS_CHANGED, (_NEW,), _either(_AS_NEW, _AS_CHANGED)),
    Flow("order, cancelled", _CANCELLED, _AS_CANCELLED, (_NEW,), _either(_AS_NEW, _AS_CANCELLED)),
    Flow("MPPS N-CREATE", _create, _IS_CREATED, (_NEW,), _AS_NEW),
    Flow(
        "MPPS N-SET",
        _complete,
        _IS_COMPLETED,
        (_create,),
        _either(_IS_CREATED, _IS_COMPLETED),
        is_final=True,
    ),
    Flow("C-STORE, new", Site.receive, _is_stored),
    Flow("C-STORE, the same again", Site.receive, _is_stored, (Site.receive,), _is_stored),
    Flow("sweep, route, send, settle", Site.send, _is_copied, (Site.receive,), _is_stored, patience_s=10_000),
    Flow("start after a power cut", Site.start, _is_stored, (_lose_names,), _is_stored_after_start),
    Flow(
        "remove strays", Site.reconcile, _is_reconciled, (_earlier, Site.receive, _leave_strays), _is_stored
    ),
)
