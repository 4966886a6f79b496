"""`broker backup` and `broker restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from broker.cli.context import (
    CONFIG,
    DATA_DIR,
    ConfigOption,
    DataDirOption,
    progress,
    tell,
)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(
    target: Annotated[Path, typer.Argument(help="A directory to be made.")],
    *,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Write a consistent copy of database and images while the broker runs."""
    from broker.bootstrap import back_up

    with progress("images") as told:
        written = back_up(config, data_dir, target, told)
    tell(written)


def restore(
    source: Annotated[Path, typer.Argument(exists=True, help="What `broker backup` wrote.")],
    *,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Put a backup into an empty data directory and an empty database."""
    from broker.bootstrap import bring_back

    with progress("images") as told:
        brought = bring_back(config, data_dir, source, told)
    tell(brought)
