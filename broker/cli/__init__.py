"""The command line: `broker serve` and `broker run ROLE`, then one file per noun."""

from __future__ import annotations

import sys

import typer

from broker import __version__
from broker.cli import (
    alerts,
    audit,
    backup,
    captures,
    certificates,
    completion,
    config,
    database,
    deliveries,
    demo,
    destinations,
    devices,
    find,
    handover,
    hl7,
    images,
    maintenance,
    messages,
    operations,
    orders,
    overview,
    probe,
    routes,
    serving,
    sources,
    support,
    tokens,
    users,
    worklist,
)
from broker.cli.context import tell
from broker.errors import BrokerError

app = typer.Typer(
    name="broker",
    help="Modality worklist and imaging workflow broker.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def root(
    *,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    """Hold what belongs to no command."""
    if version:
        tell(__version__)
        raise typer.Exit


serving.add_to(app)
backup.add_to(app)
completion.add_to(app)
demo.add_to(app)
find.add_to(app)
handover.add_to(app)
overview.add_to(app)
probe.add_to(app)
support.add_to(app)
for noun in (
    alerts,
    maintenance,
    worklist,
    orders,
    images,
    routes,
    deliveries,
    operations,
    destinations,
    devices,
    captures,
    sources,
    messages,
    hl7,
    config,
    database,
    users,
    tokens,
    certificates,
    audit,
):
    app.add_typer(noun.app)


def main() -> None:
    """Run the command line; a refusal of the broker is one line on stderr and exit 1."""
    if sys.flags.optimize:
        # `python -O` removes the assertions the protocol libraries validate with.
        tell("broker: does not run under python -O or PYTHONOPTIMIZE", file=sys.stderr)
        sys.exit(2)
    try:
        app()
    except BrokerError as error:
        tell(f"broker: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        # A folder that is missing, full, read-only or not ours; anything else is a bug and shows its traceback.
        if error.filename is None:
            raise
        tell(f"broker: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
