"""`broker config`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker.cli.context import (
    CONFIG,
    DATA_DIR,
    ConfigOption,
    DataDirOption,
    JsonOption,
    LimitOption,
    show,
    tell,
)
from broker.cli.users import caller
from broker.domain.wording import counted
from broker.errors import ConfigurationError, InvalidValue

if TYPE_CHECKING:
    from broker.workflow.configuration import ConfigurationKeeper
    from broker.workflow.configuration_port import ConfigurationChange

app = typer.Typer(
    name="config", help="The site file: its versions, who put which in force, and why.", no_args_is_help=True
)
_COLUMNS = ["id", "version", "before", "how", "actor", "reason", "at", "in_force_at", "problem"]
_FILE = "file"
Version = Annotated[int, typer.Argument(min=1, help="Number of a version, as `history` shows it.")]
Reason = Annotated[str, typer.Option(help="Why; it stands in the history and in the audit trail.")]
Reload = Annotated[bool, typer.Option("--reload", help="Have the roles of `broker serve` replaced in order.")]


@contextmanager
def _open(config: Path, data_dir: Path) -> Iterator[ConfigurationKeeper]:
    """Open the history; the site file itself may be broken."""
    from broker.bootstrap import open_configurations
    from broker.logs import configure_logging

    configure_logging(role="cli", level="WARNING")
    with open_configurations(config, data_dir) as configurations:
        yield configurations


@app.command("check")
def check(
    file: Annotated[Path | None, typer.Argument(help="The site file; default $BROKER_CONFIG.")] = None,
    *,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,  # noqa: ARG001 - every command takes it
) -> None:
    """Print every problem as file:line:col: key: problem and exit 1; say so when there is none."""
    from zoneinfo import ZoneInfo

    from broker.bootstrap import read_site
    from broker.hl7.mapping import MappingSet
    from broker.placed_yaml import FileProblems

    path = file or config
    folder = path.absolute().parent / "hl7"
    try:
        site = read_site(path, os.environ).site
        MappingSet.load(folder if folder.is_dir() else None, site_zone=ZoneInfo(site.site.timezone))
    except FileProblems as error:
        for problem in error.problems:
            tell(str(problem))
        raise typer.Exit(1) from None
    numbers = {"device": site.devices, "destination": site.destinations, "route": site.routes}
    tell(f"{path}: good: {', '.join(counted(len(found), what) for what, found in numbers.items())}")


@app.command("history")
def history(
    *,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List which version took whose place, newest first: who, why, and since when it is in force."""
    with _open(config, data_dir) as configurations:
        rows = configurations.reports.configuration_changes(limit=limit)
    show(rows, as_json=as_json, columns=_COLUMNS)


@app.command("show")
def show_version(
    version: Version, *, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR
) -> None:
    """Print a version as it stood in the site file, contacts and all."""
    with _open(config, data_dir) as configurations:
        body = configurations.body(version)
    sys.stdout.write(body)  # to the letter: it goes into a file


@app.command("diff")
def diff(
    before: Annotated[str, typer.Argument(help="Number of a version, or `file`.")],
    after: Annotated[str, typer.Argument(help="The same; `file` is the site file as it stands.")] = _FILE,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Say what differs between two versions, without secrets, contacts and comments."""
    from broker.domain.differences import unified

    with _open(config, data_dir) as configurations:
        found = configurations.difference(_number(before), _number(after))
    if found.problem:
        raise ConfigurationError(found.problem)
    if as_json:
        show(found.rows, as_json=True, columns=())
        return
    for line in unified(found.rows):
        tell(line)
    for key in found.hidden:
        tell(f"{key}: differs, and is not shown")
    for key in found.restart:
        tell(f"{key}: comes into force only when everything is started anew")
    if not found.rows and not found.hidden:
        tell("no difference" if found.is_same else "no difference but comments, order or spelling")


@app.command("apply")
def apply(
    file: Annotated[Path, typer.Argument(help="What is to stand in the site file.")],
    *,
    reason: Reason,
    reload: Reload = False,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Check a file and put it into the site file's place; what stood there is kept."""
    try:
        body = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InvalidValue(f"{file}: is not UTF-8") from None
    with _open(config, data_dir) as configurations:
        change = configurations.apply(body, reason=reason, by=caller())
        _told(configurations, change, reload=reload, as_json=as_json)


@app.command("rollback")
def rollback(
    version: Version,
    *,
    reason: Reason,
    reload: Reload = False,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Check an older version and put it back into the site file's place; what stood there is kept."""
    with _open(config, data_dir) as configurations:
        change = configurations.roll_back(version, reason=reason, by=caller())
        _told(configurations, change, reload=reload, as_json=as_json)


def _told(
    configurations: ConfigurationKeeper, change: ConfigurationChange, *, reload: bool, as_json: bool
) -> None:
    """Say what was done, and what it takes to come into force."""
    standing = configurations.standing()
    if reload:
        configurations.reload(by=caller())
    if as_json:
        show([change], as_json=True, columns=())
        return
    tell(f"{standing.path}: holds version {change.version} now; before: {change.before or 'no file'}")
    if reload:
        tell("the roles are being replaced; `broker config history` says when it is in force")
    elif standing.reloads:
        tell("in force with the next reload: broker serve reloads on SIGHUP, or with --reload here")
    else:
        tell("in force when the roles are started anew")


def _number(text: str) -> int | None:
    if text == _FILE:
        return None
    if text.isascii() and text.isdecimal() and 0 < int(text[:20]) < 2**63:
        return int(text[:20])
    raise InvalidValue(f"{text[:40]!r} is no version: a number, or `{_FILE}`.")
