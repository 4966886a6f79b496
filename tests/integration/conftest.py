"""What adapters are tested among: logging that stays that of the tests, a stored file that cannot be read for a while."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def logging_of_the_tests(monkeypatch) -> None:
    """A command run in this process would bind every logger to its own output, which is closed when it ends."""
    monkeypatch.setattr("broker.logs.configure_logging", lambda **_: None)


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
