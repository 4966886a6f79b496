"""`broker users`."""

from __future__ import annotations

import getpass
import sys
from enum import StrEnum
from typing import Annotated

import typer

from broker.cli.context import (
    CONFIG,
    DATA_DIR,
    ConfigOption,
    DataDirOption,
    JsonOption,
    open_cli,
    show,
    tell,
)
from broker.domain.access import MAX_PASSWORD_BYTES, Role
from broker.errors import InvalidValue
from broker.workflow.accounts import Caller

app = typer.Typer(name="users", help="Who may sign in to the pages, and as what.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Name of the account.")]


class RoleName(StrEnum):
    """Each may do what the one before may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


def caller() -> Caller:
    """Answer who runs this command, for the audit trail."""
    return Caller(f"{getpass.getuser()} (command line)", "local")


def read_password() -> str:
    """Read a password from the terminal, twice and unseen, or one line from standard input.

    Never from the arguments: every user of the machine sees those.
    """
    if not sys.stdin.isatty():
        return sys.stdin.readline(2 * MAX_PASSWORD_BYTES).rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if password != getpass.getpass("The same again: "):
        raise InvalidValue("The two passwords are not the same.")
    return password


@app.command("list")
def list_(
    *, as_json: JsonOption = False, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR
) -> None:
    """List accounts by name."""
    with open_cli(config, data_dir) as broker:
        rows = [
            {
                "name": account.name,
                "role": account.role.value,
                "disabled": account.is_disabled,
                "created_at": account.created_at,
                "last_sign_in_at": account.last_sign_in_at,
            }
            for account in broker.access.reports.accounts()
        ]
    show(rows, as_json=as_json, columns=["name", "role", "disabled", "created_at", "last_sign_in_at"])


@app.command("add")
def add(
    name: Name,
    *,
    role: Annotated[RoleName, typer.Option(help="What the account may do.")] = RoleName.VIEWER,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Add an account; the password is asked for, or read from standard input."""
    with open_cli(config, data_dir) as broker:
        made = broker.access.accounts.add(name, Role(role.value), read_password(), by=caller())
    tell(f"{made}: {role.value}")


@app.command("role")
def role(
    name: Name,
    role: Annotated[RoleName, typer.Argument(help="What the account may do from now on.")],
    *,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Give an account another role; its sessions end."""
    with open_cli(config, data_dir) as broker:
        broker.access.accounts.change_role(name, Role(role.value), by=caller())
    tell(f"{name}: {role.value}")


@app.command("disable")
def disable(name: Name, *, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR) -> None:
    """Let an account in no longer; its sessions end at once."""
    with open_cli(config, data_dir) as broker:
        broker.access.accounts.disable(name, by=caller())
    tell(f"{name}: disabled")


@app.command("enable")
def enable(name: Name, *, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR) -> None:
    """Let a disabled account in again."""
    with open_cli(config, data_dir) as broker:
        broker.access.accounts.enable(name, by=caller())
    tell(f"{name}: enabled")


@app.command("password")
def password(name: Name, *, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR) -> None:
    """Give an account another password, asked for or read from standard input; its sessions end."""
    with open_cli(config, data_dir) as broker:
        broker.access.accounts.set_password(name, read_password(), by=caller())
    tell(f"{name}: password changed")


@app.command("sessions")
def sessions(
    *, as_json: JsonOption = False, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR
) -> None:
    """List the browsers that have signed in and have not run out, the newest first."""
    with open_cli(config, data_dir) as broker:
        rows = broker.access.sign_in.open_sessions()
    show(rows, as_json=as_json, columns=["id", "name", "role", "address", "created_at", "seen_at"])


@app.command("sign-out")
def sign_out(
    session: Annotated[int, typer.Argument(min=1, help="Its id, as listed.")],
    *,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Sign a browser out, wherever it is."""
    with open_cli(config, data_dir) as broker:
        ended = broker.access.accounts.end_session(session, by=caller())
    tell(f"{session}: {'signed out' if ended else 'there is no such session'}")
