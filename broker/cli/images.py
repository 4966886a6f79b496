"""`broker images`."""

from __future__ import annotations

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
    show,
)
from broker.cli.viewing import listed, opened
from broker.domain.events import Subject
from broker.errors import NotFound
from broker.workflow.audit import Shown
from broker.workflow.images_port import InstanceState
from broker.workflow.reports_port import Page

app = typer.Typer(name="images", help="Studies received.", no_args_is_help=True)
_COLUMNS = [
    *("study_instance_uid", "patient_id", "accession_number"),
    *("modality", "series", "instances", "state"),
]


@app.command("list")
def list_(
    *,
    state: Annotated[InstanceState | None, typer.Option(case_sensitive=False)] = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List studies, newest first."""
    with open_cli(config, data_dir) as broker:
        rows = broker.reports.studies(state=state.value if state else None, page=Page(limit=limit))
        listed(broker, rows, command="images list")
    show(rows, as_json=as_json, columns=_COLUMNS)


@app.command("show")
def show_(
    study_instance_uid: str,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Show one received study and its deliveries."""
    with open_cli(config, data_dir) as broker:
        found = broker.reports.studies(text=study_instance_uid, page=Page(limit=2))
        studies = [line for line in found if line.study_instance_uid == study_instance_uid]
        if not studies:
            raise NotFound("Nothing was received of this study.")
        sent = broker.reports.deliveries(study_instance_uid=study_instance_uid, page=Page(limit=100))
        opened(broker, Shown(Subject.STUDY, None, study_instance_uid), command="images show")
    if as_json:
        show([{"study": studies[0], "deliveries": sent}], as_json=True, columns=())
        return
    show(studies, as_json=False, columns=_COLUMNS)
    show(sent, as_json=False, columns=["id", "destination", "state", "delivered", "items", "reason"])


@app.command("timeline")
def timeline(
    study_instance_uid: str,
    *,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Say what happened to one study, oldest first."""
    with open_cli(config, data_dir) as broker:
        rows = broker.reports.study_timeline(study_instance_uid)
        if rows:
            opened(broker, Shown(Subject.STUDY, None, study_instance_uid), command="images timeline")
    show(rows, as_json=as_json, columns=["at", "what", "actor", "subject", "subject_id", "details"])
