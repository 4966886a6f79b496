"""`broker sources`."""

from __future__ import annotations

import typer

from broker.cli.context import CONFIG, DATA_DIR, ConfigOption, DataDirOption, JsonOption, open_cli, show
from broker.workflow.silence import judge_sources

app = typer.Typer(name="sources", help="Who talks to us, and who is silent.", no_args_is_help=True)


@app.command("list")
def list_(
    *, as_json: JsonOption = False, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR
) -> None:
    """List senders and devices by what their silence is worth, the silent first."""
    with open_cli(config, data_dir) as broker:
        rows = judge_sources(broker.reports.sources(), now=broker.clock.now(), zone=broker.zone)
    show(
        rows,
        as_json=as_json,
        columns=["kind", "name", "facility", "silence", "last_at", "last_what", "reason"],
    )
