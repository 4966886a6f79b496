"""Scans a Part 10 file as the storage service scans what it receives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_partial

from broker.dicom.objects.header import Header, HeaderScanner, ScanPlan
from broker.errors import InvalidValue

_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What a file says of itself."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    source_ae_title: str
    header: Header


def scan_file(path: Path, plan: ScanPlan) -> FileHeader:
    """Read meta information (PS3.10 7.1) and what the plan wants. Raises InvalidValue: not a DICOM file."""
    try:
        with path.open("rb") as file:
            meta = read_partial(file, stop_when=lambda *_: True).file_meta
            syntax = str(meta.TransferSyntaxUID)
            # PS3.10 7.1: preamble, prefix, then the group length element says where the data set starts.
            file.seek(132)
            file.seek(144 + int.from_bytes(file.read(12)[8:], "little"))
            scanner = HeaderScanner(plan, syntax)
            while not scanner.done and (piece := file.read(_PIECE_BYTES)):
                scanner.feed(piece)
    except (InvalidDicomError, AttributeError, OSError, ValueError) as error:
        raise InvalidValue(f"{path.name} is not a DICOM file") from error
    return FileHeader(
        sop_class_uid=str(meta.get("MediaStorageSOPClassUID", "")),
        sop_instance_uid=str(meta.get("MediaStorageSOPInstanceUID", "")),
        transfer_syntax_uid=syntax,
        source_ae_title=str(meta.get("SourceApplicationEntityTitle", "")),
        header=scanner.finish(),
    )
