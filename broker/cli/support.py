"""`broker support-bundle`."""

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
    open_cli,
    tell,
)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("support-bundle")(bundle)


def bundle(
    target: Annotated[Path, typer.Argument(help="File to be made.")] = Path("support-bundle.tar.gz"),
    *,
    log: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Where the broker's log lines are kept.")
    ] = None,
    lines: Annotated[int, typer.Option(min=1, max=100_000, help="How many of the last log lines.")] = 2000,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Pack what somebody who helps from afar needs: versions, settings, health, counts, refusals, query plans.

    Without patients, persons and secrets.
    """
    from broker.cli.users import caller
    from broker.support_bundle import support_bundle

    with open_cli(config, data_dir) as broker:
        packed = support_bundle(broker, actor=caller().name, log=log, log_lines=lines)
    # Made anew and for this account only: whatever is in it is the site's.
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(packed)
    tell(f"{target}: {len(packed):,} bytes")
