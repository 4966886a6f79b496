"""`broker handover`."""

from __future__ import annotations

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
    tell_json,
)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("handover")(handover)


def handover(
    *,
    since: Annotated[
        str, typer.Option(help="Beginning of the shift, like 2026-11-21T19:00; none: twelve hours ago.")
    ] = "",
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Say in ten lines what happened since the last shift, and how it stands."""
    from broker.workflow.handover import read_handover, read_since

    with open_cli(config, data_dir) as broker:
        begin = read_since(since, clock=broker.clock)
        told = read_handover(broker.reports, since=begin, clock=broker.clock, zone=broker.zone)
    if as_json:
        tell_json(told)
        return
    show(told.lines, as_json=False, columns=["about", "word", "text"])
