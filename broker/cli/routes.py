"""`broker routes`."""

from __future__ import annotations

from pathlib import Path
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
)

app = typer.Typer(name="routes", help="Which images go where, and why.", no_args_is_help=True)


@app.command("explain")
def explain(
    what: Annotated[str, typer.Argument(help="A Study Instance UID, or a DICOM file.")],
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Say clause by clause why each route takes a study or a file, and why not."""
    from broker.dashboard import explain_file, explain_study

    with open_cli(config, data_dir) as broker:
        is_file = Path(what).is_file()
        verdicts = explain_file(broker, Path(what)) if is_file else explain_study(broker, what)
    if as_json:
        show(verdicts, as_json=True, columns=[])
    else:
        for verdict in map(plain, verdicts):
            targets = ", ".join(verdict["destinations"])
            mark = f"matched {verdict['instances']} → {targets}" if verdict["matched"] else "did not match"
            print(f"{verdict['route']}: {mark}")
            for clause in verdict["clauses"]:
                print(f"  {'✓' if clause['holds'] else '✗'} {clause['clause']}   {clause['seen']}")
    if not verdicts:
        print("nothing is known of it")
        raise typer.Exit(1)


@app.command("list")
def list_(
    *, as_json: JsonOption = False, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR
) -> None:
    """List the routes in force, in their order."""
    with open_cli(config, data_dir) as broker:
        rows = [dict(route) for route in broker.loaded.site.routes]
    show(rows, as_json=as_json, columns=["name", "when", "send", "unit"])
