"""An MLLP listener in a thread of its own, and the words of its peers."""

import asyncio
import contextlib
import socket
import threading
import time

from broker.hl7.exchange import HANG_UP, Answer
from broker.hl7.listener import ListenerLimits, MllpListener
from broker.hl7.tokenizer import tokenize

PATIENCE_S = 20
"""More than a loaded machine stalls, less than the usual limit of a block or an answer."""


class EchoHandler:
    """Acknowledges with MSH-10; can be held, told to fail, and remembers its batches."""

    def __init__(self):
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def handle_batch(self, messages):
        self.entered.set()
        assert self.gate.wait(60)
        self.batches.append([m.payload for m in messages])
        return [self.answer(m.payload) for m in messages]

    def answer(self, payload):
        if b"BOOM" in payload:
            raise ZeroDivisionError
        if b"HANGUP" in payload:
            return HANG_UP
        if b"SILENT" in payload:
            return Answer()
        control_id = tokenize(payload.decode("latin-1")).value("MSH-10")
        return Answer((f"MSH|^~\\&|||||||ACK|1|P|2.5\rMSA|AA|{control_id}\r".encode(),))

    def refuse(self, head, reason):
        return b"MSH|^~\\&|\rMSA|AR|" + head[:3] + b"\r" if head.startswith(b"MSH") else None

    @property
    def payloads(self):
        return [payload for batch in self.batches for payload in batch]


class Running:
    """A listener in a thread of its own."""

    def __init__(self, clock, handler=None, **options):
        self.handler = handler or EchoHandler()
        limits = ListenerLimits(**options.pop("limits", {}))
        self.listener = MllpListener(self.handler, clock, port=0, limits=limits, **options)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self):
        self.thread.start()
        self.call(self.listener.start())
        return self

    def __exit__(self, *_):
        self.handler.gate.set()
        with contextlib.suppress(RuntimeError):
            self.call(self.listener.stop(grace_s=2))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(PATIENCE_S)

    def call(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_S)

    def seen(self, look):
        """Answer what `look` sees of the listener between two steps of its loop, where nothing changes."""

        async def there():
            return look(self.listener)

        return self.call(there())

    def connect(self):
        peer = socket.create_connection(self.listener.address, PATIENCE_S)
        peer.settimeout(PATIENCE_S)
        return peer

    def until(self, condition):
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, "did not happen in 30 s"
            threading.Event().wait(0.005)


def message(control_id="M1", body=""):
    return f"MSH|^~\\&|RIS|HOSP|B|R|2026||ORM^O01|{control_id}|P|2.5\rPID|{body}\r".encode()


def received(peer, count=1):
    """Read `count` blocks; fewer when the peer closes."""
    data = b""
    while data.count(b"\x1c\r") < count:
        try:
            chunk = peer.recv(65536)
        except ConnectionResetError:
            break
        if not chunk:
            break
        data += chunk
    return [block.lstrip(b"\x0b") for block in data.split(b"\x1c\r") if block]


def ids(blocks):
    return [tokenize(block.decode()).value("MSA-2") for block in blocks]


def is_closed(peer):
    try:
        return peer.recv(1) == b""
    except ConnectionResetError:
        return True
