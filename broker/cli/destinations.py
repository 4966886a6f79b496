"""`broker destinations`."""

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
from broker.cli.viewing import listed
from broker.workflow.destination_view import read_destination
from broker.workflow.holds import Hold

app = typer.Typer(name="destinations", help="Where deliveries go.", no_args_is_help=True)
_COLUMNS = ["destination", "state", "waiting", "oldest", "dead", "reason"]


@app.command("list")
def list_(
    *, as_json: JsonOption = False, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR
) -> None:
    """List destinations with their queues."""
    with open_cli(config, data_dir) as broker:
        rows = broker.reports.destinations(now=broker.clock.now())
    show(rows, as_json=as_json, columns=_COLUMNS)


@app.command("check")
def check(
    names: Annotated[list[str] | None, typer.Argument(help="Which; none: all.")] = None,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Talk to each destination (C-ECHO, printer status, write, connect); exit 1 when one does not answer."""
    rows = []
    with open_cli(config, data_dir) as broker:
        for name in names or sorted(broker.loaded.site.destinations):
            result = broker.check_destination(name)
            rows.append(
                {
                    "destination": name,
                    "ok": result.ok,
                    "detail": result.detail,
                    "duration_s": round(result.duration_s, 3),
                }
            )
    show(rows, as_json=as_json, columns=["destination", "ok", "detail", "duration_s"])
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


Reason = Annotated[str, typer.Option(help="Why; shown on its page and kept.")]
Until = Annotated[datetime | None, typer.Option(help="It resumes by itself then; in the site's time.")]


@app.command("show")
def show_(
    name: str,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Show one destination: its queue, settings in force, errors of a day, last tries and its last test."""
    from broker.dashboard import destination_facts

    with open_cli(config, data_dir) as broker:
        view = read_destination(broker.reports, name, now=broker.clock.now())
        facts = destination_facts(broker, name)
        listed(
            broker, view.conversation, command="destinations show"
        )  # what a peer answered may name the patient
    if as_json:
        show([{"destination": view, "facts": facts}], as_json=True, columns=())
        return
    show([view.line], as_json=False, columns=_COLUMNS)
    if facts is None:
        tell("It is not in the site file any more.")
    for key, value in facts.settings.items() if facts else ():
        tell(f"{key:24}  {value}")
    if view.test.check is not None:
        said = view.test.check.said
        tell(f"last test {view.test.check.at:%Y-%m-%d %H:%M:%S}Z: {said.get('detail') or said.get('state')}")
    for about, rows, columns in (
        ("errors of a day", view.failures, ["title", "tries", "last", "example"]),
        ("dead", view.causes, ["cause", "deliveries", "oldest", "advice"]),
        ("last tries", view.conversation, ["at", "delivery", "outcome", "attempt", "reason", "duration_s"]),
    ):
        if rows:
            tell(f"\n{about}")
            show(rows, as_json=False, columns=columns)


def _add_hold(name: str, about: str, done: str) -> None:
    """Add the command of a hold; both take the same."""

    @app.command(name, help=about)
    def command(
        destination: Annotated[str, typer.Argument(metavar="NAME")],
        *,
        reason: Reason = "",
        until: Until = None,
        config: ConfigOption = CONFIG,
        data_dir: DataDirOption = DATA_DIR,
    ) -> None:
        with open_cli(config, data_dir) as broker:
            end = until.replace(tzinfo=broker.zone) if until else None
            hold = broker.actions.drain if name == "drain" else broker.actions.pause
            hold(destination, Hold(caller().name, reason, end))
        tell(f"{destination}: {done}")


_add_hold("pause", "Hold a destination; its deliveries wait.", "paused")
_add_hold("drain", "Send what waits, hold what comes; then it is paused.", "draining")


@app.command("resume")
def resume(name: str, *, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR) -> None:
    """Let a paused destination go on."""
    with open_cli(config, data_dir) as broker:
        broker.actions.resume(name, actor=caller().name)
    tell(f"{name}: up")
