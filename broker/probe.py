"""A synthetic exam through the broker's own sockets: order, worklist, performed step, image, delivery.

Its study is registered before anything is sent. So no other device is ever shown it, no rule is asked about its image,
the RIS is told nothing, and when it is over its rows are removed.
"""

from __future__ import annotations

import shutil
import ssl
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import structlog

from broker.bootstrap import Broker
from broker.dicom.network.client import ClientAssociation, Proposal, Reply, Timeouts, open_association
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.failures import AssociationError
from broker.dicom.network.tls import ClientTls, TlsFiles
from broker.domain.delivery import DeliveryState
from broker.domain.events import Event, EventName, Subject
from broker.errors import BrokerError
from broker.probe_messages import (
    EXPLICIT_VR_LITTLE_ENDIAN,
    MODALITY_WORKLIST,
    PERFORMED_STEP,
    SECONDARY_CAPTURE,
    Exam,
    performed_begin,
    performed_end,
    picture,
    read_study,
    worklist_query,
)
from broker.probe_order import send_order
from broker.roles import reachable
from broker.settings import DicomListener, StorageListener, Tls
from broker.workflow.probe_port import PROBE, PROBE_DESTINATION, Hop, ProbeRun

DELIVERED_WITHIN_S = 60.0
LEFT_OVER_AFTER = timedelta(minutes=10)
"""What a failed exam sent may still arrive; its rows are removed when nothing can be under way any more."""
KEPT_FOR = timedelta(days=90)
_TIMEOUTS = Timeouts(connect_s=5.0, association_s=5.0, response_s=20.0, send_s=10.0, release_s=2.0)
_BY_ITSELF = "broker"
_GOOD = (DeliveryState.DELIVERED,)
_BAD = (DeliveryState.DEAD, DeliveryState.CANCELLED)

log = structlog.get_logger()


class HopFailed(Exception):
    """A hop did not do what an exam needs."""


class Prober:
    """Runs synthetic exams on a wired broker."""

    def __init__(self, broker: Broker, *, delivered_within_s: float = DELIVERED_WITHIN_S) -> None:
        """Send nothing yet."""
        self._broker = broker
        self._delivered_within_s = delivered_within_s
        self._pause = threading.Event()

    def run(self, *, actor: str, every: timedelta | None = None) -> ProbeRun | None:
        """Run one exam and answer what became of it; None when `every` is given and the last is younger."""
        run = self.begin(actor, every)
        return None if run is None else self.finish(run)

    def finish(self, run: ProbeRun) -> ProbeRun:
        """Take an exam that has begun through its hops, and keep each."""
        exam = Exam(run.study_instance_uid, run.patient_id, self._broker.clock.local_now())
        hops: list[Hop] = []
        for name, take in self._hops(exam):
            before_s = self._broker.clock.monotonic()
            try:
                ok, detail = True, take()
            except (HopFailed, AssociationError, BrokerError, OSError) as error:
                ok, detail = False, str(error) or type(error).__name__
            except Exception as error:  # a bug here must not look like a broker that serves
                log.exception("probe")
                ok, detail = False, type(error).__name__
            hops.append(Hop(name, ok, round(self._broker.clock.monotonic() - before_s, 3), detail[:300]))
            run = replace(run, hops=tuple(hops))
            if not ok:
                break
            self._keep(run)
        run = replace(
            run, ended_at=self._broker.clock.now(), failed_hop=None if hops[-1].ok else hops[-1].name
        )
        self._keep(run)
        if run.ok:
            self.tidy()
        else:
            log.error("probe failed", hop=run.failed_hop, reason=hops[-1].detail)
        return run

    def tidy(self) -> None:
        """Remove what failed or killed exams left behind, and old results."""
        now = self._broker.clock.now()
        with self._broker.units_of_work() as uow:
            left = uow.probes.open(started_before=now - LEFT_OVER_AFTER)
            if uow.probes.forget(ended_before=now - KEPT_FOR):
                uow.commit()
        for run in left:
            self._clear(run)

    def begin(self, actor: str, every: timedelta | None = None) -> ProbeRun | None:
        """Register an exam; None when `every` is given and the last is younger."""
        token = uuid.uuid4()
        with self._broker.units_of_work() as uow:
            uow.lock("probe")
            now = self._broker.clock.now()
            last = uow.probes.last_started()
            if every is not None and last is not None and now - last < every:
                return None
            run = ProbeRun(0, f"2.25.{token.int}", f"PROBE{token.hex[:16].upper()}", actor, now)
            run = replace(run, id=uow.probes.add(run))
            if actor != _BY_ITSELF:
                started = EventName.PROBE_STARTED
                uow.record(Event(started, Subject.SYSTEM, run.id, run.study_instance_uid, actor=actor))
            uow.commit()
        return run

    def _keep(self, run: ProbeRun) -> None:
        with self._broker.units_of_work() as uow:
            uow.probes.keep(run)
            uow.commit()

    def _clear(self, run: ProbeRun) -> None:
        with self._broker.units_of_work() as uow:
            paths = uow.probes.clear(run)
            if paths is None:
                return
            uow.commit()
        for path in paths:
            self._broker.files.remove(path)
        shutil.rmtree(stub_folder(self._broker) / run.study_instance_uid, ignore_errors=True)

    # ---- the hops ----

    def _hops(self, exam: Exam) -> Sequence[tuple[str, Callable[[], str]]]:
        site = self._broker.loaded.site
        storage = site.listen.storage or site.listen.dicom
        return (
            ("order", lambda: self._order(exam)),
            ("worklist", lambda: self._worklist(exam)),
            ("begin", lambda: self._perform(exam, begins=True)),
            ("image", lambda: self._image(exam, storage)),
            ("finish", lambda: self._perform(exam, begins=False)),
            ("delivery", lambda: self._delivery(exam)),
        )

    def _order(self, exam: Exam) -> str:
        listen = self._broker.loaded.site.listen.hl7
        code, text = send_order(reachable(listen.host), listen.port, exam, tls=self._tls(listen.tls))
        if code not in {"AA", "CA"}:
            raise HopFailed(f"the order was answered {code or 'with nothing'}: {text}".rstrip(": "))
        return f"the order was answered {code}"

    def _worklist(self, exam: Exam) -> str:
        command = Command(field=CommandField.C_FIND_RQ, affected_sop_class_uid=MODALITY_WORKLIST)
        with self._association(self._broker.loaded.site.listen.dicom, MODALITY_WORKLIST) as association:
            replies = list(association.request(command, worklist_query(exam)))
        _expect("C-FIND", replies[-1])
        studies = [read_study(reply.data_set) for reply in replies if reply.is_pending and reply.data_set]
        if exam.study_instance_uid not in studies:
            raise HopFailed(f"the order is not among the {len(studies)} entries of its own worklist")
        return f"its entry is on the worklist, one of {len(studies)}"

    def _perform(self, exam: Exam, *, begins: bool) -> str:
        if begins:
            command = Command(
                field=CommandField.N_CREATE_RQ,
                affected_sop_class_uid=PERFORMED_STEP,
                affected_sop_instance_uid=exam.performed_uid,
            )
        else:
            command = Command(
                field=CommandField.N_SET_RQ,
                requested_sop_class_uid=PERFORMED_STEP,
                requested_sop_instance_uid=exam.performed_uid,
            )
        body = performed_begin(exam) if begins else performed_end(exam)
        with self._association(self._broker.loaded.site.listen.dicom, PERFORMED_STEP) as association:
            replies = list(association.request(command, body))
        _expect("N-CREATE" if begins else "N-SET", replies[-1])
        return f"{'N-CREATE IN PROGRESS' if begins else 'N-SET COMPLETED'} was taken"

    def _image(self, exam: Exam, listen: DicomListener | StorageListener) -> str:
        payload = picture(exam)
        with self._association(listen, SECONDARY_CAPTURE) as association:
            reply = association.store(
                sop_class_uid=SECONDARY_CAPTURE,
                sop_instance_uid=exam.image_uid,
                context=EXPLICIT_VR_LITTLE_ENDIAN,
                payload=payload,
            )
        _expect("C-STORE", reply)
        return f"an image of {len(payload):,} bytes was taken"

    def _delivery(self, exam: Exam) -> str:
        until_s = self._broker.clock.monotonic() + self._delivered_within_s
        seen = "no delivery was planned: is a worker there?"
        while self._broker.clock.monotonic() < until_s:
            for line in self._broker.reports.deliveries(study_instance_uid=exam.study_instance_uid):
                state = DeliveryState(line.state)
                if state in _GOOD:
                    return f"delivered to {_called(line.destination)}"
                seen = f"the delivery to {_called(line.destination)} is {line.state}: {line.reason or ''}".rstrip(
                    ": "
                )
                if state in _BAD:
                    raise HopFailed(seen)
            self._pause.wait(0.1)
        raise HopFailed(f"not within {self._delivered_within_s:.0f} s: {seen}")

    # ---- our own listeners ----

    @contextmanager
    def _association(
        self, listen: DicomListener | StorageListener, sop_class: str
    ) -> Iterator[ClientAssociation]:
        with open_association(
            reachable(listen.host),
            listen.port,
            calling_ae_title=PROBE,
            called_ae_title=self._broker.loaded.site.site.ae_title,
            contexts=[Proposal(sop_class, (EXPLICIT_VR_LITTLE_ENDIAN,))],
            timeouts=_TIMEOUTS,
            tls=self._tls(listen.tls),
        ) as association:
            yield association

    def _tls(self, tls: Tls | None) -> ClientTls | None:
        """Trust exactly the certificate the listener is configured with, and show it where one is wanted."""
        if tls is None:
            return None
        certificate, key = self._broker.path(tls.certificate), self._broker.path(tls.key)
        ours = ClientTls(
            TlsFiles(certificate=certificate, key=key, trusted=certificate), check_host_name=False
        )
        # Whoever signed it: it is the certificate itself that is trusted.
        ours.context().verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return ours


def stub_folder(broker: Broker) -> Path:
    """Answer where images of synthetic exams are delivered to when the site file says nothing else."""
    return broker.data_dir / "probe"


def _called(destination: str) -> str:
    return "the probe's own folder" if destination == PROBE_DESTINATION else destination


def _expect(what: str, reply: Reply) -> None:
    if reply.status:
        comment = reply.command.error_comment or ""
        raise HopFailed(f"{what} was answered {reply.status:04X} {comment}".rstrip())
