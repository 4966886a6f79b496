"""`broker destinations`."""

from __future__ import annotations

import getpass
from datetime import datetime
from typing import Annotated

import typer

from broker.cli.context import CONFIG, DATA_DIR, ConfigOption, DataDirOption, JsonOption, open_cli, show
from broker.workflow.holds import Hold

app = typer.Typer(name="destinations", help="Where deliveries go.", no_args_is_help=True)


@app.command("list")
def list_(
    *, as_json: JsonOption = False, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR
) -> None:
    """List destinations with their queues."""
    with open_cli(config, data_dir) as broker:
        rows = broker.reports.destinations(now=broker.clock.now())
    show(rows, as_json=as_json, columns=["destination", "state", "waiting", "oldest", "dead", "reason"])


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


@app.command("pause")
def pause(
    name: str,
    *,
    reason: Reason = "",
    until: Until = None,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Hold a destination; its deliveries wait."""
    with open_cli(config, data_dir) as broker:
        end = until.replace(tzinfo=broker.zone) if until else None
        broker.actions.pause(name, Hold(getpass.getuser(), reason, end))
    print(f"{name}: paused")


@app.command("drain")
def drain(
    name: str,
    *,
    reason: Reason = "",
    until: Until = None,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Send what waits, hold what comes; then it is paused."""
    with open_cli(config, data_dir) as broker:
        end = until.replace(tzinfo=broker.zone) if until else None
        broker.actions.drain(name, Hold(getpass.getuser(), reason, end))
    print(f"{name}: draining")


@app.command("resume")
def resume(name: str, *, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR) -> None:
    """Let a paused destination go on."""
    with open_cli(config, data_dir) as broker:
        broker.actions.resume(name, actor=getpass.getuser())
    print(f"{name}: up")
