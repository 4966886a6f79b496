"""`broker hl7`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(name="hl7", help="HL7 v2 messages.", no_args_is_help=True)


@app.command("send")
def send(
    files: Annotated[
        list[Path], typer.Argument(exists=True, dir_okay=False, help="Files of one message each.")
    ],
    *,
    host: str = "127.0.0.1",
    port: int = 2575,
    timeout_s: float = 30.0,
) -> None:
    """Send messages over MLLP, print each acknowledgement; exit 1 unless all are AA or CA."""
    from broker.hl7.sender import MllpOptions, read_messages, send_message

    options = MllpOptions(host=host, port=port, answer_timeout_s=timeout_s)
    accepted = True
    for file in files:
        for message in read_messages(file.read_bytes()):
            answer = send_message(message, options)
            print(f"{file.name}: {answer.code} {answer.text}".rstrip())
            accepted &= answer.code in {"AA", "CA"}
    if not accepted:
        raise typer.Exit(1)
