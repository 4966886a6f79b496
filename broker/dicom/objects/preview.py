"""Small pictures of stored objects for people who look for an exam: not for diagnosis.

A picture is made by a process of its own with a deadline, one at a time: whatever a file does to it, the pages
go on. What was made is kept in memory, up to a bound, because stored objects never change.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

from pydicom.uid import UID

from broker.dicom.objects.codestreams import Unrenderable
from broker.dicom.objects.isolation import IsolatedDecoder
from broker.errors import OutOfResources

SIDE_PIXELS: Final = 256
MAX_SECONDS: Final = 10.0
MAX_WAITING: Final = 12
MAX_KEPT_BYTES: Final = 32 << 20
MAX_PREVIEW_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Preview:
    """A picture, or a tile that says why there is none."""

    media_type: str
    body: bytes


class Previews:
    """Makes previews, one at a time, and keeps the latest. Safe for several threads."""

    def __init__(self, *, max_seconds: float = MAX_SECONDS, max_kept_bytes: int = MAX_KEPT_BYTES) -> None:
        self._decoder = IsolatedDecoder(max_seconds=max_seconds)
        self._max_kept_bytes = max_kept_bytes
        self._places = threading.BoundedSemaphore(MAX_WAITING)
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, Preview] = OrderedDict()
        self._kept_bytes = 0

    def of(self, path: Path, *, sop_class_uid: str, transfer_syntax_uid: str) -> Preview:
        """Answer the preview of a stored object. Raises OutOfResources when too many wait for theirs."""
        with self._lock:
            if path in self._kept:
                self._kept.move_to_end(path)
                return self._kept[path]
        if not self._places.acquire(blocking=False):
            raise OutOfResources("Too many previews are being made; reload in a moment.")
        try:
            preview = self._made(path, sop_class_uid, transfer_syntax_uid)
        finally:
            self._places.release()
        self._keep(path, preview)
        return preview

    def close(self) -> None:
        """End the process."""
        self._decoder.close()

    def _made(self, path: Path, sop_class_uid: str, transfer_syntax_uid: str) -> Preview:
        try:
            _, body = self._decoder.ask({"do": "preview", "path": str(path), "side": SIDE_PIXELS})
        except Unrenderable as error:
            return _tile(sop_class_uid, transfer_syntax_uid, str(error))
        if len(body) > MAX_PREVIEW_BYTES:
            return _tile(sop_class_uid, transfer_syntax_uid, "the preview is too large")
        return Preview("image/png", body)

    def _keep(self, path: Path, preview: Preview) -> None:
        with self._lock:
            if path not in self._kept:
                self._kept[path] = preview
                self._kept_bytes += len(preview.body)
            while self._kept_bytes > self._max_kept_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._kept_bytes -= len(dropped.body)


_NO_PICTURE: Final = ("the image pixel module is not complete",)


def _tile(sop_class_uid: str, transfer_syntax_uid: str, reason: str) -> Preview:
    """Draw a tile that says what the object is and why it is not shown; reasons hold no value of the object."""
    if reason.startswith(_NO_PICTURE):
        lines = [_name_of(sop_class_uid).removesuffix(" Storage"), "has no picture"]
    elif UID(transfer_syntax_uid).is_valid and _is_compressed(transfer_syntax_uid):
        lines = [_name_of(transfer_syntax_uid), "not decoded here", reason]
    else:
        lines = ["not shown", reason]
    text = "".join(
        f'<text x="128" y="{98 + 24 * number}">{escape(line[:36])}</text>'
        for number, line in enumerate(lines)
    )
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 256 256" width="256" height="256">'
        '<rect width="256" height="256" fill="#20262b"/>'
        f'<g fill="#d7dee3" font-family="sans-serif" font-size="14" text-anchor="middle">{text}</g></svg>'
    )
    return Preview("image/svg+xml", svg.encode())


def _name_of(uid: str) -> str:
    name = UID(uid).name
    return "an object of a private class" if name == uid else str(name)


def _is_compressed(transfer_syntax_uid: str) -> bool:
    try:
        return UID(transfer_syntax_uid).is_encapsulated
    except ValueError:
        return True  # a syntax pydicom has no name for
