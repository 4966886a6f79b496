"""`broker config`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from broker.cli.context import CONFIG, DATA_DIR, ConfigOption, DataDirOption

app = typer.Typer(name="config", help="The site file.", no_args_is_help=True)


@app.command("check")
def check(
    file: Annotated[Path | None, typer.Argument(help="The site file; default $BROKER_CONFIG.")] = None,
    *,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,  # noqa: ARG001 - every command takes it
) -> None:
    """Print every problem as file:line:col: key: problem and exit 1; say so when there is none."""
    from zoneinfo import ZoneInfo

    from broker.bootstrap import read_site
    from broker.hl7.mapping import MappingSet
    from broker.hl7.mapping_file import MappingFileError
    from broker.site_file import SiteFileError

    path = file or config
    try:
        loaded = read_site(path, os.environ)
    except SiteFileError as error:
        for problem in error.problems:
            print(problem)
        raise typer.Exit(1) from None
    site = loaded.site
    folder = path.absolute().parent / "hl7"
    try:
        MappingSet.load(folder if folder.is_dir() else None, site_zone=ZoneInfo(site.site.timezone))
    except MappingFileError as error:
        print(error)
        raise typer.Exit(1) from None
    print(
        f"{path}: good: {len(site.devices)} devices, {len(site.destinations)} destinations, {len(site.routes)} routes"
    )
