"""People look at the overview at once: what their streams cost the web process, and how steady they are.

`python -m tests.performance.viewers PORT TOKEN VIEWERS SECONDS` is those who look: a process of their own, so that what they
cost is not counted.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import chain, pairwise

from broker.bootstrap import Broker
from broker.domain.access import Role
from broker.web_server import WebServer
from tests.doors import TESTER
from tests.performance.measuring import Latency, Size

VIEWERS = 50
WATCHED_S = 30.0
CLOCK = b"event: clock"


def viewers_cost(broker: Broker, who: str) -> Iterator[Latency | Size]:
    """Serve one viewer and then fifty; the clock of the page comes every second."""
    key, token = broker.access.tokens.issue("viewers", Role.VIEWER, life=timedelta(hours=1), by=TESTER)
    server = WebServer(broker)
    server.start()
    try:
        for number in (1, VIEWERS):
            before_s = _cpu_s()
            port = broker.loaded.site.listen.web.port
            given = (str(port), token, str(number), str(WATCHED_S))
            watched = subprocess.run(
                [sys.executable, "-m", __name__, *given], capture_output=True, text=True, check=True
            )
            share = 100 * (_cpu_s() - before_s) / WATCHED_S
            yield Size(
                f"overview watched by {number}, processor of the web process", who, share, "% of a core"
            )
            gaps: list[list[float]] = json.loads(watched.stdout)
            assert len(gaps) == number
            assert all(gaps), "somebody was told nothing"
            yield Latency(f"overview watched by {number}, from one second to the next", who, [*chain(*gaps)])
    finally:
        server.stop(10.0)
        broker.access.tokens.revoke(key, by=TESTER)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def look(port: int, token: str, viewers: int, seconds: float) -> list[list[float]]:
    """Answer, for each viewer, the times between one clock and the next."""
    request = (
        f"GET /overview/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    ).encode()
    selector = selectors.DefaultSelector()
    told: list[list[float]] = [[] for _ in range(viewers)]
    for number in range(viewers):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10.0)
        connection.sendall(request)
        selector.register(connection, selectors.EVENT_READ, number)
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        for key, _ in selector.select(timeout=0.5):
            assert isinstance(key.fileobj, socket.socket)
            if CLOCK in key.fileobj.recv(1024 * 1024):
                told[key.data].append(time.monotonic())
    for key in tuple(selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        key.fileobj.close()
    return [[after - before for before, after in pairwise(times)] for times in told]


if __name__ == "__main__":
    print(json.dumps(look(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
