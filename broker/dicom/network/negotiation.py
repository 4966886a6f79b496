"""Decide what becomes of proposed presentation contexts (PS3.8 7.1.1.13, PS3.7 D.3)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from threading import Lock
from typing import Final

from broker.dicom.network import pdu
from broker.dicom.network.pdu import (
    AnsweredContext,
    AssociateAccept,
    AssociateRequest,
    ContextResult,
    Rejection,
    Roles,
)
from broker.dicom.network.service import PresentationContext, ServiceOffer
from broker.dicom.network.transfer_syntaxes import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

STORAGE_ROOT: Final = "1.2.840.10008.5.1.4.1.1."
# Storage SOP classes outside the root (PS3.4 B.5, GG.3) and the retired ones still met in the field.
FURTHER_STORAGE_SOP_CLASSES: Final = frozenset(
    {
        "1.2.840.10008.5.1.4.34.7",  # RT Beams Delivery Instruction
        "1.2.840.10008.5.1.4.34.10",  # RT Brachy Application Setup Delivery Instruction
        "1.2.840.10008.5.1.4.38.1",  # Hanging Protocol
        "1.2.840.10008.5.1.4.39.1",  # Color Palette
        "1.2.840.10008.5.1.4.43.1",  # Generic Implant Template
        "1.2.840.10008.5.1.4.44.1",  # Implant Assembly Template
        "1.2.840.10008.5.1.4.45.1",  # Implant Template Group
        "1.2.840.10008.5.1.1.27",  # Stored Print (retired)
        "1.2.840.10008.5.1.1.29",  # Hardcopy Grayscale Image (retired)
        "1.2.840.10008.5.1.1.30",  # Hardcopy Color Image (retired)
    }
)
# Services about inventories that stand inside the root (PS3.4 annex KK to MM).
_NOT_STORAGE: Final = frozenset(f"{STORAGE_ROOT}201.{service}" for service in range(2, 7))
_STANDARD_ROOT: Final = "1.2.840.10008."
_CACHE_ENTRIES: Final = 64
_CACHED_REQUEST_BYTES: Final = 32 * 1024


def is_storage_sop_class(uid: str, *, accept_unknown: bool = False) -> bool:
    """Tell whether images may come under this SOP class.

    `accept_unknown` also takes private SOP classes: whatever is not the standard's own may be an image.
    """
    if uid in _NOT_STORAGE:
        return False
    if uid.startswith(STORAGE_ROOT) or uid in FURTHER_STORAGE_SOP_CLASSES:
        return True
    return accept_unknown and not uid.startswith(_STANDARD_ROOT)


class Offers:
    """Hold what a listener offers: a fixed list, and a function for what cannot be listed."""

    def __init__(
        self,
        offers: Iterable[ServiceOffer],
        *,
        otherwise: Callable[[str], ServiceOffer | None] | None = None,
    ) -> None:
        self._offers = {offer.abstract_syntax: offer for offer in offers}
        self._otherwise = otherwise

    def find(self, abstract_syntax: str) -> ServiceOffer | None:
        """Return the offer for an abstract syntax."""
        offer = self._offers.get(abstract_syntax)
        if offer is None and self._otherwise is not None:
            return self._otherwise(abstract_syntax)
        return offer


def any_storage(offer: ServiceOffer, *, accept_unknown: bool = False) -> Callable[[str], ServiceOffer | None]:
    """Make the `otherwise` of Offers that offers `offer` for every storage SOP class."""

    def find(abstract_syntax: str) -> ServiceOffer | None:
        if is_storage_sop_class(abstract_syntax, accept_unknown=accept_unknown):
            return offer  # the context knows its abstract syntax; a copy for each would be half the cost
        return None

    return find


@dataclass(frozen=True, slots=True)
class AgreedContext:
    """Join an accepted presentation context to the offer that serves it."""

    context: PresentationContext
    offer: ServiceOffer


@dataclass(frozen=True, slots=True)
class Agreement:
    """Hold the outcome of one negotiation and the A-ASSOCIATE-AC that says so."""

    request: AssociateRequest
    contexts: dict[int, AgreedContext]
    encoded_accept: bytes
    idle_timeout_s: float | None
    rejection: Rejection | None
    """Why this request is rejected, whoever makes it."""


def choose_transfer_syntax(proposed: tuple[str, ...], offered: tuple[str, ...]) -> str | None:
    """Choose the one transfer syntax of a context, or None.

    With nothing listed everything is welcome: uncompressed first, Explicit VR before Implicit because it says
    its own types, otherwise what the peer names first.
    """
    if offered:
        return next((uid for uid in offered if uid in proposed), None)
    for uid in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN):
        if uid in proposed:
            return uid
    return next((uid for uid in proposed if pdu.is_uid(uid)), None)


def negotiate(
    request: AssociateRequest, offers: Offers, *, advertised_pdu_bytes: int, smallest_peer_pdu_bytes: int = 0
) -> Agreement:
    """Answer every proposed context and every negotiation item we know."""
    agreed: dict[int, AgreedContext] = {}
    answers: list[AnsweredContext] = []
    roles: dict[str, Roles] = {}
    extended: dict[str, bytes] = {}
    idle_timeouts: list[float] = []
    for proposed in request.contexts:
        name = proposed.abstract_syntax
        offer = offers.find(name) if pdu.is_uid(name) else None
        if offer is None:
            answers.append(_refused(proposed, ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED))
            continue
        transfer_syntax = choose_transfer_syntax(proposed.transfer_syntaxes, offer.transfer_syntaxes)
        if transfer_syntax is None:
            answers.append(_refused(proposed, ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED))
            continue
        if name in request.roles:
            asked = request.roles[name]
            # PS3.7 D.3.3.4.2: the acceptor may only take roles away
            roles[name] = Roles(scu=asked.scu, scp=asked.scp and offer.requestor_may_be_scp)
        granted = None
        if name in request.extended_negotiation and offer.extended_negotiation is not None:
            granted = offer.extended_negotiation(request.extended_negotiation[name])
            if granted is not None:
                extended[name] = granted
        if offer.idle_timeout_s is not None:
            idle_timeouts.append(offer.idle_timeout_s)
        answers.append(AnsweredContext(proposed.id, ContextResult.ACCEPTED, transfer_syntax))
        agreed[proposed.id] = AgreedContext(
            PresentationContext(proposed.id, name, transfer_syntax, granted), offer
        )
    accept = AssociateAccept(
        called_ae_title=request.called_ae_title,
        calling_ae_title=request.calling_ae_title,
        contexts=tuple(answers),
        max_pdu_bytes=advertised_pdu_bytes,
        # PS3.7 D.3.3.3: one operation at a time, whatever window was proposed
        asynchronous_operations=None if request.asynchronous_operations is None else (1, 1),
        roles=roles,
        extended_negotiation=extended,
    )
    return Agreement(
        request,
        agreed,
        pdu.encode_associate_accept(accept),
        max(idle_timeouts, default=None),
        _flaw(request, smallest_peer_pdu_bytes),
    )


def _flaw(request: AssociateRequest, smallest_peer_pdu_bytes: int) -> Rejection | None:
    if not request.protocol_version & pdu.PROTOCOL_VERSION:  # PS3.8 9.3.2: bit 0 is version 1
        return pdu.PROTOCOL_VERSION_NOT_SUPPORTED
    if request.application_context != pdu.APPLICATION_CONTEXT_UID:
        return pdu.APPLICATION_CONTEXT_NOT_SUPPORTED
    if not pdu.is_ae_title(request.calling_ae_title):
        return pdu.CALLING_AE_TITLE_NOT_RECOGNIZED
    if not pdu.is_ae_title(request.called_ae_title):
        return pdu.CALLED_AE_TITLE_NOT_RECOGNIZED
    if not request.contexts:
        return pdu.NO_REASON_GIVEN
    # A peer that takes only a few bytes at a time would make every answer cost a thousand PDUs.
    if 0 < request.max_pdu_bytes < smallest_peer_pdu_bytes:
        return pdu.NO_REASON_GIVEN
    return None


def _refused(proposed: pdu.ProposedContext, result: ContextResult) -> AnsweredContext:
    # PS3.8 9.3.3.2: the transfer syntax of a refused context must be there and means nothing
    first = proposed.transfer_syntaxes[0] if proposed.transfer_syntaxes else IMPLICIT_VR_LITTLE_ENDIAN
    return AnsweredContext(proposed.id, result, first)


class Negotiator:
    """Negotiate, and remember the answers to requests seen before: a device always sends the same bytes."""

    def __init__(
        self, offers: Offers, *, advertised_pdu_bytes: int, smallest_peer_pdu_bytes: int = 0
    ) -> None:
        self._offers = offers
        self._advertised_pdu_bytes = advertised_pdu_bytes
        self._smallest_peer_pdu_bytes = smallest_peer_pdu_bytes
        self._known: OrderedDict[bytes, Agreement] = OrderedDict()
        self._lock = Lock()

    def agree(self, raw: bytes) -> Agreement:
        """Return the agreement for an A-ASSOCIATE-RQ; may raise MalformedPdu."""
        known = self._known.get(raw)
        if known is not None:
            return known
        agreement = negotiate(
            pdu.parse_associate_request(raw),
            self._offers,
            advertised_pdu_bytes=self._advertised_pdu_bytes,
            smallest_peer_pdu_bytes=self._smallest_peer_pdu_bytes,
        )
        if len(raw) <= _CACHED_REQUEST_BYTES:
            with self._lock:
                self._known[raw] = agreement
                while len(self._known) > _CACHE_ENTRIES:
                    self._known.popitem(last=False)
        return agreement
