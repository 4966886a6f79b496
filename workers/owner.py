"""Names the holder of a lease, so that whoever comes later on the same machine can tell that it is dead.

After a crash what was being sent would wait for the end of its lease, though nobody is left to renew it. A name
tells the boot, the process namespace, the process and when that began (proc_pid_stat(5), field 22): a number that
was given to another process since is no mistake, and of another machine or container nothing is said.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from functools import lru_cache
from pathlib import Path
from typing import Final

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
_UNKNOWN: Final = "-"
_DEAD: Final = frozenset({b"Z", b"X"})
_NAME: Final = re.compile(
    r"(?P<host>[^:]*):(?P<pid>[1-9]\d{0,8}):\d+:(?P<place>[0-9a-f]+\.\d+)\.(?P<started>\d+)", re.ASCII
)
_STATE: Final = 0
_THREADS: Final = 17
_START_TIME: Final = 19
"""Behind the closing parenthesis of the command, which may hold spaces and parentheses itself."""


def worker_name() -> str:
    """Answer the name of this thread as the holder of a lease."""
    pid = os.getpid()
    return f"{socket.gethostname()}:{pid}:{threading.get_ident() % 100_000}:{_birth(pid)}"


def is_gone(name: str) -> bool:
    """Answer whether the process of a holder has ended for certain; False whenever that cannot be known."""
    match = _NAME.fullmatch(name)
    if match is None or match["host"] != socket.gethostname() or match["place"] != _place():
        return False
    pid = int(match["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # somebody is there, perhaps another one
    fields = _stat(pid)
    if not fields:
        return False
    # One that was killed keeps its number until its parent asks for it, which may be busy; it does nothing any more.
    is_dead = fields[_STATE] in _DEAD and int(fields[_THREADS]) <= 1
    return is_dead or fields[_START_TIME].decode("ascii") != match["started"]


@lru_cache(maxsize=1)
def _birth(pid: int) -> str:
    place, fields = _place(), _stat(pid)
    return f"{place}.{fields[_START_TIME].decode('ascii')}" if place and fields else _UNKNOWN


def _place() -> str | None:
    """Answer what names this boot and the namespace in which process numbers mean something."""
    try:
        boot = _BOOT.read_text(encoding="ascii").strip().replace("-", "")[:12]
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except (OSError, ValueError):
        return None
    return f"{boot}.{namespace}"


def _stat(pid: int) -> list[bytes]:
    """Answer what the kernel says of a process; nothing when it says nothing."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    fields = stat.rpartition(b")")[2].split()
    return fields if len(fields) > _START_TIME else []
