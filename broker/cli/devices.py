"""`broker devices`."""

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
from broker.cli.viewing import listed
from broker.errors import NotFound
from broker.workflow.devices import Welcome, hours, read_devices, told_device, told_knocks
from broker.workflow.entries import asked_like
from broker.workflow.reports_port import MAX_PAGE

app = typer.Typer(name="devices", help="Who talks to us, and who knocks in vain.", no_args_is_help=True)


@app.command("list")
def list_(
    *, as_json: JsonOption = False, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR
) -> None:
    """List devices, those in trouble first."""
    from broker.device_facts import known_devices

    with open_cli(config, data_dir) as broker:
        states = read_devices(broker.reports, known_devices(broker), now=broker.clock.now(), zone=broker.zone)
    rows = [told_device(state) for state in states]
    columns = ["ae_title", "state", "echo", "list", "exam", "images", "clock_ahead_s", "contact", "refused"]
    flat = [row | {what: row[what] and row[what]["at"] for what in columns[2:6]} for row in rows]
    show(rows if as_json else flat, as_json=as_json, columns=columns)


@app.command("knocks")
def knocks(
    *, as_json: JsonOption = False, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR
) -> None:
    """List who was refused and why, the newest first."""
    with open_cli(config, data_dir) as broker:
        rows = [told_knocks(one) for one in broker.reports.knocks()]
    columns = ["ae_title", "called_ae_title", "address", "why", "wire", "number", "first_at", "last_at"]
    show(rows, as_json=as_json, columns=columns)


@app.command("show")
def show_(
    ae_title: str,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Show the last conversations of one device, the newest first."""
    from broker.device_facts import known_devices

    with open_cli(config, data_dir) as broker:
        states = read_devices(broker.reports, known_devices(broker), now=broker.clock.now(), zone=broker.zone)
        found = next((told_device(state) for state in states if state.ae_title == ae_title), None)
        refused = [told_knocks(one) for one in broker.reports.knocks(ae_title=ae_title)]
        talks = broker.reports.conversations(ae_title)
    if found is None and not refused:
        raise NotFound(f"There is no device {ae_title} in the site file, and none was heard.")
    if as_json:
        show(
            [{**(found or {"ae_title": ae_title}), "conversations": talks, "knocks": refused}],
            as_json=True,
            columns=(),
        )
        return
    if found is not None:
        tell(f"{ae_title}: {found['state']}{'; ' + found['rhythm'] if found['rhythm'] else ''}")
    for one in refused:
        tell(
            f"refused {one['number']}x, last {one['last_at']:%Y-%m-%d %H:%M:%S}Z: {one['why']}. {one['advice']}"
        )
    show(talks, as_json=False, columns=["began_at", "address", "served", "refused", "end", "implementation"])


@app.command("worklist")
def worklist(
    ae_title: str,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List the steps a device would be shown now, asking as it last did, in the order it is told them."""
    from broker.device_facts import seen_by

    with open_cli(config, data_dir) as broker:
        asked = asked_like(broker.reports.last_query(ae_title))
        rows = broker.reports.worklist_steps(seen_by(broker, ae_title, asked)[:MAX_PAGE])
        listed(broker, rows, command="devices worklist")
    columns = ["start", "patient_name", "patient_id", "modality", "description", "accession_number", "status"]
    show(rows, as_json=as_json, columns=columns)


@app.command("admissions")
def admissions(
    *,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List who was let in for a time, the newest first."""
    with open_cli(config, data_dir) as broker:
        rows = broker.reports.admissions(limit=limit)
    columns = ["id", "ae_title", "address", "since", "until", "reason", "actor", "ended_at", "ended_by"]
    show(rows, as_json=as_json, columns=columns)


@app.command("admit")
def admit(
    ae_title: str,
    address: Annotated[str, typer.Argument(help="Address or network it calls from.")],
    *,
    reason: Annotated[str, typer.Option(help="Why; shown with it and kept.")],
    for_hours: Annotated[float, typer.Option("--hours", help="It ends by itself then.")] = 8.0,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Let a device in for a time; the listeners know within two seconds."""
    with open_cli(config, data_dir) as broker:
        admitted = broker.actions.admit(Welcome(ae_title, address, hours(for_hours), reason, caller().name))
        until = admitted.until.astimezone(broker.zone)
    tell(f"{admitted.id}: {admitted.ae_title} at {admitted.address} is let in until {until:%Y-%m-%d %H:%M}")


@app.command("end")
def end(admission: int, *, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR) -> None:
    """Let a device in no longer."""
    with open_cli(config, data_dir) as broker:
        ended = broker.actions.end_admission(admission, actor=caller().name)
    tell(f"{admission}: {'ended' if ended else 'was over already'}")


@app.command("passport")
def passport(
    ae_title: str,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Print what has to be typed into a device so that it finds us."""
    from broker.device_facts import passport as passport_of

    with open_cli(config, data_dir) as broker:
        found = passport_of(broker, ae_title)
    if as_json:
        show([found], as_json=True, columns=())
        return
    tell(f"Its own AE title      {found.ae_title}")
    tell(f"Address               {found.host or 'any address of this machine'}")
    for one in found.settings:
        tell(f"{one.name:20}  {one.value}{'  (' + one.about + ')' if one.about else ''}")
    for service in found.services:
        tell(f"\n{service.name}, port {service.port}\n  {service.sop_class}\n  {service.transfer_syntaxes}")
