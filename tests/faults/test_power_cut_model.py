"""The store on a model disk whose power is cut after every operation, in every way a disk may forget.

The model keeps what POSIX promises and nothing more: a write may be lost wholly or from any byte on until the
file is synced, a name may be missing or still be the old one until its folder is synced, each name by itself.
What is found when the power is back goes through the start of the broker, during which it may be cut once more.
"""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import pytest

from broker.errors import OutOfResources
from broker.files.disk import Disk, Space
from broker.files.store import DiskFileStore
from broker.strays import remove_unfinished, restore_names

NOW = datetime(2026, 11, 21, 9, 7, tzinfo=UTC)


_NEVER = 1 << 62


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
        self.fails_at: int | None = None
        """Which sync of a folder fails, from 0, in a story that has one fail."""
        self.fails_in: int | None = None
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

    def read(self, handle: int, space: memoryview, offset: int) -> int:
        found = self.handles[handle].content[offset : offset + len(space)]
        space[: len(found)] = found
        return len(found)

    def begin_sync(self, handle: int, offset: int, count: int) -> None:
        self._step()  # and promises nothing

    def sync(self, handle: int) -> None:
        self._step()
        self.handles[handle].synced = bytes(self.handles[handle].content)

    def close(self, handle: int) -> None:
        self._step()

    def link(self, source: Path, target: Path) -> None:
        self._step()
        found, names = self.folder(source.parent).names.get(source.name), self.folder(target.parent).names
        if found is None:
            raise FileNotFoundError(source)
        if target.name in names:
            raise FileExistsError(target)
        names[target.name] = found

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        self.folder(target.parent).names[target.name] = self.folder(source.parent).names.pop(source.name)

    def sync_folder(self, path: Path) -> None:
        self._step()
        if self.fails_in is not None:
            self.fails_in -= 1
            if self.fails_in < 0:
                self.fails_in = None
                raise OSError(errno.EIO, "the disk fails")
        folder = self.folder(path)
        folder.synced = dict(folder.names)

    def remove(self, path: Path) -> None:
        self._step()
        self.folder(path.parent).names.pop(path.name, None)

    def exists(self, path: Path) -> bool:
        try:
            return path.name in self.folder(path.parent).names
        except KeyError:
            return False

    def names_of(self, path: Path) -> int:
        file = self.folder(path.parent).names.get(path.name)
        return sum(found is file for found in self.files().values())

    def files(self) -> dict[str, File]:
        """Answer every file by its path, as a running system sees it."""
        found: dict[str, File] = {}

        def walk(folder: Folder, at: str) -> None:
            for name, entry in folder.names.items():
                if isinstance(entry, File):
                    found[f"{at}/{name}"] = entry
                elif isinstance(entry, Folder):
                    walk(entry, f"{at}/{name}")

        walk(self.top, "")
        return found

    def commit(self, ledger: Ledger, path: str) -> None:
        """Stand for the database, which has a sync of its own."""
        self._step()
        ledger.rows.add(path)

    def space(self, path: Path) -> Space:
        return Space(1 << 40, 1 << 40)

    def entries(self, path: Path) -> Iterator[tuple[str, float]]:
        yield from ((name, 0.0) for name in self.folder(path).names)

    # ---- what is found after the cut -------------------------------------------------------------------

    def rebooted(self, chance: random.Random) -> ModelDisk:
        """Answer the disk in one of the states it may be in when the power is back; it has forgotten nothing."""
        contents: dict[int, File] = {}

        def survivor(entry: object) -> object:
            if isinstance(entry, Folder):
                return walk(entry)
            assert isinstance(entry, File)
            if id(entry) not in contents:  # whatever its names, it is one file
                kept = len(entry.synced)
                kept = chance.choice((kept, len(entry.content), chance.randint(kept, len(entry.content))))
                left = entry.content[:kept]
                contents[id(entry)] = File(bytearray(left), bytes(left))
            return contents[id(entry)]

        def walk(folder: Folder) -> Folder:
            found = {}
            for name in {**folder.names, **folder.synced}:
                live, durable = folder.names.get(name), folder.synced.get(name)
                entry = live if live is durable else chance.choice((live, durable))
                if entry is not None:
                    found[name] = survivor(entry)
            return Folder(dict(found), dict(found))

        disk = type(self)(_NEVER)
        disk.top = walk(self.top)
        return disk


class StoppedClock:
    def now(self) -> datetime:
        return NOW

    def local_now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


@dataclass
class Ledger:
    """What outlives every power cut: committed rows, and what the sender was told."""

    rows: set[str] = field(default_factory=set)
    acknowledged: dict[str, bytes] = field(default_factory=dict)


class Rows:
    """What of a unit of work the start of the broker asks."""

    def __init__(self, ledger: Ledger) -> None:
        self.instances = self
        self._ledger = ledger

    def __call__(self) -> Rows:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def paths_named(self, names: Sequence[str], *, since: datetime | None = None) -> set[str]:
        assert since is None or since <= NOW
        return {path for path in self._ledger.rows if Path(path).stem in names}


def a_store(disk: Disk) -> DiskFileStore:
    store = DiskFileStore(
        Path("/objects"),
        StoppedClock(),
        implementation_class_uid="2.25.1",
        implementation_version_name="T",
        ready_files=2,
        in_background=False,
        disk=disk,
    )
    store.prepare()
    return store


OBJECTS = ([b"a" * 10, b"b" * 10], [b"x"], [b"c" * 5], [b"d" * 7])
WHOLE = tuple(b"".join(pieces) for number, pieces in enumerate(OBJECTS) if number != 1)


def receive_some(disk: ModelDisk, ledger: Ledger) -> None:
    """What receivers do, with four objects of which the second is given up, some into files made ready."""
    store = a_store(disk)
    for number, pieces in enumerate(OBJECTS):
        incoming = store.create(
            sop_class_uid="1.2", sop_instance_uid="1.2.3", transfer_syntax_uid="1.2", calling_ae_title="A"
        )
        for piece in pieces:
            incoming.write(memoryview(piece))
        if number == 1:
            incoming.discard()
            store.make_ready()
            continue
        kept = incoming.keep()
        disk.commit(ledger, kept.path)
        ledger.acknowledged[kept.path] = b"".join(pieces)
        if number == 2:
            store.settle()
    store.close()


def start_again(disk: ModelDisk, ledger: Ledger) -> DiskFileStore:
    """What every process does before it reads or receives."""
    store = a_store(disk)
    restore_names(store, Rows(ledger))
    return store


def wrongs(disk: ModelDisk, ledger: Ledger, *, started: bool) -> int:
    """Count what is broken: an acknowledged object that cannot be read, half an object under a final name."""
    found = {path: bytes(file.content) for path, file in disk.files().items()}
    lost = started and any(
        not found.get(f"/objects/{path}", b"").endswith(data) for path, data in ledger.acknowledged.items()
    )
    half = any(path.endswith(".dcm") and not content.endswith(WHOLE) for path, content in found.items())
    return lost + half


def resend_what_was_lost(disk: ModelDisk, ledger: Ledger) -> None:
    """What a receiver does with an object that comes again because its file is gone, a sync failing once."""
    store = a_store(disk)

    def receive() -> str:
        incoming = store.create(
            sop_class_uid="1.2", sop_instance_uid="1.2.3", transfer_syntax_uid="1.2", calling_ae_title="A"
        )
        incoming.write(memoryview(OBJECTS[2][0]))
        return incoming.keep().path

    first = receive()
    disk.commit(ledger, first)
    store.settle()
    lost = Path("/objects", first)  # by a disk, or by somebody
    disk.folder(lost.parent).names.pop(lost.name)
    disk.folder(lost.parent).synced.pop(lost.name)
    spare, disk.fails_in = receive(), disk.fails_at
    for _ in range(3):
        try:
            store.give_up(spare, in_favour_of=first)
        except OutOfResources:
            spare = receive()  # A700: it is sent again
            continue
        ledger.acknowledged[first] = OBJECTS[2][0]
        break
    with suppress(OSError):
        store.settle()
    with suppress(OSError):
        store.settle()


Story = Callable[[ModelDisk, Ledger], None]


def judged(
    disk_type: Callable[[int], ModelDisk], *, states: int = 60, story: Story = receive_some
) -> Iterator[int]:
    """Cut the power after every operation, and once more while the broker starts; answer what is wrong each time."""
    for cut_at in itertools.count():
        disk, ledger = disk_type(cut_at), Ledger()
        try:
            story(disk, ledger)
            finished = True
        except PowerCut:
            finished = False
        chance = random.Random(cut_at)
        for _ in range(states):
            found = disk.rebooted(chance)
            yield wrongs(found, ledger, started=False)
            found.cut_at = chance.choice((_NEVER, chance.randint(1, 15)))
            try:
                start_again(found, ledger)
            except PowerCut:
                found = found.rebooted(chance)
                yield wrongs(found, ledger, started=False)
                start_again(found, ledger)
            found.cut_at = _NEVER
            yield wrongs(found, ledger, started=True)
            remove_unfinished(a_store(found), Rows(ledger), now=NOW + timedelta(hours=2))
            found = found.rebooted(chance)
            yield wrongs(found, ledger, started=False)
            start_again(found, ledger)
            yield wrongs(found, ledger, started=True)
        if finished:
            return


class NoHardLinks(ModelDisk):
    def link(self, source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "not here")


@pytest.mark.parametrize("disk_type", [ModelDisk, NoHardLinks])
def test_no_power_cut_loses_what_was_acknowledged_or_shows_half_an_object(disk_type: type[ModelDisk]) -> None:
    assert sum(judged(disk_type)) == 0


@pytest.mark.parametrize("disk_type", [ModelDisk, NoHardLinks])
@pytest.mark.parametrize("fails_at", [None, 0, 1, 2, 3])
def test_no_power_cut_loses_what_was_sent_again_after_a_folder_could_not_be_synced(
    disk_type: type[ModelDisk], fails_at: int | None
) -> None:
    def a_disk(cut_at: int) -> ModelDisk:
        disk = disk_type(cut_at)
        disk.fails_at = fails_at
        return disk

    assert sum(judged(a_disk, states=20, story=resend_what_was_lost)) == 0


class NoFileSync(ModelDisk):
    def sync(self, handle: int) -> None:
        self._step()


class NoFolderSync(ModelDisk):
    def sync_folder(self, path: Path) -> None:
        self._step()


class NoIncomingFolderSync(ModelDisk):
    def sync_folder(self, path: Path) -> None:
        if path.name == "incoming":
            self._step()
        else:
            super().sync_folder(path)


class NoMinuteFolderSync(ModelDisk):
    """Takes incoming names away although the final ones are not durable."""

    def sync_folder(self, path: Path) -> None:
        if path.name.isdigit():
            self._step()
        else:
            super().sync_folder(path)


class LinksWithoutSync(NoFolderSync, NoHardLinks):
    pass


class NamedFirst(ModelDisk):
    """Names a file before its content is synced."""

    def sync(self, handle: int) -> None:
        self.late = handle

    def link(self, source: Path, target: Path) -> None:
        super().link(source, target)
        if hasattr(self, "late"):
            super().sync(self.late)


@pytest.mark.parametrize(
    "broken",
    [NoFileSync, NoFolderSync, NoIncomingFolderSync, NoMinuteFolderSync, LinksWithoutSync, NamedFirst],
)
def test_the_model_catches_a_store_that_does_not_sync_in_order(broken: type[ModelDisk]) -> None:
    assert any(judged(broken))


def test_the_model_catches_a_start_that_restores_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "restore_names", lambda *_: 0)
    assert any(judged(ModelDisk))
