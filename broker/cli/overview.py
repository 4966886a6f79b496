"""`broker overview`."""

from __future__ import annotations

import typer

from broker.cli.context import (
    CONFIG,
    DATA_DIR,
    ConfigOption,
    DataDirOption,
    JsonOption,
    open_cli,
    show,
    tell,
    tell_json,
)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("overview")(overview)


def overview(
    *, as_json: JsonOption = False, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR
) -> None:
    """Say what is wrong, the most harmful first, and how every destination fares."""
    from broker.dashboard import health
    from broker.resources import Resources
    from broker.workflow.situation import read_situation

    with open_cli(config, data_dir) as broker:
        stands = read_situation(
            broker.reports,
            health=lambda: health(broker),
            resources=Resources(broker).read,
            clock=broker.clock,
            zone=broker.zone,
        )
    if as_json:
        tell_json(stands)
        return
    if stands.troubles:
        show(stands.troubles, as_json=False, columns=["word", "headline", "detail", "action"])
    else:
        tell("All is flowing.")
    columns = ["destination", "state", "waiting", "oldest", "dead", "delivered_last_hour", "reason"]
    show(stands.destinations, as_json=False, columns=columns)
