"""`broker completion`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from broker.cli.context import tell


class Shell(StrEnum):
    """Shells that can complete."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command("completion")(completion)


def completion(shell: Annotated[Shell, typer.Argument(help="Which shell.")]) -> None:
    """Print what makes a shell complete commands and options: `eval "$(broker completion bash)"`."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # its own option prints it

    name = shell.value
    tell(get_completion_script(prog_name="broker", complete_var="_BROKER_COMPLETE", shell=name))
