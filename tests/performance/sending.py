"""Sending images of 0.5 MB to a storage SCP: our DICOM destination beside DCMTK's own senders."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from broker.dicom.destinations.store import StoreDestination
from broker.domain.delivery import Delivered
from broker.workflow.destinations_port import ParcelItem
from tests.parcels import Ledger, a_context, a_parcel, an_image, an_item
from tests.performance.measuring import OURS, Measured, in_turn
from tests.performance.parties import AE_TITLE, dcmtk

OBJECTS, ROUNDS, SIDE = 300, 5, 512


def sending(folder: Path) -> Iterator[Measured]:
    """Send one series on one association, as a delivery does, and as dcmsend and storescu do."""
    images = folder / "images"
    items = [an_item(an_image(rows=SIDE, columns=SIDE), images, number) for number in range(1, OBJECTS + 1)]
    received = folder / "received"
    received.mkdir()
    with dcmtk("storescp", "-pdu", "131072", "+B", "-od", received) as port:
        to = ["-aec", AE_TITLE, "127.0.0.1", str(port)]
        commands = {
            "DCMTK dcmsend": ["dcmsend", *to, "--scan-directories", str(images)],
            "DCMTK storescu": ["storescu", "-pdu", "131072", "+sd", *to, str(images)],
        }
        parties = {
            name: lambda command=command: _timed(lambda: _run(command), received)
            for name, command in commands.items()
        }
        parties[OURS] = lambda: _timed(lambda: _send(folder, port, items), received)
        yield in_turn("send 0.5 MB objects, 1 association", "objects/s", parties, rounds=ROUNDS)


def _timed(send: Callable[[], None], received: Path) -> float:
    began_s = time.perf_counter()
    send()
    took_s = time.perf_counter() - began_s
    came = sum(1 for _ in received.iterdir())
    if came != OBJECTS:
        raise AssertionError(f"{came} of {OBJECTS} came")
    shutil.rmtree(received)
    received.mkdir()
    return OBJECTS / took_s


def _run(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _send(folder: Path, port: int, items: Sequence[ParcelItem]) -> None:
    options = StoreDestination.Options(host="127.0.0.1", port=port, called_ae_title=AE_TITLE)
    destination = StoreDestination(options, a_context(folder))
    outcome = destination.send(a_parcel(items), Ledger())
    destination.close()
    assert isinstance(outcome, Delivered), outcome
