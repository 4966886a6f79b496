"""What a process asked of the kernel, read from strace: calls in order, with their bytes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.peers import program

TRACED = (
    "open,openat,mkdir,mkdirat,write,writev,pwrite64,pwritev,pwritev2,ftruncate,rename,renameat,renameat2,"
    "link,linkat,unlink,unlinkat,fsync,fdatasync,read,recvfrom,sendto,sendmsg"
)
OPTIONS = ("-f", "-y", "-xx", "-s", "16777216", "-e", f"trace={TRACED}", "-e", "signal=none")
_LINE = re.compile(r"(\d+) +(.*)")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+|0x[0-9a-f]+|\?)(.*)", re.DOTALL)
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_DESCRIPTOR = re.compile(r"(\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>")


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that succeeded."""

    began: int
    """Number of the line on which it began; it had ended at `ended`."""
    ended: int
    thread: int
    name: str
    arguments: str
    result: int
    opened: str
    """Path behind the descriptor that it answered."""

    @property
    def strings(self) -> list[bytes]:
        """Answer its text and buffer arguments, in order."""
        return [_bytes(found[1]) for found in _STRING.finditer(self.arguments)]

    @property
    def data(self) -> bytes:
        """Answer what it wrote or sent."""
        return b"".join(self.strings)

    @property
    def paths(self) -> list[str]:
        """Answer its path arguments."""
        return [text.decode() for text in self.strings]

    @property
    def descriptor(self) -> int:
        """Answer the number of its first descriptor."""
        return int(self.arguments.partition("<")[0])

    @property
    def path(self) -> str:
        """Answer what its first descriptor stands for."""
        found = _DESCRIPTOR.match(self.arguments)
        return _bytes(found[2]).decode(errors="replace") if found else ""

    @property
    def numbers(self) -> list[int]:
        """Answer its plain numbers, in order, without descriptors and lengths in structures."""
        plain = _STRING.sub("", _DESCRIPTOR.sub("", self.arguments))
        return [int(number) for number in re.findall(r"(?:^|, )(\d+)(?=,|$)", plain)]

    def is_sync(self) -> bool:
        """Tell whether it makes something durable."""
        return self.name in ("fsync", "fdatasync")


def _bytes(hexadecimal: str) -> bytes:
    return bytes.fromhex(hexadecimal.replace("\\x", ""))


def read_calls(trace: Path) -> list[Call]:
    """Answer the calls that succeeded, in the order in which they ended."""
    return list(_calls(trace))


def _calls(trace: Path) -> Iterator[Call]:
    begun: dict[str, tuple[int, str]] = {}
    with trace.open(errors="replace") as lines:
        for number, line in enumerate(lines):
            found = _LINE.match(line.rstrip("\n"))
            if found is None:
                continue
            thread, text = found.groups()
            began = number
            if text.endswith("<unfinished ...>"):
                begun[thread] = (number, text.removesuffix("<unfinished ...>"))
                continue
            if text.startswith("<... "):
                if thread not in begun:
                    continue
                began, head = begun.pop(thread)
                text = head + text.partition(" resumed>")[2]
            call = _CALL.fullmatch(text)
            if call is None or not call[3].isdigit():
                continue
            answered = re.match(r"<((?:\\x[0-9a-f]{2})*)>", call[4])
            opened = _bytes(answered[1]).decode(errors="replace") if answered else ""
            yield Call(began, number, int(thread), call[1], call[2].strip(), int(call[3]), opened)


def tracing(trace: Path, *command: str, beside: Sequence[int] = ()) -> list[str]:
    """Answer the command line that runs a command under strace, and watches processes that run already."""
    # The kernel can pass over calls nobody asked for, but not in processes that it did not start so.
    others = [f"--attach={pid}" for pid in beside] or ["--seccomp-bpf"]
    return [program("strace"), *OPTIONS, *others, "-o", str(trace), *command]
