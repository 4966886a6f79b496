"""Remembers what devices did and who was refused, off the path that answers them.

Everything is counted in memory, bounded, and written together a moment later by a thread of its own. A crash loses
the last second of this record, and nothing else.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, NamedTuple

import structlog

from broker.dicom.association_log import AssociationLog
from broker.dicom.network import pdu
from broker.dicom.network.dimse import CommandField
from broker.dicom.network.service import CloseReason, Knock, Peer, Request
from broker.domain.events import Event, EventName, Subject
from broker.domain.knocks import KnockReason
from broker.domain.wording import counted
from broker.errors import BrokerError
from broker.workflow.devices_port import MANY, Conversation, KnockKey, Knocks, Sign, is_done
from broker.workflow.unit_of_work import UnitsOfWork

_MOST_KNOCKS: Final = 500
_MOST_SIGNS: Final = 2000
_MOST_CONVERSATIONS: Final = 1000
_WHAT: Final = {
    CommandField.C_ECHO_RQ: "echo",
    CommandField.C_FIND_RQ: "list",
    CommandField.N_CREATE_RQ: "exam",
    CommandField.N_SET_RQ: "exam",
    CommandField.C_STORE_RQ: "images",
}
_REASONS: Final = {
    pdu.CALLED_AE_TITLE_NOT_RECOGNIZED: KnockReason.WRONG_CALLED,
    pdu.CALLING_AE_TITLE_NOT_RECOGNIZED: KnockReason.UNKNOWN_TITLE,
    pdu.NO_REASON_GIVEN: KnockReason.NO_SERVICE,
    pdu.APPLICATION_CONTEXT_NOT_SUPPORTED: KnockReason.NOT_DICOM,
    pdu.PROTOCOL_VERSION_NOT_SUPPORTED: KnockReason.NOT_DICOM,
    pdu.TEMPORARY_CONGESTION: KnockReason.BUSY,
    pdu.LOCAL_LIMIT_EXCEEDED: KnockReason.BUSY,
}
_LOOPBACK: Final = ("127.", "::1")

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Talk:
    """An open association."""

    peer: Peer
    began_at: datetime
    served: dict[str, int] = field(default_factory=dict)
    refused: int = 0
    answers: int | None = None
    ended_at: datetime | None = None
    end: CloseReason | None = None


class _Served(NamedTuple):
    """An answered request, until a sign is made of it: most are followed by their like within the second."""

    talk: _Talk
    what: str
    status: int
    at: datetime
    number: int


class DeviceLog:
    """Is the AssociationObserver of a listener: tells the log at once and the database a moment later."""

    def __init__(
        self,
        units_of_work: UnitsOfWork,
        now: Callable[[], datetime],
        *,
        own_titles: frozenset[str],
        listed: frozenset[str],
        interval_s: float = 1.0,
    ) -> None:
        """Remember nothing of `own_titles`: that is the broker proving to itself that it serves."""
        self._units_of_work = units_of_work
        self._now = now
        self._own_titles = own_titles
        self._listed = listed
        self._interval_s = interval_s
        self._told = AssociationLog()
        self._lock = threading.Lock()
        self._open: dict[str, _Talk] = {}
        self._knocks: dict[KnockKey, Knocks] = {}
        self._signs: dict[tuple[str, str], _Served] = {}
        self._ended: deque[_Talk] = deque(maxlen=_MOST_CONVERSATIONS)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start writing."""
        self._thread = threading.Thread(target=self._run, name="device-log", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and stop."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=10.0)
        self.flush()

    # ---- what a listener tells (AssociationObserver) ----

    def opened(self, peer: Peer) -> None:
        """Take note of a new association."""
        if peer.calling_ae_title not in self._own_titles:
            self._open[peer.association_id] = _Talk(peer, self._now())

    def refused(self, knock: Knock) -> None:
        """Take note of who was turned away, and why."""
        self._told.refused(knock)
        reason = self._reason(knock)
        if reason is KnockReason.SILENT and knock.address.startswith(_LOOPBACK):
            return  # we ourselves, and monitors of this machine, try whether the port is there
        key = KnockKey(knock.calling_ae_title or "", knock.called_ae_title or "", knock.address, reason)
        now = self._now()
        with self._lock:
            if key not in self._knocks and len(self._knocks) >= _MOST_KNOCKS:
                key = KnockKey(MANY, MANY, MANY, reason)
            known = self._knocks.get(key)
            self._knocks[key] = (
                replace(known, number=known.number + 1, last_at=now)
                if known is not None
                else Knocks(key, 1, now, now)
            )

    def closed(self, peer: Peer, reason: CloseReason) -> None:
        """Take note of the end of an association."""
        talk = self._open.pop(peer.association_id, None)
        if talk is not None:
            talk.ended_at, talk.end = self._now(), reason
            self._ended.append(talk)

    def served(self, request: Request, status: int, *, seconds: float, data_set_bytes: int) -> None:  # noqa: ARG002
        """Take note of an answered request."""
        talk = self._open.get(request.peer.association_id)
        if talk is None:
            return
        what = _WHAT.get(request.command.field)
        if what is None:
            return
        number = talk.served[what] = talk.served.get(what, 0) + 1
        if status and not is_done(status):
            talk.refused += 1
        key = (talk.peer.calling_ae_title, what)
        with self._lock:
            if key in self._signs or len(self._signs) < _MOST_SIGNS:
                self._signs[key] = _Served(talk, what, status, self._now(), number)

    def answered(self, association_id: str, answers: int) -> None:
        """Take note of how many entries a worklist query was answered with."""
        talk = self._open.get(association_id)
        if talk is not None:
            talk.answers = answers

    # ---- writing ----

    def flush(self) -> None:
        """Write what waits; when that is not possible it waits on."""
        with self._lock:
            knocks, self._knocks = self._knocks, {}
            signs, self._signs = self._signs, {}
        talks = [self._ended.popleft() for _ in range(len(self._ended))]
        if not (knocks or signs or talks):
            return
        try:
            with self._units_of_work() as uow:
                uow.devices.note_signs([_sign(one) for one in signs.values()], listed=self._listed)
                uow.devices.note_conversations([_conversation(talk) for talk in talks])
                for knock in uow.devices.note_knocks(list(knocks.values())):
                    uow.record(_event(knock))
                uow.commit()
        except BrokerError as error:
            log.warning("devices not recorded", error=type(error).__name__)
            self._keep(knocks, signs, talks)

    def _keep(
        self,
        knocks: dict[KnockKey, Knocks],
        signs: dict[tuple[str, str], _Served],
        talks: list[_Talk],
    ) -> None:
        """Put back what could not be written, where nothing newer has come."""
        with self._lock:
            for key, knock in knocks.items():
                newer = self._knocks.get(key)
                self._knocks[key] = (
                    knock
                    if newer is None
                    else replace(newer, number=newer.number + knock.number, first_at=knock.first_at)
                )
            for place, sign in signs.items():
                self._signs.setdefault(place, sign)
        self._ended.extendleft(reversed(talks[max(0, len(talks) + len(self._ended) - _MOST_CONVERSATIONS) :]))

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            self.flush()

    def _reason(self, knock: Knock) -> KnockReason:
        if knock.rejection is None:
            if knock.reason.startswith("the TLS handshake failed"):
                return KnockReason.TLS
            return (
                KnockReason.SILENT
                if "before an association" in knock.reason or "in time" in knock.reason
                else (KnockReason.NOT_DICOM)
            )
        reason = _REASONS.get(knock.rejection, KnockReason.NOT_DICOM)
        if reason is KnockReason.UNKNOWN_TITLE and knock.calling_ae_title in self._listed:
            return KnockReason.ELSEWHERE
        return reason


def _conversation(talk: _Talk) -> Conversation:
    assert talk.ended_at is not None
    assert talk.end is not None
    return Conversation(
        ae_title=talk.peer.calling_ae_title,
        association=talk.peer.association_id,
        address=talk.peer.address,
        implementation=talk.peer.implementation_version or talk.peer.implementation_class_uid,
        began_at=talk.began_at,
        ended_at=talk.ended_at,
        served=talk.served,
        refused=talk.refused,
        end=talk.end.value,
    )


def _sign(served: _Served) -> Sign:
    detail, peer = "", served.talk.peer
    answers = served.talk.answers
    if served.what == "list" and answers is not None:
        detail = counted(answers, "entry")
    elif served.what == "images":
        detail = f"{counted(served.number, 'image')} in one association"
    return Sign(peer.calling_ae_title, served.what, served.at, served.status, detail, peer.address)


def _event(knock: Knocks) -> Event:
    return Event(
        EventName.DEVICE_REFUSED,
        Subject.DEVICE,
        actor=knock.key.ae_title or knock.key.address,
        details={
            "address": knock.key.address,
            "called": knock.key.called_ae_title,
            "reason": knock.key.reason.words,
            "wire": knock.key.reason.wire,
            "times": knock.number,
        },
    )
