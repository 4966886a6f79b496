"""Send objects to an archive, a CAD or any other storage SCP: the destination kind `dicom` (PS3.4 annex B)."""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

import structlog
from pydantic import Field

from broker.dicom.destinations.associations import REENCODABLE, AssociationPool, KeptAssociation
from broker.dicom.destinations.peer import UNCOMPRESSED, Peer, PeerOptions
from broker.dicom.destinations.store_run import StoreRun
from broker.dicom.network.client import AcceptedContext
from broker.dicom.network.failures import (
    AssociationAborted,
    AssociationError,
    AssociationLost,
    ContextNotAccepted,
)
from broker.dicom.network.payload import PayloadTooShort, PayloadUnreadable
from broker.dicom.network.status import judge_error, outcome_of
from broker.dicom.objects.transcode import Untranscodable, encoded_as
from broker.domain.delivery import Delivered, Outcome
from broker.failpoints import failpoint
from broker.workflow.destinations_port import CheckResult, DestinationContext, Parcel, ParcelItem, Settled
from broker.workflow.progress import Progress

_log = structlog.get_logger()


class Transcode(Enum):
    """When pixels may be decompressed for the peer."""

    NEVER = "never"
    WHEN_REFUSED = "when_refused"


class StoreOptions(PeerOptions):
    """Says where objects are sent and how."""

    max_per_association: int = Field(
        default=500, ge=1, le=100_000, description="Objects sent before a new association is opened."
    )
    transcode: Transcode = Field(
        default=Transcode.WHEN_REFUSED,
        description="`when_refused`: decompress pixels when the peer takes the class but not the stored transfer "
        "syntax; `never`: such objects are refused instead. Stored copies are never changed.",
    )
    idle_s: float = Field(
        default=5, ge=0, le=300, description="How long an association waits for more work, in seconds."
    )


class StoreDestination:
    """Sends data sets as they were received, each settled when the peer has confirmed it.

    Sending the same object twice is safe: a storage SCP knows it by its SOP Instance UID.
    """

    kind: ClassVar[str] = "dicom"
    Options: ClassVar[type[StoreOptions]] = StoreOptions
    retry_safe: ClassVar[bool] = True

    def __init__(self, options: StoreOptions, context: DestinationContext) -> None:
        self._options = options
        self._clock = context.clock
        self._peer = Peer(options, context)
        self._log = _log.bind(destination=context.name)
        self._may_decompress = options.transcode is Transcode.WHEN_REFUSED
        self._pool = AssociationPool(
            self._peer.open, context.clock, idle_s=options.idle_s, may_decompress=self._may_decompress
        )

    def check(self) -> CheckResult:
        """Ask the peer for a C-ECHO."""
        return self._peer.check(self._clock)

    def send(self, parcel: Parcel, settled: Settled) -> Outcome:
        """Send every item of the parcel; what the peer confirmed is settled, whatever comes after it."""
        run = StoreRun(
            contexts=parcel.contexts,
            progress=Progress(settled, self._clock),
            pool=self._pool,
            max_per_association=self._options.max_per_association,
        )
        try:
            stop = self._send_all(run, parcel)
        finally:
            run.give_back()
        failpoint("deliver.after_last_send")
        run.progress.flush()
        outcome = run.outcome(stop)
        if not isinstance(outcome, Delivered):
            self._log.warning(
                "sending stopped" if stop else "not all sent",
                delivery=parcel.delivery,
                outcome=type(outcome).__name__,
                reason=outcome.reason,
                confirmed=run.progress.delivered,
            )
        return outcome

    def close(self) -> None:
        """Release idle associations."""
        self._pool.close()

    def _send_all(self, run: StoreRun, parcel: Parcel) -> Outcome | None:
        """Send items until none is left or something stops them all; answer what stopped them."""
        for item in parcel.items:
            refusal = run.refused_classes.get(item.sop_class_uid)
            if refusal is not None:
                run.progress.reject(item, refusal)
                continue
            stop = self._send(run, item)
            if stop is not None:
                return stop
        return None

    def _send(self, run: StoreRun, item: ParcelItem) -> Outcome | None:
        """Send one item, on a second association when the first one breaks; answer what stops the others."""
        broken = 0
        while True:
            try:
                kept = run.association(item)
            except AssociationError as error:
                return outcome_of(judge_error(error), str(error))
            try:
                return self._store(run, kept, item)
            except ContextNotAccepted as error:
                return run.not_accepted(item, judge_error(error))
            except (AssociationAborted, AssociationLost) as error:
                run.drop(kept)
                if kept.is_stale:
                    continue  # the peer closed it while it was idle: nobody's fault
                broken += 1
                stop = run.broken(judge_error(error), str(error), is_last_try=broken > 1)
                if stop is not None or broken > 1:
                    return stop
            except AssociationError as error:
                # It did not answer in time: asking again at once would cost the same time again.
                run.drop(kept)
                return outcome_of(judge_error(error), str(error))

    def _store(self, run: StoreRun, kept: KeptAssociation, item: ParcelItem) -> Outcome | None:
        """Send one item on an association; raises AssociationError when that breaks."""
        context = self._context(kept, item)
        try:
            if context.transfer_syntax == item.transfer_syntax_uid:
                with item.path.open("rb", buffering=0) as file:
                    file.seek(item.data_set_offset)
                    reply = kept.association.store(
                        sop_class_uid=item.sop_class_uid,
                        sop_instance_uid=item.sop_instance_uid,
                        context=context,
                        payload=file,
                        length=item.size_bytes - item.data_set_offset,
                    )
            else:
                encoded = encoded_as(item.path, context.transfer_syntax, may_decompress=self._may_decompress)
                run.progress.flush()
                reply = kept.association.store(
                    sop_class_uid=item.sop_class_uid,
                    sop_instance_uid=item.sop_instance_uid,
                    context=context,
                    payload=encoded,
                )
        except Untranscodable as error:
            run.progress.reject(item, f"no_context: {error}")
            return None
        except PayloadTooShort:
            run.drop(kept)
            run.progress.reject(item, "the stored file is shorter than it was")
            return None
        except PayloadUnreadable as failure:
            run.drop(kept)
            return run.unreadable(item, failure.error)
        except OSError as error:
            # Network trouble arrives as AssociationError: this is our own disk.
            return run.unreadable(item, error)
        return run.answered(item, kept, reply.status)

    def _context(self, kept: KeptAssociation, item: ParcelItem) -> AcceptedContext:
        """Choose the context: the stored syntax as it is, else a plain one; raises ContextNotAccepted."""
        stored = (item.sop_class_uid, item.transfer_syntax_uid)
        accepted = {
            context.transfer_syntax: context
            for context in kept.association.contexts
            if context.abstract_syntax == item.sop_class_uid
        }
        if item.transfer_syntax_uid in accepted:
            return accepted[item.transfer_syntax_uid]
        if self._may_decompress or item.transfer_syntax_uid in REENCODABLE:
            for syntax in UNCOMPRESSED:
                if syntax in accepted:
                    return accepted[syntax]
        return kept.association.context_for(*stored)
