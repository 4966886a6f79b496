"""Reads the few attributes routing needs from a data set as it streams by.

The scanner walks element headers and steps over values: it never builds a data set, holds a few KiB, enters only
the sequences it was asked for or that have no length, counts what it walks, and stops behind the last attribute
it wants. What a hostile or broken data set makes of it is a `Header` with a `problem`, never an exception.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from broker.dicom.objects.element_text import READABLE_VRS, text_values
from broker.dicom.objects.elements import codecs_of
from broker.dicom.objects.scan_plan import ScanPlan, Wanted, known_keyword

__all__ = ["Header", "HeaderScanner", "ScanPlan", "known_keyword"]

MAX_DEPTH: Final = 32
MAX_ELEMENTS: Final = 20_000
MAX_INFLATED_BYTES: Final = 64 * 1024
MAX_VALUE_BYTES: Final = 4096
"""Of one value; a longer one is cut there."""
MAX_KEPT_BYTES: Final = 128 * 1024
"""Of all values together."""
_WINDOW_BYTES: Final = 8 * 1024

IMPLICIT_VR_LITTLE_ENDIAN: Final = "1.2.840.10008.1.2"
EXPLICIT_VR_BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
DEFLATED_TRANSFER_SYNTAXES: Final = frozenset(
    {"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"}
)
"""Those whose whole data set is deflated (PS3.5 A.5, A.7, A.8)."""


@dataclass(frozen=True, slots=True)
class Header:
    """What was readable of a data set."""

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Keyword or path -> values; absent = not in the data set, () = there without a value."""
    problem: str | None = None
    """Why reading ended early; the values so far are kept."""

    def first(self, key: str) -> str | None:
        """Answer the first value of an attribute that has one."""
        values = self.values.get(key)
        return values[0] if values and values[0] else None


_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_FIRST_TAG = 0x00040000
_NEVER = 1 << 62
_NOTHING: Mapping[int, Wanted] = {}


class _Order:
    """Reads element headers of one byte order. A VR is the number its two letters make in that order."""

    def __init__(self, sign: Literal["<", ">"]) -> None:
        number = struct.Struct(sign + "H")
        self.explicit = struct.Struct(sign + "HHHH").unpack_from
        self.implicit = struct.Struct(sign + "HHL").unpack_from
        self.length = struct.Struct(sign + "L").unpack_from

        def numbers(vrs: str) -> dict[int, str]:
            return {number.unpack(vr.encode())[0]: vr for vr in vrs.split()}

        # PS3.5 7.1.2: these have a 16-bit length, every other, also one to come, has 32 bits.
        self.short = numbers("AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US")
        self.long = numbers("OB OD OF OL OV OW SQ SV UC UN UR UT UV")
        self.names = self.short | self.long
        self.sq, self.un = number.unpack(b"SQ")[0], number.unpack(b"UN")[0]


_LITTLE, _BIG = _Order("<"), _Order(">")


@dataclass(slots=True)
class _Frame:
    """A sequence or an item that is being walked; `end` is an absolute offset."""

    is_item: bool
    end: int
    wanted: Mapping[int, Wanted]
    implicit: bool


class HeaderScanner:
    """Takes a data set piece by piece; `finish` answers what was wanted of it."""

    __slots__ = (
        "_base",
        "_big",
        "_elements",
        "_frames",
        "_implicit",
        "_inflated",
        "_inflater",
        "_kept",
        "_kept_bytes",
        "_plan",
        "_rest",
        "_skip",
        "_started",
        "done",
        "problem",
    )

    def __init__(self, plan: ScanPlan, transfer_syntax_uid: str) -> None:
        """Start at the first byte of a data set of this transfer syntax."""
        self._plan = plan
        self._implicit = transfer_syntax_uid == IMPLICIT_VR_LITTLE_ENDIAN
        self._big = transfer_syntax_uid == EXPLICIT_VR_BIG_ENDIAN
        deflated = transfer_syntax_uid in DEFLATED_TRANSFER_SYNTAXES
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if deflated else None
        self._inflated = 0
        self._rest = b""
        self._skip = 0
        self._base = 0
        self._elements = 0
        self._frames: list[_Frame] = []
        self._kept: list[tuple[Wanted, str, bytes]] = []
        self._kept_bytes = 0
        self._started = False
        self.done = False
        """Nothing of interest can follow."""
        self.problem: str | None = None

    def feed(self, data: memoryview | bytes) -> None:
        """Take the next bytes; costs nothing once `done`."""
        if self.done:
            return
        if self._inflater is None:
            self._take(memoryview(data))
            return
        # A bomb of any size costs what MAX_INFLATED_BYTES costs: the rest is never inflated.
        try:
            clear = self._inflater.decompress(data, MAX_INFLATED_BYTES - self._inflated)
        except zlib.error:
            self._stop("is not deflated as its transfer syntax says")
            return
        self._inflated += len(clear)
        self._take(memoryview(clear))
        if not self.done and self._inflated >= MAX_INFLATED_BYTES:
            self._stop(None)

    def finish(self) -> Header:
        """Answer what was read; the data set ends here."""
        # What was stepped over may have been the end of the sequences around it too.
        is_open = any(frame.end != self._base for frame in self._frames)
        if not self.done and (self._rest or self._skip or is_open):
            self._stop("ends in the middle of an element")
        return Header(self._values(), self.problem)

    @property
    def steps_to(self) -> int:
        """Answer where what is being stepped over ends, counted from the first byte of the data set."""
        return self._base + self._skip

    def _values(self) -> dict[str, tuple[str, ...]]:
        codecs = codecs_of(())
        values: dict[str, tuple[str, ...]] = {}
        for attribute, vr, raw in self._kept:
            key = attribute.key
            found = text_values(raw, vr, codecs=codecs, little_endian=not self._big)
            if "." in key:
                # Items of a sequence add their values; those of the top level may stand only once.
                if len(values.setdefault(key, ())) < 256:
                    values[key] += found
            else:
                values.setdefault(key, found)
                if key == "SpecificCharacterSet":
                    codecs = codecs_of(found)
        return values

    def _stop(self, problem: str | None) -> None:
        self.done = True
        self.problem = problem
        self._rest = b""
        self._inflater = None

    def _take(self, view: memoryview) -> None:
        position, length = 0, len(view)
        while position < length and not self.done:
            if self._skip:
                step = min(self._skip, length - position)
                self._skip -= step
                self._base += step
                position += step
                continue
            piece = view[position : position + _WINDOW_BYTES]
            position += len(piece)
            buffer = self._rest + piece.tobytes() if self._rest else piece.tobytes()
            if not self._started:
                if len(buffer) < 8:
                    self._rest = buffer
                    continue
                self._start(buffer)
            consumed = self._walk(buffer)
            self._base += consumed
            self._rest = b"" if self.done else buffer[consumed:]

    def _start(self, buffer: bytes) -> None:
        """Believe the first element rather than the label: some senders contradict their transfer syntax."""
        self._started = True
        vr = buffer[4:6]
        if self._implicit:
            self._implicit = int.from_bytes(vr, "little") not in _LITTLE.names
        elif not _is_vr(vr):
            self._implicit = True

    def _walk(self, buffer: bytes) -> int:
        """Walk the whole elements of a buffer, answer how many bytes they were."""
        size, base, at = len(buffer), self._base, 0
        order = _BIG if self._big else _LITTLE
        explicit_header, implicit_header, short = order.explicit, order.implicit, order.short
        top, last_tag, frames = self._plan.wanted, self._plan.last_tag, self._frames
        budget = MAX_ELEMENTS - self._elements
        frame = frames[-1] if frames else None
        wanted = frame.wanted if frame else top
        implicit = frame.implicit if frame else self._implicit
        end = frame.end - base if frame else _NEVER
        while True:
            if at >= end:
                if at > end:
                    self._stop("has an item longer than its sequence")
                    return at
                frames.pop()
                frame = frames[-1] if frames else None
                wanted = frame.wanted if frame else top
                implicit = frame.implicit if frame else self._implicit
                end = frame.end - base if frame else _NEVER
                continue
            if size - at < 8:
                break
            budget -= 1
            if budget < 0:
                self._stop(None)  # no harm is meant by many elements, but there is an end to looking
                return at
            start = at + 8
            if implicit:
                group, element, length = implicit_header(buffer, at)
                vr = 0
            else:
                group, element, vr, length = explicit_header(buffer, at)
                if vr not in short:
                    if group == 0xFFFE:
                        (length,) = order.length(buffer, at + 4)
                    elif vr in order.long or _is_vr(buffer[at + 4 : at + 6]):
                        if size - at < 12:
                            break
                        (length,) = order.length(buffer, start)
                        start += 4
                    else:
                        self._stop("has an element without a value representation")
                        return at
            tag = group << 16 | element
            if frame is None:
                if not _FIRST_TAG <= tag <= last_tag:
                    self._stop(
                        "has group 0000 or 0002 elements, which do not belong into a data set"
                        if tag < _FIRST_TAG
                        else ("has an item outside a sequence" if group == 0xFFFE else None)
                    )
                    return at
            elif group == 0xFFFE:
                at = start
                if tag == _ITEM and not frame.is_item:
                    stop = _NEVER if length == _UNDEFINED else at + length
                    if stop != _NEVER and stop > end:
                        self._stop("has an item longer than its sequence")
                        return at
                    if stop == _NEVER or wanted:
                        frames.append(_Frame(True, stop if stop == _NEVER else base + stop, wanted, implicit))
                    elif stop > size:  # nothing in here is wanted: step over it
                        self._skip = stop - size
                        at = size
                        break
                    else:
                        at = stop
                        continue
                elif (tag == _ITEM_END and frame.is_item) or (tag == _SEQUENCE_END and not frame.is_item):
                    frames.pop()
                else:
                    self._stop("has a delimiter in the wrong place")
                    return at
                frame = frames[-1] if frames else None
                wanted = frame.wanted if frame else top
                implicit = frame.implicit if frame else self._implicit
                end = frame.end - base if frame else _NEVER
                continue
            elif not frame.is_item:
                self._stop("has an element where an item belongs")
                return at
            attribute = wanted.get(tag)
            after = start + length
            if length == _UNDEFINED or (
                attribute is not None and attribute.items and (implicit or vr in (order.sq, order.un))
            ):
                if len(frames) >= 2 * MAX_DEPTH:
                    self._stop(f"is nested deeper than {MAX_DEPTH} levels")
                    return at
                stop = _NEVER if length == _UNDEFINED else after
                if stop != _NEVER and stop > end:
                    self._stop("has a sequence longer than what holds it")
                    return at
                at = start
                wanted = (attribute.items if attribute else None) or _NOTHING
                # PS3.5 6.2.2: what is inside a UN of undefined length is Implicit VR Little Endian.
                implicit = implicit or vr == order.un
                frame = _Frame(False, stop if stop == _NEVER else base + stop, wanted, implicit)
                frames.append(frame)
                end = stop
                continue
            if after > end:
                self._stop("has an element longer than what holds it")
                return at
            if attribute is not None and attribute.items is None and self._kept_bytes < MAX_KEPT_BYTES:
                keep = min(length, MAX_VALUE_BYTES)
                if size - start < keep:
                    break
                name = order.names.get(vr, attribute.vr)
                self._kept_bytes += keep
                self._kept.append(
                    (attribute, name if name in READABLE_VRS else attribute.vr, buffer[start : start + keep])
                )
            if after > size:
                self._skip = after - size
                at = size
                break
            at = after
        self._elements = MAX_ELEMENTS - budget
        return at


def _is_vr(letters: bytes) -> bool:
    return letters.isalpha() and letters.isupper()
