"""`broker captures`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
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
    tell,
)
from broker.cli.users import caller
from broker.domain.wording import counted, sized
from broker.errors import InvalidValue
from broker.workflow.captures import USUAL_MINUTES, WantedCapture
from broker.workflow.captures_port import DICOM, HL7

app = typer.Typer(
    name="captures", help="What a device or sender says, byte by byte, for a time.", no_args_is_help=True
)
Number = Annotated[int, typer.Argument(min=1)]


@app.command("start")
def start(
    name: Annotated[str, typer.Argument(help="Calling AE title; with --hl7 the sending application.")] = "",
    *,
    address: Annotated[str, typer.Option(help="Address or network it calls from.")] = "",
    reason: Annotated[str, typer.Option(help="Why; shown with it and kept.")],
    minutes: Annotated[int, typer.Option(help="It ends by itself then, 60 at most.")] = USUAL_MINUTES,
    hl7: Annotated[bool, typer.Option("--hl7", help="A sender of HL7 messages, no DICOM device.")] = False,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Capture what a device or sender says from its next association or message on."""
    wanted = WantedCapture(HL7 if hl7 else DICOM, name, address, minutes, reason, caller().name)
    with open_cli(config, data_dir) as broker:
        begun = broker.captures.start(wanted)
        until = begun.until.astimezone(broker.zone)
        if as_json:
            show([broker.captures.told(begun)], as_json=True, columns=())
            return
    tell(f"{begun.id}: {begun.about} is captured until {until:%Y-%m-%d %H:%M}")


@app.command("list")
def list_(
    *,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """List captures, the newest first."""
    with open_cli(config, data_dir) as broker:
        rows = [broker.captures.told(one) for one in broker.reports.captures(limit=limit)]
    columns = ["id", "protocol", "name", "address", "since", "until", "running", "size_bytes", "removed_at"]
    show(rows, as_json=as_json, columns=[*columns, "actor", "reason"])


@app.command("stop")
def stop(capture: Number, *, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR) -> None:
    """Capture no more; what was captured stays."""
    with open_cli(config, data_dir) as broker:
        stopped = broker.captures.stop(capture, actor=caller().name)
    tell(f"{capture}: {'stopped' if stopped else 'was over already'}")


@app.command("download")
def download(
    capture: Number,
    target: Annotated[Path | None, typer.Argument(help="A new file; none: capture-NUMBER.pcap here.")] = None,
    *,
    config: ConfigOption = CONFIG,
    data_dir: DataDirOption = DATA_DIR,
) -> None:
    """Write a capture as a pcap file, for Wireshark; who took it is kept."""
    path = target or Path(f"capture-{capture}.pcap")
    if path.exists():
        raise InvalidValue(f"{path} is there already; name a new file")
    with open_cli(config, data_dir) as broker:
        known, pieces = broker.captures.download(capture, by=caller(), page="broker captures download")
        size = _write(path, pieces)
        told = broker.captures.recorded(known)
    missing = f"; {sized(told.left_out_bytes)} left out: {', '.join(told.why)}" if told.left_out_bytes else ""
    tell(f"{path}: {sized(size)}, {counted(told.packets, 'packet')}{missing}")


def _write(path: Path, pieces: Iterator[bytes]) -> int:
    """Write a file nobody else may read."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        return sum(file.write(piece) for piece in pieces)


@app.command("delete")
def delete(capture: Number, *, config: ConfigOption = CONFIG, data_dir: DataDirOption = DATA_DIR) -> None:
    """Remove the bytes of a capture; one that runs is stopped first."""
    with open_cli(config, data_dir) as broker:
        deleted = broker.captures.delete(capture, actor=caller().name)
    tell(f"{capture}: {'removed' if deleted else 'was removed already'}")
