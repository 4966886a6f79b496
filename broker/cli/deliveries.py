"""`broker deliveries`."""

from __future__ import annotations

import getpass
from dataclasses import replace
from datetime import timedelta
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
from broker.cli.viewing import listed
from broker.domain.causes import BY_NAME
from broker.domain.delivery import DeliveryState
from broker.domain.wording import counted, sized, words
from broker.errors import BrokerError, InvalidValue
from broker.workflow.bulk import Wanted
from broker.workflow.operations import Act
from broker.workflow.ports import BulkState
from broker.workflow.reports_port import Page
from broker.workflow.selection import Selection

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
        listed(broker, rows, command="deliveries list")
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


State = Annotated[str, typer.Option(help="Only those in this state.")]
Destination = Annotated[str, typer.Option(help="Only those to this destination.")]
Cause = Annotated[str, typer.Option(help="Only those that failed of this cause.")]
Route = Annotated[str, typer.Option(help="Only those of this route.")]
Study = Annotated[str, typer.Option(help="Study Instance UID.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without it, only say what would happen.")]
Reason = Annotated[str, typer.Option(help="Why; kept with every delivery.")]
SomeIds = Annotated[list[int] | None, typer.Argument(help="Ids of deliveries; none: by the filters.")]


@app.command("retry")
def retry(
    ids: SomeIds = None,
    *,
    state: State = "",
    destination: Destination = "",
    cause: Cause = "",
    route: Route = "",
    study: Study = "",
    reason: Reason = "",
    yes: Yes = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Try again now; only what has not been delivered is sent. By filters: a preview, until `--yes`."""
    if ids:
        _each(ids, "retry", config=config, data_dir=data_dir)
        return
    selection = _selection(state, destination, cause, route, study)
    _many(Act.RETRY, selection, reason, yes=yes, config=config, data_dir=data_dir)


@app.command("cancel")
def cancel(
    ids: SomeIds = None,
    *,
    state: State = "",
    destination: Destination = "",
    cause: Cause = "",
    route: Route = "",
    study: Study = "",
    reason: Reason = "",
    yes: Yes = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Decide not to send; the images stay. By filters: a preview, until `--yes`."""
    if ids:
        _each(ids, "cancel", config=config, data_dir=data_dir)
        return
    selection = _selection(state, destination, cause, route, study)
    _many(Act.CANCEL, selection, reason, yes=yes, config=config, data_dir=data_dir)


def _selection(state: str, destination: str, cause: str, route: str, study: str) -> Selection:
    chosen = state.upper()
    if chosen and chosen not in DeliveryState.__members__:
        raise InvalidValue(f"--state: one of {', '.join(DeliveryState.__members__)}")
    if cause and cause not in BY_NAME:
        raise InvalidValue(f"--cause: one of {', '.join(BY_NAME)}")
    selection = Selection(
        state=DeliveryState[chosen] if chosen else None,
        destination=destination or None,
        cause=cause or None,
        route=route or None,
        study_instance_uid=study or None,
    )
    if selection.is_everything:
        raise InvalidValue("name deliveries, or narrow them down with a filter")
    return selection


def _many(
    act: Act, selection: Selection, reason: str, *, yes: bool, config: ConfigOption, data_dir: DataDirOption
) -> None:
    """Say what would happen; with `--yes`, do it here with a bar that shows how far it is."""
    from rich.progress import Progress

    with open_cli(config, data_dir) as broker:
        wanted = Wanted(act, selection, getpass.getuser(), reason=reason or None)
        told = broker.actions.preview(wanted)
        about = "" if told.seconds is None else f", about {words(timedelta(seconds=told.seconds))}"
        print(
            f"{act.value}: {counted(told.deliveries, 'delivery')}, {counted(told.images, 'image')},"
            f" {sized(told.bytes)}{about}"
        )
        for left in told.excluded:
            print(f"left as they are: {counted(left.deliveries, 'delivery')}: {left.why}")
        if not yes:
            print("Nothing has happened; --yes does it.")
            return
        wanted = replace(wanted, selection=told.selection, expected=told.deliveries)
        operation = broker.actions.start(wanted)
        with Progress() as progress:
            bar = progress.add_task(act.value, total=max(1, told.deliveries))
            while (now := broker.actions.advance(operation)).state is BulkState.RUNNING:
                progress.update(bar, completed=now.changed)
            progress.update(bar, completed=max(1, told.deliveries))
        print(f"operation {operation}: {now.changed} changed, {now.skipped} left as they are")
