"""Hold a conversation with a served association without a socket: bytes in, answers out."""

from __future__ import annotations

from dataclasses import dataclass, field

from broker.dicom.network import pdu
from broker.dicom.network.association import ServedAssociation
from broker.dicom.network.dimse import Command, CommandField, decode_command, encode_command, message_pdus
from broker.dicom.network.limits import ServerLimits
from broker.dicom.network.negotiation import Offers
from broker.dicom.network.policy import AETitlePolicy
from broker.dicom.network.reception import Reception
from broker.dicom.network.service import (
    BufferedReceiver,
    CloseReason,
    Knock,
    Peer,
    Response,
    ServiceOffer,
)
from broker.dicom.network.verification import verification_offer

VERIFICATION = "1.2.840.10008.1.1"
WORKLIST = "1.2.840.10008.5.1.4.31"
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
MPPS = "1.2.840.10008.3.1.2.3.3"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"

ECHO = [verification_offer()]

SILENCE = "the peer says nothing until the deadline"


class ScriptedChannel:
    """Be a channel whose peer has said everything in advance."""

    def __init__(self, script):
        self.script = list(script)
        self.sent = bytearray()
        self.sends = 0
        self.patience = []  # every deadline we were given
        self.closed = False

    def receive_into(self, space, timeout_s):
        self.patience.append(timeout_s)
        if not self.script:
            return 0
        if self.script[0] is SILENCE:
            self.script.pop(0)
            raise TimeoutError
        return self._take(space)

    def receive_all_into(self, space, timeout_s):
        return self.receive_into(space, timeout_s)

    def receive_now(self, space):
        if not self.script or self.script[0] is SILENCE:
            return None
        return self._take(space)

    def _take(self, space):
        chunk = self.script[0]
        count = min(len(chunk), len(space))
        space[:count] = chunk[:count]
        if count == len(chunk):
            self.script.pop(0)
        else:
            self.script[0] = chunk[count:]
        return count

    def finish_sending(self):
        self.closed = True

    def send(self, parts, *, timeout_s, min_bytes_per_s):
        assert not self.closed
        self.sends += 1
        for part in parts:
            self.sent += part


@dataclass
class Diary:
    """Be an observer that remembers."""

    opened_peers: list[Peer] = field(default_factory=list)
    knocks: list[Knock] = field(default_factory=list)
    reasons: list[CloseReason] = field(default_factory=list)
    requests: list[tuple[CommandField, int, int]] = field(default_factory=list)

    def opened(self, peer):
        self.opened_peers.append(peer)

    def refused(self, knock):
        self.knocks.append(knock)

    def closed(self, peer, reason):
        self.reasons.append(reason)

    def served(self, request, status, *, seconds, data_set_bytes):
        self.requests.append((request.command.field, status, data_set_bytes))


class AnyPlace:
    """Be a place in a listener with as much room as one says."""

    association_id = "a-1"
    address = "192.0.2.7"
    tls_subject = None

    def __init__(self, *, room=True, stopping=False):
        self.idle = False
        self.room = room
        self.stopping = stopping

    def take_association(self):
        return self.room

    def is_stopping(self):
        return self.stopping


@dataclass
class Conversation:
    """Hold what came out of a conversation."""

    sent: bytes
    sends: int
    diary: Diary
    patience: list[float]
    unread: list[object]

    @property
    def pdus(self):
        """Name what was sent, in order: PDU types, and for data the command or the data set."""
        return [kind for kind, _ in self._split()]

    @property
    def replies(self):
        """Decode the command sets that were sent."""
        return [decode_command(body[6:]) for kind, body in self._split() if kind == "command"]

    @property
    def data_sets(self):
        return [body[6:] for kind, body in self._split() if kind == "data"]

    @property
    def last(self):
        return self._split()[-1]

    @property
    def accept(self):
        whole = bytes(self.sent[: 6 + int.from_bytes(self.sent[2:6], "big")])
        return pdu.parse_associate_accept(whole)

    def _split(self):
        found, at = [], 0
        while at < len(self.sent):
            length = int.from_bytes(self.sent[at + 2 : at + 6], "big")
            body = bytes(self.sent[at + 6 : at + 6 + length])
            kind = pdu.PduType(self.sent[at])
            name = ("command" if body[5] & 1 else "data") if kind is pdu.PduType.P_DATA_TF else kind.name
            found.append((name, body))
            at += 6 + length
        return found

    @property
    def close_reason(self):
        (reason,) = self.diary.reasons
        return reason

    @property
    def abort(self):
        kind, body = self.last
        assert kind == "ABORT", self.pdus
        return body[2], body[3]

    @property
    def rejection(self):
        kind, body = self.last
        assert kind == "ASSOCIATE_RJ", self.pdus
        return body[1], body[2], body[3]


def converse(*script, offers=(), limits=None, place=None, policy=None, channel=None):
    """Serve a scripted peer to the end."""
    channel, diary = channel or ScriptedChannel(script), Diary()
    limits = limits or ServerLimits()
    association = ServedAssociation(
        channel,
        place or AnyPlace(),
        Reception(
            offers if isinstance(offers, Offers) else Offers(offers),
            policy=policy or AETitlePolicy(frozenset({"BROKER"})),
            limits=limits,
            observer=diary,
        ),
    )
    association.run(first_pdu_deadline=float("inf"))
    return Conversation(bytes(channel.sent), channel.sends, diary, channel.patience, channel.script)


def request(*contexts, called="BROKER", calling="CT1", max_pdu_bytes=16384, **more):
    """Encode an A-ASSOCIATE-RQ; a context is an abstract syntax, or one with its transfer syntaxes."""
    proposed = []
    for index, context in enumerate(contexts or (VERIFICATION,)):
        name, syntaxes = (context, (IMPLICIT,)) if isinstance(context, str) else context
        proposed.append(pdu.ProposedContext(2 * index + 1, name, tuple(syntaxes)))
    return pdu.encode_associate_request(
        pdu.AssociateRequest(
            called_ae_title=called,
            calling_ae_title=calling,
            contexts=tuple(proposed),
            max_pdu_bytes=max_pdu_bytes,
            **more,
        )
    )


def message(command, data_set=None, *, context_id=1, payload_bytes=16378):
    """Encode a DIMSE message."""
    return b"".join(message_pdus(context_id, encode_command(command), data_set, payload_bytes=payload_bytes))


def echo(message_id=1, **more):
    return Command(
        field=CommandField.C_ECHO_RQ, message_id=message_id, affected_sop_class_uid=VERIFICATION, **more
    )


def find(message_id=1):
    return Command(
        field=CommandField.C_FIND_RQ,
        message_id=message_id,
        affected_sop_class_uid=WORKLIST,
        priority=0,
        has_data_set=True,
    )


def cancel(message_id=1):
    return Command(field=CommandField.C_CANCEL_RQ, message_id_being_responded_to=message_id)


def store(instance="1.2.3", *, sop_class=CT_IMAGE, message_id=1):
    return Command(
        field=CommandField.C_STORE_RQ,
        message_id=message_id,
        affected_sop_class_uid=sop_class,
        affected_sop_instance_uid=instance,
        priority=0,
        has_data_set=True,
    )


RELEASE = pdu.RELEASE_RQ
ABORT = pdu.encode_abort(0, 0)


class Shelf:
    """Be a storage service that keeps images in memory and remembers how it was used."""

    def __init__(self, *, fail_in=None, refuse=None):
        self.images = {}
        self.largest_piece = 0
        self.abandoned = []
        self.fail_in = fail_in
        self.refuse = refuse

    def begin(self, request):
        self._raise_in("begin")
        return _Slot(self, request.command.affected_sop_instance_uid)

    def _raise_in(self, place):
        if self.fail_in == place:
            raise self.refuse or RuntimeError("DOE^JANE was here")


class _Slot:
    def __init__(self, shelf, uid):
        self.shelf, self.uid, self.parts = shelf, uid, []

    def write(self, data):
        self.shelf._raise_in("write")
        self.shelf.largest_piece = max(self.shelf.largest_piece, len(data))
        self.parts.append(bytes(data))

    def finish(self, cancelled):
        self.shelf._raise_in("finish")
        self.shelf.images[self.uid] = b"".join(self.parts)
        yield Response(0x0000)

    def abandon(self):
        self.shelf.abandoned.append(self.uid)


class Answering:
    """Be a service that answers with a function of the request and the identifier."""

    def __init__(self, answer):
        self.answer = answer

    def begin(self, request):
        return BufferedReceiver(lambda data, cancelled: self.answer(request, data, cancelled))


def offer(service, *, abstract_syntax=WORKLIST, operation=CommandField.C_FIND_RQ, limit=4 << 20, **more):
    return ServiceOffer(
        abstract_syntax=abstract_syntax,
        transfer_syntaxes=more.pop("transfer_syntaxes", (EXPLICIT, IMPLICIT)),
        service=service,
        operations=frozenset({operation}),
        data_set_limit_bytes=limit,
        **more,
    )


def storage_offer(shelf, **more):
    return offer(
        shelf,
        abstract_syntax=more.pop("abstract_syntax", CT_IMAGE),
        operation=CommandField.C_STORE_RQ,
        limit=more.pop("limit", None),
        transfer_syntaxes=(),
        **more,
    )
