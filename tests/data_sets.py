"""Encodes and decodes data sets with pydicom, the oracle of our own codec."""

from __future__ import annotations

import io

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from broker.dicom.objects.elements import Syntax


def pydicom_reads(data, syntax):
    return dcmread(io.BytesIO(_part10(data, syntax)), force=True)


def _part10(data, syntax):
    meta = Dataset()
    meta.TransferSyntaxUID = syntax.value
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, meta)
    body = buffer.getvalue()
    length = b"\x02\x00\x00\x00UL\x04\x00" + len(body).to_bytes(4, "little")
    return b"\x00" * 128 + b"DICM" + length + body + data


def pydicom_writes(data_set, syntax):
    buffer = DicomBytesIO()
    buffer.is_little_endian = syntax is not Syntax.EXPLICIT_BIG
    buffer.is_implicit_VR = syntax is Syntax.IMPLICIT_LITTLE
    write_dataset(buffer, data_set)
    return buffer.getvalue()
