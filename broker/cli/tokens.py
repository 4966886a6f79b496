"""`broker tokens`."""

from __future__ import annotations

from datetime import timedelta
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
from broker.cli.users import RoleName, caller
from broker.domain.access import Role

app = typer.Typer(
    name="tokens", help="What programs show the JSON API instead of a password.", no_args_is_help=True
)


@app.command("list")
def list_(
    *, as_json: JsonOption = False, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR
) -> None:
    """List tokens, newest first; the tokens themselves are not known here."""
    with open_cli(config, data_dir) as broker:
        rows = broker.access.reports.api_tokens()
    show(
        rows,
        as_json=as_json,
        columns=["id", "label", "role", "issued_by", "expires_at", "revoked_at", "last_used_at"],
    )


@app.command("issue")
def issue(
    label: Annotated[str, typer.Argument(help="Who uses it.")],
    *,
    role: Annotated[RoleName, typer.Option(help="What it may do.")] = RoleName.VIEWER,
    days: Annotated[int, typer.Option(min=1, max=366, help="After which it ends by itself.")] = 90,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Make a token and print it, once: only its hash is kept."""
    with open_cli(config, data_dir) as broker:
        _, token = broker.access.tokens.issue(label, Role(role.value), life=timedelta(days=days), by=caller())
    tell(token)


@app.command("revoke")
def revoke(
    token_id: Annotated[int, typer.Argument(help="Its id, as listed.")],
    *,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Take a token back; it opens nothing any longer."""
    with open_cli(config, data_dir) as broker:
        broker.access.tokens.revoke(token_id, by=caller())
    tell(f"{token_id}: revoked")
