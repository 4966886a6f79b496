"""Say what a DICOM service must be, so that the association engine can serve it (PS3.7 sections 9 and 10).

A service sees typed requests and gives typed answers. It never sees a socket, a PDU or a thread, and it may
block: each association has a thread of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple, Protocol

from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.pdu import Rejection


class Peer(NamedTuple):
    """Describe one association, as much as a service may know of it."""

    association_id: str
    calling_ae_title: str
    called_ae_title: str
    address: str
    tls_subject: str | None
    implementation_class_uid: str
    implementation_version: str
    max_pdu_bytes: int


@dataclass(frozen=True, slots=True)
class PresentationContext:
    """Describe one accepted presentation context."""

    id: int
    abstract_syntax: str
    transfer_syntax: str
    extended_negotiation: bytes | None = None  # what we granted of the peer's proposal for this SOP class


class Request(NamedTuple):
    """Hold one DIMSE request whose command is decoded and checked."""

    peer: Peer
    context: PresentationContext
    command: Command
    received_at_monotonic: float


class Response(NamedTuple):
    """Answer a request, once or as one of several pending answers."""

    status: int
    data_set: bytes | None = None
    error_comment: str | None = None
    error_id: int | None = None
    offending_elements: tuple[int, ...] = ()
    attribute_identifier_list: tuple[int, ...] = ()
    affected_sop_instance_uid: str | None = None
    event_type_id: int | None = None
    action_type_id: int | None = None
    remaining_suboperations: int | None = None
    completed_suboperations: int | None = None
    failed_suboperations: int | None = None
    warning_suboperations: int | None = None


class Matches(NamedTuple):
    """Answer a query with several pending answers that say nothing but their status: a data set for each."""

    status: int
    data_sets: Sequence[bytes]


ONLY_STATUS: Final = Response(0)[2:]
"""What stands behind the status and the data set of a response that has nothing else to say."""


class ServiceError(Exception):
    """A service refuses a request with the given answer."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"status {response.status:04X}")
        self.response = response


class Receiver(Protocol):
    """Take one request's data set and answer it."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes of the data set; `data` is valid only during the call.

        May raise ServiceError to refuse early: the engine then drains the rest, bounded, and answers that.
        """

    def finish(self, cancelled: Callable[[], bool]) -> Iterable[Response | Matches]:
        """Answer, once all bytes are in, or at once when there is no data set.

        Iterated lazily: every pending answer is sent with back-pressure, and iteration stops when the peer
        cancels. A last pending answer is followed by 0000, or FE00 when cancelled, unless one was given.
        """

    def abandon(self) -> None:
        """Let go of what is held: the association died, or the request was refused, before `finish`."""


class Service(Protocol):
    """Serve the requests of one SOP class, or of several."""

    def begin(self, request: Request) -> Receiver:
        """Start serving one request; may raise ServiceError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOffer:
    """Say what one listener offers for one abstract syntax."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    """In order of preference; empty: the first proposed one, Explicit VR Little Endian before Implicit."""
    service: Service
    operations: frozenset[CommandField]
    data_set_limit_bytes: int | None
    sop_classes: frozenset[str] = frozenset()
    """Further SOP classes a command may name in this context (UPS, Print Meta classes); normally none."""
    extended_negotiation: Callable[[bytes], bytes | None] | None = None
    """Answers the SOP class's extended negotiation (PS3.7 D.3.3.5); None means: not supported, no reply."""
    requestor_may_be_scp: bool = False
    """Grant the requestor the SCP role when it asks (PS3.7 D.3.3.4), so that it may send events to us."""
    idle_timeout_s: float | None = None
    """How long an association with this offer may be idle; None: the listener's default."""


class AssociationPolicy(Protocol):
    """Decide who may talk."""

    def admit(
        self, calling_ae_title: str, called_ae_title: str, address: str, tls_subject: str | None
    ) -> Rejection | None:
        """Return why this association is rejected, or None to let it in."""

    def listed(self, address: str) -> bool:
        """Tell whether this address is a known peer, exempt from the limit per unlisted address."""


class CloseReason(Enum):
    """Say how an association ended."""

    RELEASED = "the peer released it"
    PEER_ABORTED = "the peer aborted it"
    CONNECTION_LOST = "the connection was lost"
    IDLE = "it was idle for too long"
    TOO_SLOW = "the peer was too slow"
    VIOLATION = "the peer broke the protocol"
    STOPPED = "the listener stopped"
    FAILED = "we failed"


@dataclass(frozen=True, slots=True)
class Knock:
    """Describe a connection that did not become an association."""

    address: str
    calling_ae_title: str | None
    called_ae_title: str | None
    tls_subject: str | None
    rejection: Rejection | None
    reason: str


class AssociationObserver(Protocol):
    """Be told what happens on a listener; must not block and must not raise."""

    def opened(self, peer: Peer) -> None:
        """Take note of a new association."""

    def refused(self, knock: Knock) -> None:
        """Take note of a connection that was refused or never asked."""

    def closed(self, peer: Peer, reason: CloseReason) -> None:
        """Take note of the end of an association."""

    def served(self, request: Request, status: int, *, seconds: float, data_set_bytes: int) -> None:
        """Take note of an answered request."""


class BufferedReceiver:
    """Collect an identifier or attribute list (the engine bounds it), then answer it with a function."""

    __slots__ = ("_answer", "_parts")

    def __init__(self, answer: Callable[[bytes, Callable[[], bool]], Iterable[Response | Matches]]) -> None:
        self._answer = answer
        self._parts: list[bytes] = []

    def write(self, data: memoryview) -> None:
        """Keep a copy of the bytes."""
        self._parts.append(bytes(data))

    def finish(self, cancelled: Callable[[], bool]) -> Iterable[Response | Matches]:
        """Call the function with everything that came."""
        return self._answer(b"".join(self._parts), cancelled)

    def abandon(self) -> None:
        """Forget the bytes."""
        self._parts.clear()
