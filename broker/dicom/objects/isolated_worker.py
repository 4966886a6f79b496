"""Decode for another process: the child's end of isolation. Run as `python -m`, never imported by the broker."""

from __future__ import annotations

import json
import resource
import socket
import sys
from pathlib import Path

from broker.dicom.objects.codestreams import Unrenderable
from broker.dicom.objects.isolation import MAX_HEADER_BYTES, receive, send
from broker.dicom.objects.pixels import decode_frame
from broker.dicom.objects.rendering import render_png
from broker.dicom.objects.transcode import decompressed
from broker.errors import BrokerError

IDLE_S = 30.0
MAX_MEMORY_BYTES = 6 << 30


def main(descriptor: int) -> None:
    """Serve requests until the other side is gone or nothing came for a while."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    with socket.socket(fileno=descriptor) as sock:
        while True:
            sock.settimeout(IDLE_S)
            try:
                request = json.loads(receive(sock, most=MAX_HEADER_BYTES * 4))
            except OSError:
                return
            sock.settimeout(None)
            try:
                head, body = _answer(request)
            except BrokerError as error:
                head, body = {"error": str(error)}, b""
            except OSError as error:
                head, body = {"errno": error.errno, "error": "the object cannot be read"}, b""
            except (Exception, MemoryError) as error:
                head, body = {"error": f"the pixel data cannot be decoded ({type(error).__name__})"}, b""
            send(sock, json.dumps(head).encode())
            send(sock, body)


def _answer(request: dict[str, str | int | bool]) -> tuple[dict[str, object], bytes]:
    path = Path(str(request["path"]))
    if request["do"] == "frame":
        pixels = decode_frame(path, int(request["index"]))
        return {"shape": pixels.shape, "dtype": pixels.dtype.str}, pixels.tobytes()
    if request["do"] == "decompress":
        return {}, decompressed(path, str(request["transfer_syntax_uid"]))
    if request["do"] == "preview":
        # Here, not in one more process: this one may die of it.
        png = render_png(path, max_side_pixels=int(request["side"]), decode=decode_frame)
        return {}, png
    raise Unrenderable("the request is not known")


if __name__ == "__main__":
    main(int(sys.argv[1]))
