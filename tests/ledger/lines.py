"""Connections as systems and modalities hold them: opened when needed, dropped when anything goes wrong."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import suppress

from broker.dicom.network.client import ClientAssociation, Proposal, Timeouts, open_association
from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.failures import AssociationError
from tests.ledger.modality import EXPLICIT, MPPS


class MessageLine:
    """An MLLP connection that is opened when it is needed."""

    def __init__(self, port: int | None, patience_s: float) -> None:
        self._port, self._patience_s = port, patience_s
        self._socket: socket.socket | None = None

    def send(self, message: bytes) -> str | None:
        """Answer MSA-1, or None when there was no answer to this message."""
        try:
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self._port), self._patience_s)
            self._socket.sendall(b"\x0b" + message + b"\x1c\r")
            answer = b""
            while not answer.endswith(b"\x1c\r"):
                part = self._socket.recv(65536)
                if not part:
                    self.close()
                    return None
                answer += part
        except OSError:
            self.close()
            return None
        (code, acknowledged), *_ = _acknowledgements(answer)
        assert acknowledged == message.split(b"|")[9].decode(), "an answer to another message"
        return code

    def close(self) -> None:
        """Hang up."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _acknowledgements(answer: bytes) -> Iterator[tuple[str, str]]:
    for line in answer.decode().split("\r"):
        fields = line.split("|")
        if fields[0] == "MSA":
            yield fields[1], fields[2]


class AssociationLine:
    """An association that is opened when it is needed."""

    def __init__(
        self, port: int | None, calling_ae_title: str, sop_classes: list[str], patience_s: float
    ) -> None:
        self._port, self._title, self._sop_classes = port, calling_ae_title, sop_classes
        self._timeouts = Timeouts(
            connect_s=patience_s,
            association_s=patience_s,
            response_s=patience_s,
            send_s=patience_s,
            release_s=patience_s,
        )
        self._association: ClientAssociation | None = None

    def store(self, uid: str, data: bytes, sop_class: str) -> int | None:
        """Answer the status of a C-STORE, or None without an answer."""
        try:
            association = self._open()
            context = association.context_for(sop_class)
            return association.store(
                sop_class_uid=sop_class, sop_instance_uid=uid, context=context, payload=data
            ).status
        except (OSError, AssociationError):
            self.close()
            return None

    def report(self, uid: str, data: bytes, *, create: bool) -> int | None:
        """Answer the status of an N-CREATE or N-SET, or None without an answer."""
        command = Command(
            field=CommandField.N_CREATE_RQ if create else CommandField.N_SET_RQ,
            affected_sop_class_uid=MPPS if create else None,
            affected_sop_instance_uid=uid if create else None,
            requested_sop_class_uid=None if create else MPPS,
            requested_sop_instance_uid=None if create else uid,
        )
        try:
            association = self._open()
            replies = list(association.request(command, data, context=association.context_for(MPPS)))
        except (OSError, AssociationError):
            self.close()
            return None
        return replies[0].status if replies else None

    def close(self) -> None:
        """Release, or let go of what cannot be released."""
        association, self._association = self._association, None
        if association is not None:
            with suppress(OSError, AssociationError):
                association.release()

    def _open(self) -> ClientAssociation:
        if self._association is None or not self._association.is_open:
            self._association = open_association(
                "127.0.0.1",
                self._port or 0,
                calling_ae_title=self._title,
                called_ae_title="BROKER",
                contexts=[Proposal(sop_class, (EXPLICIT,)) for sop_class in self._sop_classes],
                timeouts=self._timeouts,
            )
        return self._association


def send_once(port: int, message: str) -> str | None:
    """Send one message on a connection of its own; answer MSA-1, or None when there was no answer."""
    line = MessageLine(port, patience_s=60)
    try:
        return line.send(message.encode())
    finally:
        line.close()


def report_once(port: int, uid: str, data_set: bytes, *, create: bool = True) -> int | None:
    """Send N-CREATE or N-SET on an association of its own; answer the status, or None without an answer."""
    line = AssociationLine(port, "CT1", [MPPS], patience_s=60)
    try:
        return line.report(uid, data_set, create=create)
    finally:
        line.close()
