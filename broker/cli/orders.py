"""`broker orders`."""

from __future__ import annotations

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
from broker.cli.viewing import listed, opened
from broker.domain.events import Subject
from broker.domain.steps import OrderStatus
from broker.workflow.audit import Shown
from broker.workflow.entries import values_of
from broker.workflow.reports_port import Page

app = typer.Typer(name="orders", help="Imaging orders.", no_args_is_help=True)
_COLUMNS = [
    *("order_id", "accession_number", "patient_id", "patient_name"),
    *("procedure", "status", "missing"),
]


@app.command("list")
def list_(
    *,
    status: Annotated[OrderStatus | None, typer.Option(case_sensitive=False)] = None,
    incomplete: bool = False,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List orders, newest change first."""
    with open_cli(config, data_dir) as broker:
        rows = broker.reports.orders(
            status=status.value if status else None, incomplete=incomplete, page=Page(limit=limit)
        )
        listed(broker, rows, command="orders list")
    show(rows, as_json=as_json, columns=_COLUMNS)


@app.command("show")
def show_(
    order_id: Annotated[int, typer.Argument(min=1)],
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Show one order: every value scanners are told, with its source."""
    with open_cli(config, data_dir) as broker:
        line = broker.reports.order(order_id)
        values = values_of([entry for entry, _ in broker.reports.order_entries(order_id)])
        opened(broker, Shown(Subject.ORDER, order_id, None, order_id), command="orders show")
    if as_json:
        show([{"order": line, "entry": values}], as_json=True, columns=())
        return
    show([line], as_json=False, columns=_COLUMNS)
    show(values, as_json=False, columns=["level", "keyword", "value", "source"])


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
