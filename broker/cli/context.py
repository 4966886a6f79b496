"""What every command shares: where the site file and the data are, and how rows are shown."""

from __future__ import annotations

import dataclasses
import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

if TYPE_CHECKING:
    from broker.bootstrap import Broker

ConfigOption = Annotated[
    Path,
    typer.Option("--config", "-c", envvar="BROKER_CONFIG", help="The site file.", show_default=True),
]
DataDirOption = Annotated[
    Path,
    typer.Option("--data-dir", "-d", envvar="BROKER_DATA_DIR", help="Where the broker keeps what it has."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print a list of JSON objects.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=500, help="How many rows at most.")]

CONFIG = Path("config/broker.yaml")
DATA_DIR = Path("data")


def open_cli(config: Path, data_dir: Path) -> Broker:
    """Open the wired broker beside whatever runs; the schema must be there."""
    from broker.bootstrap import open_broker
    from broker.logs import configure_logging

    configure_logging(role="cli", level="WARNING")
    return open_broker(config, data_dir, role="cli")


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how far long work is: on a terminal, beside what is printed; nothing anywhere else.

    What it answers is told how much is done, and of how much.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bar = bars.add_task(what, total=None)
        yield lambda done, of: bars.update(bar, completed=done, total=of)


def show(rows: Sequence[Any], *, as_json: bool, columns: Iterable[str]) -> None:
    """Print rows as a list of JSON objects, or `columns` of them as a table."""
    if as_json:
        tell_json(rows)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = list(columns)
    table = Table(*(name.replace("_", " ") for name in names), box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        values = plain(row)
        # As it is: what a peer wrote in brackets is no markup of ours.
        table.add_row(*(Text(_text(values.get(name))) for name in names))
    # Not a terminal: wide enough that nothing is cut.
    Console(width=None if sys.stdout.isatty() else 240).print(table)


def tell(text: str, *, file: TextIO | None = None) -> None:
    """Print lines that may repeat what a peer wrote."""
    # As JSON escapes it, so that JSON stays what it is.
    active = {
        ord(char): json.dumps(char)[1:-1]
        for char in set(text)
        if char not in "\n\t" and not _is_harmless(char)
    }
    print(text.translate(active), file=file)


def tell_json(value: Any) -> None:
    """Print a value as JSON."""
    tell(json.dumps(plain(value), indent=2, ensure_ascii=False))


def plain(value: Any) -> Any:
    """Answer what json can write: dataclasses as objects, instants in ISO 8601, spans in seconds."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return value


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{item}" for item in value.values())
    return "".join(char if _is_harmless(char) else "·" for char in str(value))


def _is_harmless(char: str) -> bool:
    """Tell what a terminal shows from what it acts on: no control character of a peer must reach it."""
    return char.isprintable() or unicodedata.category(char) == "Zs"
