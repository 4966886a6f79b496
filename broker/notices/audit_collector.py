"""A collector of audit messages: syslog with PS3.15 A.6 over TLS, or A.7 over UDP where the site file says so."""

from __future__ import annotations

import ssl
from pathlib import Path

from broker.domain.audit_message import AuditMessage, AuditSource, Outcome
from broker.notices.audit_xml import written
from broker.notices.syslog import Entry, SyslogSender
from broker.settings import AuditCollector
from broker.workflow.audit_port import CollectorAway

SECURITY = 10
"""Facility security/authorization messages."""
MESSAGE_ID = "DICOM+RFC3881"
SETTLE_S = 2.0
_NOTICE, _WARNING = 5, 4
_SD_ID = "event@32473"


class SyslogCollector:
    """Implements the Collector port."""

    def __init__(self, settings: AuditCollector, source: AuditSource, *, folder: Path = Path()) -> None:
        """Prepare; nothing is connected yet. Files of the settings are relative to `folder`."""
        self.name = settings.name
        self.settle_s = SETTLE_S if settings.protocol == "tls" else 0.0
        self._where = f"{settings.host}:{settings.port}"
        self._source = source
        self._sender = SyslogSender(settings, folder=folder)

    def hand_over(self, number: int, message: AuditMessage) -> None:
        """Put one message on the wire. Raises CollectorAway."""
        try:
            self._sender.put(entry_of(number, message, self._source))
        except OSError as error:
            raise self._away(error) from error

    def has_arrived(self, *, wait_s: float = 0.0) -> bool:
        """Tell whether the collector's machine has taken all octets. Raises CollectorAway when it has left."""
        try:
            self._sender.confirm(wait_s=wait_s)
            return self._sender.unacknowledged() == 0
        except OSError as error:
            raise self._away(error) from error

    def close(self) -> None:
        """Give the connection back."""
        self._sender.close()

    def _away(self, error: OSError) -> CollectorAway:
        if isinstance(error, ssl.SSLCertVerificationError):
            return CollectorAway(f"{self._where}: its certificate is not trusted: {error.verify_message}")
        said = error.strerror or str(error)
        return CollectorAway(f"{self._where}: {type(error).__name__}{f': {said}' if said else ''}")


def entry_of(number: int, message: AuditMessage, source: AuditSource) -> Entry:
    """Answer a message as an entry of RFC 5424; its number in the chain tells a second copy from a second event."""
    return Entry(
        message.at,
        _NOTICE if message.outcome is Outcome.SUCCESS else _WARNING,
        MESSAGE_ID,
        written(message, source),
        facility=SECURITY,
        structured=f'[{_SD_ID} number="{number}"]',
    )
