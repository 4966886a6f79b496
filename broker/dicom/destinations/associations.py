"""Keep storage associations open between parcels, for as long as work waits."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from threading import Condition, Thread
from typing import Final

import structlog

from broker.dicom.network.client import ClientAssociation, Proposal
from broker.dicom.network.failures import AssociationError
from broker.dicom.network.pdu import MAX_CONTEXTS
from broker.dicom.network.transfer_syntaxes import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_BIG_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)
from broker.workflow.clock import Clock

_log = structlog.get_logger()

Pair = tuple[str, str]
"""SOP Class UID and the Transfer Syntax UID an object is stored in."""

PLAIN: Final = (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)
REENCODABLE: Final = frozenset({*PLAIN, EXPLICIT_VR_BIG_ENDIAN, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN})
_REMEMBERED_PAIRS: Final = 48
"""Proposed again on new associations, so that the next parcel finds one that fits."""

Open = Callable[[Sequence[Proposal]], ClientAssociation]


@dataclass(slots=True)
class KeptAssociation:
    """An association with what was proposed on it."""

    association: ClientAssociation
    pairs: frozenset[Pair]
    stored: int = 0
    """Objects sent on it so far."""
    is_stale: bool = False
    """Taken from the pool and not yet proven alive: the peer may have closed it meanwhile."""
    idle_since_s: float = 0.0


def proposals_for(pairs: Iterable[Pair], *, may_decompress: bool) -> tuple[list[Proposal], frozenset[Pair]]:
    """Propose each stored transfer syntax alone, and per class a plain one to fall back on.

    One transfer syntax per context is the only way to learn which of them a peer accepts (PS3.8 9.3.3.2). What
    does not fit into the 128 contexts of an association is left for another one; answers what was proposed.
    """
    by_class: dict[str, list[str]] = {}
    for sop_class, syntax in pairs:
        by_class.setdefault(sop_class, []).append(syntax)
    proposals: list[Proposal] = []
    covered: set[Pair] = set()
    for sop_class, syntaxes in by_class.items():
        alone = list(dict.fromkeys(syntaxes))
        needs_plain = may_decompress or any(syntax in REENCODABLE for syntax in alone)
        plain = tuple(syntax for syntax in PLAIN if needs_plain and syntax not in alone)
        fitting = alone[: max(MAX_CONTEXTS - len(proposals) - bool(plain), 0)]
        if not fitting:
            break
        proposals += [Proposal(sop_class, (syntax,)) for syntax in fitting]
        if plain:
            proposals.append(Proposal(sop_class, plain))
        covered.update((sop_class, syntax) for syntax in fitting)
    return proposals, frozenset(covered)


class AssociationPool:
    """Lends associations to one sender at a time and closes those nobody asked for in a while.

    Safe for several threads. The thread that closes idle associations lives only while there are some.
    """

    def __init__(self, open_: Open, clock: Clock, *, idle_s: float, may_decompress: bool) -> None:
        self._open = open_
        self._clock = clock
        self._idle_s = idle_s
        self._may_decompress = may_decompress
        self._changed = Condition()
        self._idle: list[KeptAssociation] = []
        self._remembered: OrderedDict[Pair, None] = OrderedDict()
        self._keeper: Thread | None = None
        self._is_closed = False

    def take(self, pair: Pair, wanted: Iterable[Pair]) -> KeptAssociation:
        """Lend an association on which `pair` was proposed; raises AssociationError."""
        with self._changed:
            for kept in reversed(self._idle):
                if pair in kept.pairs:
                    self._idle.remove(kept)
                    kept.is_stale = True
                    return kept
            pairs = list(dict.fromkeys((pair, *wanted, *reversed(self._remembered))))
            unfit, self._idle = self._idle, []
        # A peer that serves one association at a time would let the new one wait for the idle ones.
        for idle in unfit:
            release(idle)
        # Opened outside the lock: a peer that is slow to answer holds up nobody else.
        proposals, covered = proposals_for(pairs, may_decompress=self._may_decompress)
        kept = KeptAssociation(self._open(proposals), covered)
        with self._changed:
            for pair in covered:
                self._remembered[pair] = None
                self._remembered.move_to_end(pair)
            while len(self._remembered) > _REMEMBERED_PAIRS:
                self._remembered.popitem(last=False)
        return kept

    def give_back(self, kept: KeptAssociation) -> None:
        """Keep an association for the next sender, if it can still be used."""
        if not kept.association.is_open:
            return
        with self._changed:
            if not self._is_closed:
                kept.idle_since_s = self._clock.monotonic()
                self._idle.append(kept)
                if self._keeper is None:
                    self._keeper = Thread(target=self._keep, name="idle associations", daemon=True)
                    self._keeper.start()
                self._changed.notify_all()
                return
        release(kept)

    def close(self) -> None:
        """Release what is idle; what is lent is released when it comes back."""
        with self._changed:
            self._is_closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for kept in idle:
            release(kept)

    def _keep(self) -> None:
        """Release associations when their idle time is over; end when none is left."""
        while True:
            with self._changed:
                if not self._idle:
                    self._keeper = None
                    return
                wait_s = self._idle[0].idle_since_s + self._idle_s - self._clock.monotonic()
                if wait_s > 0:
                    self._changed.wait(wait_s)
                    continue
                kept = self._idle.pop(0)
            release(kept)


def release(kept: KeptAssociation) -> None:
    """Release an association; that the peer was faster is no trouble."""
    with contextlib.suppress(AssociationError):
        kept.association.release()
