"""`broker routes`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
)
from broker.cli.viewing import listed, opened
from broker.domain.events import Subject
from broker.workflow.audit import Shown

if TYPE_CHECKING:
    from broker.workflow.explain import ExplainedRoute

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
        if verdicts and not is_file:
            opened(broker, Shown(Subject.STUDY, None, what), command="routes explain")
    _tell(verdicts, as_json=as_json)


def _tell(verdicts: Sequence[ExplainedRoute], *, as_json: bool) -> None:
    if as_json:
        show(verdicts, as_json=True, columns=[])
    else:
        for verdict in map(plain, verdicts):
            targets = ", ".join(verdict["destinations"])
            mark = f"matched {verdict['instances']} → {targets}" if verdict["matched"] else "did not match"
            tell(f"{verdict['route']}: {mark}")
            for clause in verdict["clauses"]:
                tell(f"  {'✓' if clause['holds'] else '✗'} {clause['clause']}   {clause['seen']}")
    if not verdicts:
        tell("nothing is known of it")
        raise typer.Exit(1)


@app.command("list")
def list_(
    *,
    days: Annotated[int, typer.Option(min=1, help="A rule that sent nothing for so many days is dead.")] = 30,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List the routes in force, in their order: a sentence each, what they did today, and which are dead."""
    from broker.workflow.rulebook import read_rulebook

    with open_cli(config, data_dir) as broker:
        midnight = broker.clock.local_now().replace(hour=0, minute=0, second=0, microsecond=0)
        book = read_rulebook(
            broker.loaded.routes,
            broker.reports,
            now=broker.clock.now(),
            midnight=midnight,
            dead_after_days=days,
        )
        listed(broker, (line for rule in book.rules for line in rule.last), command="routes list")
        written = {str(route.get("name")): dict(route) for route in broker.loaded.site.routes}
    rows = [
        written.get(rule.name, {}) | plain(rule) | {"last_at": plain(rule.last_at)} for rule in book.rules
    ]
    show(rows, as_json=as_json, columns=["name", "state", "sentence", "matched_today", "last_at", "why"])


@app.command("try")
def try_(
    study: Annotated[str, typer.Argument(help="A Study Instance UID.")],
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Say what the routes in force would decide about a study now; nothing is changed."""
    from broker.dashboard import try_study

    with open_cli(config, data_dir) as broker:
        verdicts = try_study(broker, study)
        if verdicts:
            opened(broker, Shown(Subject.STUDY, None, study), command="routes try")
        _tell(verdicts, as_json=as_json)
