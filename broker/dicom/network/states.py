"""Hold the association state machine of PS3.8 section 9.2 as the table it is.

Two rules. Every move an association can make stands in TRANSITIONS. What does not stand there is illegal:
for our own side it raises LocalMistake and nothing changes; for the peer's side the last lines of this file
say how the standard answers (AA-1, AA-8, AA-6 or AA-7), and the association ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType


class Role(Enum):
    """Say which end of the association we are."""

    REQUESTOR = "requestor"
    ACCEPTOR = "acceptor"


class State(Enum):
    """Name the states of PS3.8 tables 9-1 to 9-5."""

    IDLE = "Sta1"  # no transport connection
    AWAITING_REQUEST = "Sta2"  # transport open, waiting for A-ASSOCIATE-RQ
    AWAITING_LOCAL_ANSWER = "Sta3"  # request is here, waiting for our accept or reject
    AWAITING_TRANSPORT = "Sta4"  # waiting for the transport to open
    AWAITING_ANSWER = "Sta5"  # request is sent, waiting for accept or reject
    ESTABLISHED = "Sta6"  # ready for data
    AWAITING_RELEASE_REPLY = "Sta7"  # we asked for release
    AWAITING_LOCAL_RELEASE = "Sta8"  # the peer asked for release
    COLLISION_REQUESTOR_LOCAL = "Sta9"  # both asked, we are the requestor and answer first
    COLLISION_ACCEPTOR_REPLY = "Sta10"  # both asked, we are the acceptor and wait first
    COLLISION_REQUESTOR_REPLY = "Sta11"  # both asked, we answered and wait for the peer's answer
    COLLISION_ACCEPTOR_LOCAL = "Sta12"  # both asked, the peer answered and we answer now
    AWAITING_CLOSE = "Sta13"  # nothing more to say, waiting for the transport to close

    # Members are singletons; Enum's own hash is computed in Python, and every PDU looks its move up.
    __hash__ = object.__hash__


class Stimulus(Enum):
    """Name the events of PS3.8 table 9-10."""

    ASSOCIATE = "Evt1"
    TRANSPORT_OPEN = "Evt2"
    ACCEPT_PDU = "Evt3"
    REJECT_PDU = "Evt4"
    TRANSPORT_ACCEPTED = "Evt5"
    REQUEST_PDU = "Evt6"
    ACCEPT = "Evt7"
    REJECT = "Evt8"
    DATA = "Evt9"
    DATA_PDU = "Evt10"
    RELEASE = "Evt11"
    RELEASE_RQ_PDU = "Evt12"
    RELEASE_RP_PDU = "Evt13"
    RELEASE_REPLY = "Evt14"
    ABORT = "Evt15"
    ABORT_PDU = "Evt16"
    TRANSPORT_CLOSED = "Evt17"
    ARTIM_EXPIRED = "Evt18"
    INVALID_PDU = "Evt19"

    __hash__ = object.__hash__  # as of State


class Action(Enum):
    """Name the actions of PS3.8 tables 9-6 to 9-9."""

    AE_1 = "open the transport"
    AE_2 = "send A-ASSOCIATE-RQ"
    AE_3 = "tell that the association is accepted"
    AE_4 = "tell that the association is rejected, close the transport"
    AE_5 = "answer the transport, start ARTIM"
    AE_6 = "stop ARTIM, tell that an association is requested"
    AE_7 = "send A-ASSOCIATE-AC"
    AE_8 = "send A-ASSOCIATE-RJ, start ARTIM"
    DT_1 = "send P-DATA-TF"
    DT_2 = "tell that data has come"
    AR_1 = "send A-RELEASE-RQ"
    AR_2 = "tell that release is requested"
    AR_3 = "tell that the association is released, close the transport"
    AR_4 = "send A-RELEASE-RP, start ARTIM"
    AR_5 = "stop ARTIM"
    AR_6 = "tell that data has come, after we asked for release"
    AR_7 = "send P-DATA-TF, after the peer asked for release"
    AR_8 = "tell that release requests have collided"
    AR_9 = "send A-RELEASE-RP"
    AR_10 = "tell that the peer confirmed release"
    AA_1 = "send A-ABORT as the service user, start ARTIM"
    AA_2 = "stop ARTIM, close the transport"
    AA_3 = "tell that the peer aborted, close the transport"
    AA_4 = "tell that the transport is lost"
    AA_5 = "stop ARTIM, nobody ever spoke"
    AA_6 = "ignore the PDU"
    AA_7 = "send A-ABORT again"
    AA_8 = "send A-ABORT as the service provider, tell it, start ARTIM"


Move = tuple[Action, State]
_A, _S, _E = Action, State, Stimulus

TRANSITIONS: Mapping[tuple[State, Stimulus], Move] = MappingProxyType(
    {
        # establishment
        (_S.IDLE, _E.ASSOCIATE): (_A.AE_1, _S.AWAITING_TRANSPORT),
        (_S.AWAITING_TRANSPORT, _E.TRANSPORT_OPEN): (_A.AE_2, _S.AWAITING_ANSWER),
        (_S.AWAITING_ANSWER, _E.ACCEPT_PDU): (_A.AE_3, _S.ESTABLISHED),
        (_S.AWAITING_ANSWER, _E.REJECT_PDU): (_A.AE_4, _S.IDLE),
        (_S.IDLE, _E.TRANSPORT_ACCEPTED): (_A.AE_5, _S.AWAITING_REQUEST),
        (_S.AWAITING_REQUEST, _E.REQUEST_PDU): (_A.AE_6, _S.AWAITING_LOCAL_ANSWER),
        (_S.AWAITING_LOCAL_ANSWER, _E.ACCEPT): (_A.AE_7, _S.ESTABLISHED),
        (_S.AWAITING_LOCAL_ANSWER, _E.REJECT): (_A.AE_8, _S.AWAITING_CLOSE),
        # data
        (_S.ESTABLISHED, _E.DATA): (_A.DT_1, _S.ESTABLISHED),
        (_S.ESTABLISHED, _E.DATA_PDU): (_A.DT_2, _S.ESTABLISHED),
        # release
        (_S.ESTABLISHED, _E.RELEASE): (_A.AR_1, _S.AWAITING_RELEASE_REPLY),
        (_S.ESTABLISHED, _E.RELEASE_RQ_PDU): (_A.AR_2, _S.AWAITING_LOCAL_RELEASE),
        (_S.AWAITING_RELEASE_REPLY, _E.DATA_PDU): (_A.AR_6, _S.AWAITING_RELEASE_REPLY),
        (_S.AWAITING_RELEASE_REPLY, _E.RELEASE_RP_PDU): (_A.AR_3, _S.IDLE),
        (_S.AWAITING_LOCAL_RELEASE, _E.DATA): (_A.AR_7, _S.AWAITING_LOCAL_RELEASE),
        (_S.AWAITING_LOCAL_RELEASE, _E.RELEASE_REPLY): (_A.AR_4, _S.AWAITING_CLOSE),
        # release collision; which of the two states follows is in COLLISION
        (_S.COLLISION_REQUESTOR_LOCAL, _E.RELEASE_REPLY): (_A.AR_9, _S.COLLISION_REQUESTOR_REPLY),
        (_S.COLLISION_ACCEPTOR_REPLY, _E.RELEASE_RP_PDU): (_A.AR_10, _S.COLLISION_ACCEPTOR_LOCAL),
        (_S.COLLISION_REQUESTOR_REPLY, _E.RELEASE_RP_PDU): (_A.AR_3, _S.IDLE),
        (_S.COLLISION_ACCEPTOR_LOCAL, _E.RELEASE_REPLY): (_A.AR_4, _S.AWAITING_CLOSE),
        # our abort
        (_S.AWAITING_LOCAL_ANSWER, _E.ABORT): (_A.AA_1, _S.AWAITING_CLOSE),
        (_S.AWAITING_TRANSPORT, _E.ABORT): (_A.AA_2, _S.IDLE),
        (_S.AWAITING_ANSWER, _E.ABORT): (_A.AA_1, _S.AWAITING_CLOSE),
        (_S.ESTABLISHED, _E.ABORT): (_A.AA_1, _S.AWAITING_CLOSE),
        (_S.AWAITING_RELEASE_REPLY, _E.ABORT): (_A.AA_1, _S.AWAITING_CLOSE),
        (_S.AWAITING_LOCAL_RELEASE, _E.ABORT): (_A.AA_1, _S.AWAITING_CLOSE),
        (_S.COLLISION_REQUESTOR_LOCAL, _E.ABORT): (_A.AA_1, _S.AWAITING_CLOSE),
        (_S.COLLISION_ACCEPTOR_REPLY, _E.ABORT): (_A.AA_1, _S.AWAITING_CLOSE),
        (_S.COLLISION_REQUESTOR_REPLY, _E.ABORT): (_A.AA_1, _S.AWAITING_CLOSE),
        (_S.COLLISION_ACCEPTOR_LOCAL, _E.ABORT): (_A.AA_1, _S.AWAITING_CLOSE),
        # the peer's abort
        (_S.AWAITING_REQUEST, _E.ABORT_PDU): (_A.AA_2, _S.IDLE),
        (_S.AWAITING_LOCAL_ANSWER, _E.ABORT_PDU): (_A.AA_3, _S.IDLE),
        (_S.AWAITING_ANSWER, _E.ABORT_PDU): (_A.AA_3, _S.IDLE),
        (_S.ESTABLISHED, _E.ABORT_PDU): (_A.AA_3, _S.IDLE),
        (_S.AWAITING_RELEASE_REPLY, _E.ABORT_PDU): (_A.AA_3, _S.IDLE),
        (_S.AWAITING_LOCAL_RELEASE, _E.ABORT_PDU): (_A.AA_3, _S.IDLE),
        (_S.COLLISION_REQUESTOR_LOCAL, _E.ABORT_PDU): (_A.AA_3, _S.IDLE),
        (_S.COLLISION_ACCEPTOR_REPLY, _E.ABORT_PDU): (_A.AA_3, _S.IDLE),
        (_S.COLLISION_REQUESTOR_REPLY, _E.ABORT_PDU): (_A.AA_3, _S.IDLE),
        (_S.COLLISION_ACCEPTOR_LOCAL, _E.ABORT_PDU): (_A.AA_3, _S.IDLE),
        (_S.AWAITING_CLOSE, _E.ABORT_PDU): (_A.AA_2, _S.IDLE),
        # the transport is gone
        (_S.AWAITING_REQUEST, _E.TRANSPORT_CLOSED): (_A.AA_5, _S.IDLE),
        (_S.AWAITING_LOCAL_ANSWER, _E.TRANSPORT_CLOSED): (_A.AA_4, _S.IDLE),
        (_S.AWAITING_TRANSPORT, _E.TRANSPORT_CLOSED): (_A.AA_4, _S.IDLE),
        (_S.AWAITING_ANSWER, _E.TRANSPORT_CLOSED): (_A.AA_4, _S.IDLE),
        (_S.ESTABLISHED, _E.TRANSPORT_CLOSED): (_A.AA_4, _S.IDLE),
        (_S.AWAITING_RELEASE_REPLY, _E.TRANSPORT_CLOSED): (_A.AA_4, _S.IDLE),
        (_S.AWAITING_LOCAL_RELEASE, _E.TRANSPORT_CLOSED): (_A.AA_4, _S.IDLE),
        (_S.COLLISION_REQUESTOR_LOCAL, _E.TRANSPORT_CLOSED): (_A.AA_4, _S.IDLE),
        (_S.COLLISION_ACCEPTOR_REPLY, _E.TRANSPORT_CLOSED): (_A.AA_4, _S.IDLE),
        (_S.COLLISION_REQUESTOR_REPLY, _E.TRANSPORT_CLOSED): (_A.AA_4, _S.IDLE),
        (_S.COLLISION_ACCEPTOR_LOCAL, _E.TRANSPORT_CLOSED): (_A.AA_4, _S.IDLE),
        (_S.AWAITING_CLOSE, _E.TRANSPORT_CLOSED): (_A.AR_5, _S.IDLE),
        # patience is over
        (_S.AWAITING_REQUEST, _E.ARTIM_EXPIRED): (_A.AA_2, _S.IDLE),
        (_S.AWAITING_CLOSE, _E.ARTIM_EXPIRED): (_A.AA_2, _S.IDLE),
    }
)

_KNOWN = dict(TRANSITIONS)  # looked up for every PDU, and a view costs more than what it shows

# PS3.8 table 9-7, AR-8: release requests have collided.
COLLISION: Mapping[Role, Move] = MappingProxyType(
    {
        Role.REQUESTOR: (_A.AR_8, _S.COLLISION_REQUESTOR_LOCAL),
        Role.ACCEPTOR: (_A.AR_8, _S.COLLISION_ACCEPTOR_REPLY),
    }
)

PDU_STIMULI = frozenset(
    {
        _E.ACCEPT_PDU,
        _E.REJECT_PDU,
        _E.REQUEST_PDU,
        _E.DATA_PDU,
        _E.RELEASE_RQ_PDU,
        _E.RELEASE_RP_PDU,
        _E.ABORT_PDU,
        _E.INVALID_PDU,
    }
)
_WITHOUT_TRANSPORT = frozenset({_S.IDLE, _S.AWAITING_TRANSPORT})


class LocalMistake(Exception):
    """Our own side asked for something the association's state does not allow."""

    def __init__(self, state: State, stimulus: Stimulus) -> None:
        super().__init__(f"{stimulus.name} is not possible in {state.value} ({state.name})")
        self.state = state
        self.stimulus = stimulus


def move(state: State, stimulus: Stimulus, role: Role) -> Move:
    """Return the action and the next state, or raise LocalMistake when our own side is wrong."""
    known = _KNOWN.get((state, stimulus))
    if known is not None:
        return known
    if state is _S.AWAITING_RELEASE_REPLY and stimulus is _E.RELEASE_RQ_PDU:
        return COLLISION[role]
    if stimulus not in PDU_STIMULI or state in _WITHOUT_TRANSPORT:
        raise LocalMistake(state, stimulus)
    # From here on the peer is wrong; PS3.8 table 9-10, the columns of unexpected and invalid PDUs.
    if state is _S.AWAITING_REQUEST:
        return (_A.AA_1, _S.AWAITING_CLOSE)
    if state is _S.AWAITING_CLOSE:
        again = stimulus in (_E.REQUEST_PDU, _E.INVALID_PDU)
        return (_A.AA_7 if again else _A.AA_6, _S.AWAITING_CLOSE)
    return (_A.AA_8, _S.AWAITING_CLOSE)
