"""Audit messages checked against the schema of DICOM PS3.15 A.5.1."""

from pathlib import Path

from lxml import etree

SCHEMA = etree.RelaxNG(file=Path(__file__).parent / "schemas" / "audit_message.rng")
MARK = b"\xef\xbb\xbf"


def valid(text):
    """Answer the root of a message; fails when the schema does not allow it."""
    octets = text.encode() if isinstance(text, str) else text
    root = etree.fromstring(octets.removeprefix(MARK))
    assert SCHEMA.validate(root), f"{SCHEMA.error_log}\n{octets!r}"
    return root


def event_code(root):
    """Answer the code of the message's EventID."""
    return root.find("EventIdentification/EventID").get("csd-code")
