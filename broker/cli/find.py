"""`broker find`."""

from __future__ import annotations

import sys
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
    tell_json,
)
from broker.cli.users import caller
from broker.workflow.shown import shown_by

_COLUMNS = {
    "orders": ["order_id", "accession_number", "patient_name", "patient_id", "procedure", "status"],
    "studies": ["study_instance_uid", "patient_name", "patient_id", "modality", "instances", "state"],
    "messages": ["message_id", "received_at", "message_control_id", "message_type", "outcome"],
}


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("find")(find)


def find(
    text: Annotated[
        str, typer.Argument(help="What is looked for; - reads it from standard input, out of sight of ps.")
    ],
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Find a patient, order, study, message or station by name, id, number, UID or AE title."""
    wanted = sys.stdin.readline() if text == "-" else text
    with open_cli(config, data_dir) as broker:
        findings = broker.reports.find(wanted)
        broker.access.audit.viewed(
            caller(), shown_by(findings.groups), page="broker find", listed=True, searched=wanted.strip()
        )
    if as_json:
        tell_json(findings)
        return
    for found in findings.groups:
        more = "" if found.counted_all else "more than "
        tell(f"{found.group.value}: {more}{found.count}")
        for name, columns in _COLUMNS.items():
            if rows := getattr(found, name):
                show(rows, as_json=False, columns=columns)
        for title in found.devices:
            tell(f"  {title}")
    if not findings.groups:
        tell("Nothing is known under that name, number or UID.")
