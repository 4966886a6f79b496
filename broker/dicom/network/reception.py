"""Bring a connection to an association, or refuse it: PS3.8 7.1, from the first byte to Sta6."""

from __future__ import annotations

import time
from typing import Protocol

import structlog

from broker.dicom.network import pdu
from broker.dicom.network.channel import Channel
from broker.dicom.network.limits import ServerLimits
from broker.dicom.network.negotiation import Agreement, Negotiator, Offers
from broker.dicom.network.pdu import AbortSource, MalformedPdu, Rejection
from broker.dicom.network.service import AssociationObserver, AssociationPolicy, Knock
from broker.dicom.network.upper_layer import AssociationRequested, PeerViolated, UpperLayer

log = structlog.get_logger(__name__)


class Place(Protocol):
    """Be one connection's place among the others of its listener."""

    association_id: str
    address: str
    tls_subject: str | None

    idle: bool
    """Set while the association may be interrupted without harm."""

    def take_association(self) -> bool:
        """Move from the newcomers to the associations; False when there is no room."""

    def is_stopping(self) -> bool:
        """Tell whether the listener stops."""


class Reception:
    """Decide for one listener who becomes an association."""

    def __init__(
        self,
        offers: Offers,
        *,
        policy: AssociationPolicy,
        limits: ServerLimits,
        observer: AssociationObserver,
    ) -> None:
        """Take what the listener offers, and who may have it."""
        self.limits = limits
        self.observer = observer
        self._policy = policy
        self._negotiator = Negotiator(
            offers,
            advertised_pdu_bytes=limits.advertised_pdu_bytes,
            smallest_peer_pdu_bytes=limits.smallest_peer_pdu_bytes,
        )

    def establish(
        self, upper: UpperLayer, channel: Channel, place: Place, *, deadline: float
    ) -> Agreement | None:
        """Bring the association to Sta6, or refuse it and tell why."""
        try:
            event = upper.next_event()
            while event is None:
                count = channel.receive_into(upper.receive_space(), deadline - time.monotonic())
                if count == 0:
                    self._knock(place, "the connection was closed before an association was requested")
                    return None
                upper.received(count)
                event = upper.next_event()
                if event is None and time.monotonic() > deadline:
                    raise TimeoutError
            if not isinstance(event, AssociationRequested):
                what = event.what if isinstance(event, PeerViolated) else "the peer aborted at once"
                if isinstance(event, PeerViolated):
                    self._say(channel, upper.take_output())
                    channel.finish_sending()
                self._knock(place, what)
                return None
            try:
                agreement = self._negotiator.agree(event.raw)
            except MalformedPdu as malformed:
                self._abort(upper, channel, place, malformed)
                self._knock(place, malformed.what)
                return None
            rejection = agreement.rejection or self._judge(agreement.request, place)
            if rejection is not None:
                self._say(channel, upper.reject(rejection))
                self._knock(place, "the association was rejected", agreement.request, rejection)
                return None
            self._say(channel, upper.accept(agreement.encoded_accept))
        except TimeoutError:
            self._knock(place, "no association was requested in time")
            return None
        except OSError:
            self._knock(place, "the connection was lost before an association was requested")
            return None
        return agreement

    def _judge(self, request: pdu.AssociateRequest, place: Place) -> Rejection | None:
        """Judge what depends on more than the request itself."""
        rejection = self._policy.admit(
            request.calling_ae_title, request.called_ae_title, place.address, place.tls_subject
        )
        if rejection is not None:
            return rejection
        return None if place.take_association() else pdu.LOCAL_LIMIT_EXCEEDED

    def _say(self, channel: Channel, output: bytes) -> None:
        limits = self.limits
        channel.send((output,), timeout_s=limits.send_s, min_bytes_per_s=limits.min_bytes_per_s)

    def _abort(self, upper: UpperLayer, channel: Channel, place: Place, malformed: MalformedPdu) -> None:
        try:
            self._say(channel, upper.abort(AbortSource.SERVICE_PROVIDER, malformed.reason))
            channel.finish_sending()
        except OSError:
            log.debug("abort not delivered", association=place.association_id)

    def _knock(
        self,
        place: Place,
        reason: str,
        request: pdu.AssociateRequest | None = None,
        rejection: Rejection | None = None,
    ) -> None:
        self.observer.refused(
            Knock(
                address=place.address,
                calling_ae_title=_shown(request.calling_ae_title) if request else None,
                called_ae_title=_shown(request.called_ae_title) if request else None,
                tls_subject=place.tls_subject,
                rejection=rejection,
                reason=reason,
            )
        )


def _shown(title: str) -> str:
    """Return a peer's AE title without anything that could forge a log line."""
    return "".join(character if character.isprintable() else "?" for character in title)[:16]
