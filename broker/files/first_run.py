"""The one-time token that makes the first account, in a file that only the broker's user reads."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

NAME = "first-run-token"


class FirstRunFile:
    """Implements the FirstRunToken port. Who reads this file may read the database beside it too."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / NAME

    def ensure(self) -> str:
        """Answer the token, made when there is none; processes that do so at once agree on one."""
        if not self.stored():
            made = self._path.with_name(f"{NAME}.{os.getpid()}")
            descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(f"{secrets.token_urlsafe(32)}\n")
            with suppress(FileExistsError):
                os.link(made, self._path)  # whole or not at all, and only the first
            made.unlink()
        return self.stored()

    def stored(self) -> str:
        """Answer the token; empty when there is none."""
        try:
            return self._path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return ""

    def forget(self) -> None:
        """Remove it: it has been used."""
        self._path.unlink(missing_ok=True)
