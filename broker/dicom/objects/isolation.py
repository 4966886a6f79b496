"""Run decoders in a process of their own: on a damaged frame they may abort, hang or take all memory.

A process is started when it is first needed, serves one request at a time, and ends when nothing came for a
while. Whatever happens to it, the caller gets an answer or Unrenderable.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import lru_cache
from threading import Lock
from typing import Any

import structlog

from broker.dicom.objects.codestreams import Unrenderable

_log = structlog.get_logger()

MAX_SECONDS = 60.0
MAX_ANSWER_BYTES = 2 << 30
MAX_HEADER_BYTES = 4096
_LENGTH_BYTES = 8

Request = Mapping[str, str | int | bool]
Head = dict[str, Any]


class IsolatedDecoder:
    """The parent's end. Safe for several threads, which take turns."""

    def __init__(self, *, max_seconds: float = MAX_SECONDS) -> None:
        self._max_seconds = max_seconds
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._owner = os.getpid()

    def ask(self, request: Request) -> tuple[Head, bytes]:
        """Answer what the decoder says about `request`. Raises Unrenderable when it fails or does not survive.

        Raises OSError when no process can be started, or it cannot read the file: that says nothing of the object.
        """
        with self._lock:
            for is_last in (False, True):
                is_new = self._start()
                try:
                    head, body = self._exchange(request)
                except TimeoutError:
                    self._stop()
                    raise Unrenderable("decoding took too long") from None
                except OSError:
                    code = self._stop()
                    if not is_new and not is_last:
                        continue  # it had ended for want of work
                    _log.warning("decoder died", exit_code=code)
                    raise Unrenderable("the decoder did not survive the pixel data") from None
                if head.get("errno"):
                    raise OSError(head["errno"], os.strerror(head["errno"]))
                if "error" in head:
                    raise Unrenderable(str(head["error"]))
                return head, body
        raise AssertionError("unreachable")

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._stop()

    def _start(self) -> bool:
        """Start the process if there is none; True when it is new."""
        if self._owner != os.getpid():
            # We were forked: the process belongs to our parent.
            self._owner, self._process, self._socket = os.getpid(), None, None
        if self._process is not None:
            return False
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "broker.dicom.objects.isolated_worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what decoders write there belongs to nobody
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        self._socket = ours
        return True

    def _stop(self) -> int | None:
        code = None
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(0.2)
            if code is None:
                self._process.kill()
                self._process.wait()
        self._process = self._socket = None
        return code

    def _exchange(self, request: Request) -> tuple[Head, bytes]:
        assert self._socket is not None
        deadline_s = time.monotonic() + self._max_seconds
        self._socket.settimeout(self._max_seconds)
        send(self._socket, json.dumps(request).encode())
        head = receive(self._socket, most=MAX_HEADER_BYTES, deadline_s=deadline_s)
        body = receive(self._socket, most=MAX_ANSWER_BYTES, deadline_s=deadline_s)
        decoded: Head = json.loads(head.decode())
        return decoded, body


@lru_cache(maxsize=1)
def decoder() -> IsolatedDecoder:
    """Answer the one decoder of this process."""
    return IsolatedDecoder()


def send(sock: socket.socket, data: bytes) -> None:
    """Send a block with its length before it."""
    sock.sendall(len(data).to_bytes(_LENGTH_BYTES, "big"))
    sock.sendall(data)


def receive(sock: socket.socket, *, most: int, deadline_s: float | None = None) -> bytes:
    """Receive a block. Raises ConnectionError when the other side is gone, TimeoutError when late."""
    length = int.from_bytes(_exactly(sock, _LENGTH_BYTES, deadline_s), "big")
    if length > most:
        raise ConnectionError("the block is larger than allowed")
    return bytes(_exactly(sock, length, deadline_s))


def _exactly(sock: socket.socket, length: int, deadline_s: float | None) -> bytearray:
    data = bytearray(length)
    view = memoryview(data)
    while view:
        if deadline_s is not None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            sock.settimeout(left_s)
        count = sock.recv_into(view)
        if count == 0:
            raise ConnectionError("the other side is gone")
        view = view[count:]
    return data
