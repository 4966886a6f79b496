"""Opening and closing associations: what a scanner pays that connects for every question."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from broker.dicom.network.dimse import Command, CommandField
from broker.dicom.network.verification import VERIFICATION_SOP_CLASS_UID
from tests.performance.measuring import OURS, Measured, in_turn, per_second
from tests.performance.parties import Ours, dcmtk, orthanc
from tests.performance.wire import Wire, associate_request, message

STORAGE = "1.2.840.10008.5.1.4.1.1"
ONE = associate_request([VERIFICATION_SOP_CLASS_UID])
EVERYTHING = associate_request([VERIFICATION_SOP_CLASS_UID, *(f"{STORAGE}.{n}" for n in range(1, 120))])
ECHO = message(
    Command(field=CommandField.C_ECHO_RQ, message_id=1, affected_sop_class_uid=VERIFICATION_SOP_CLASS_UID)
)


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
        for work, request in [("", ONE), (" of 120 proposed contexts", EVERYTHING)]:
            yield in_turn(
                f"association{work}, open and release",
                "associations/s",
                {
                    name: lambda port=port, request=request: per_second(
                        lambda: Wire(port, request).release(), at_least_s=0.5
                    )
                    for name, port in ports.items()
                },
            )
        open_ones = {name: stack.enter_context(Wire(port, ONE)) for name, port in ports.items()}
        yield in_turn(
            "C-ECHO on an open association",
            "echoes/s",
            {
                name: lambda one=one: per_second(lambda: one.ask(ECHO), at_least_s=0.5)
                for name, one in open_ones.items()
            },
        )
