"""The disk a process would find after a power cut at any moment of a traced run.

The model keeps what POSIX promises and no more. What was written and not synced may be lost or kept, each write for
itself; a name that was given or taken away since its folder was synced may be there or not, each for itself. A sync
covers what had ended when it began, and counts from when it ended.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.attacks.system_calls import Call

Chance = Callable[[], bool]
_NAMES = ("mkdir", "unlink", "rename", "link")
WRITES = ("write", "writev", "pwrite64", "pwritev", "pwritev2")


@dataclass(eq=False)
class File:
    """What a file holds for sure, and what was done to it since."""

    durable: bytes = b""
    pending: list[tuple[int, int, bytes | None]] = field(default_factory=list)
    """(when it had ended, offset, data); without data: cut to that length."""

    def sync(self, began: int) -> None:
        covered = [change for change in self.pending if change[0] <= began]
        self.durable = _applied(self.durable, covered)
        self.pending = [change for change in self.pending if change[0] > began]

    def content(self, kept: Chance) -> bytes:
        return _applied(self.durable, [change for change in self.pending if kept()])


def _applied(content: bytes, changes: list[tuple[int, int, bytes | None]]) -> bytes:
    result = bytearray(content)
    for _, offset, data in changes:
        if data is None:
            del result[offset:]
        result.extend(bytes(max(0, offset + len(data or b"") - len(result))))
        if data is not None:
            result[offset : offset + len(data)] = data
    return bytes(result)


@dataclass(eq=False)
class Folder:
    """Which names a folder holds for sure, and what was done to them since."""

    durable: dict[str, File | Folder] = field(default_factory=dict)
    live: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[tuple[int, str, File | Folder | None]] = field(default_factory=list)

    def set(self, at: int, name: str, node: File | Folder | None) -> None:
        self.pending.append((at, name, node))
        _put(self.live, name, node)

    def sync(self, began: int) -> None:
        for at, name, node in self.pending:
            if at <= began:
                _put(self.durable, name, node)
        self.pending = [change for change in self.pending if change[0] > began]

    def names(self, kept: Chance) -> dict[str, File | Folder]:
        found = dict(self.durable)
        for _, name, node in self.pending:
            if kept():
                _put(found, name, node)
        return found


def _put(names: dict[str, File | Folder], name: str, node: File | Folder | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node


class TracedDisk:
    """A folder as it was when the trace began, to which calls are applied one after the other."""

    def __init__(self, root: Path, before: Path) -> None:
        """Take where the folder was, and a copy of what it held."""
        self._root = str(root)
        self._top = _loaded(before)
        self._offsets: dict[int, int] = {}

    def apply(self, call: Call) -> bool:
        """Apply a call that has ended; True when it touched this folder."""
        if call.name in ("open", "openat"):
            return self._open(call)
        if call.name in WRITES:
            return self._write(call)
        if call.is_sync():
            node = self._find(call.path)
            if node is not None:
                node.sync(call.began)
            return node is not None
        if call.name == "ftruncate":
            node = self._find(call.path)
            if isinstance(node, File):
                node.pending.append((call.ended, call.numbers[-1], None))
            return node is not None
        return call.name.startswith(_NAMES) and self._name(call)

    def _open(self, call: Call) -> bool:
        self._offsets[call.result] = 0
        place = self._place(call.opened)
        if place is None or "O_CREAT" not in call.arguments:
            return False
        folder, name = place
        if name not in folder.live:
            folder.set(call.ended, name, File())
            return True
        node = folder.live[name]
        if "O_TRUNC" in call.arguments and isinstance(node, File):
            node.pending.append((call.ended, 0, None))
        return False

    def _write(self, call: Call) -> bool:
        node = self._find(call.path)
        if not isinstance(node, File):
            return False
        data = call.data[: call.result]
        if call.name.startswith("pwrite"):
            offset = call.numbers[-1]
        else:
            offset = self._offsets[call.descriptor]
            self._offsets[call.descriptor] = offset + len(data)
        node.pending.append((call.ended, offset, data))
        return True

    def _name(self, call: Call) -> bool:
        places = [self._place(path) for path in call.paths]
        if not places or places[0] is None:
            return False
        folder, name = places[0]
        if call.name.startswith("mkdir"):
            folder.set(call.ended, name, Folder())
        elif call.name.startswith("unlink"):
            folder.set(call.ended, name, None)
        else:
            node, other = folder.live[name], places[1]
            assert other is not None, "a file left the folder"
            other[0].set(call.ended, other[1], node)
            if call.name.startswith("rename"):
                folder.set(call.ended, name, None)
        return True

    def _place(self, path: str) -> tuple[Folder, str] | None:
        if not path.startswith(self._root + "/") or path.endswith("-shm"):  # shared memory is not a promise
            return None
        *parents, name = path.removeprefix(self._root + "/").split("/")
        folder: File | Folder = self._top
        for parent in parents:
            assert isinstance(folder, Folder)
            folder = folder.live[parent]
        assert isinstance(folder, Folder)
        return folder, name

    def _find(self, path: str) -> File | Folder | None:
        if path == self._root:
            return self._top
        place = self._place(path.removesuffix(" (deleted)"))
        return place[0].live.get(place[1]) if place else None

    def file(self, path: str) -> File:
        """Answer a file as it stands."""
        found = self._find(f"{self._root}/{path}")
        return found if isinstance(found, File) else File()

    def durable_files(self, path: str) -> Iterator[File]:
        """Answer the files below a folder that keep a name whatever happens now."""

        def walk(folder: Folder) -> Iterator[File]:
            for node in folder.names(lambda: False).values():
                if isinstance(node, Folder):
                    yield from walk(node)
                else:
                    yield node

        found = self._find(f"{self._root}/{path}")
        return walk(found) if isinstance(found, Folder) else iter(())

    def write_to(self, target: Path, *, names: Chance, contents: Chance) -> None:
        """Write what the disk may hold when the power is back; the chances say what unsynced is kept."""
        written: dict[File, Path] = {}

        def write(folder: Folder, at: Path) -> None:
            at.mkdir()
            for name, node in folder.names(names).items():
                if isinstance(node, Folder):
                    write(node, at / name)
                elif node in written:
                    os.link(written[node], at / name)
                else:
                    (at / name).write_bytes(node.content(contents))
                    written[node] = at / name

        write(self._top, target)


def _loaded(folder: Path) -> Folder:
    found = Folder()
    for path in folder.iterdir():
        if path.is_dir():
            found.durable[path.name] = _loaded(path)
        elif path.is_file() and not path.name.endswith("-shm"):
            found.durable[path.name] = File(path.read_bytes())
    found.live = dict(found.durable)
    return found


def chances(number: int, chance: random.Random) -> tuple[Chance, Chance]:
    """Answer what is kept of unsynced names and contents: nothing, names alone, contents alone, then at random."""
    if number < 3:
        names, contents = ((False, False), (True, False), (False, True))[number]
        return lambda: names, lambda: contents
    return (lambda: chance.random() < 0.5), (lambda: chance.random() < 0.5)
