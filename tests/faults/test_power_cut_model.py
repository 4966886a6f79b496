"""The store on a model disk whose power is cut after every operation, in every way a disk may forget.

The model keeps what POSIX promises and nothing more: a write may be lost wholly or from any byte on until the
file is synced, a name may be missing or still be the old one until its folder is synced.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest

from broker.files.disk import Disk, Space
from broker.files.store import DiskFileStore

NOW = datetime(2026, 11, 21, 9, 7, tzinfo=UTC)


class PowerCut(Exception):
    """The power is gone."""


@dataclass
class File:
    content: bytearray = field(default_factory=bytearray)
    synced: bytes = b""


@dataclass
class Folder:
    names: dict[str, object] = field(default_factory=dict)
    synced: dict[str, object] = field(default_factory=dict)


class ModelDisk:
    """Implements Disk in memory, stopping at operation number `cut_at`."""

    def __init__(self, cut_at: int) -> None:
        self.cut_at = cut_at
        self.operations = 0
        self.top = Folder()
        self.handles: dict[int, File] = {}

    def _step(self) -> None:
        self.operations += 1
        if self.operations > self.cut_at:
            raise PowerCut

    def folder(self, path: Path) -> Folder:
        found: object = self.top
        for part in path.parts[1:]:
            assert isinstance(found, Folder)
            found = found.names[part]
        assert isinstance(found, Folder)
        return found

    def make_folder(self, path: Path) -> bool:
        self._step()
        parent = self.folder(path.parent)
        if path.name in parent.names:
            return False
        parent.names[path.name] = Folder()
        return True

    def create(self, path: Path) -> int:
        self._step()
        file = File()
        self.folder(path.parent).names[path.name] = file
        self.handles[len(self.handles)] = file
        return len(self.handles) - 1

    def write(self, handle: int, pieces: Sequence[bytes | memoryview]) -> None:
        self._step()
        for piece in pieces:
            self.handles[handle].content += piece

    def sync(self, handle: int) -> None:
        self._step()
        self.handles[handle].synced = bytes(self.handles[handle].content)

    def close(self, handle: int) -> None:
        self._step()

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        self.folder(target.parent).names[target.name] = self.folder(source.parent).names.pop(source.name)

    def sync_folder(self, path: Path) -> None:
        self._step()
        folder = self.folder(path)
        folder.synced = dict(folder.names)

    def remove(self, path: Path) -> None:
        self._step()
        self.folder(path.parent).names.pop(path.name, None)

    def exists(self, path: Path) -> bool:
        return path.name in self.folder(path.parent).names

    def space(self, path: Path) -> Space:
        return Space(1 << 40, 1 << 40)

    def entries(self, path: Path) -> Iterator[tuple[str, float]]:
        yield from ((name, 0.0) for name in self.folder(path).names)

    # ---- what is found after the cut -------------------------------------------------------------------

    def survivors(self, chance: random.Random) -> dict[str, bytes]:
        """Answer path -> content as one of the states the disk may be in when the power is back."""
        found: dict[str, bytes] = {}

        def walk(folder: Folder, at: str) -> None:
            for name in {*folder.names, *folder.synced}:
                live, durable = folder.names.get(name), folder.synced.get(name)
                entry = live if live is durable else chance.choice((live, durable))
                if isinstance(entry, Folder):
                    walk(entry, f"{at}/{name}")
                elif isinstance(entry, File):
                    kept = len(entry.synced)
                    kept = chance.choice((kept, len(entry.content), chance.randint(kept, len(entry.content))))
                    found[f"{at}/{name}"] = bytes(entry.content[:kept])

        walk(self.top, "")
        return found


class StoppedClock:
    def now(self) -> datetime:
        return NOW

    def local_now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


@dataclass
class Ledger:
    acknowledged: dict[str, bytes] = field(default_factory=dict)


def receive_three(disk: Disk, ledger: Ledger) -> None:
    """What a receiver does, with three objects of which the second is given up."""
    store = DiskFileStore(
        Path("/objects"),
        StoppedClock(),
        implementation_class_uid="2.25.1",
        implementation_version_name="T",
        disk=disk,
    )
    store.prepare()
    for number, pieces in enumerate(([b"a" * 10, b"b" * 10], [b"x"], [b"c" * 5])):
        incoming = store.create(
            sop_class_uid="1.2", sop_instance_uid="1.2.3", transfer_syntax_uid="1.2", calling_ae_title="A"
        )
        for piece in pieces:
            incoming.write(memoryview(piece))
        if number == 1:
            incoming.discard()
            continue
        kept = incoming.keep()
        ledger.acknowledged[f"/objects/{kept.path}"] = b"".join(pieces)


def states(disk_type: type[ModelDisk]) -> Iterator[tuple[Ledger, dict[str, bytes]]]:
    for cut_at in itertools.count():
        disk, ledger = disk_type(cut_at), Ledger()
        try:
            receive_three(disk, ledger)
            finished = True
        except PowerCut:
            finished = False
        chance = random.Random(cut_at)
        for _ in range(300):
            yield ledger, disk.survivors(chance)
        if finished:
            return


def violations(disk_type: type[ModelDisk]) -> int:
    wrong = 0
    for ledger, found in states(disk_type):
        lost = any(not found.get(path, b"").endswith(data) for path, data in ledger.acknowledged.items())
        # Under a final name there is a whole object or none.
        half = any(
            path.endswith(".dcm") and not content.endswith((b"b" * 10, b"c" * 5))
            for path, content in found.items()
        )
        wrong += lost or half
    return wrong


def test_no_power_cut_loses_what_was_kept_or_shows_half_an_object() -> None:
    assert violations(ModelDisk) == 0


class NoFileSync(ModelDisk):
    def sync(self, handle: int) -> None:
        self._step()


class NoFolderSync(ModelDisk):
    def sync_folder(self, path: Path) -> None:
        self._step()


@pytest.mark.parametrize("broken", [NoFileSync, NoFolderSync])
def test_the_model_catches_a_store_that_does_not_sync(broken: type[ModelDisk]) -> None:
    assert violations(broken) > 0
