"""Writes the head of a DICOM file: preamble and File Meta Information (PS3.10 7.1)."""

from __future__ import annotations

import struct
from typing import Final

PREAMBLE: Final = b"\0" * 128 + b"DICM"
"""All zero: a file of ours is never at the same time an executable of somebody else (CVE-2019-11687)."""


def part10_head(
    *,
    sop_class_uid: str,
    sop_instance_uid: str,
    transfer_syntax_uid: str,
    source_ae_title: str,
    implementation_class_uid: str,
    implementation_version_name: str,
) -> bytes:
    """Answer what stands in the file before the data set, which follows exactly as it was received."""
    elements = b"".join(
        (
            struct.pack("<HH2sHLH", 0x0002, 0x0001, b"OB", 0, 2, 0x0100),
            _element(0x0002, b"UI", sop_class_uid),
            _element(0x0003, b"UI", sop_instance_uid),
            _element(0x0010, b"UI", transfer_syntax_uid),
            _element(0x0012, b"UI", implementation_class_uid),
            _element(0x0013, b"SH", implementation_version_name[:16]),
            _element(0x0016, b"AE", source_ae_title[:16]) if source_ae_title else b"",
        )
    )
    return PREAMBLE + struct.pack("<HH2sHL", 0x0002, 0x0000, b"UL", 4, len(elements)) + elements


def _element(element: int, vr: bytes, text: str) -> bytes:
    value = text.encode("ascii", errors="replace")
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", 0x0002, element, vr, len(value)) + value
