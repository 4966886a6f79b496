"""A client that costs next to nothing, so that the server is measured: bytes made before, and only headers read."""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Self

from broker.dicom.network import pdu
from broker.dicom.network.dimse import Command, encode_command, message_pdus
from tests.performance.parties import AE_TITLE

IMPLICIT = "1.2.840.10008.1.2"
_HEADER = struct.Struct(">xxIIBB")  # length of the PDU, of the PDV, context id, message control header
_HEADER_BYTES = 12
_NO_DATA_SET = struct.pack("<HHIH", 0x0000, 0x0800, 2, 0x0101)
_STATUS = struct.pack("<HHI", 0x0000, 0x0900, 2)
_PAYLOAD_BYTES = 16_000
_SPACE = bytearray(1024 * 1024)  # one for all: nobody asks two at once


def associate_request(abstract_syntaxes: Sequence[str]) -> bytes:
    """Propose each abstract syntax in Implicit VR Little Endian."""
    contexts = tuple(
        pdu.ProposedContext(2 * place + 1, name, (IMPLICIT,)) for place, name in enumerate(abstract_syntaxes)
    )
    return pdu.encode_associate_request(
        pdu.AssociateRequest(
            called_ae_title=AE_TITLE, calling_ae_title="CT01", contexts=contexts, max_pdu_bytes=128 * 1024
        )
    )


def message(command: Command, data_set: bytes | None = None) -> bytes:
    """Write a whole request on the first context."""
    encoded = encode_command(command._replace(has_data_set=data_set is not None))
    return b"".join(message_pdus(1, encoded, data_set, payload_bytes=_PAYLOAD_BYTES))


class Wire:
    """Be one open association."""

    def __init__(self, port: int, request: bytes) -> None:
        """Connect and associate."""
        self._space = memoryview(_SPACE)
        self.sock = socket.socket()
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(120)
        self.sock.sendall(request)
        self._expect(pdu.PduType.ASSOCIATE_AC)

    def __enter__(self) -> Self:
        """Answer the open association."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release it."""
        self.release()

    def release(self) -> None:
        """Release and close."""
        with self.sock:
            self.sock.sendall(pdu.RELEASE_RQ)
            self._expect(pdu.PduType.RELEASE_RP)

    def ask(self, request: bytes) -> int:
        """Send a request and read until the answer without a data set; answer how many came before it."""
        space, recv_into, read_header = self._space, self.sock.recv_into, _HEADER.unpack_from
        self.sock.sendall(request)
        start = end = pending = 0
        while True:
            count = recv_into(space[end:])
            if not count:
                raise ConnectionError("the peer closed")
            end += count
            while end - start >= _HEADER_BYTES:
                length, _, _, control = read_header(space, start)
                past = start + pdu.HEADER_BYTES + length
                if past > end:
                    break
                if control & pdu.COMMAND_BIT:
                    command = bytes(space[start:past])
                    if _NO_DATA_SET in command:
                        self._check(command)
                        return pending
                    pending += 1
                start = past

    def _check(self, command: bytes) -> None:
        at = command.index(_STATUS) + len(_STATUS)
        if command[at : at + 2] != bytes(2):
            raise AssertionError(f"status {command[at + 1]:02X}{command[at]:02X}")

    def _expect(self, kind: int) -> None:
        space, end, whole = self._space, 0, pdu.HEADER_BYTES
        while end < whole:
            count = self.sock.recv_into(space[end:])
            if not count:
                raise ConnectionError("the peer closed")
            end += count
            if end >= pdu.HEADER_BYTES:
                whole = pdu.HEADER_BYTES + int.from_bytes(space[2:6], "big")
        if space[0] != kind:
            raise AssertionError(f"PDU type {space[0]}, not {kind}")
