"""`broker deliveries`."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from broker.cli.context import (
    CONFIG,
    DATA_DIR,
    ConfigOption,
    DataDirOption,
    JsonOption,
    LimitOption,
    open_cli,
    show,
)
from broker.errors import BrokerError
from broker.workflow.reports_port import Page

app = typer.Typer(name="deliveries", help="What is sent, waits, or is dead.", no_args_is_help=True)
Ids = Annotated[list[int], typer.Argument(help="Ids of deliveries.")]


@app.command("list")
def list_(
    *,
    state: str | None = None,
    destination: str | None = None,
    study: Annotated[str | None, typer.Option(help="Study Instance UID.")] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List deliveries, newest first."""
    with open_cli(config, data_dir) as broker:
        rows = broker.reports.deliveries(
            state=state, destination=destination, study_instance_uid=study, page=Page(limit=limit)
        )
    show(
        rows,
        as_json=as_json,
        columns=["id", "destination", "state", "delivered", "items", "attempt", "due_at", "reason"],
    )


def _each(ids: list[int], action: str, *, config: ConfigOption, data_dir: DataDirOption) -> None:
    failed = False
    with open_cli(config, data_dir) as broker:
        for delivery in ids:
            try:
                getattr(broker.actions, action)(delivery, actor=getpass.getuser())
                print(f"{delivery}: {broker.reports.delivery(delivery).state}")
            except BrokerError as error:
                failed = True
                print(f"{delivery}: {error}")
    if failed:
        raise typer.Exit(1)


@app.command("retry")
def retry(ids: Ids, *, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR) -> None:
    """Try again now; only what has not been delivered is sent."""
    _each(ids, "retry", config=config, data_dir=data_dir)


@app.command("cancel")
def cancel(ids: Ids, *, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR) -> None:
    """Decide not to send; the images stay."""
    _each(ids, "cancel", config=config, data_dir=data_dir)
