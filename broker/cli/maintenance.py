"""`broker maintenance`."""

from __future__ import annotations

from datetime import datetime
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
from broker.cli.users import caller
from broker.workflow.alert_operations import Planned

app = typer.Typer(name="maintenance", help="When work is done on purpose.", no_args_is_help=True)


@app.command("add")
def add(
    about: Annotated[str, typer.Argument(help="Destination, sender, device or role; none: everything.")] = "",
    *,
    until: Annotated[datetime, typer.Option(help="When it is over; in the site's time.")],
    reason: Annotated[str, typer.Option(help="Why; shown on the pages and kept.")],
    begin: Annotated[datetime | None, typer.Option(help="When it begins; none: now.")] = None,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Say that work goes on: nobody is told about it while it lasts."""
    with open_cli(config, data_dir) as broker:
        starts_at = begin.replace(tzinfo=broker.zone) if begin else None
        planned = Planned(until.replace(tzinfo=broker.zone), reason, caller().name, about, starts_at)
        key = broker.alerts.plan(planned)
    tell(f"maintenance {key} of {about or 'everything'}: planned")


@app.command("list")
def list_(
    *, as_json: JsonOption = False, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR
) -> None:
    """List the maintenance that is not over."""
    with open_cli(config, data_dir) as broker:
        rows = broker.reports.maintenance_windows(now=broker.clock.now())
    show(rows, as_json=as_json, columns=["id", "subject", "starts_at", "ends_at", "reason", "actor"])


@app.command("end")
def end(
    window_id: Annotated[int, typer.Argument(min=1)],
    *,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """End a maintenance, or call a planned one off."""
    with open_cli(config, data_dir) as broker:
        ended = broker.alerts.end(window_id, actor=caller().name)
    tell(f"maintenance {window_id}: {'ended' if ended else 'was over'}")
