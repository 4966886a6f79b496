"""Ends or freezes the process at a named moment, once, so that tests can break it exactly where it hurts.

Costs a call that does nothing unless `BROKER_FAILPOINTS` names a folder when the process starts. A file in it
with the name of a failpoint arms that failpoint; the first process to come by disarms it.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

VARIABLE = "BROKER_FAILPOINTS"

FAILPOINTS: Final[Mapping[str, str]] = {
    "start.after_migration": "serve has brought the schema up to date and started no role",
    "start.before_serving": "a role has opened the database and listens on nothing",
    "hl7.received": "messages have come in whole, nothing is read of them",
    "hl7.before_commit": "messages are applied in an open transaction",
    "hl7.after_commit": "messages are durable, nobody was answered",
    "hl7.before_answer": "the answer is written out and not on its way",
    "mpps.create_before_commit": "a performed step is made in an open transaction",
    "mpps.create_after_commit": "a performed step is durable, the scanner was not answered",
    "mpps.set_before_commit": "a performed step is changed in an open transaction",
    "mpps.set_after_commit": "the change of a performed step is durable, the scanner was not answered",
    "cstore.after_first_bytes": "some of an object is in its file",
    "cstore.after_last_bytes": "all of an object is in its file, not synced",
    "cstore.after_sync": "the content of an object is durable, it has no final name",
    "cstore.after_file": "the file of an object is durable and has its final name, without a row",
    "cstore.after_name_sync": "final names of objects are durable, their incoming names still there",
    "cstore.before_commit": "the rows of some objects are written in an open transaction",
    "cstore.after_commit": "the rows of some objects are durable, nobody was answered",
    "cstore.before_answer": "an object is stored and its answer not on its way",
    "wake_up.after_commit": "work is durable and no worker was told",
    "wake_up.before_publish": "wake-ups are taken from those that wait, Redis has none of them",
    "wake_up.after_publish": "Redis has the wake-ups",
    "route.before_claim": "undecided images are known, their lock is not taken",
    "route.after_claim": "the lock is taken, the images are not read",
    "route.after_facts": "what becomes of each image is known and not written",
    "route.before_commit": "decisions and deliveries are written in an open transaction",
    "route.after_commit": "decisions and deliveries are durable",
    "deliver.before_claim": "a delivery is claimed in an open transaction",
    "deliver.after_claim": "the claim is durable, the peer knows nothing of it",
    "deliver.after_open": "the association with the peer is open",
    "deliver.after_first_send": "the peer has confirmed the first object of an association",
    "deliver.mid_batch": "the peer has confirmed some objects and no progress is written",
    "deliver.after_last_send": "the peer has confirmed every object, the last of them are not settled",
    "deliver.message_sent": "a message is on its way to an HL7 peer that has not answered",
    "deliver.message_answered": "an HL7 peer has answered, nothing is settled",
    "deliver.before_done": "the last delivery of a task is settled, Redis may give the task to another worker",
    "settle.items_before_commit": "progress is written in an open transaction",
    "settle.items_after_commit": "progress is durable, the delivery goes on",
    "settle.before_commit": "the end of a delivery is written in an open transaction",
    "settle.after_commit": "the end of a delivery is durable, and the claim of what follows",
    "sweep.before": "a sweep begins",
    "sweep.after_take_back": "leases of lost workers were taken back",
    "sweep.before_wake_up": "a sweep has found what is due and told nobody",
    "sweep.after": "a sweep has handed out its work",
    "sweep.before_chore": "a chore is due and has not begun",
    "sweep.after_chore": "a chore is done",
    "seal.before_commit": "events are sealed in an open transaction",
    "seal.after_commit": "the seals are durable",
}
"""Every failpoint there is, and where a process stands when it comes by."""

_FOLDER = os.environ.get(VARIABLE)


def _end_if_armed(name: str) -> None:
    """Send this process SIGKILL, or the signal that the file names."""
    assert _FOLDER is not None
    path = Path(_FOLDER, name)
    try:
        told = path.read_text(encoding="ascii").strip()
        path.unlink()
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.Signals[told] if told else signal.SIGKILL)


def _nothing(name: str) -> None:
    """Come by without looking."""


failpoint: Callable[[str], None] = _nothing if _FOLDER is None else _end_if_armed
"""Die here if a test has armed this failpoint."""
