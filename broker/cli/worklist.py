"""`broker worklist`."""

from __future__ import annotations

from datetime import datetime, timedelta
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
from broker.cli.viewing import listed, opened
from broker.domain.events import Subject
from broker.domain.steps import StepStatus
from broker.workflow.audit import Shown
from broker.workflow.entries import Asked, asked_like
from broker.workflow.reports_port import Page, WorklistLine

app = typer.Typer(name="worklist", help="Scheduled procedure steps.", no_args_is_help=True)


def _day(text: str, now: datetime) -> str | None:
    names = {"today": 0, "tomorrow": 1, "yesterday": -1}
    if text in names:
        return (now + timedelta(days=names[text])).strftime("%Y%m%d")
    if not text or text == "all":
        return None
    try:
        return datetime.strptime(text.replace("-", ""), "%Y%m%d").strftime("%Y%m%d")
    except ValueError as error:
        raise typer.BadParameter("a day is YYYY-MM-DD, today, tomorrow or yesterday") from error


@app.command("list")
def list_(
    *,
    day: Annotated[str, typer.Option(help="YYYY-MM-DD, today, tomorrow, yesterday, all.")] = "all",
    modality: str | None = None,
    station: str | None = None,
    status: Annotated[StepStatus | None, typer.Option(case_sensitive=False)] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List steps by their start."""
    with open_cli(config, data_dir) as broker:
        rows = broker.reports.worklist(
            date=_day(day, broker.clock.local_now()),
            modality=modality,
            station=station,
            status=status.value if status else None,
            page=Page(limit=limit),
        )
        listed(broker, rows, command="worklist list")
    show(
        rows,
        as_json=as_json,
        columns=[
            "start",
            "patient_name",
            "patient_id",
            "modality",
            "station_ae_titles",
            "description",
            "accession_number",
            "status",
        ],
    )


@app.command("print")
def print_(
    *,
    day: Annotated[str, typer.Option(help="YYYY-MM-DD, today, tomorrow.")] = "today",
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Print a day's list by station, for downtime: to be put on paper before the systems go."""
    with open_cli(config, data_dir) as broker:
        now = broker.clock.local_now()
        date = _day(day, now)
        lines: list[WorklistLine] = []
        while page := broker.reports.worklist(date=date, page=Page(limit=500, offset=len(lines))):
            lines.extend(page)
        listed(broker, lines, command="worklist print")
        site = broker.loaded.site.site.name
    tell(f"{site} · worklist of {date or 'all days'} · printed {now:%Y-%m-%d %H:%M} · {len(lines)} steps")
    stations = sorted({station for line in lines for station in line.station_ae_titles or ("no station",)})
    for station in stations:
        tell(f"\n{station}\n{'-' * len(station)}")
        for line in lines:
            if station not in (line.station_ae_titles or ("no station",)):
                continue
            tell(
                f"{(line.start or 'no date'):16}  {line.patient_name:32.32}  {line.birth_date or '':8}  "
                f"{line.patient_id:14}  {line.accession_number or '':16}  {line.modality or '':3}  "
                f"{line.description:40.40}  {line.status}"
            )


@app.command("explain")
def explain(
    order_id: int,
    device: Annotated[str, typer.Argument(help="AE title of a device of the site file.")],
    *,
    station: Annotated[bool | None, typer.Option(help="It asks for its own station.")] = None,
    modality: Annotated[bool | None, typer.Option(help="It asks for its modality.")] = None,
    today: Annotated[bool | None, typer.Option(help="It asks for today.")] = None,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Say whether a device would be shown an order now, and why not; it asks as it last did, unless told."""
    from broker.insight import BrokerInsight

    with open_cli(config, data_dir) as broker:
        broker.reports.order(order_id)
        opened(broker, Shown(Subject.ORDER, order_id, None, order_id), command="worklist explain")
        last = broker.reports.last_query(device)
        usual = asked_like(last)
        asked = Asked(
            usual.own_station if station is None else station,
            usual.own_modality if modality is None else modality,
            usual.today if today is None else today,
        )
        sights = BrokerInsight(broker).sights(order_id, device, asked)
    if as_json:
        show(sights, as_json=True, columns=())
        return
    if last is None:
        tell(f"{device} is not among the recent queries: is its worklist set to this broker?")
    for sight in sights:
        tell(f"step {sight.sps_id}: {'yes' if sight.seen else 'no'}")
        for clause in sight.clauses:
            tell(f"  {'✓' if clause.holds else '✗'} {clause.text}")
    if not sights:
        tell("The order has no step to be shown.")
