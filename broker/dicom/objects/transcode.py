"""Write a stored data set in another transfer syntax, for a peer that takes no other.

The stored copy is never touched. Pixels are only ever decompressed: nothing is compressed, and what was lossy
stays marked as lossy.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filereader import dcmread, read_file_meta_info
from pydicom.filewriter import dcmwrite
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from broker.dicom.objects.codestreams import Unrenderable
from broker.dicom.objects.isolation import decoder
from broker.dicom.objects.pixels import MIB, BoundedFile, PixelLimits, StoredImage, inflated, typed_errors
from broker.errors import BrokerError

MAX_OBJECT_BYTES = 1024 * MIB
_WORD_BYTES = {"OW": 2, "OF": 4, "OL": 4, "OD": 8, "OV": 8}


class Untranscodable(BrokerError):
    """The object cannot be written in another transfer syntax."""

    http_status = 422


def encoded_as(
    path: Path,
    transfer_syntax_uid: str,
    *,
    may_decompress: bool,
    max_object_bytes: int = MAX_OBJECT_BYTES,
    limits: PixelLimits | None = None,
) -> bytes:
    """Answer the data set of a Part 10 file encoded as Explicit or Implicit VR Little Endian.

    Raises Untranscodable with a reason that holds no value of the object.
    """
    target = UID(transfer_syntax_uid)
    if target not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        raise Untranscodable("only the uncompressed little endian syntaxes are written")
    limits = limits or PixelLimits(max_inflated_bytes=max_object_bytes)
    try:
        with typed_errors("the object cannot be read"):
            if path.stat().st_size > max_object_bytes:
                raise Untranscodable("the object is too large to be encoded anew")
            stored = UID(read_file_meta_info(path).TransferSyntaxUID)
            if stored.is_encapsulated:
                if not may_decompress:
                    raise Untranscodable("the pixels are compressed and may not be decompressed")
                return _decompressed_elsewhere(path, target, limits, max_object_bytes)
            with path.open("rb") as file:
                source = inflated(file, path, limits) or file
                ds = dcmread(
                    BoundedFile(source, max_bytes=2 * max_object_bytes, max_reads=limits.max_object_reads)
                )
                if stored == ExplicitVRBigEndian:
                    ds.walk(_swap_words)
                return _data_set_bytes(ds, target)
    except Unrenderable as error:
        raise Untranscodable(str(error)) from error


def _decompressed_elsewhere(path: Path, target: UID, limits: PixelLimits, max_object_bytes: int) -> bytes:
    """Let another process decompress, once what the frames claim has been checked."""
    with StoredImage(path, limits) as image:
        if image.frames * image.frame_bytes() > max_object_bytes:
            raise Untranscodable("the pixels are too large to be decompressed")
        image.check_codestreams()
    _, body = decoder().ask(
        {"do": "decompress", "path": str(path.absolute()), "transfer_syntax_uid": str(target)}
    )
    return body


def decompressed(path: Path, transfer_syntax_uid: str) -> bytes:
    """Decompress here and now; whoever calls this may not survive it."""
    with typed_errors("the pixel data cannot be decoded"):
        ds = dcmread(path)
        # An icon may be compressed like the image and would then contradict the new syntax (PS3.5 A.4).
        if "IconImageSequence" in ds:
            del ds.IconImageSequence
        # The same pixels, so the same instance (PS3.4 B.4.1.3 asks for a new one only when they are degraded).
        ds.decompress(generate_instance_uid=False)
        for keyword in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if keyword in ds:
                delattr(ds, keyword)
        return _data_set_bytes(ds, UID(transfer_syntax_uid))


def _swap_words(_ds: Dataset, element: DataElement) -> None:
    """Turn around the words pydicom keeps as bytes; all other values it turns itself (PS3.5 7.3)."""
    size = _WORD_BYTES.get(element.VR)
    if size is not None and element.value:
        element.value = np.frombuffer(element.value, f">u{size}").astype(f"<u{size}").tobytes()


def _data_set_bytes(ds: Dataset, target: UID) -> bytes:
    out = io.BytesIO()
    bare = Dataset(ds)
    bare.set_original_encoding(*ds.original_encoding)
    dcmwrite(
        out,
        bare,
        implicit_vr=target.is_implicit_VR,
        little_endian=True,
        enforce_file_format=False,
        force_encoding=True,
    )
    return out.getvalue()
