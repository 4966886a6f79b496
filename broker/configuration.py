"""The site file of this machine, as the use cases of the configuration see it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from shlex import quote

from broker.db.engine import serving_process
from broker.errors import ConfigurationError, Conflict
from broker.files.replaceable import PreparedContent, ReplaceableFile
from broker.placed_yaml import FileProblems
from broker.scrubbing import hidden_differences, scrubbed
from broker.site_file import LoadedSite, SiteFileError
from broker.workflow.configuration_port import Replacement

Parse = Callable[[Path, str], LoadedSite]


class SiteFileHere:
    """Implements the SiteFile port."""

    def __init__(self, path: Path, data_dir: Path, parse: Parse, *, supervisor: int | None = None) -> None:
        """Know the file; `supervisor` is the process of `broker serve` this one was forked from."""
        self._path, self._data_dir, self._parse, self._supervisor = path, data_dir, parse, supervisor
        self._file = ReplaceableFile(path)
        self.path = str(path)

    def read(self) -> str | None:
        """Answer its text; None when there is none. Raises ConfigurationError when it cannot be kept as text."""
        try:
            content = self._file.read()
            text = None if content is None else content.decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            what = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise ConfigurationError(f"{self.path} cannot be read: {what}") from error
        if text is not None and "\x00" in text:
            raise ConfigurationError(f"{self.path} cannot be kept: it has NUL characters")
        return text

    def why_fixed(self) -> str:
        """Say why it cannot be written from here; empty when it can."""
        return self._file.why_fixed()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep every other process of the broker from writing it."""
        with self._file.alone():
            yield

    @contextmanager
    def prepared(self, body: str) -> Iterator[Replacement]:
        """Lay a text ready; it is removed unless it was put. Raises OSError."""
        with self._file.prepared(body.encode()) as ready:
            yield _PreparedText(ready)

    def problems(self, body: str) -> Sequence[str]:
        """Check a text as the start does; answer each problem with its line."""
        try:
            self._parse(self._path, body)
        except SiteFileError as error:
            return [str(problem) for problem in error.problems]
        return ()

    def shown(self, body: str) -> str:
        """Answer a text without secrets, contacts and comments. Raises ConfigurationError for what is no YAML."""
        return scrubbed(body)

    def hidden_differences(self, before: str, after: str) -> Sequence[str]:
        """Name the keys that are different and not shown."""
        return hidden_differences(before, after)

    def restart_keys(self, before: str, after: str) -> Sequence[str]:
        """Name the keys that differ and are read only when everything is started anew."""
        try:
            old, new = (_read_at_start(self._parse, self._path, body) for body in (before, after))
        except FileProblems:
            return ()  # what was there did not even start
        return [key for key in new if old[key] != new[key]]

    def commands(self, version: int) -> Sequence[str]:
        """Answer what to type where a person may write the file."""
        place = f"--config {quote(self.path)} --data-dir {quote(str(self._data_dir))}"
        return (
            f"broker config rollback {version} --reason '…' {place}",
            f"broker config show {version} {place} > broker.yaml",
        )

    def reloads(self) -> bool:
        """Tell whether the roles here can be replaced in order, on the file as it stands then."""
        return self._serving() is not None

    def reload(self) -> None:
        """Have them replaced. Raises Conflict when nobody here can."""
        process = self._serving()
        if process is None:
            raise Conflict("No `broker serve` runs here.")
        try:
            os.kill(process, signal.SIGHUP)
        except OSError as error:
            raise Conflict(f"`broker serve` (process {process}) cannot be told: {error.strerror}.") from error

    def _serving(self) -> int | None:
        return self._supervisor or serving_process(self._data_dir)


class _PreparedText:
    """Implements the Replacement port."""

    def __init__(self, ready: PreparedContent) -> None:
        self._ready = ready

    def put(self, *, instead_of: str | None) -> None:
        """Give it the site file's name. Raises Conflict when that holds something else by now, or OSError."""
        self._ready.put(instead_of=None if instead_of is None else instead_of.encode())


@lru_cache(maxsize=16)  # versions do not change, and checking one takes a while
def _read_at_start(parse: Parse, path: Path, body: str) -> Mapping[str, object]:
    """Answer what `broker serve` reads once: which roles there are, and how many of each."""
    site = parse(path, body).site
    storage = site.listen.storage
    return {
        "listen.dicom.processes": site.listen.dicom.processes,
        "listen.storage": storage is not None,
        "listen.storage.processes": storage.processes if storage else 0,
    }
