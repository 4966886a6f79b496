"""`broker deliveries`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
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
    progress,
    show,
    tell,
)
from broker.cli.users import caller
from broker.cli.viewing import listed, opened
from broker.domain.causes import cause_named
from broker.domain.events import Subject
from broker.domain.wording import counted, sized, words
from broker.errors import BrokerError, InvalidValue
from broker.workflow.audit import Shown
from broker.workflow.bulk import Wanted
from broker.workflow.bulk_port import BulkState
from broker.workflow.delivery_filters import AGES, PRIORITIES, DeliveryFilters, priority_named
from broker.workflow.operations import Act, Asked

app = typer.Typer(name="deliveries", help="What is sent, waits, or is dead.", no_args_is_help=True)
State = Annotated[str, typer.Option(help="Only those in this state.")]
Destination = Annotated[str, typer.Option(help="Only those to this destination.")]
Cause = Annotated[str, typer.Option(help="Only those that failed of this cause.")]
Route = Annotated[str, typer.Option(help="Only those of this route.")]
Study = Annotated[str, typer.Option(help="Study Instance UID.")]
Age = Annotated[str, typer.Option(help=f"At least so old: {', '.join(AGES)}.")]
Since = Annotated[str, typer.Option(help="Planned at this instant or later; in the site's time.")]
Until = Annotated[str, typer.Option(help="Planned before this instant; in the site's time.")]
Operation = Annotated[str, typer.Option(help="Touched last by this operation on many.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do it; without it, only say what would happen.")]
Reason = Annotated[str, typer.Option(help="Why; kept with every delivery.")]
SomeIds = Annotated[list[int] | None, typer.Argument(help="Ids of deliveries; none: by the filters.", min=1)]
_COLUMNS = ["id", "destination", "state", "delivered", "items", "attempt", "due_at", "reason"]


@app.command("list")
def list_(
    *,
    state: State = "",
    destination: Destination = "",
    cause: Cause = "",
    route: Route = "",
    study: Study = "",
    age: Age = "",
    since: Since = "",
    until: Until = "",
    operation: Operation = "",
    before: Annotated[int | None, typer.Option(help="The last id of the list before.", min=1)] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List deliveries, newest first."""
    filters = DeliveryFilters(state, destination, cause, route, study, age, since, until, operation)
    with open_cli(config, data_dir) as broker:
        selection = filters.selection(now=broker.clock.now(), zone=broker.zone)
        rows = broker.reports.select_deliveries(selection, before=before, limit=limit)
        listed(broker, rows, command="deliveries list")
    show(rows, as_json=as_json, columns=_COLUMNS)


@app.command("causes")
def causes(
    *,
    destination: Destination = "",
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Group the dead by cause and destination, with what to do about each."""
    filters = DeliveryFilters(destination=destination)
    with open_cli(config, data_dir) as broker:
        rows = broker.reports.causes(filters.selection(now=broker.clock.now(), zone=broker.zone))
    show(rows, as_json=as_json, columns=["cause", "destination", "deliveries", "oldest", "newest", "advice"])


@app.command("show")
def show_(
    delivery_id: Annotated[int, typer.Argument(min=1)],
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Show one delivery: how it stands, what to do about it, what happened to it, and its first images."""
    with open_cli(config, data_dir) as broker:
        line = broker.reports.delivery(delivery_id)
        entries = broker.reports.delivery_events(delivery_id)
        items = broker.reports.items(delivery_id)
        shown = Shown(Subject.DELIVERY, delivery_id, line.study_instance_uid)
        opened(broker, shown, command="deliveries show")
    if as_json:
        show([{"delivery": line, "timeline": entries, "items": items}], as_json=True, columns=())
        return
    show([line], as_json=False, columns=_COLUMNS)
    if line.cause:
        tell(cause_named(line.cause).advice)
    show(entries, as_json=False, columns=["at", "what", "actor", "details"])
    show(
        items, as_json=False, columns=["item", "sop_instance_uid", "state", "wire_status", "reason", "sends"]
    )


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be done."""

    act: Act
    to: str
    priority: str
    reason: str


def _each(ids: list[int], choice: Choice, config: Path, data_dir: Path) -> None:
    """Do it to each; what cannot be done to one is said and does not stop the others."""
    failed = False
    with open_cli(config, data_dir) as broker:
        asked = Asked(choice.act, caller().name, choice.reason or None)
        if choice.to:
            asked = replace(asked, target=broker.actions.target(choice.to))
        if chosen := priority_named(choice.priority):
            asked = replace(asked, priority=chosen)
        for delivery in ids:
            try:
                broker.actions.act(delivery, asked)
                tell(f"{delivery}: {broker.reports.delivery(delivery).state}")
            except BrokerError as error:
                failed = True
                tell(f"{delivery}: {error}")
    if failed:
        raise typer.Exit(1)


def _many(filters: DeliveryFilters, choice: Choice, config: Path, data_dir: Path, *, is_meant: bool) -> None:
    """Say what would happen; when it is meant, do it here with a bar that shows how far it is."""
    with open_cli(config, data_dir) as broker:
        wanted = Wanted(
            choice.act,
            filters.selection(now=broker.clock.now(), zone=broker.zone),
            caller().name,
            reason=choice.reason or None,
            to=choice.to or None,
            priority=priority_named(choice.priority),
        )
        told = broker.actions.preview(wanted)
        about = "" if told.seconds is None else f", about {words(timedelta(seconds=told.seconds))}"
        tell(
            f"{choice.act.value}: {counted(told.deliveries, 'delivery')}, {counted(told.images, 'image')},"
            f" {sized(told.bytes)}{about}"
        )
        for left in told.excluded:
            tell(f"left as they are: {counted(left.deliveries, 'delivery')}: {left.why}")
        if not is_meant:
            tell("Nothing has happened; --yes does it.")
            return
        operation = broker.actions.start(replace(wanted, selection=told.selection, expected=told.deliveries))
        with progress(choice.act.value) as done:
            while (now := broker.actions.advance(operation)).state is BulkState.RUNNING:
                done(now.changed, told.deliveries)
        tell(f"operation {operation}: {now.changed} changed, {now.skipped} left as they are")


def _add_act(act: Act, about: str) -> None:
    """Add the command of an act; they differ in nothing but what retarget and priority need to know."""
    is_retarget, is_priority = act is Act.RETARGET, act is Act.PRIORITY

    @app.command(act.value, help=about)
    def command(
        ids: SomeIds = None,
        *,
        to: str = typer.Option("", hidden=not is_retarget, help="The other destination."),
        priority: str = typer.Option("", hidden=not is_priority, help=f"One of {', '.join(PRIORITIES)}."),
        state: State = "",
        destination: Destination = "",
        cause: Cause = "",
        route: Route = "",
        study: Study = "",
        age: Age = "",
        since: Since = "",
        until: Until = "",
        operation: Operation = "",
        reason: Reason = "",
        yes: Yes = False,
        config: ConfigOption = CONFIG,
        data_dir: DataDirOption = DATA_DIR,
    ) -> None:
        for name, given, is_its in (("--to", to, is_retarget), ("--priority", priority, is_priority)):
            if bool(given) != is_its:
                raise InvalidValue(f"{name} {'is needed' if is_its else 'does not belong here'}")
        filters = DeliveryFilters(state, destination, cause, route, study, age, since, until, operation)
        if ids and filters.given():
            raise InvalidValue("name deliveries or narrow them down with filters, not both")
        if ids:
            _each(ids, Choice(act, to, priority, reason), config, data_dir)
        elif filters.given():
            _many(filters, Choice(act, to, priority, reason), config, data_dir, is_meant=yes)
        else:
            raise InvalidValue("name deliveries, or narrow them down with a filter")


_add_act(
    Act.RETRY,
    "Try again now; only what has not been delivered is sent. By filters: a preview, until `--yes`.",
)
_add_act(Act.CANCEL, "Decide not to send; the images stay. By filters: a preview, until `--yes`.")
_add_act(
    Act.RELEASE,
    "Send what has been collected, without waiting for more. By filters: a preview, until `--yes`.",
)
_add_act(Act.RETARGET, "Send to another destination instead. By filters: a preview, until `--yes`.")
_add_act(Act.PRIORITY, "Let them go before others, or after. By filters: a preview, until `--yes`.")
