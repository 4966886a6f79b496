"""Let peers in by AE title alone: for tests, demonstrations and listeners on loopback."""

from __future__ import annotations

from broker.dicom.network.pdu import (
    CALLED_AE_TITLE_NOT_RECOGNIZED,
    CALLING_AE_TITLE_NOT_RECOGNIZED,
    Rejection,
)


class AETitlePolicy:
    """Admit whoever calls us by one of our names, and, when a list is given, only those on it."""

    def __init__(
        self, called_ae_titles: frozenset[str], calling_ae_titles: frozenset[str] | None = None
    ) -> None:
        self._called = called_ae_titles
        self._calling = calling_ae_titles

    def admit(
        self,
        calling_ae_title: str,
        called_ae_title: str,
        address: str,  # noqa: ARG002
        tls_subject: str | None,  # noqa: ARG002
    ) -> Rejection | None:
        """Return why this association is rejected, or None to let it in."""
        if called_ae_title not in self._called:
            return CALLED_AE_TITLE_NOT_RECOGNIZED
        if self._calling is not None and calling_ae_title not in self._calling:
            return CALLING_AE_TITLE_NOT_RECOGNIZED
        return None

    def listed(self, address: str) -> bool:  # noqa: ARG002
        """Know no addresses."""
        return False
