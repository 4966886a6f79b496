"""Identifiers the broker makes when the sender gave none, or one DICOM cannot carry."""

from __future__ import annotations

import base64
import hashlib
from uuid import UUID, uuid5

MAX_SHORT_STRING_CHARACTERS = 16
"""PS3.5 6.2, SH: accession number, requested procedure id, scheduled procedure step id."""

ORIGINAL_SUFFIX = ":original"
"""`sources["RequestedProcedureID:original"]` keeps what a surrogate stands for, for messages back to the sender."""

_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_CROCKFORD = str.maketrans(_BASE32, "0123456789ABCDEFGHJKMNPQRSTVWXYZ")


def uid_of(value: UUID) -> str:
    """Write a UUID as a UID of at most 44 characters (PS3.5 B.2)."""
    return f"2.25.{value.int}"


def derive_study_instance_uid(
    namespace: UUID,
    *,
    issuer: str | None,
    accession_number: str | None,
    requested_procedure_id: str | None,
) -> str | None:
    """Derive the Study Instance UID of an order whose sender sends none; nothing to derive from gives None.

    Only identifiers the sender gave go in: a later message without a UID must lead to the same one.
    """
    if not accession_number and not requested_procedure_id:
        return None
    name = "\0".join((issuer or "", accession_number or "", requested_procedure_id or ""))
    return uid_of(uuid5(namespace, name))


def surrogate_id(value: str, *, issuer: str | None = None) -> str:
    """Make an identifier of 16 characters that stands for a longer one: it is never cut, for a part may be another's."""
    digest = hashlib.sha256(f"{issuer or ''}\0{value}".encode()).digest()
    return (
        "X"
        + base64.b32encode(digest).decode("ascii").translate(_CROCKFORD)[: MAX_SHORT_STRING_CHARACTERS - 1]
    )


def short_id(value: str, *, issuer: str | None = None) -> str:
    """Answer `value` where it fits a short string, its surrogate where it does not."""
    return value if len(value) <= MAX_SHORT_STRING_CHARACTERS else surrogate_id(value, issuer=issuer)
