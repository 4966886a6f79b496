"""What the use cases need of received objects: their rows, and their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import BinaryIO, Protocol

FactValues = Mapping[str, tuple[str, ...]]
"""DICOM keyword, `calling_ae_title` or `order.<field>` -> text values; absent = missing, () = empty."""


class InstanceState(Enum):
    """Where a received object stands."""

    RECEIVED = "RECEIVED"
    """Stored; nobody has decided where it goes."""
    ROUTED = "ROUTED"
    UNROUTED = "UNROUTED"
    """No route matched: kept and shown."""


@dataclass(frozen=True, slots=True)
class Instance:
    """A received object."""

    id: int
    sop_instance_uid: str
    version: int
    sop_class_uid: str
    transfer_syntax_uid: str
    study_instance_uid: str
    series_instance_uid: str
    path: str
    size_bytes: int
    data_set_offset: int
    sha256: bytes | None
    facts: FactValues
    calling_ae_title: str
    called_ae_title: str
    peer: str
    state: InstanceState
    received_at: datetime
    last_received_at: datetime
    patient_id: str | None = None
    accession_number: str | None = None
    modality: str | None = None
    order: int | None = None
    resends: int = 0


class Instances(Protocol):
    """Received objects."""

    def add_many(self, instances: Sequence[Instance]) -> list[int]:
        """Store new rows (their `id` is ignored) in one statement, answer their ids in order."""
        ...

    def versions(self, sop_instance_uid: str) -> list[Instance]:
        """Answer every stored version, newest first."""
        ...

    def get(self, instance: int) -> Instance: ...
    def get_many(self, instances: Sequence[int]) -> list[Instance]:
        """Answer those that exist, in order of id."""
        ...

    def with_paths(self, paths: Sequence[str]) -> set[str]:
        """Answer which of these file paths have a row."""
        ...

    def paths_named(self, names: Sequence[str], *, since: datetime | None = None) -> set[str]:
        """Answer the paths of the files of these names (32 hexadecimal digits) that have a row.

        `since` looks at what was received later only; without it every row is looked at.
        """
        ...

    def reconsider(self, study_instance_uid: str) -> int:
        """Move the UNROUTED instances of a study back to RECEIVED, answer how many."""
        ...

    def mark_resent(self, instance: int, *, now: datetime) -> None: ...
    def undecided(self, limit: int, *, older_than: datetime | None = None) -> list[int]:
        """Answer ids of RECEIVED rows, oldest first."""
        ...

    def decide(self, instance: int, state: InstanceState, *, order: int | None) -> bool:
        """Move RECEIVED to `state` by a conditional UPDATE; False when another worker was first."""
        ...

    def decide_many(self, instances: Sequence[int], state: InstanceState, *, order: int | None) -> set[int]:
        """Do the same for many; answer those this worker has moved."""
        ...

    def set_order(self, instance: int, order: int) -> None: ...
    def unrouted(self, limit: int) -> list[Instance]: ...
    def of_study(self, study_instance_uid: str) -> list[Instance]: ...
    def of_series(self, series_instance_uid: str) -> list[Instance]: ...


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A data set made durable: synced file under its final, synced name."""

    path: str
    """Relative to the store."""
    size_bytes: int
    data_set_offset: int
    sha256: bytes


class IncomingFile(Protocol):
    """A file being received."""

    def write(self, data: memoryview) -> None: ...
    def keep(self) -> StoredFile:
        """Sync and give the final name. Raises StorageFull or OutOfResources; then nothing is left behind."""
        ...

    def discard(self) -> None: ...


class FileStore(Protocol):
    """Received files; names come from our own ids, never from a peer."""

    def create(
        self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str
    ) -> IncomingFile: ...
    def open(self, path: str) -> BinaryIO: ...
    def absolute(self, path: str) -> Path: ...
    def remove(self, path: str) -> None: ...
    def give_up(self, path: str, *, in_favour_of: str) -> None:
        """Remove a file whose content is kept elsewhere; should that one be lost, this takes its place.

        Raises OutOfResources when it cannot.
        """
        ...

    def has_room(self) -> bool:
        """Answer whether the free-space reserve is untouched."""
        ...
