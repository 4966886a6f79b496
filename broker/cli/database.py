"""`broker db`."""

from __future__ import annotations

import typer

from broker.cli.context import (
    CONFIG,
    DATA_DIR,
    ConfigOption,
    DataDirOption,
    tell,
)

app = typer.Typer(name="db", help="The database.", no_args_is_help=True)


@app.command("migrate")
def migrate(*, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR) -> None:
    """Bring the schema to this version; does nothing when it is there."""
    from broker.bootstrap import migrate_database
    from broker.logs import configure_logging

    configure_logging(role="migrate", level="INFO")
    tell(f"schema {migrate_database(config, data_dir)}")
