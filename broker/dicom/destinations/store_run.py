"""Hold what happens during one sending of a parcel: its associations, what failed alone, what stops it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from broker.dicom.destinations.associations import AssociationPool, KeptAssociation, Pair, release
from broker.dicom.network.status import FailureClass, ServiceKind, Verdict, judge_status, outcome_of
from broker.domain.delivery import Delivered, Misconfigured, Outcome, Rejected, RetryLater
from broker.failpoints import failpoint
from broker.workflow.destinations_port import ParcelItem
from broker.workflow.own_disk import is_of_the_machine, wait_for_the_machine, word_of
from broker.workflow.progress import Progress

# What says that the peer has the object: success, the warnings of PS3.4 table B.2-1, and "I have it already".
STORED: Final = frozenset({0x0000, 0xB000, 0xB006, 0xB007, 0x0111})
MAX_STRAYS_IN_A_ROW: Final = 5
"""So many objects in a row that fail each for itself are no accident: the peer is given time."""
MAX_BROKEN_IN_A_ROW: Final = 3
"""So many associations in a row that break without an answer: the peer is given time."""

Stop = RetryLater | Misconfigured | Rejected


@dataclass(slots=True)
class StoreRun:
    """One call of `send`. Methods that answer an outcome answer what stops the whole parcel, or None."""

    contexts: tuple[Pair, ...]
    progress: Progress
    pool: AssociationPool
    max_per_association: int
    refused_classes: dict[str, str] = field(default_factory=dict)
    _held: list[KeptAssociation] = field(default_factory=list)
    _strays: int = 0
    _strays_in_a_row: int = 0
    _first_stray: RetryLater | None = None
    _broken_in_a_row: int = 0

    def association(self, item: ParcelItem) -> KeptAssociation:
        """Answer an association on which the item's context was proposed; raises AssociationError."""
        pair = (item.sop_class_uid, item.transfer_syntax_uid)
        for kept in [kept for kept in self._held if pair in kept.pairs]:
            if kept.stored < self.max_per_association:
                return kept
            self._held.remove(kept)
            release(kept)
        covered = {pair for kept in self._held for pair in kept.pairs}
        kept = self.pool.take(pair, [pair for pair in self.contexts if pair not in covered])
        self._held.append(kept)
        failpoint("deliver.after_open")
        return kept

    def drop(self, kept: KeptAssociation) -> None:
        """Give up an association."""
        kept.association.abort()
        self._held.remove(kept)

    def give_back(self) -> None:
        """Leave the associations to the next parcel."""
        for kept in self._held:
            if kept.stored < self.max_per_association:
                self.pool.give_back(kept)
            else:
                release(kept)
        self._held.clear()

    def answered(self, item: ParcelItem, kept: KeptAssociation, status: int) -> Stop | None:
        """Note the peer's answer to a C-STORE."""
        kept.stored += 1
        kept.is_stale = False
        self._broken_in_a_row = 0
        wire_status = f"{status:04X}"
        if status in STORED:
            self._strays_in_a_row = 0
            if kept.stored == 1:
                failpoint("deliver.after_first_send")
            self.progress.deliver(item, wire_status=wire_status)
            return None
        verdict = judge_status(ServiceKind.STORAGE, status)
        if verdict is None:
            # Some warning or pending status that no storage SCP may answer: it has not said that it has the object.
            verdict = Verdict(
                failure_class=FailureClass.TRANSIENT,
                reason="the peer answered an unknown status",
                max_tries=3,
            )
        if verdict.failure_class is FailureClass.PERMANENT:
            reason = f"{verdict.reason} ({wire_status})"
            self.progress.reject(item, reason, wire_status=wire_status)
            if verdict.whole_sop_class:
                self.refused_classes[item.sop_class_uid] = reason
            return None
        if verdict.failure_class is FailureClass.CONFIG or verdict.max_tries is None:
            return outcome_of(verdict, wire_status)
        return self._stray(verdict, wire_status)

    def not_accepted(self, item: ParcelItem, verdict: Verdict) -> Stop | None:
        """Note that no presentation context was accepted for the item."""
        if verdict.failure_class is FailureClass.PERMANENT:
            self.progress.reject(item, f"no_context: {verdict.reason}")
            return None
        return outcome_of(verdict, "no_context")

    def broken(self, verdict: Verdict, detail: str, *, is_last_try: bool) -> Stop | None:
        """Note that an association broke while it carried an item."""
        self._broken_in_a_row += 1
        if self._broken_in_a_row >= MAX_BROKEN_IN_A_ROW:
            return outcome_of(verdict, detail)
        # An object that breaks one association after the other waits, so that the others can go on.
        return self._stray(verdict, detail) if is_last_try else None

    def unreadable(self, item: ParcelItem, error: OSError) -> RetryLater | None:
        """Note that the stored file of an item cannot be read."""
        if is_of_the_machine(error):
            return self._set_aside(wait_for_the_machine(error))
        self.progress.reject(item, f"the stored file cannot be read ({word_of(error)})")
        return None

    def _stray(self, verdict: Verdict, detail: str) -> Stop | None:
        """Note a failure that may be this object's alone: it waits for the next attempt, the others go on."""
        outcome = outcome_of(verdict, detail)
        return self._set_aside(outcome) if isinstance(outcome, RetryLater) else outcome

    def _set_aside(self, outcome: RetryLater) -> RetryLater | None:
        self._strays += 1
        self._strays_in_a_row += 1
        self._first_stray = self._first_stray or outcome
        return outcome if self._strays_in_a_row >= MAX_STRAYS_IN_A_ROW else None

    def outcome(self, stop: Outcome | None) -> Outcome:
        """Say how the parcel fared."""
        if stop is not None:
            return stop
        if self._first_stray is not None:
            return self._first_stray
        if self.progress.rejected:
            return Rejected(f"{self.progress.rejected} not taken: {self.progress.first_refusal}")
        return Delivered(f"{self.progress.delivered} confirmed")
