"""`broker messages`."""

from __future__ import annotations

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
from broker.workflow.reports_port import Page

app = typer.Typer(name="messages", help="HL7 messages received.", no_args_is_help=True)


@app.command("list")
def list_(
    *,
    outcome: str | None = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List messages, newest first."""
    with open_cli(config, data_dir) as broker:
        rows = broker.reports.messages(outcome=outcome, page=Page(limit=limit))
    show(
        rows,
        as_json=as_json,
        columns=[
            "message_id",
            "received_at",
            "message_control_id",
            "message_type",
            "outcome",
            "acknowledgement_code",
            "problems",
        ],
    )


@app.command("show")
def show_(message_id: int, *, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR) -> None:
    """Print one message as it came, one segment per line, and what we answered."""
    with open_cli(config, data_dir) as broker:
        raw, answer = broker.reports.message_raw(message_id)
    print(raw.decode("utf-8", "backslashreplace").replace("\r", "\n"))
    if answer:
        print(answer.decode("utf-8", "backslashreplace").replace("\r", "\n"))
