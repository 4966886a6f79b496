"""Ports for servers a test starts itself, where the server must be told which."""

import itertools
import os
import random
import socket

FIRST, SHARES, SHARE = 20_000, 12, 1_000
"""Below what Linux gives to outgoing connections and to port 0 (from 32,768 on): a port named here and
bound a moment later by another process is not taken in between. Each process of a parallel run has its
own share of them."""

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % SHARES
_start = random.randrange(SHARE)  # runs beside each other do not go through the same ones in step
_numbers = (FIRST + _worker * SHARE + (_start + turn) % SHARE for turn in itertools.count())


def free_port():
    """Answer a port nobody listens on, another one each time until all of the share have been named."""
    for port in itertools.islice(_numbers, SHARE):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("every port of this process's share is taken")
