"""The configuration: which version is in force, what was before, and putting another one into the site file.

A change is written down, with who and why, before the file changes: no other text ever stands there by a person's
act without its event. What a crash or the disk leaves undone in between is told: by an event where it is noticed, and
by the page, which reads the file and asks the roles what they run on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from broker.domain.differences import DiffRow, differences
from broker.domain.events import Event, EventName, Subject
from broker.errors import ConfigurationError, Conflict, InvalidValue, MissingValue
from broker.workflow.accounts import Caller
from broker.workflow.clock import Clock
from broker.workflow.configuration_port import (
    ConfigurationChange,
    ConfigurationReports,
    How,
    SiteFile,
)
from broker.workflow.unit_of_work import UnitOfWork, UnitsOfWork

MAX_BODY = 256 * 1024
MAX_REASON = 500
SITE_FILE = "site file"
"""Who put a version in force that was found in the file."""
_FRESH = timedelta(seconds=20)
_LOCK = "configuration"


class InvalidConfiguration(InvalidValue):
    """The configuration has problems; nothing was changed."""

    def __init__(self, problems: Sequence[str]) -> None:
        """Keep all of them."""
        super().__init__("\n".join(problems), field="body")
        self.problems = tuple(problems)


class FixedSiteFile(Conflict):
    """The site file cannot be written from here."""

    def __init__(self, why: str, commands: Sequence[str]) -> None:
        """Say why, and what to type where it can."""
        super().__init__(f"The site file cannot be written from here: {why}. Nothing was changed.")
        self.commands = tuple(commands)


@dataclass(frozen=True, slots=True)
class RoleVersion:
    """What a running role runs on."""

    role: str
    host: str
    version: int | None
    """None: it does not say."""
    beat_at: datetime


@dataclass(frozen=True, slots=True)
class Standing:
    """How the configuration stands."""

    path: str
    sha256: str
    """Of the site file now; empty when there is none, or it cannot be read."""
    version: int | None
    """The version the site file holds; None: it was edited, and nothing has read it yet."""
    problems: Sequence[str]
    """What is wrong with the site file now."""
    why_fixed: str
    """Why it cannot be written from here; empty when it can."""
    reloads: bool
    """The roles can be replaced from here."""
    in_force: ConfigurationChange | None
    waiting: ConfigurationChange | None
    """A change that waits for a reload or a restart."""
    roles: Sequence[RoleVersion]

    @property
    def running(self) -> Mapping[int | None, Sequence[str]]:
        """Answer which roles run on which version."""
        found: dict[int | None, list[str]] = {}
        for one in self.roles:
            names = found.setdefault(one.version, [])
            if one.role not in names:
                names.append(one.role)
        return found

    @property
    def behind(self) -> Sequence[RoleVersion]:
        """Answer the roles that run on something else than the site file holds."""
        return [role for role in self.roles if role.version is not None and role.version != self.version]


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between two texts of the site file, as it may be shown."""

    rows: Sequence[DiffRow]
    hidden: Sequence[str] = ()
    """Keys whose values differ and are withheld."""
    restart: Sequence[str] = ()
    """Keys that differ and come into force only when everything is started anew."""
    problem: str = ""
    """Why it cannot be told."""
    is_same: bool = False
    """Not one character differs."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What putting a text into the site file would change."""

    problems: Sequence[str]
    difference: Difference | None
    """None: it has problems."""
    expected: str
    """Digest of the site file it was compared with."""


class ConfigurationKeeper:
    """What people and roles do with the configuration. Each raises a BrokerError, and then nothing has changed."""

    def __init__(
        self, units_of_work: UnitsOfWork, reports: ConfigurationReports, file: SiteFile, clock: Clock
    ) -> None:
        self._units_of_work = units_of_work
        self._reports = reports
        self._file = file
        self._clock = clock

    # ---- roles ----

    def take_up(self, sha256: str, body: str) -> int:
        """Say that a role begins to run on this text; answer its version."""
        now = self._clock.now()
        with self._units_of_work() as uow:
            uow.lock(_LOCK)  # all roles start at once
            version = uow.decisions.record_configuration(sha256, body, by=SITE_FILE, now=now)
            newest, in_force = uow.configurations.newest_change(), uow.configurations.in_force()
            awaited = newest if newest and newest.in_force_at is None and newest.problem is None else None
            if awaited is not None and awaited.version == version:
                uow.configurations.came_into_force(awaited.id, now=now)
                actor = awaited.actor
            elif in_force is None or in_force.version != version:
                before = in_force.version if in_force else None
                change = ConfigurationChange(0, version, before, How.FOUND, SITE_FILE, "", now, now)
                uow.configurations.add_change(change)
                actor = SITE_FILE
            else:
                # As it was; a change that waits for the reload goes on waiting.
                uow.commit()
                return version
            event = EventName.CONFIGURATION_LOADED
            details = {"version": str(version), "sha256": sha256}
            uow.record(Event(event, Subject.SYSTEM, version, actor=actor, details=details))
            uow.commit()
        return version

    # ---- reading ----

    @property
    def reports(self) -> ConfigurationReports:
        """Answer the history."""
        return self._reports

    def standing(self) -> Standing:
        """Say which version is in force, what the file holds, and who runs on what."""
        try:
            body, problems = self._file.read(), []
        except ConfigurationError as error:
            body, problems = None, [str(error)]
        sha256 = "" if body is None else digest(body)
        version = self._reports.configuration_known_as(sha256) if sha256 else None
        if body is None and not problems:
            problems = [f"{self._file.path}: there is no such file"]
        elif body is not None and version is None:
            problems = list(self._file.problems(body))
        now = self._clock.now()
        roles = [
            RoleVersion(line.role, line.host, _version(line.details), line.beat_at)
            for line in self._reports.roles()
            if now - line.beat_at < _FRESH
        ]
        newest = next(iter(self._reports.configuration_changes(limit=1)), None)
        waits = newest is not None and newest.in_force_at is None and newest.problem is None
        return Standing(
            path=self._file.path,
            sha256=sha256,
            version=version,
            problems=problems,
            why_fixed=self._file.why_fixed(),
            reloads=self._file.reloads(),
            in_force=self._reports.configuration_in_force(),
            waiting=newest if waits else None,
            roles=roles,
        )

    def body(self, version: int | None) -> str:
        """Answer the text of a version, or of the file when that is None. Raises NotFound or ConfigurationError."""
        if version is None:
            return self._file.read() or ""
        return self._reports.configuration_version(version).body

    def shown(self, version: int | None) -> str:
        """Answer the text of a version, or of the file, without secrets. Raises ConfigurationError."""
        return self._file.shown(self.body(version))

    def difference(self, before: int | None, after: int | None) -> Difference:
        """Say what differs between two versions; None is the file. Raises NotFound."""
        return self._difference(self.body(before), self.body(after))

    def commands(self, version: int) -> Sequence[str]:
        """Answer what to type to bring a version back where the file can be written."""
        return self._file.commands(version)

    def try_out(self, body: str) -> Trial:
        """Say what is wrong with a text, or what putting it into the site file would change."""
        problems = self._problems(body)
        present = self._file.read()
        expected = "" if present is None else digest(present)
        if problems:
            return Trial(problems, None, expected)
        return Trial((), self._difference(present or "", body), expected)

    # ---- changing ----

    def apply(
        self, body: str, *, reason: str, by: Caller, expected: str | None = None
    ) -> ConfigurationChange:
        """Put a text into the site file.

        `expected` is the digest of what was there when the person looked. Raises InvalidConfiguration, Conflict when
        something else is there by now, FixedSiteFile, or ConfigurationError when the disk refuses.
        """
        return self._put(body, How.APPLIED, reason=reason, by=by, expected=expected)

    def roll_back(
        self, version: int, *, reason: str, by: Caller, expected: str | None = None
    ) -> ConfigurationChange:
        """Put an older version back into the site file. Raises NotFound, and what `apply` raises."""
        return self._put(self.body(version), How.ROLLED_BACK, reason=reason, by=by, expected=expected)

    def reload(self, *, by: Caller) -> None:
        """Have every role replaced in order, on the site file as it is. Raises Conflict when nobody here can."""
        if not self._file.reloads():
            raise Conflict("Nobody here can replace the roles: restart each of them.")
        if problems := self.standing().problems:
            raise InvalidConfiguration(problems)
        with self._units_of_work() as uow:
            _record(uow, EventName.CONFIGURATION_RELOAD_ASKED, None, by, {})
            uow.commit()
        self._file.reload()

    def _put(
        self, body: str, how: How, *, reason: str, by: Caller, expected: str | None
    ) -> ConfigurationChange:
        reason = _checked(reason)
        if problems := self._problems(body):
            raise InvalidConfiguration(problems)
        if why := self._file.why_fixed():
            known = self._reports.configuration_known_as(digest(body))
            raise FixedSiteFile(why, self._file.commands(known) if known else ())
        try:
            with self._file.alone(), self._file.prepared(body) as ready:
                present = self._file.read()
                if expected is not None and expected != ("" if present is None else digest(present)):
                    raise Conflict(
                        "The site file was changed since you looked at it. Nothing was changed: look again."
                    )
                if present == body:
                    raise Conflict("The site file says exactly that already. Nothing was changed.")
                change = self._write_down(body, present, how, reason=reason, by=by)
                try:
                    ready.put(instead_of=present)
                except (Conflict, OSError) as error:
                    self._take_back(change, error, by)
                    raise
        except OSError as error:
            raise ConfigurationError(
                f"{self._file.path} could not be written: {error.strerror or error}. It is as it was."
            ) from error
        return change

    def _write_down(
        self, body: str, present: str | None, how: How, *, reason: str, by: Caller
    ) -> ConfigurationChange:
        now = self._clock.now()
        with self._units_of_work() as uow:
            uow.lock(_LOCK)
            keep = uow.decisions.record_configuration
            before = None if present is None else keep(digest(present), present, by=SITE_FILE, now=now)
            version = keep(digest(body), body, by=by.name[:64], now=now)
            change = ConfigurationChange(0, version, before, how, by.name, reason, now)
            change = replace(change, id=uow.configurations.add_change(change))
            details = {"how": how.value, "before": before, "reason": reason, "sha256": digest(body)}
            _record(uow, EventName.CONFIGURATION_CHANGED, version, by, details)
            uow.commit()
        return change

    def _take_back(self, change: ConfigurationChange, error: Exception, by: Caller) -> None:
        problem = (error.strerror or "") if isinstance(error, OSError) else str(error)
        with self._units_of_work() as uow:
            uow.configurations.failed(change.id, problem)
            _record(
                uow,
                EventName.CONFIGURATION_NOT_WRITTEN,
                change.version,
                by,
                {"problem": problem[:MAX_REASON]},
            )
            uow.commit()

    def _problems(self, body: str) -> Sequence[str]:
        if len(body) > MAX_BODY:
            return [f"is longer than {MAX_BODY:,} characters"]
        try:
            body.encode()
        except UnicodeEncodeError:
            return ["is no text: it has half a surrogate pair"]
        return self._file.problems(body)

    def _difference(self, before: str, after: str) -> Difference:
        if before == after:
            return Difference((), is_same=True)
        try:
            return Difference(
                differences(self._file.shown(before), self._file.shown(after)),
                self._file.hidden_differences(before, after),
                self._file.restart_keys(before, after),
            )
        except ConfigurationError as error:
            return Difference((), problem=str(error))


def digest(body: str) -> str:
    """Answer the SHA-256 versions are known by."""
    return hashlib.sha256(body.encode()).hexdigest()


def _checked(reason: str) -> str:
    reason = " ".join(reason.replace("\x00", "").split())
    if not reason:
        raise MissingValue("Say why: it stands in the history and in the audit trail.", field="reason")
    if len(reason) > MAX_REASON:
        raise InvalidValue(f"A reason has at most {MAX_REASON} characters.", field="reason")
    return reason


def _version(details: object) -> int | None:
    found = details.get("configuration") if isinstance(details, dict) else None
    return found if isinstance(found, int) else None


def _record(
    uow: UnitOfWork,
    what: EventName,
    version: int | None,
    by: Caller,
    details: dict[str, str | int | None],
) -> None:
    told: dict[str, str | int | float | bool | list[str] | None] = {"address": by.address, **details}
    uow.record(Event(what, Subject.SYSTEM, version, actor=by.name, details=told))
