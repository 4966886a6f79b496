"""Say what an answer, or its absence, means: success, warning, pending or failure, and whether time heals it.

The tables below are the only place where that is decided for DICOM. Whoever sends asks `judge_status` about an
answer and `judge_error` about an association that failed; `outcome_of` turns a verdict into what a delivery
understands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType

from broker.dicom.network.failures import (
    AssociationAborted,
    AssociationError,
    AssociationLost,
    AssociationRejected,
    ConnectFailed,
    ContextNotAccepted,
    TimedOut,
)
from broker.domain.delivery import Misconfigured, Rejected, RetryLater


class StatusClass(Enum):
    """Name the classes of PS3.7 annex C."""

    SUCCESS = "success"
    WARNING = "warning"
    PENDING = "pending"
    CANCEL = "cancel"
    FAILURE = "failure"


class ServiceKind(Enum):
    """Name the services whose statuses differ."""

    STORAGE = "storage"
    QUERY = "query"
    NORMALIZED = "normalized"
    """MPPS, storage commitment and the other DIMSE-N services but print."""
    PRINT = "print"


class FailureClass(Enum):
    """Say what to do about a failure."""

    TRANSIENT = "transient"
    """Try again later."""
    CONFIG = "config"
    """Somebody must change a setting, here or there."""
    PERMANENT = "permanent"
    """It will never be taken as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Judge one failure."""

    failure_class: FailureClass
    reason: str
    max_tries: int | None = None
    """After so many tries of this kind it becomes PERMANENT, or CONFIG when `then_config`; None: for ever."""
    then_config: bool = False
    first_delay_s: float | None = None
    whole_sop_class: bool = False
    """Everything of the SOP class will fail alike."""


def _transient(
    reason: str, *, tries: int | None = None, then_config: bool = False, first_delay_s: float | None = None
) -> Verdict:
    return Verdict(
        failure_class=FailureClass.TRANSIENT,
        reason=reason,
        max_tries=tries,
        then_config=then_config,
        first_delay_s=first_delay_s,
    )


def _config(reason: str) -> Verdict:
    return Verdict(failure_class=FailureClass.CONFIG, reason=reason)


def _permanent(reason: str, *, whole_sop_class: bool = False) -> Verdict:
    return Verdict(failure_class=FailureClass.PERMANENT, reason=reason, whole_sop_class=whole_sop_class)


# PS3.8 table 9-21: (result, source, reason). A transient result (2) is judged before this table is asked.
REJECTIONS: Mapping[tuple[int, int, int], Verdict] = MappingProxyType(
    {
        (1, 1, 1): _transient(
            "the peer rejected the association without a reason", tries=5, then_config=True
        ),
        (1, 1, 2): _config("the peer does not know the DICOM application context"),
        (1, 1, 3): _config("the peer does not know our calling AE title"),
        (1, 1, 7): _config("the peer does not know the called AE title"),
        (1, 2, 1): _transient(
            "the peer rejected the association without a reason", tries=5, then_config=True
        ),
        (1, 2, 2): _config("the peer does not support our protocol version"),
        (1, 3, 1): _transient("the peer is congested"),
        (1, 3, 2): _transient("the peer has reached its limit of associations"),
    }
)
TRANSIENT_REJECTION = _transient("the peer rejected the association for now")
UNKNOWN_REJECTION = _transient("the peer rejected the association", tries=5, then_config=True)

# PS3.8 table 9-26
ABORTS: Mapping[tuple[int, int], Verdict] = MappingProxyType(
    {
        (2, 1): _transient("aborted: unrecognized PDU", tries=3),
        (2, 2): _transient("aborted: unexpected PDU", tries=3),
        (2, 4): _transient("aborted: unrecognized PDU parameter", tries=3),
        (2, 5): _transient("aborted: unexpected PDU parameter", tries=3),
        (2, 6): _transient("aborted: invalid PDU parameter", tries=3),
    }
)
UNEXPLAINED_ABORT = _transient("the association was aborted", tries=10)

# PS3.8 table 9-18, results of a presentation context
CONTEXT_RESULTS: Mapping[int | None, Verdict] = MappingProxyType(
    {
        1: _transient("the peer refused the presentation context", tries=5, then_config=True),
        2: _transient(
            "the peer refused the presentation context without a reason", tries=5, then_config=True
        ),
        3: _permanent("the peer does not support the SOP class", whole_sop_class=True),
        4: _permanent("the peer does not support the transfer syntax"),
        None: _permanent("no presentation context was proposed for it"),
    }
)

UNREACHABLE = _transient("the peer cannot be reached")
TLS_REFUSED = _config("the TLS handshake was refused")
LOST = _transient("the connection was lost")
SILENT = _transient("the peer did not answer in time")


@dataclass(frozen=True, slots=True)
class Row:
    """Judge the statuses from `first` to `last`; without a verdict they are success or warning."""

    first: int
    last: int
    meaning: StatusClass
    verdict: Verdict | None = None


def _failure(first: int, last: int, verdict: Verdict) -> Row:
    return Row(first, last, StatusClass.FAILURE, verdict)


_OUT_OF_RESOURCES = _transient("the peer is out of resources", first_delay_s=60.0)
_CANNOT_UNDERSTAND = _transient("the peer cannot understand or process it", tries=3, first_delay_s=60.0)
_UNKNOWN_STATUS = _transient("the peer answered an unknown status", tries=3)

# PS3.7 annex C: what any service may answer. The first row that holds a status decides.
GENERAL: Sequence[Row] = (
    Row(0x0000, 0x0000, StatusClass.SUCCESS),
    Row(0x0001, 0x0001, StatusClass.WARNING),  # PS3.4 table F.8.2-2: some attributes are not supported
    Row(0x0107, 0x0107, StatusClass.WARNING),
    Row(0x0116, 0x0116, StatusClass.WARNING),
    _failure(0x0105, 0x0105, _permanent("no such attribute")),
    _failure(0x0106, 0x0106, _permanent("invalid attribute value")),
    _failure(0x0110, 0x0110, _transient("processing failure", tries=5)),
    _failure(0x0111, 0x0111, _permanent("duplicate SOP instance")),
    _failure(0x0112, 0x0112, _permanent("no such SOP instance")),
    _failure(0x0113, 0x0113, _permanent("no such event type")),
    _failure(0x0114, 0x0114, _permanent("no such argument")),
    _failure(0x0115, 0x0115, _permanent("invalid argument value")),
    _failure(0x0117, 0x0117, _permanent("invalid SOP instance")),
    _failure(0x0118, 0x0118, _permanent("no such SOP class", whole_sop_class=True)),
    _failure(0x0119, 0x0119, _permanent("class and instance do not fit")),
    _failure(0x0120, 0x0120, _permanent("missing attribute")),
    _failure(0x0121, 0x0121, _permanent("missing attribute value")),
    _failure(0x0122, 0x0122, _permanent("SOP class not supported", whole_sop_class=True)),
    _failure(0x0123, 0x0123, _permanent("no such action")),
    _failure(0x0124, 0x0124, _config("not authorised")),
    _failure(0x0210, 0x0210, _transient("duplicate invocation")),
    _failure(0x0211, 0x0211, _permanent("unrecognized operation", whole_sop_class=True)),
    _failure(0x0212, 0x0212, _permanent("mistyped argument")),
    _failure(0x0213, 0x0213, _transient("resource limitation")),
    Row(0xFF00, 0xFF01, StatusClass.PENDING),
    Row(0xFE00, 0xFE00, StatusClass.CANCEL, _transient("the operation was cancelled", tries=3)),
    Row(0xB000, 0xBFFF, StatusClass.WARNING),
)

# What one service means differently, asked before GENERAL.
BY_SERVICE: Mapping[ServiceKind, Sequence[Row]] = MappingProxyType(
    {
        # PS3.4 table B.2-1
        ServiceKind.STORAGE: (
            Row(0x0111, 0x0111, StatusClass.SUCCESS),  # not a C-STORE status, but what it says is: I have it
            _failure(0xA700, 0xA7FF, _OUT_OF_RESOURCES),
            _failure(0xA900, 0xA9FF, _permanent("the data set does not match its SOP class")),
            _failure(0xC000, 0xCFFF, _CANNOT_UNDERSTAND),
        ),
        # PS3.4 tables C.4-1 and K.4-1
        ServiceKind.QUERY: (
            _failure(0xA700, 0xA7FF, _OUT_OF_RESOURCES),
            _failure(0xA900, 0xA9FF, _permanent("the identifier does not match the SOP class")),
            _failure(0xC000, 0xCFFF, _CANNOT_UNDERSTAND),
        ),
        ServiceKind.NORMALIZED: (
            _failure(0xA700, 0xA7FF, _OUT_OF_RESOURCES),
            _failure(0xC000, 0xCFFF, _CANNOT_UNDERSTAND),
        ),
        # PS3.4 tables H.4-2 to H.4-13
        ServiceKind.PRINT: (
            _failure(0x0105, 0x0105, _permanent("the printer does not know an attribute")),
            _failure(0x0106, 0x0106, _permanent("the printer does not take an attribute's value")),
            _failure(0xC600, 0xC600, _permanent("the film session has no film box")),
            _failure(0xC601, 0xC602, _transient("the print queue is full", first_delay_s=60.0)),
            _failure(0xC603, 0xC603, _permanent("the image is larger than its box")),
            _failure(0xC605, 0xC605, _transient("the printer's memory is full", first_delay_s=60.0)),
            _failure(0xC613, 0xC613, _permanent("the combined image is larger than its box")),
            _failure(0xC616, 0xC616, _permanent("an earlier film has not been printed")),
            _failure(0xA700, 0xA7FF, _OUT_OF_RESOURCES),
            _failure(0xC000, 0xCFFF, _CANNOT_UNDERSTAND),
        ),
    }
)


def _row(service: ServiceKind, status: int) -> Row:
    for row in (*BY_SERVICE[service], *GENERAL):
        if row.first <= status <= row.last:
            return row
    return Row(status, status, StatusClass.FAILURE, _UNKNOWN_STATUS)


def class_of(service: ServiceKind, status: int) -> StatusClass:
    """Return the class of a status a service answered."""
    return _row(service, status).meaning


def judge_status(service: ServiceKind, status: int) -> Verdict | None:
    """Return why a status is a failure and what to do, or None when it is none."""
    return _row(service, status).verdict


def judge_rejection(result: int, source: int, reason: int) -> Verdict:
    """Judge an A-ASSOCIATE-RJ."""
    if result == 2:  # rejected-transient
        return TRANSIENT_REJECTION
    return REJECTIONS.get((result, source, reason), UNKNOWN_REJECTION)


def judge_error(error: AssociationError) -> Verdict:
    """Judge an association that failed."""
    match error:
        case AssociationRejected():
            return judge_rejection(error.result, error.source, error.reason)
        case AssociationAborted():
            return ABORTS.get((error.source, error.reason), UNEXPLAINED_ABORT)
        case ContextNotAccepted():
            return CONTEXT_RESULTS.get(error.result, CONTEXT_RESULTS[2])
        case ConnectFailed():
            return TLS_REFUSED if error.is_configuration else UNREACHABLE
        case TimedOut():
            return SILENT
        case AssociationLost():
            return LOST
        case _:
            return UNEXPLAINED_ABORT


def outcome_of(verdict: Verdict, detail: str = "") -> RetryLater | Misconfigured | Rejected:
    """Turn a verdict into the outcome of a delivery; `detail` says which status or where."""
    reason = f"{verdict.reason} ({detail})" if detail else verdict.reason
    if verdict.failure_class is FailureClass.CONFIG:
        return Misconfigured(reason)
    if verdict.failure_class is FailureClass.PERMANENT:
        return Rejected(reason)
    return RetryLater(
        reason,
        max_tries=verdict.max_tries,
        then_config=verdict.then_config,
        first_delay_s=verdict.first_delay_s,
    )
