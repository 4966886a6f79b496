"""Makes inputs from a seed and holds a target to its contract: no other error, no second, no memory.

A target takes bytes and raises nothing: errors it declares it swallows itself. So every input can be written
down and played again. Inputs are good ones, damaged as storage, networks and enemies damage them; only the seed
decides how, so a run can be repeated to the byte.
"""

from __future__ import annotations

import faulthandler
import mmap
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

SECONDS_PER_INPUT = 1.0
"""Of this process's own CPU time: what other processes take does not count."""
HANG_S = 120.0
"""When not even the interpreter comes back: then the process is ended, and the input stands in its file."""
MAX_BYTES = 256 * 1024
MAX_GROWTH_BYTES = 192 * 1024 * 1024
"""Of the process's memory over a target: caches may fill, nothing may add up."""
_LOOK_EVERY = 1_000
_MAX_FINDINGS = 5

_NUMBERS = (0, 1, 2, 3, 4, 7, 8, 0x0B, 0x1C, 0x20, 0x7F, 0x80, 0xFE, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF,
            0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Target:
    """Something that takes a stranger's bytes."""

    name: str
    seeds: Sequence[bytes]
    """Good inputs."""
    run: Callable[[bytes], None]
    """Feeds one input and checks what must hold; anything it raises is a finding."""
    tokens: Sequence[bytes] = ()
    """What the format is made of."""
    reshape: Callable[[random.Random, bytes], bytes] | None = None
    """Damages an input by its structure, where bytes alone would hardly ever come through."""


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that broke its target's contract."""

    target: str
    seed: str
    index: int
    data: bytes
    what: str

    def __str__(self) -> str:
        shown = self.data[:60].hex() + ("…" if len(self.data) > 60 else "")
        return f"{self.target} seed {self.seed} input {self.index} ({len(self.data)} bytes: {shown}): {self.what}"


@dataclass(slots=True)
class Hunt:
    """What came of many inputs to one target."""

    cases: int = 0
    slowest_s: float = 0.0
    grown_bytes: int = 0
    findings: list[Finding] = field(default_factory=list)


class Hung(BaseException):
    """An input took longer than it may; no target's own `except` may swallow this."""


class Mutator:
    """Damages good inputs, the same for the same seed."""

    def __init__(self, target: Target, seed: str) -> None:
        self.random = random.Random(f"{seed}/{target.name}")
        self._target = target
        self._operations = (self._flip, self._set, self._number, self._number, self._delta, self._delete, self._repeat,
                            self._insert, self._overwrite, self._truncate, self._splice, self._token, self._token)  # fmt: skip

    def next(self) -> bytes:
        """Make the next input."""
        draw = self.random
        data = draw.choice(self._target.seeds)
        if self._target.reshape is not None and draw.random() < 0.5:
            data = self._target.reshape(draw, data)
        changed = bytearray(data)
        for _ in range(min(int(draw.expovariate(0.5)) + (self._target.reshape is None), 12)):
            if not changed:
                changed += draw.randbytes(8)
            draw.choice(self._operations)(changed)
        return bytes(changed[:MAX_BYTES])

    def _at(self, data: bytearray) -> int:
        return self.random.randrange(len(data))

    def _span(self, data: bytearray) -> tuple[int, int]:
        start = self._at(data)
        return start, min(start + int(self.random.expovariate(1 / 12)) + 1, len(data))

    def _flip(self, data: bytearray) -> None:
        data[self._at(data)] ^= 1 << self.random.randrange(8)

    def _set(self, data: bytearray) -> None:
        data[self._at(data)] = self.random.randrange(256)

    def _number(self, data: bytearray) -> None:
        size, order = self.random.choice((1, 2, 4)), self.random.choice(("big", "little"))
        at = self._at(data)
        number = self.random.choice(_NUMBERS) & ((1 << 8 * size) - 1)
        data[at : at + size] = number.to_bytes(size, order)

    def _delta(self, data: bytearray) -> None:
        """Make a number a little larger or smaller: lengths that are off by one, two, eight."""
        size, order = self.random.choice((1, 2, 4)), self.random.choice(("big", "little"))
        at = self._at(data)
        old = int.from_bytes(data[at : at + size], order)
        new = (old + self.random.choice((-8, -4, -2, -1, 1, 2, 4, 8))) % (1 << 8 * size)
        data[at : at + size] = new.to_bytes(size, order)

    def _delete(self, data: bytearray) -> None:
        start, end = self._span(data)
        del data[start:end]

    def _repeat(self, data: bytearray) -> None:
        start, end = self._span(data)
        times = self.random.choice((2, 3, 10, 100, 1000, 30_000 if self.random.random() < 0.05 else 5))
        piece = bytes(data[start:end])
        data[start:start] = piece * min(times, MAX_BYTES // len(piece))

    def _insert(self, data: bytearray) -> None:
        at = self._at(data)
        data[at:at] = self.random.randbytes(self.random.randint(1, 16))

    def _overwrite(self, data: bytearray) -> None:
        start, end = self._span(data)
        data[start:end] = self.random.randbytes(end - start)

    def _truncate(self, data: bytearray) -> None:
        del data[self._at(data) :]

    def _splice(self, data: bytearray) -> None:
        other = self.random.choice(self._target.seeds)
        if other:
            data[self._at(data) :] = other[self.random.randrange(len(other)) :]

    def _token(self, data: bytearray) -> None:
        token = self.random.choice(self._target.tokens) if self._target.tokens else b"\0"
        at = self._at(data)
        data[at : at + (0 if self.random.random() < 0.7 else len(token))] = token


def hunt(target: Target, seed: str, count: int, folder: Path) -> Hunt:
    """Feed a target `count` inputs; only the main thread of a process can."""
    for data in target.seeds:  # warms caches up, and shows that the good inputs are good
        target.run(data)
    found, mutator = Hunt(), Mutator(target, seed)
    before = resident_bytes()
    with _blackbox(folder / f"{target.name}-{os.getpid()}.input") as keep:
        for index in range(count):
            data = mutator.next()
            keep(data)
            began = time.process_time()
            what = attempt(target, data)
            took_s = time.process_time() - began
            found.slowest_s = max(found.slowest_s, took_s)
            found.cases += 1
            if what is None and took_s > SECONDS_PER_INPUT:
                what = f"took {took_s:.1f} s"
            if what is not None:
                found.findings.append(Finding(target.name, seed, index, data, what))
            if index % _LOOK_EVERY == _LOOK_EVERY - 1:
                faulthandler.dump_traceback_later(HANG_S, exit=True)
                found.grown_bytes = max(found.grown_bytes, resident_bytes() - before)
                if found.grown_bytes > MAX_GROWTH_BYTES:
                    what = f"memory has grown by {found.grown_bytes / 2**20:.0f} MiB"
                    found.findings.append(Finding(target.name, seed, index, data, what))
            if len(found.findings) >= _MAX_FINDINGS:
                break
    return found


def attempt(target: Target, data: bytes) -> str | None:
    """Feed one input within its time; answer what went wrong, if anything did."""
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS_PER_INPUT)
    try:
        target.run(data)
    except Hung:
        return f"took more than {SECONDS_PER_INPUT:.0f} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return _where(error)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return None


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    place = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        if "/broker/" in code.co_filename or "/attacks/" in code.co_filename:
            place = f" in {Path(code.co_filename).name}:{trace.tb_lineno} {code.co_name}"
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}"[:200] + place


def resident_bytes() -> int:
    """Answer how much memory this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@contextmanager
def watched() -> Iterator[None]:
    """Let SIGVTALRM raise Hung, and end the process when even that does not get through."""

    def ring(_signal: int, _frame: object) -> None:
        raise Hung

    previous = signal.signal(signal.SIGVTALRM, ring)
    faulthandler.dump_traceback_later(HANG_S, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


@contextmanager
def _blackbox(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Keep the input being fed in a file that outlives the process."""
    size = MAX_BYTES + 8
    path.write_bytes(bytes(size))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as page:

        def keep(data: bytes) -> None:
            page[:8] = len(data).to_bytes(8, "big")
            page[8 : 8 + len(data)] = data

        yield keep
    path.unlink()


def last_inputs(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Answer what processes were being fed that did not come back: (target, input)."""
    for path in sorted(folder.glob("*.input")):
        page = path.read_bytes()
        yield path.stem.rpartition("-")[0], page[8 : 8 + int.from_bytes(page[:8], "big")]


# --- findings, kept as text --------------------------------------------------------------------------------


def written(finding: Finding) -> str:
    """Write a finding as a file that can be read, reviewed and played again."""
    lines = [f"# {finding.what}"]
    data = finding.data
    lines += [data[at : at + 40].hex() for at in range(0, len(data), 40)]
    return "\n".join(lines) + "\n"


def read(path: Path) -> bytes:
    """Read the input out of a finding: lines of hexadecimal digits, `0b * 4096` for many of the same."""
    data = bytearray()
    for line in path.read_text().splitlines():
        digits, _, times = line.partition("#")[0].partition("*")
        data += bytes.fromhex(digits) * int(times or 1)
    return bytes(data)
