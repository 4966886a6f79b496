"""See what the peer says while one of its requests is served: a C-CANCEL, an abort, or too much at once."""

from __future__ import annotations

import time
from typing import Final

from broker.dicom.network.channel import Channel
from broker.dicom.network.dimse import Command, CommandCollector, CommandField, MalformedCommand
from broker.dicom.network.pdu import AbortReason
from broker.dicom.network.upper_layer import DataReceived, Event, PeerAborted, PeerViolated, UpperLayer

_POLL_S: Final = 0.002


class Meanwhile:
    """Look ahead on one association, no further than the first thing that is not a C-CANCEL."""

    __slots__ = (
        "_channel",
        "_collector",
        "_message_id",
        "_polled_at",
        "_upper",
        "cancelled",
        "command",
        "event",
        "lost",
    )

    def __init__(self, upper: UpperLayer, channel: Channel, collector: CommandCollector) -> None:
        """Have seen nothing; the collector is the association's own, for a command may be half here."""
        self._upper = upper
        self._channel = channel
        self._collector = collector
        self._polled_at = 0.0
        self._message_id: int | None = None
        self.command: tuple[int, Command] | None = None
        """A command that came while another was served: it waits its turn."""
        self.event: Event | None = None
        """Likewise a release, an abort or a violation."""
        self.lost = False
        """The connection is gone."""
        self.cancelled = False
        """The request being served was cancelled."""

    def serve(self, message_id: int | None) -> None:
        """Look for a C-CANCEL of this request from now on; None when it is answered."""
        self._message_id = message_id
        if message_id is not None:
            self.cancelled = False

    @property
    def is_fatal(self) -> bool:
        """Tell whether nothing can be answered any more."""
        return self.lost or isinstance(self.event, PeerAborted | PeerViolated)

    def is_cancelled(self) -> bool:
        """Tell whether the peer cancelled, aborted or left; looks at the connection at most every 2 ms."""
        if self.cancelled or self.lost or self.event is not None:
            return True
        now = time.monotonic()
        if self.command is None and now - self._polled_at >= _POLL_S:
            self._polled_at = now
            self._look()
        return self.cancelled or self.lost or self.event is not None

    def _look(self) -> None:
        upper = self._upper
        while True:
            event = upper.next_event()
            if event is None:
                try:
                    count = self._channel.receive_now(upper.receive_space())
                except OSError:
                    count = 0
                if count is None:
                    return
                if count == 0:
                    self.lost = True
                    return
                upper.received(count)
                continue
            if not isinstance(event, DataReceived):
                self.event = event
                return
            try:
                whole = self._collector.feed(event)
            except MalformedCommand as malformed:
                # Not raised here: a service stands between us and the loop that ends the association.
                self.event = PeerViolated(str(malformed), AbortReason.INVALID_PARAMETER)
                return
            if whole is None:
                continue
            _context_id, command = whole
            if command.field is not CommandField.C_CANCEL_RQ:
                self.command = whole
                return
            if command.message_id_being_responded_to == self._message_id:
                self.cancelled = True
