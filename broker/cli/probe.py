"""`broker probe`."""

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
    plain,
    show,
    tell,
    tell_json,
)


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("probe")(probe)


def probe(
    *,
    last: Annotated[int, typer.Option(min=0, max=500, help="Run none, list so many of the last exams.")] = 0,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Send a synthetic exam through the running broker: order, worklist, begin, image, finish, delivery.

    No scanner, archive or RIS sees it. Names the hop that fails, and exits 1.
    """
    from broker.cli.users import caller
    from broker.probe import Prober

    with open_cli(config, data_dir) as broker:
        if last:
            runs = broker.reports.probe_runs(limit=last)
            rows = [plain(run) | {"ok": run.ok, "seconds": round(run.seconds, 3)} for run in runs]
            show(rows, as_json=as_json, columns=["started_at", "actor", "ok", "seconds", "failed_hop"])
            return
        run = Prober(broker).run(actor=caller().name)
    assert run is not None  # without an interval there is always one
    if as_json:
        tell_json(plain(run) | {"ok": run.ok, "seconds": round(run.seconds, 3)})
    else:
        for hop in run.hops:
            tell(f"{'✓' if hop.ok else '✗'} {hop.name:<9} {hop.seconds:7.3f} s  {hop.detail}")
        tell("every hop held" if run.ok else f"failed at: {run.failed_hop}")
    if not run.ok:
        raise typer.Exit(1)
