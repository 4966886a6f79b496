"""`broker audit`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import typer

from broker.cli.context import (
    CONFIG,
    DATA_DIR,
    ConfigOption,
    DataDirOption,
    JsonOption,
    LimitOption,
    open_cli,
    progress,
    show,
    tell,
)
from broker.cli.users import caller
from broker.domain.wording import counted
from broker.errors import InvalidValue
from broker.workflow.audit_port import AuditQuestion

app = typer.Typer(name="audit", help="Who did and who looked at what.", no_args_is_help=True)


@app.command("verify")
def verify(*, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR) -> None:
    """Walk along the chain of the trail; exit 1 when an event was changed, taken out or cut off."""
    from broker.db.seal import verify_events

    with open_cli(config, data_dir) as broker:
        with progress("events") as told:
            found = verify_events(broker.engine, told=told)
        broker.access.audit.read(caller(), how="verified")
    for problem in found.problems:
        tell(problem)
    said = counted(len(found.problems), "problem")
    tell(f"{counted(found.sealed, 'event')} checked, {found.unsealed:,} not sealed yet, {said}")
    if found.problems:
        raise typer.Exit(1)


@app.command("list")
def list_(
    *,
    actor: Annotated[str, typer.Option(help="Name of an account, a device, or a sender.")] = "",
    subject: Annotated[
        str, typer.Option(help="patient:ID, order:NUMBER or study:UID, where NUMBER is the broker's own.")
    ] = "",
    since: Annotated[datetime | None, typer.Option(help="In the site's time.")] = None,
    what: Annotated[str, typer.Option(help="Name of an event, such as viewed.")] = "",
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List events of the trail, newest first."""
    kind, _, key = subject.partition(":")
    if subject and (
        kind not in {"patient", "order", "study"} or not key or (kind == "order" and not key.isdecimal())
    ):
        raise InvalidValue("--subject is patient:ID, order:NUMBER or study:UID")
    with open_cli(config, data_dir) as broker:
        question = AuditQuestion(
            actor=actor,
            patient=key if kind == "patient" else "",
            order=int(key) if kind == "order" else None,
            study_instance_uid=key if kind == "study" else "",
            since=None if since is None else since.replace(tzinfo=broker.zone),
            what=what,
        )
        rows = broker.reports.audit(question, limit=limit)
        broker.access.audit.read(caller(), how="searched", asked=question.words)
    columns = ["at", "actor", "address", "what", "subject", "subject_id", "order", "study_instance_uid"]
    show(rows, as_json=as_json, columns=columns)


@app.command("collectors")
def collectors(
    *, as_json: JsonOption = False, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR
) -> None:
    """List those who are sent audit messages, and what waits for each."""
    with open_cli(config, data_dir) as broker:
        rows = broker.access.collectors()
    columns = ["name", "address", "protocol", "state", "waiting", "oldest", "handed_over_at", "problem"]
    show(rows, as_json=as_json, columns=columns)
