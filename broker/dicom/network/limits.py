"""Bound what peers can take from a listener: how many, how long, how slow, how much."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.dicom.network.upper_layer import PduLimits


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Hold the limits of one listener."""

    associations: int = 512
    unassociated: int = 16
    connections_per_unlisted_address: int = 8  # loopback and listed peers are exempt
    first_pdu_s: float = 5.0  # from accept to A-ASSOCIATE-RQ, TLS handshake included
    pdu_s: float = 30.0  # from a PDU's first byte to its last
    min_bytes_per_s: int = 8 * 1024  # of a whole message, after the first pdu_s
    idle_s: float = 300.0  # unless an accepted offer says more
    send_s: float = 30.0  # a peer that does not read
    linger_s: float = 5.0  # for the peer to close after our last word
    displace_after_s: float = 0.5  # a silent newcomer this old yields its place when all are taken
    shrink_after_s: float = 5.0  # an association idle this long gives its buffer back
    advertised_pdu_bytes: int = 128 * 1024
    smallest_peer_pdu_bytes: int = 4 * 1024
    drained_bytes: int = 1024 * 1024 * 1024  # of a data set that is already refused
    backlog: int = 256
    spare_threads: int = 8
    thread_stack_bytes: int = 512 * 1024  # of address space; only touched pages cost memory
    pdu: PduLimits = field(default_factory=PduLimits)
