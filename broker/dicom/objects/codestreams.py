"""Look at what a compressed frame claims, before a decoder in C believes it."""

from __future__ import annotations

import itertools
import struct

from pydicom.uid import (
    UID,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from broker.errors import BrokerError

# PS3.5 A.4.4, high-throughput variants; pydicom names them but keeps no list.
HTJ2K_TRANSFER_SYNTAXES = frozenset(
    {"1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"}
)


class Unrenderable(BrokerError):
    """The object has no picture that can be shown."""

    http_status = 422


def check_codestream(
    frame: bytes, *, transfer_syntax: UID, rows: int, columns: int, samples: int, frame_bytes: int
) -> None:
    """Refuse a compressed frame whose own header claims another picture than the object's header."""
    if transfer_syntax == RLELossless:
        # A replicate run makes at most 128 bytes of two (PS3.5 G.3).
        if (
            len(frame) > 2 * frame_bytes + 4096
            or _rle_length(frame, frame_bytes) > frame_bytes + 2 * samples * 8
        ):
            raise Unrenderable("the compressed frame unpacks to more than the picture")
        return
    if transfer_syntax in JPEG2000TransferSyntaxes or transfer_syntax in HTJ2K_TRANSFER_SYNTAXES:
        claimed = _jpeg_2000_size(frame)
    elif transfer_syntax in JPEGTransferSyntaxes or transfer_syntax in JPEGLSTransferSyntaxes:
        claimed = _jpeg_size(frame)
    else:
        raise Unrenderable("the transfer syntax is not a picture we can decode")
    if claimed != (rows, columns, samples):
        raise Unrenderable("the compressed frame has another size than the header claims")


def _jpeg_2000_size(frame: bytes) -> tuple[int, int, int]:
    """Answer rows, columns and components of a JPEG 2000 codestream (ISO/IEC 15444-1 A.5.1)."""
    at = _codestream_in_jp2(frame) if frame[:8] == b"\0\0\0\x0cjP  " else 0
    if frame[at : at + 4] != b"\xff\x4f\xff\x51" or len(frame) < at + 42:
        raise Unrenderable("the compressed frame is not a JPEG 2000 codestream")
    x, y, x_offset, y_offset = struct.unpack_from(">4I", frame, at + 8)
    (components,) = struct.unpack_from(">H", frame, at + 40)
    return y - y_offset, x - x_offset, components


def _codestream_in_jp2(frame: bytes) -> int:
    """Find the codestream in a JP2 wrapper, which PS3.5 A.4.4 forbids and some devices write."""
    at = 12
    while at + 8 <= len(frame):
        if frame[at + 4 : at + 8] == b"jp2c":
            return at + 8
        length = int.from_bytes(frame[at : at + 4], "big")
        if length < 8:  # a decoder would look at an empty box for ever
            break
        at += length
    raise Unrenderable("the compressed frame is not a JPEG 2000 codestream")


def _jpeg_size(frame: bytes) -> tuple[int, int, int]:
    """Answer rows, columns and components of a JPEG or JPEG-LS stream (ISO/IEC 10918-1 B.2.2)."""
    if frame[:2] != b"\xff\xd8":
        raise Unrenderable("the compressed frame is not a JPEG stream")
    at = 2
    while at + 10 <= len(frame):
        marker, length = frame[at + 1], int.from_bytes(frame[at + 2 : at + 4], "big")
        if frame[at] != 0xFF:
            break
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if (0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}) or marker == 0xF7:
            rows, columns, components = struct.unpack_from(">HHB", frame, at + 5)
            return rows, columns, components
        at += 2 + length
    raise Unrenderable("the compressed frame has no frame header")


def _rle_length(frame: bytes, enough: int) -> int:
    """Answer how many bytes an RLE frame unpacks to; only counted when it could be more than `enough`."""
    if len(frame) * 64 <= enough:
        return 0
    if len(frame) < 64:
        raise Unrenderable("the compressed frame has no RLE header")
    segments = int.from_bytes(frame[0:4], "little")
    if not 1 <= segments <= 15:
        raise Unrenderable("the compressed frame has an impossible RLE header")
    starts = [*struct.unpack_from(f"<{segments}I", frame, 4), len(frame)]
    total = 0
    for start, end in itertools.pairwise(starts):
        at = start
        while at < end:
            code = frame[at]
            if code < 128:
                total += code + 1
                at += code + 2
            else:
                total += 257 - code if code > 128 else 0
                at += 2
            if total > 4 * enough:
                return total
    return total
