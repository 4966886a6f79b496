"""Say who was turned away and why: without it nobody finds out why a scanner gets no worklist.

A peer that knocks a thousand times a second must not fill the disk: the same refusal is told once a minute,
with how often it came since.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from broker.dicom.network import pdu
from broker.dicom.network.service import CloseReason, Knock, Peer, Request
from broker.workflow.once_a_minute import OnceAMinute

_WORDS: Final = {
    pdu.CALLED_AE_TITLE_NOT_RECOGNIZED: "it calls another AE title than ours",
    pdu.CALLING_AE_TITLE_NOT_RECOGNIZED: "its AE title is not among our devices, or not at this address",
    pdu.APPLICATION_CONTEXT_NOT_SUPPORTED: "it does not speak DICOM",
    pdu.PROTOCOL_VERSION_NOT_SUPPORTED: "it does not speak this version of DICOM",
    pdu.NO_REASON_GIVEN: "nothing it asks for is offered here, or its PDUs are too small",
    pdu.TEMPORARY_CONGESTION: "too much is going on",
    pdu.LOCAL_LIMIT_EXCEEDED: "there are too many associations",
}

log = structlog.get_logger(__name__)


class AssociationLog:
    """Be the AssociationObserver of a listener that people look after."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Have told nothing yet."""
        self._once = OnceAMinute(monotonic)

    def opened(self, peer: Peer) -> None:
        """Do nothing: what an association does is told by its services."""

    def refused(self, knock: Knock) -> None:
        """Tell who was refused and why, each once a minute."""
        reason = _why(knock)
        unsaid = self._once.unsaid((knock.address, knock.calling_ae_title, knock.called_ae_title, reason))
        if unsaid is None:
            return
        say = log.info if knock.rejection is None else log.warning  # monitors connect and go away again
        say(
            "association refused",
            peer=knock.address,
            calling_ae_title=knock.calling_ae_title,
            called_ae_title=knock.called_ae_title,
            reason=reason,
            repeated=unsaid,
        )

    def closed(self, peer: Peer, reason: CloseReason) -> None:
        """Do nothing: violations are told where they are found."""

    def served(self, request: Request, status: int, *, seconds: float, data_set_bytes: int) -> None:
        """Do nothing: services tell what they refuse."""


def _why(knock: Knock) -> str:
    """Say it in words; a connection that was turned away before it asked brings its own."""
    if knock.rejection is None or knock.called_ae_title is None:
        return knock.reason
    return _WORDS.get(knock.rejection, knock.reason)
