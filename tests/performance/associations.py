"""Opening and closing associations: what a scanner pays that connects for every question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from broker.dicom.network.client import Proposal, open_association
from broker.dicom.network.verification import VERIFICATION_SOP_CLASS_UID
from tests.performance.measuring import OURS, Measured, in_turn, per_second
from tests.performance.parties import AE_TITLE, Ours, dcmtk, orthanc

IMPLICIT = "1.2.840.10008.1.2"


def associations(folder: Path) -> Iterator[Measured]:
    """Open and release associations one after the other, and echo on an open one."""
    ours = Ours(folder / "ours")
    received = folder / "received"
    received.mkdir()
    with ExitStack() as stack:
        stack.enter_context(ours.listening())
        ports = {
            OURS: ours.port,
            "DCMTK storescp": stack.enter_context(dcmtk("storescp", "-od", received)),
            "Orthanc": stack.enter_context(orthanc(folder / "orthanc")),
        }
        yield in_turn(
            "association, open and release",
            "associations/s",
            {
                name: lambda port=port: per_second(lambda: _open(port).release(), at_least_s=0.5)
                for name, port in ports.items()
            },
        )
        open_ones = {name: stack.enter_context(_open(port)) for name, port in ports.items()}
        yield in_turn(
            "C-ECHO on an open association",
            "echoes/s",
            {name: lambda one=one: per_second(one.echo, at_least_s=0.5) for name, one in open_ones.items()},
        )


def _open(port):
    return open_association(
        "127.0.0.1",
        port,
        calling_ae_title="CT01",
        called_ae_title=AE_TITLE,
        contexts=[Proposal(VERIFICATION_SOP_CLASS_UID, (IMPLICIT,))],
    )
