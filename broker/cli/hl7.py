"""`broker hl7`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.context import (
    CONFIG,
    DATA_DIR,
    ConfigOption,
    DataDirOption,
    tell,
)

app = typer.Typer(name="hl7", help="HL7 v2 messages.", no_args_is_help=True)


@app.command("send")
def send(
    files: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="Files of HL7 messages.")],
    *,
    host: Annotated[str | None, typer.Option(help="Default: where the site file listens.")] = None,
    port: Annotated[int | None, typer.Option(help="Default: where the site file listens.")] = None,
    timeout_s: Annotated[float, typer.Option(help="How long to wait for each answer, seconds.")] = 30.0,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,  # noqa: ARG001 - every command takes it
) -> None:
    """Send messages over MLLP, print each acknowledgement; exit 1 unless all are AA or CA."""
    from broker.bootstrap import read_site
    from broker.hl7.sender import MllpOptions, read_messages, send_message
    from broker.roles import reachable

    if host is None or port is None:
        listen = read_site(config, os.environ).site.listen.hl7
        host, port = host or reachable(listen.host), port or listen.port
    options = MllpOptions(host=host, port=port, answer_timeout_s=timeout_s)
    accepted = True
    for file in files:
        for message in read_messages(file.read_bytes()):
            answer = send_message(message, options)
            tell(f"{file.name}: {answer.code} {answer.text}".rstrip())
            accepted &= answer.code in {"AA", "CA"}
    if not accepted:
        raise typer.Exit(1)
