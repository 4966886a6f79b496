"""Who may do what: roles, what a name and a password may be, how long a wrong password makes one wait.

Names and passwords are compared in normal form NFKC with RFC 8265's refusals, so that what looks alike on two
keyboards is the same. Passwords have a length and no composition rules (NIST SP 800-63B 3.1.1.2).
"""

from __future__ import annotations

import re
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from broker.domain.common_passwords import COMMON
from broker.errors import InvalidValue

MIN_PASSWORD_CHARS = 12
MAX_PASSWORD_BYTES = 1024
"""What is longer is refused before anything is computed with it."""
IDLE = timedelta(minutes=15)
LONGEST_SESSION = timedelta(hours=12)
LONGEST_TOKEN = timedelta(days=366)
_NAME = re.compile(r"[\w][\w.@-]{0,63}")
_MIN_DISTINCT = 5
_RUNS = (
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890123456789",
    "qwertyuiopasdfghjklzxcvbnm",
    "qwertzuiopasdfghjklyxcvbnm",
)


class Role(Enum):
    """What a person or a program may do; each role may do what the one before may."""

    VIEWER = "viewer"  # reads
    OPERATOR = "operator"  # acts on deliveries, destinations and devices
    ADMIN = "admin"  # accounts, tokens, the audit trail, the configuration

    def covers(self, needed: Role) -> bool:
        """Tell whether this role is enough where `needed` is asked for."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


def account_name(text: str) -> str:
    """Bring the name of an account to the form it is kept in. Raises InvalidValue."""
    if len(text) <= 256:
        name = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).strip().casefold())
        if _NAME.fullmatch(name):
            return name
    raise InvalidValue("A name has 1 to 64 letters, digits, or one of . _ - @", field="name")


def prepared_password(text: str) -> str:
    """Bring a password to the form it is hashed in. Raises InvalidValue when it cannot be one."""
    if len(text) > MAX_PASSWORD_BYTES or len(text.encode("utf-8", "replace")) > MAX_PASSWORD_BYTES:
        raise InvalidValue(f"A password has at most {MAX_PASSWORD_BYTES} bytes.", field="password")
    # RFC 8265 4.2.2: every space is U+0020, control characters and lone surrogates are refused.
    spaced = "".join(" " if unicodedata.category(char) == "Zs" else char for char in text)
    password = unicodedata.normalize("NFKC", spaced)
    if any(unicodedata.category(char) in {"Cc", "Cs", "Cn"} for char in password):
        raise InvalidValue("A password has no control characters.", field="password")
    return password


def new_password(text: str, *, name: str) -> str:
    """Bring a password somebody chose to the form it is hashed in. Raises InvalidValue when it is too weak."""
    password = prepared_password(text)
    if len(password) < MIN_PASSWORD_CHARS:
        raise InvalidValue(f"A password has at least {MIN_PASSWORD_CHARS} characters.", field="password")
    folded = password.casefold()
    if len(name) >= 3 and name in folded and len(folded.replace(name, "")) < MIN_PASSWORD_CHARS - 4:
        raise InvalidValue("The password is little more than the name of the account.", field="password")
    if folded in COMMON or len(set(folded)) < _MIN_DISTINCT or _is_a_run(folded):
        raise InvalidValue("This password is among the first that are tried; take another.", field="password")
    return password


def _is_a_run(password: str) -> bool:
    """Tell whether it is a short piece over and over, or a walk along the alphabet or a keyboard's rows."""
    for size in range(1, len(password) // 2 + 1):
        piece = password[:size]
        if size <= 6 and (piece * (len(password) // size + 1)).startswith(password):
            return True
    return any(password in run or password in run[::-1] for run in _RUNS)


@dataclass(slots=True)
class _Tries:
    failures: int
    since: datetime
    last: datetime


class Throttle:
    """Says how long a key must wait after wrong tries: some are free, then each wait is twice the one before.

    A try counts when it is admitted, not when it has failed: a hundred at once are a hundred. Bounded: the
    oldest keys are forgotten first.
    """

    def __init__(
        self,
        *,
        free: int = 5,
        first: timedelta = timedelta(seconds=12),
        cap: timedelta = timedelta(minutes=15),
        max_keys: int = 10_000,
    ) -> None:
        self._free, self._first, self._cap, self._max_keys = free, first, cap, max_keys
        self._tries: OrderedDict[str, _Tries] = OrderedDict()

    def wait(self, key: str, now: datetime) -> timedelta:
        """Answer how long `key` must wait; nothing when it may try now."""
        tries = self._tries.get(key)
        if tries is None or tries.failures < self._free:
            return timedelta(0)
        doubled: int = 2 ** min(tries.failures - self._free, 20)
        return max(timedelta(0), tries.last + min(self._cap, self._first * doubled) - now)

    def count(self, key: str, now: datetime) -> None:
        """Count a try."""
        tries = self._tries.pop(key, None)
        # A minute without reaching the limit, or a whole cap of silence, forgives.
        is_over = tries is not None and (
            now - tries.last >= self._cap
            or (tries.failures < self._free and now - tries.since >= timedelta(minutes=1))
        )
        if tries is None or is_over:
            tries = _Tries(0, now, now)
        self._tries[key] = _Tries(tries.failures + 1, tries.since, now)
        while len(self._tries) > self._max_keys:
            self._tries.popitem(last=False)

    def forgive(self, key: str) -> None:
        """Forget the tries of a key that has succeeded."""
        self._tries.pop(key, None)
