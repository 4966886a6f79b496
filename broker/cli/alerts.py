"""`broker alerts`."""

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
    plain,
    show,
    tell,
)
from broker.cli.users import caller

app = typer.Typer(name="alerts", help="What is wrong, and who is told.", no_args_is_help=True)
_COLUMNS = ["id", "severity", "kind", "headline", "first_seen_at", "acknowledged_by"]


@app.command("list")
def list_(
    *,
    over: Annotated[bool, typer.Option("--over", help="Those that are over, newest first.")] = False,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List open alerts, the worst first."""
    with open_cli(config, data_dir) as broker:
        found = broker.reports.recent_alerts(limit=limit) if over else broker.reports.open_alerts()[:limit]
        told = broker.reports.notices([alert.id for alert in found])
    rows = [plain(alert) | {"notices": told.get(alert.id, [])} for alert in found]
    show(rows, as_json=as_json, columns=[*_COLUMNS, "recovered_at"] if over else _COLUMNS)


@app.command("show")
def show_(
    alert_id: Annotated[int, typer.Argument(min=1)],
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Show one alert, what to do about it, and what was told of it over which channel."""
    with open_cli(config, data_dir) as broker:
        alert = broker.reports.alert(alert_id)
        notices = broker.reports.notices([alert_id]).get(alert_id, [])
    if as_json:
        show([{**plain(alert), "notices": notices}], as_json=True, columns=())
        return
    show([alert], as_json=False, columns=[*_COLUMNS, "state"])
    tell(alert.action)
    show(notices, as_json=False, columns=["created_at", "channel", "notice", "state", "attempts", "said"])


@app.command("ack")
def ack(
    alert_id: Annotated[int, typer.Argument(min=1)],
    *,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Take an alert in hand: no reminder comes."""
    with open_cli(config, data_dir) as broker:
        is_new = broker.alerts.acknowledge(alert_id, actor=caller().name)
        alert = broker.reports.alert(alert_id)
    tell(f"{alert_id}: in hand of {alert.acknowledged_by}{'' if is_new else ' already'}")


@app.command("test")
def try_channels(
    channel: Annotated[str, typer.Argument(help="email, webhook or syslog; none: all.")] = "",
    *,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Send a test over the channels; exit 1 when one does not take it."""
    with open_cli(config, data_dir) as broker:
        said = broker.alerts.test(channel)
    for name, problem in said.items():
        tell(f"{name}: {problem or 'handed over'}")
    if any(said.values()):
        raise typer.Exit(1)
