"""Cut a data set into P-DATA-TF PDUs without assembling it: headers and slices, many to one system call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final

from broker.dicom.network.channel import Buffer
from broker.dicom.network.pdu import LAST_BIT, data_header

_CHUNK_BYTES: Final = 512 * 1024


class PayloadTooShort(Exception):
    """The file ended before the announced length: it was changed while it was sent."""


class PayloadUnreadable(Exception):
    """The file could not be read on. Not an OSError: those are the connection's."""

    def __init__(self, error: OSError) -> None:
        """Keep what the system said."""
        super().__init__(error)
        self.error = error


def data_set_parts(
    context_id: int, payload: BinaryIO | Buffer, length: int | None, *, payload_bytes: int
) -> Iterator[tuple[list[Buffer], int]]:
    """Yield lists of buffers to send and how many payload bytes each holds; the last PDV is marked last.

    The buffers are only valid until the next list is asked for.
    """
    if isinstance(payload, bytes | bytearray | memoryview):
        view = memoryview(payload)
        if length is not None:
            view = view[:length]
        yield _framed(context_id, view, payload_bytes, ends=True), len(view)
        return
    if length is None:
        here = payload.tell()
        length = payload.seek(0, 2) - here
        payload.seek(here)
    # whole PDVs to a chunk, so that only the very last is short
    size = max(payload_bytes, _CHUNK_BYTES - _CHUNK_BYTES % payload_bytes)
    chunk = memoryview(bytearray(min(size, max(length, 1))))
    left = length
    while True:
        wanted = min(left, len(chunk))
        filled = 0
        while filled < wanted:
            try:
                count = payload.readinto(chunk[filled:wanted])  # type: ignore[attr-defined]
            except OSError as error:
                raise PayloadUnreadable(error) from error
            if not count:
                raise PayloadTooShort
            filled += count
        left -= wanted
        yield _framed(context_id, chunk[:wanted], payload_bytes, ends=left == 0), wanted
        if left == 0:
            return


def _framed(context_id: int, view: memoryview, payload_bytes: int, *, ends: bool) -> list[Buffer]:
    size = len(view)
    parts: list[Buffer] = []
    full = data_header(context_id, 0, payload_bytes)
    at = 0
    while size - at > payload_bytes or (size - at == payload_bytes and not ends):
        parts += (full, view[at : at + payload_bytes])
        at += payload_bytes
    if at < size or ends:
        parts += (data_header(context_id, LAST_BIT if ends else 0, size - at), view[at:])
    return parts
