"""Answer C-ECHO (PS3.4 annex A)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from broker.dicom.network.dimse import CommandField
from broker.dicom.network.service import Receiver, Request, Response, ServiceOffer
from broker.dicom.network.transfer_syntaxes import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

VERIFICATION_SOP_CLASS_UID = "1.2.840.10008.1.1"
_SUCCESS = (Response(0x0000),)


class _Echo:
    __slots__ = ()

    def write(self, data: memoryview) -> None:
        """Ignore a data set, which C-ECHO does not have."""

    def finish(self, cancelled: Callable[[], bool]) -> Iterable[Response]:  # noqa: ARG002
        """Succeed."""
        return _SUCCESS

    def abandon(self) -> None:
        """Hold nothing."""


_ECHO = _Echo()


class VerificationService:
    """Succeed, which is the whole service."""

    def begin(self, request: Request) -> Receiver:  # noqa: ARG002
        """Answer every C-ECHO with success."""
        return _ECHO


def verification_offer() -> ServiceOffer:
    """Offer the Verification SOP class."""
    return ServiceOffer(
        abstract_syntax=VERIFICATION_SOP_CLASS_UID,
        transfer_syntaxes=(EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN),
        service=VerificationService(),
        operations=frozenset({CommandField.C_ECHO_RQ}),
        data_set_limit_bytes=0,
    )
