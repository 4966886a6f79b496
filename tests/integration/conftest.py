"""A stored file that cannot be opened or read for a while, as when no handle is left or a disk fails."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


@pytest.fixture
def unopenable(monkeypatch) -> Callable[..., AbstractContextManager[None]]:
    """Let one path fail with an error number while the block runs, from its opening number `first` (from 0) on."""
    true_open = Path.open

    @contextmanager
    def failing(path: Path, number: int, *, first: int = 0, when_read: bool = False) -> Iterator[None]:
        class Failing(io.FileIO):
            def readinto(self, buffer):
                raise OSError(number, os.strerror(number))

        opened = 0

        def open_or_fail(self, *args, **kwargs):
            nonlocal opened
            if self != path:
                return true_open(self, *args, **kwargs)
            opened += 1
            if opened <= first:
                return true_open(self, *args, **kwargs)
            if when_read:
                return Failing(self)
            raise OSError(number, os.strerror(number), str(self))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", open_or_fail)
            yield
        assert opened > first, "nobody opened it"

    return failing
