"""The DICOM files that come with pydicom, and the data sets in them."""

from __future__ import annotations

import struct
from pathlib import Path

from pydicom.data import get_testdata_file

DATA = Path(get_testdata_file("CT_small.dcm")).parent  # type: ignore[arg-type]
IMPLICIT, EXPLICIT, BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"


def bundled() -> list[Path]:
    """List the files, broken ones included."""
    folders = [DATA, *(folder for folder in DATA.parent.glob("charset_files"))]
    return sorted(
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.suffix in (".dcm", "", ".bin") and path.stat().st_size > 200
    )


def data_set_of(raw: bytes) -> tuple[str, bytes]:
    """Answer transfer syntax and data set of a file, exactly as it lies there."""
    if raw[128:132] != b"DICM":
        # Without a preamble pydicom guesses; look as it does.
        explicit = raw[4:6].isalpha() and raw[4:6].isupper()
        return (BIG if raw[0] == 0 else EXPLICIT) if explicit else IMPLICIT, raw
    position, syntax = 132, IMPLICIT
    while raw[position : position + 2] == b"\x02\x00":
        vr = raw[position + 4 : position + 6]
        if vr in (b"OB", b"UN", b"UT", b"OW"):
            length = struct.unpack_from("<L", raw, position + 8)[0]
            start = position + 12
        else:
            length = struct.unpack_from("<H", raw, position + 6)[0]
            start = position + 8
        if raw[position + 2 : position + 4] == b"\x10\x00":
            syntax = raw[start : start + length].decode("latin-1").strip(" \x00")
        position = start + length
    return syntax, raw[position:]
