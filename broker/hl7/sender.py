"""Sends messages over MLLP and waits for their acknowledgement: the destination kind `mllp`, and `hl7 send`."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import structlog
from pydantic import BaseModel, ConfigDict, Field

from broker.domain.delivery import Delivered, Misconfigured, Outcome, Rejected, RetryLater
from broker.errors import BrokerError, InvalidValue
from broker.failpoints import failpoint
from broker.hl7.mllp import START, Frame, Framer, frame
from broker.hl7.tokenizer import tokenize
from broker.workflow.destinations_port import CheckResult, DestinationContext, Parcel, Settled

log = structlog.get_logger(__name__)

MAX_ANSWER_BYTES: Final = 1024 * 1024
_REASON_CHARACTERS: Final = 200
_ACCEPTED: Final = frozenset({"AA", "CA"})


class MllpError(BrokerError):
    """The peer gave no usable acknowledgement."""


class MllpUnreachable(MllpError):
    """The peer cannot be reached."""


class MllpUntrusted(MllpError):
    """The peer's certificate, or ours, is not accepted."""


class MllpSilent(MllpError):
    """The peer did not acknowledge in time."""


class MllpOptions(BaseModel):
    """Says where messages go."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(min_length=1, description="Name or address of the receiving system.")
    port: int = Field(ge=1, le=65535, description="Its MLLP port.")
    tls: bool = Field(default=False, description="Speak TLS and check the peer's certificate.")
    ca_file: Path | None = Field(default=None, description="Certificates to trust; else the system's.")
    certificate: Path | None = Field(default=None, description="Our certificate, if the peer wants one.")
    key: Path | None = Field(default=None, description="The key of our certificate.")
    connect_timeout_s: float = Field(default=10.0, gt=0, description="How long connecting may take, seconds.")
    answer_timeout_s: float = Field(default=30.0, gt=0, description="How long an answer may take, seconds.")


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Holds the answer to one message."""

    code: str
    text: str
    raw: bytes


class MllpClient:
    """Keeps one connection to a peer and sends one message at a time over it; for one thread at a time."""

    def __init__(self, options: MllpOptions) -> None:
        self._options = options
        self._socket: socket.socket | None = None
        self._framer = Framer(max_message_bytes=MAX_ANSWER_BYTES)

    def connect(self) -> None:
        """Connect unless connected; a connection the peer has closed meanwhile is replaced."""
        if self._socket is not None and not _is_stale(self._socket):
            return
        self.close()
        options = self._options
        try:
            plain = socket.create_connection((options.host, options.port), options.connect_timeout_s)
        except OSError as error:
            raise MllpUnreachable(f"{options.host}:{options.port}: {_told(error)}") from error
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._framer = Framer(max_message_bytes=MAX_ANSWER_BYTES)
        self._socket = self._secured(plain) if options.tls else plain

    def _secured(self, plain: socket.socket) -> socket.socket:
        options = self._options
        try:
            context = ssl.create_default_context(cafile=str(options.ca_file) if options.ca_file else None)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if options.certificate is not None:
                context.load_cert_chain(options.certificate, options.key)
            return context.wrap_socket(plain, server_hostname=options.host)
        except TimeoutError as error:
            plain.close()
            raise MllpUnreachable("the TLS hand-shake took too long") from error
        except ssl.SSLEOFError as error:
            plain.close()
            raise MllpUnreachable("the peer closed during the TLS hand-shake") from error
        except (ssl.SSLError, FileNotFoundError, PermissionError) as error:
            plain.close()
            raise MllpUntrusted(f"TLS: {_told(error)}") from error
        except OSError as error:
            plain.close()
            raise MllpUnreachable(f"TLS: {_told(error)}") from error

    def exchange(self, message: bytes) -> Acknowledgement:
        """Send a message and wait for the acknowledgement of its MSH-10."""
        control_id = _control_id(message)
        self.connect()
        assert self._socket is not None
        deadline_s = time.monotonic() + self._options.answer_timeout_s
        try:
            self._socket.settimeout(self._options.answer_timeout_s)
            self._socket.sendall(frame(message))
            failpoint("deliver.message_sent")
            return self._await(control_id, deadline_s)
        except TimeoutError as error:
            self.close()  # a late answer must not be taken for the next one
            raise MllpSilent from error
        except OSError as error:
            self.close()
            raise MllpSilent(f"the connection was lost before the answer: {_told(error)}") from error
        except MllpError:
            self.close()
            raise

    def _await(self, control_id: str, deadline_s: float) -> Acknowledgement:
        assert self._socket is not None
        while True:
            remaining_s = deadline_s - time.monotonic()
            if remaining_s <= 0:
                raise TimeoutError
            self._socket.settimeout(remaining_s)
            data = self._socket.recv(65536)
            events = self._framer.feed(data) if data else self._framer.eof()
            if self._framer.awaits_confirmation:
                events += self._framer.pause()
            for event in events:
                if isinstance(event, Frame):
                    answer = _read_answer(event.payload, control_id)
                    if answer is not None:
                        return answer
                elif event.closes:
                    raise MllpSilent(f"the answer is unreadable: {event.fault.value}")
            if not data:
                raise MllpSilent("the peer closed without an answer")

    def close(self) -> None:
        """Close the connection, if there is one."""
        kept, self._socket = self._socket, None
        if kept is not None:
            with contextlib.suppress(OSError):
                kept.close()


def _is_stale(kept: socket.socket) -> bool:
    """Tell whether the peer has closed, or said something nobody asked for."""
    try:
        ready = select.poll()  # unlike select(2), it takes descriptors above 1023
        ready.register(kept, select.POLLIN)
        return bool(ready.poll(0))
    except (OSError, ValueError):
        return True


def _told(error: OSError) -> str:
    """Say what the system said, without addresses of ours or anything the peer wrote."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message or "certificate not trusted"
    if isinstance(error, ssl.SSLError):
        return error.reason or type(error).__name__
    return error.strerror or str(error) or type(error).__name__


def _control_id(message: bytes) -> str:
    text = message[:4096].decode("latin-1").lstrip("\r\n \x00").removeprefix("\xef\xbb\xbf")
    return tokenize(text.partition("\r")[0].partition("\n")[0]).header.field(10)


def _read_answer(payload: bytes, control_id: str) -> Acknowledgement | None:
    """Read an acknowledgement; one of another message, or no acknowledgement at all, is none."""
    try:
        message = tokenize(payload.decode("utf-8", errors="replace"))
        msa = message.first("MSA")
        if msa is None or (msa.field(2) and msa.field(2) != control_id):
            return None
        told = [msa.value(3)] + [
            err.value(8) or err.value(3, 2) or err.value(1) for err in message.all("ERR")
        ]
    except BrokerError:
        return None
    return Acknowledgement(msa.value(1).upper(), "; ".join(filter(None, told)), payload)


def send_message(message: bytes, options: MllpOptions) -> Acknowledgement:
    """Send one message over a connection of its own and return its acknowledgement. Raises MllpError."""
    client = MllpClient(options)
    try:
        return client.exchange(message)
    finally:
        client.close()


def read_messages(content: bytes) -> list[bytes]:
    """Split a file into its messages: MLLP blocks, or text with a message at every line that begins with MSH."""
    if content.lstrip(b"\r\n ").startswith(START):  # not lstrip(): to Python <0B> is a blank
        framer = Framer(max_message_bytes=max(len(content), 1))
        return [event.payload for event in framer.feed(content) if isinstance(event, Frame)]
    lines = [
        line for line in content.replace(b"\r\n", b"\r").replace(b"\n", b"\r").split(b"\r") if line.strip()
    ]
    messages: list[list[bytes]] = []
    for line in lines:
        if line.removeprefix(b"\xef\xbb\xbf").startswith(b"MSH") or not messages:
            messages.append([])
        messages[-1].append(line)
    return [b"\r".join(message) + b"\r" for message in messages]


def send_file(path: Path, *, host: str, port: int, timeout_s: float = 30.0) -> tuple[str, str]:
    """Send every message of a file; answer the code that tells most, and all acknowledgements.

    That is the code of the first message not accepted, else of the last one. Raises MllpError.
    """
    messages = read_messages(path.read_bytes())
    if not messages:
        raise InvalidValue(f"{path.name} holds no message")
    client = MllpClient(MllpOptions(host=host, port=port, answer_timeout_s=timeout_s))
    try:
        answers = [client.exchange(message) for message in messages]
    finally:
        client.close()
    refused = [answer.code for answer in answers if answer.code not in _ACCEPTED]
    texts = [answer.raw.decode("utf-8", errors="replace") for answer in answers]
    return (refused[0] if refused else answers[-1].code), "".join(texts)


class MllpDestination:
    """Sends each parcel's bytes as one message; delivered when the peer accepts it.

    Parcels sent at once each have a connection of their own: on a shared one, whoever reads first would take
    the other's acknowledgement off the wire.
    """

    kind: ClassVar[str] = "mllp"
    Options: ClassVar[type[MllpOptions]] = MllpOptions
    # The message keeps its control id, by which a receiver knows a repeat (HL7 v2.5.1 2.9).
    retry_safe: ClassVar[bool] = True

    def __init__(self, options: MllpOptions, context: DestinationContext) -> None:
        self._options = options
        self._clock = context.clock
        self._idle: list[MllpClient] = []
        self._lock = threading.Lock()
        self._closed = False
        self._log = log.bind(destination=context.name)

    def check(self) -> CheckResult:
        """Connect, and hand-shake where TLS is wanted; nothing is sent."""
        began_s = self._clock.monotonic()
        client = MllpClient(self._options)
        try:
            client.connect()
        except MllpError as error:
            return CheckResult(ok=False, detail=str(error), duration_s=self._clock.monotonic() - began_s)
        finally:
            client.close()
        detail = f"{self._options.host}:{self._options.port} accepts connections"
        return CheckResult(ok=True, detail=detail, duration_s=self._clock.monotonic() - began_s)

    def send(self, parcel: Parcel, settled: Settled) -> Outcome:  # noqa: ARG002 - a message has no items to settle
        """Send the message and judge its acknowledgement."""
        if parcel.payload is None:
            return Rejected("There is no message to send: this destination takes messages, not images.")
        try:
            with self._connection() as client:
                answer = client.exchange(parcel.payload)
        except MllpUntrusted as error:
            return Misconfigured(str(error))
        except MllpError as error:
            return RetryLater(str(error))
        except BrokerError as error:
            return Rejected(f"The message cannot be sent: {error}")
        failpoint("deliver.message_answered")
        outcome = judge(answer)
        self._log.info("message answered", delivery=parcel.delivery, acknowledgement_code=answer.code[:2])
        return outcome

    def close(self) -> None:
        """Close the connections kept for the next messages."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for client in idle:
            client.close()

    @contextlib.contextmanager
    def _connection(self) -> Iterator[MllpClient]:
        """Give the connection used last, or another one while all are in use."""
        with self._lock:
            client = self._idle.pop() if self._idle else MllpClient(self._options)
        try:
            yield client
        finally:
            with self._lock:
                if not self._closed:
                    self._idle.append(client)
            if self._closed:
                client.close()


def judge(answer: Acknowledgement) -> Outcome:
    """Decide by the acknowledgement code (HL7 table 0008) what becomes of the delivery."""
    text = answer.text[:_REASON_CHARACTERS]
    if answer.code in _ACCEPTED:
        return Delivered(answer.code)
    if answer.code in ("AE", "CE"):
        # An error in the content: sent again unchanged it fails again.
        return Rejected(f"{answer.code}: {text}" if text else answer.code)
    if answer.code in ("AR", "CR"):
        return RetryLater(f"{answer.code}: {text}" if text else answer.code)
    return RetryLater("the answer has no acknowledgement code that is known", max_tries=3)
