"""Read the pixels of one frame from a stored object, whatever the object claims about itself.

Decoders are C libraries that believe what a header says. Everything they would believe is checked here first,
and whatever goes wrong ends in one typed error, whose text holds no value of the object.
"""

from __future__ import annotations

import io
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt
from pydicom.dataset import FileDataset
from pydicom.encaps import get_frame
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import dcmread, read_file_meta_info
from pydicom.filewriter import write_file_meta_info
from pydicom.pixels.utils import pixel_array
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
)

from broker.dicom.objects.codestreams import Unrenderable, check_codestream
from broker.dicom.objects.isolation import decoder
from broker.errors import BrokerError
from broker.workflow.own_disk import is_of_the_machine

Pixels = npt.NDArray[Any]
FrameDecoder = Callable[[Path, int], Pixels]
"""File and frame -> samples."""

MIB = 1 << 20
UNDEFINED_LENGTH = b"\xff\xff\xff\xff"
ITEM_TAG = b"\xfe\xff\x00\xe0"


@dataclass(frozen=True, slots=True)
class PixelLimits:
    """How much one object may cost us."""

    max_frame_pixels: int = 64 * MIB
    max_frame_bytes: int = 512 * MIB
    max_header_bytes: int = 64 * MIB
    max_header_reads: int = 300_000
    max_element_bytes: int = 8 * MIB
    max_functional_groups: int = 100_000
    max_frame_reads: int = 2_000_000
    max_object_reads: int = 1_000_000
    max_inflated_bytes: int = 512 * MIB


# Groups a picture needs: what it is, who is on it, how it is drawn. The rest of the header is skipped, not read.
# fmt: off
_HEADER_KEYWORDS = [
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "SeriesDate",
    "AcquisitionDate", "ContentDate", "StudyTime", "AcquisitionTime", "AccessionNumber", "Modality",
    "Manufacturer", "InstitutionName", "PresentationIntentType", "StudyDescription",
    "SeriesDescription", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate",
    "PatientSex", "BodyPartExamined", "ViewPosition", "ImagerPixelSpacing",
    "NominalScannedPixelSpacing", "ShutterShape", "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge",
    "ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge", "CenterOfCircularShutter",
    "RadiusOfCircularShutter", "VerticesOfThePolygonalShutter", "ShutterPresentationValue",
    "StudyInstanceUID", "SeriesInstanceUID", "StudyID", "SeriesNumber", "AcquisitionNumber",
    "InstanceNumber", "Laterality", "ImageLaterality", "FrameLaterality", "PresentationLUTShape",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
]
# fmt: on
_IMAGE_PIXEL_TAGS = [
    0x00280000 | element for element in (*range(0x0002, 0x0400), *range(0x1040, 0x3011), 0x6010)
]
_OVERLAY_ELEMENTS = (0x0010, 0x0011, 0x0015, 0x0040, 0x0050, 0x0051, 0x0100, 0x0102, 0x3000)
_HEADER_TAGS: list[int] = [
    *(int(Tag(keyword)) for keyword in _HEADER_KEYWORDS),
    *_IMAGE_PIXEL_TAGS,
    *(0x60000000 | group << 16 | element for group in range(0, 0x20, 2) for element in _OVERLAY_ELEMENTS),
]


class BoundedFile(io.RawIOBase):
    """Reads a file, and stops a reader that reads too often or too much."""

    def __init__(self, file: BinaryIO, *, max_bytes: int, max_reads: int) -> None:
        super().__init__()
        self._file = file
        self._bytes_left = max_bytes
        self._reads_left = max_reads
        self._size_bytes = file.seek(0, os.SEEK_END)
        file.seek(0)

    def allow(self, *, max_bytes: int, max_reads: int) -> None:
        """Set what may be read from here on."""
        self._bytes_left, self._reads_left = max_bytes, max_reads

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes, never more than the file has."""
        self._reads_left -= 1
        if size < 0 or size > self._size_bytes:
            size = self._size_bytes
        data = self._file.read(size)
        self._bytes_left -= len(data)
        if self._reads_left < 0 or self._bytes_left < 0:
            raise Unrenderable("the object is larger or more finely divided than allowed")
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; a hostile length may point beyond the end, where reads answer nothing."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Answer the position."""
        return self._file.tell()

    def close(self) -> None:
        """Close the file beneath."""
        self._file.close()
        super().close()


class StoredImage:
    """A stored object opened for its pixels: a bounded header, and frames as decoded samples."""

    def __init__(
        self, path: Path, limits: PixelLimits | None = None, *, decode: FrameDecoder | None = None
    ) -> None:
        """Open an object; compressed frames are decoded in another process unless `decode` says otherwise."""
        self.limits = limits = limits or PixelLimits()
        self._path = path
        self._decode = decode or _decoded_elsewhere
        with typed_errors("the object cannot be read"):
            file: BinaryIO = path.open("rb")
        try:
            with typed_errors("the header cannot be read"):
                if (plain := inflated(file, path, limits)) is not None:
                    file.close()
                    file = plain
                self._file = BoundedFile(
                    file, max_bytes=limits.max_header_bytes, max_reads=limits.max_header_reads
                )
                self.header = self._read_header()
                self.transfer_syntax = UID(self.header.file_meta.TransferSyntaxUID)
        except BaseException:
            file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def frames(self) -> int:
        """Answer how many frames the object says it has."""
        with typed_errors("Number of Frames is not a number"):
            return max(int(self.header.get("NumberOfFrames") or 1), 1)

    def frame(self, index: int) -> Pixels:
        """Decode one frame (from 0): rows x columns, or rows x columns x 3 as RGB."""
        if not 0 <= index < self.frames:
            raise Unrenderable("there is no such frame")
        frame_bytes = self.frame_bytes()
        self._check_functional_groups()
        with typed_errors("the pixel data cannot be decoded"):
            self._file.allow(max_bytes=self.limits.max_frame_bytes, max_reads=self.limits.max_frame_reads)
            if self.transfer_syntax.is_encapsulated:
                self._check_codestream(index, frame_bytes)
                pixels = self._decode(self._path, index)
            else:
                pixels = pixel_array(self._file, index=index)  # type: ignore[arg-type]
        if pixels.shape[:2] != (self.header.Rows, self.header.Columns):
            raise Unrenderable("the pixel data does not have the size the header claims")
        return pixels

    def _read_header(self) -> FileDataset:
        """Read the elements a picture needs, and remember where the pixel data begins."""
        header = dcmread(
            self._file,
            stop_before_pixels=True,
            specific_tags=_HEADER_TAGS,
            defer_size=self.limits.max_element_bytes,
        )
        self._pixel_data_at = self._file.tell()
        for tag in list(header.keys()):
            element: Any = header.get_item(tag)
            if element.is_raw and element.length and element.value is None:  # deferred, so too large
                raise Unrenderable("an element of the header is larger than allowed")
        return header

    def frame_bytes(self) -> int:
        """Answer the size of a decoded frame; refuse what would not fit before anything is allocated (PS3.3 C.7.6.3)."""
        with typed_errors("the image pixel module is not complete"):
            rows, columns = int(self.header.Rows), int(self.header.Columns)
            samples = int(self.header.SamplesPerPixel)
            bits = int(self.header.BitsAllocated)
        if rows < 1 or columns < 1 or samples not in {1, 3} or bits not in {1, 8, 16, 32, 64}:
            raise Unrenderable("the image pixel module claims an impossible picture")
        if rows * columns > self.limits.max_frame_pixels:
            raise Unrenderable("the picture has more pixels than allowed")
        frame_bytes = rows * columns * samples * max(bits, 8) // 8
        if frame_bytes > self.limits.max_frame_bytes:
            raise Unrenderable("the picture is larger than allowed")
        return frame_bytes

    def check_codestreams(self) -> None:
        """Check every compressed frame, for those who will decode all of them."""
        frame_bytes = self.frame_bytes()
        with typed_errors("the pixel data cannot be decoded"):
            for index in range(self.frames):
                self._file.allow(max_bytes=self.limits.max_frame_bytes, max_reads=self.limits.max_frame_reads)
                self._check_codestream(index, frame_bytes)

    def _check_functional_groups(self) -> None:
        """Refuse sequences with more items than frames could need, before they become objects."""
        for keyword in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
            if keyword not in self.header:
                continue
            element: Any = self.header.get_item(keyword)
            encoded = element.value if element.is_raw else b""
            if encoded.count(ITEM_TAG) > self.limits.max_functional_groups:
                raise Unrenderable("the object has more functional groups than allowed")

    def _check_codestream(self, index: int, frame_bytes: int) -> None:
        """Compare what the compressed frame claims with what the header claims."""
        # Tag, VR, two reserved bytes, length (PS3.5 7.1.2); some writers leave the VR out even here.
        self._file.seek(self._pixel_data_at)
        element = self._file.read(12)
        if element[4:8] == UNDEFINED_LENGTH:
            self._file.seek(self._pixel_data_at + 8)
        elif element[8:12] != UNDEFINED_LENGTH:
            raise Unrenderable("the compressed pixel data is not encapsulated")
        offsets = None
        if "ExtendedOffsetTable" in self.header and "ExtendedOffsetTableLengths" in self.header:
            offsets = (self.header.ExtendedOffsetTable, self.header.ExtendedOffsetTableLengths)
        frame = get_frame(
            self._file,
            index,
            number_of_frames=self.frames,
            extended_offsets=offsets,
        )
        check_codestream(
            frame,
            transfer_syntax=self.transfer_syntax,
            rows=int(self.header.Rows),
            columns=int(self.header.Columns),
            samples=int(self.header.SamplesPerPixel),
            frame_bytes=frame_bytes,
        )


def _decoded_elsewhere(path: Path, index: int) -> Pixels:
    """Let another process decode a compressed frame."""
    head, body = decoder().ask({"do": "frame", "path": str(path.absolute()), "index": index})
    return np.frombuffer(body, dtype=np.dtype(str(head["dtype"]))).reshape(head["shape"])


def decode_frame(path: Path, index: int) -> Pixels:
    """Decode a frame here and now; whoever calls this may not survive it."""
    with typed_errors("the pixel data cannot be decoded"):
        return pixel_array(path, index=index)


def inflated(file: BinaryIO, path: Path, limits: PixelLimits) -> BinaryIO | None:
    """Answer a deflated object as the Explicit VR object it is (PS3.5 A.5), None when it is not deflated."""
    meta = read_file_meta_info(path)
    if meta.TransferSyntaxUID != DeflatedExplicitVRLittleEndian:
        return None
    # The group length, 12 bytes after preamble and prefix, counts what follows it (PS3.10 7.1).
    file.seek(144 + int(meta.FileMetaInformationGroupLength))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    data = inflater.decompress(file.read(), limits.max_inflated_bytes)
    if inflater.unconsumed_tail:
        raise Unrenderable("the object inflates to more than allowed")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plain = DicomBytesIO()
    plain.write(b"\0" * 128 + b"DICM")
    write_file_meta_info(plain, meta, enforce_standard=False)
    plain.write(data)
    return io.BytesIO(plain.getvalue())


@contextmanager
def typed_errors(what: str) -> Iterator[None]:
    """Turn whatever a decoder throws into Unrenderable; its own text may hold values, so it stays out.

    Trouble of this machine says nothing about the object and stays the OSError it is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except BrokerError:
        raise
    except (Exception, MemoryError) as error:
        if isinstance(error, OSError) and is_of_the_machine(error):
            raise
        raise Unrenderable(f"{what} ({type(error).__name__})") from error
