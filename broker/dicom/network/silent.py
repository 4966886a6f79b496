"""Observe associations and keep quiet: what a listener has when nobody asked to be told."""

from __future__ import annotations

from broker.dicom.network.service import CloseReason, Knock, Peer, Request


class SilentObserver:
    """Be an AssociationObserver that does nothing."""

    def opened(self, peer: Peer) -> None:
        """Do nothing."""

    def refused(self, knock: Knock) -> None:
        """Do nothing."""

    def closed(self, peer: Peer, reason: CloseReason) -> None:
        """Do nothing."""

    def served(self, request: Request, status: int, *, seconds: float, data_set_bytes: int) -> None:
        """Do nothing."""
