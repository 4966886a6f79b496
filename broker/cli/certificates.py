"""`broker certificates`."""

from __future__ import annotations

import typer

from broker.cli.context import CONFIG, DATA_DIR, ConfigOption, DataDirOption, JsonOption, open_cli, show
from broker.workflow.certificate_days import standings

app = typer.Typer(name="certificates", help="How long certificates are good.", no_args_is_help=True)


@app.command("list")
def list_(
    *, as_json: JsonOption = False, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR
) -> None:
    """List the certificates the site file names, the one that ends first on top; no days: it cannot be read."""
    from broker.certificates import certificates

    with open_cli(config, data_dir) as broker:
        rows = standings(certificates(broker), now=broker.clock.now())
    show(rows, as_json=as_json, columns=["name", "word", "days", "ends_at", "problem"])
