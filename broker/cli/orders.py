"""`broker orders`."""

from __future__ import annotations

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
from broker.cli.viewing import listed, opened
from broker.domain.events import Subject
from broker.workflow.audit import Shown
from broker.workflow.reports_port import Page

app = typer.Typer(name="orders", help="Imaging orders.", no_args_is_help=True)


@app.command("list")
def list_(
    *,
    status: str | None = None,
    incomplete: bool = False,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List orders, newest change first."""
    with open_cli(config, data_dir) as broker:
        rows = broker.reports.orders(status=status, incomplete=incomplete, page=Page(limit=limit))
        listed(broker, rows, command="orders list")
    show(
        rows,
        as_json=as_json,
        columns=[
            "order_id",
            "accession_number",
            "patient_id",
            "patient_name",
            "procedure",
            "status",
            "missing",
        ],
    )


@app.command("timeline")
def timeline(
    order_id: int,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Say what happened to one order, oldest first."""
    with open_cli(config, data_dir) as broker:
        rows = broker.reports.order_timeline(order_id)
        if rows:
            opened(broker, Shown(Subject.ORDER, order_id, None, order_id), command="orders timeline")
    show(rows, as_json=as_json, columns=["at", "what", "actor", "subject", "subject_id", "details"])
