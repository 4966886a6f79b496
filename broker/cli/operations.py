"""`broker operations`."""

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
    tell,
)
from broker.cli.users import caller
from broker.cli.viewing import selected
from broker.workflow.bulk import told_operation

app = typer.Typer(name="operations", help="What was done to many deliveries.", no_args_is_help=True)
_COLUMNS = ["id", "act", "actor", "state", "expected", "changed", "skipped", "created_at", "reason"]


@app.command("list")
def list_(
    *,
    before: Annotated[int | None, typer.Option(help="The last id of the list before.", min=1)] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List acts on many, newest first."""
    with open_cli(config, data_dir) as broker:
        found = broker.reports.operations(before=before, limit=limit)
        selected(broker, [one.selection for one in found], command="operations list")
    rows = [told_operation(one) for one in found]
    show(rows, as_json=as_json, columns=_COLUMNS)


@app.command("show")
def show_(
    operation_id: Annotated[int, typer.Argument(min=1)],
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Show how far one is, and what was left alone and why."""
    with open_cli(config, data_dir) as broker:
        found = broker.reports.operation(operation_id)
        selected(broker, [found.selection], command="operations show")
    row = told_operation(found)
    show([row], as_json=as_json, columns=_COLUMNS)
    for why, number in () if as_json else row["skipped_why"].items():
        tell(f"left as they are: {number}: {why}")


@app.command("stop")
def stop(
    operation_id: Annotated[int, typer.Argument(min=1)],
    *,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Do no more of it; what is done stays done."""
    with open_cli(config, data_dir) as broker:
        stopped = broker.actions.stop(operation_id, actor=caller().name)
    tell(f"operation {operation_id}: {'stopped' if stopped else 'was over'}")
