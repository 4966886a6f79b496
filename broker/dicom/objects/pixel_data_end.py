"""Notice that native Pixel Data are shorter than they say: the sender's copy was cut off, and ours would be, too.

The command of a C-STORE does not tell how long its data set is (PS3.7 9.1.1), so an object whose end is missing looks
whole on the wire. Refused, it stays with its sender, who is told; accepted, the sender may delete the rest of it.

Looking costs a search in the first bytes. Only what that makes suspicious is walked element by element, for the bytes
of the tag may stand in a value, too.
"""

from __future__ import annotations

from typing import Final

from broker.dicom.objects.header import DEFLATED_TRANSFER_SYNTAXES, EXPLICIT_VR_BIG_ENDIAN, HeaderScanner
from broker.dicom.objects.scan_plan import ScanPlan

HEAD_BYTES: Final = 16 * 1024
"""Where Pixel Data begin further on, nothing is noticed."""
PIXEL_DATA_ELEMENT: Final = 0x7FE00010
_PADDING_BYTES: Final = 1
"""Some writers count the byte that makes a value even (PS3.5 7.1.1) and do not write it: no pixel is missing."""
_TO_THE_PIXELS: Final = ScanPlan({}, PIXEL_DATA_ELEMENT)
_NATIVE_VRS: Final = frozenset({b"OW", b"OB"})
_UNDEFINED: Final = 0xFFFFFFFF


class PixelDataEnd:
    """Takes a data set piece by piece and remembers its first bytes and its length."""

    __slots__ = ("_count", "_head", "_transfer_syntax")

    def __init__(self, transfer_syntax_uid: str) -> None:
        """Start at the first byte of a data set of this transfer syntax."""
        self._transfer_syntax = transfer_syntax_uid
        self._head = b""
        self._count = 0

    def take(self, data: memoryview) -> None:
        """Take the next bytes."""
        if self._count < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - self._count]
        self._count += len(data)

    @property
    def is_missing(self) -> bool:
        """Tell whether the data set, which ends here, ends inside native Pixel Data."""
        if self._transfer_syntax in DEFLATED_TRANSFER_SYNTAXES or not self._seems_missing():
            return False
        scanner = HeaderScanner(_TO_THE_PIXELS, self._transfer_syntax)
        scanner.feed(self._head)
        return not scanner.done and scanner.steps_to > self._count + _PADDING_BYTES

    def _seems_missing(self) -> bool:
        head = self._head
        order: Final = "big" if self._transfer_syntax == EXPLICIT_VR_BIG_ENDIAN else "little"
        tag = b"\x7f\xe0\x00\x10" if order == "big" else b"\xe0\x7f\x10\x00"
        at = head.find(tag)
        while at >= 0:
            length_at = at + (8 if head[at + 4 : at + 6] in _NATIVE_VRS else 4)
            length = int.from_bytes(head[length_at : length_at + 4], order)
            end = length_at + 4 + length
            if end == self._count:
                return False  # nearly always: what is found first are the pixels, and they are whole
            if length != _UNDEFINED and end > self._count + _PADDING_BYTES:
                return True
            at = head.find(tag, at + 4)
        return False
