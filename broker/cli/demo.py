"""`broker demo`."""

from __future__ import annotations

from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("demo")(demo)


def demo(
    *,
    once: Annotated[bool, typer.Option("--once", help="Exit 0 or 1 after the verdict.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the data directory.")] = False,
) -> None:
    """Watch a hospital day: orders, worklist, exams, images, CAD, archive and film, through real sockets."""
    from broker.demo import run_demo

    raise typer.Exit(run_demo(once=once, keep=keep))
