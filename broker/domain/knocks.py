"""Why somebody who knocked was not let in: in the standard's terms (PS3.8 table 9-21), in plain words, and what helps."""

from __future__ import annotations

from enum import Enum


class KnockReason(Enum):
    """What kept an association from being opened; the value is what is stored."""

    WRONG_CALLED = "called"
    UNKNOWN_TITLE = "calling"
    ELSEWHERE = "elsewhere"
    NO_SERVICE = "service"
    NOT_DICOM = "protocol"
    BUSY = "busy"
    TLS = "tls"
    SILENT = "silent"

    @property
    def words(self) -> str:
        """Say it plainly."""
        return _TOLD[self][0]

    @property
    def wire(self) -> str:
        """Say it as the device's own log does."""
        return _TOLD[self][1]

    @property
    def advice(self) -> str:
        """Say what helps."""
        return _TOLD[self][2]

    @property
    def may_be_admitted(self) -> bool:
        """Tell whether letting the device in would change the answer."""
        return self in (KnockReason.UNKNOWN_TITLE, KnockReason.ELSEWHERE)


_TOLD = {
    KnockReason.WRONG_CALLED: (
        "it calls another AE title than ours",
        "A-ASSOCIATE-RJ 1/1/7: called AE title not recognized",
        "Correct the called AE title (often: remote AE, SCP AE) at the device.",
    ),
    KnockReason.UNKNOWN_TITLE: (
        "its AE title is not among our devices",
        "A-ASSOCIATE-RJ 1/1/3: calling AE title not recognized",
        "Admit it for a time, or put it under devices in the site file.",
    ),
    KnockReason.ELSEWHERE: (
        "its AE title is one of ours, but it calls from another address",
        "A-ASSOCIATE-RJ 1/1/3: calling AE title not recognized",
        "A new address, or two devices with one AE title? Correct host in the site file, or admit it for a time.",
    ),
    KnockReason.NO_SERVICE: (
        "nothing it asks for is offered here, or its PDUs are too small",
        "A-ASSOCIATE-RJ 1/1/1: no reason given",
        "Worklist, MPPS and images may have ports of their own: the passport says which.",
    ),
    KnockReason.NOT_DICOM: (
        "it does not speak DICOM as this port does",
        "A-ABORT, or A-ASSOCIATE-RJ 1/1/2 or 1/2/2",
        "A port scan, another protocol, or TLS to a port without.",
    ),
    KnockReason.BUSY: (
        "there were too many connections at once",
        "A-ASSOCIATE-RJ 2/3/2: local limit exceeded",
        "It goes by itself; if not, see limits.dicom in the site file.",
    ),
    KnockReason.TLS: (
        "the TLS handshake failed",
        "TLS alert before any association",
        "Without TLS, with another version, or without a certificate we trust: compare with the passport.",
    ),
    KnockReason.SILENT: (
        "it connected and asked for nothing",
        "closed before an A-ASSOCIATE-RQ",
        "A monitor that tests the port, or a network that cuts connections.",
    ),
}

NEEDS_PERSON = (
    KnockReason.WRONG_CALLED,
    KnockReason.UNKNOWN_TITLE,
    KnockReason.ELSEWHERE,
    KnockReason.NO_SERVICE,
    KnockReason.TLS,
)
"""Somebody wants in and cannot; the others are noise of a network."""
