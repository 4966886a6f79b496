"""`broker serve`, `broker run ROLE` and `broker health`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from broker.cli.context import (
    CONFIG,
    DATA_DIR,
    ConfigOption,
    DataDirOption,
    open_cli,
    tell,
)
from broker.importing import staying


class RoleName(StrEnum):
    """Roles that `broker run` starts; the worker is started by Celery itself."""

    HL7 = "hl7"
    DICOM = "dicom"
    STORAGE = "storage"
    SWEEP = "sweep"
    WEB = "web"


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("serve")(serve)
    app.command("run")(run)
    app.command("health")(health)


def serve(*, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR) -> None:
    """Run everything in one command: listeners, worker, sweeper and pages."""
    with staying():
        from broker.embedded import serve_all

    raise typer.Exit(serve_all(config, data_dir))


def run(
    role: Annotated[RoleName, typer.Argument(help="Which role.")],
    *,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Run one role; several machines share a PostgreSQL (BROKER_DATABASE_URL) and a Redis (BROKER_REDIS_URL)."""
    with staying():
        from broker.roles import run_role

    raise typer.Exit(run_role(role.value, config, data_dir))


def health(
    *,
    role: Annotated[str | None, typer.Option(help="Only this role.")] = None,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Say whether the roles prove themselves alive; exit 1 when one does not."""
    from broker.dashboard import health as read_health

    with open_cli(config, data_dir) as broker:
        parts = [part for part in read_health(broker) if role is None or part.name == role]
    for part in parts:
        tell(f"{part.name}: {'ok' if part.ok else 'FAILING'}: {part.detail}")
    if not parts or not all(part.ok for part in parts):
        raise typer.Exit(1)
