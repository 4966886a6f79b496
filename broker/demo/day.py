"""The day itself: who does what, when, and the verdict."""

from __future__ import annotations

import contextlib
import logging
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rich.console import Console

from broker.demo.board import Board
from broker.demo.cases import ABDOMEN, CHEST, EXAMINED, HEAD, KNEE, ORDERS, PLATES, Case
from broker.demo.hl7_messages import cancel_message, order_message, update_message
from broker.demo.journeys import CHANGED_NAME, Day
from broker.demo.pixels import CR_PLATE, CT_LOCALIZER, CT_SLICE, MR_SLICE, SCREEN_SHOT, Kind
from broker.demo.printer import Printer
from broker.demo.ris import Ris
from broker.demo.scanner import Exam, PeerError, Scanner
from broker.demo.site import AE_TITLE, BrokerProcess, Ports
from broker.demo.storage_peer import StoragePeer

_SETTLE_S = 240.0
"""Far more than a slow machine takes."""
_SURPLUS_S = 2.0
"""How long to watch for what should not come."""

_SERIES: dict[str, tuple[Kind, ...]] = {
    CHEST.key: (CT_LOCALIZER, *(CT_SLICE,) * 6),
    HEAD.key: (CT_SLICE,) * 4,
    KNEE.key: (MR_SLICE,) * 5,
    PLATES.key: (CR_PLATE,) * 2,
}


def run(*, once: bool, keep: bool, console: Console | None = None) -> int:
    """Play the day, show the verdict; then keep the pages up until Ctrl-C unless `once`."""
    console = console or Console()
    # The peers' library logs on its own account; the demo's words are the board.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="broker-demo-"))
    passed = False
    try:
        with Board(console) as board, ExitStack() as stack:
            passed = _play(board, folder, stack)
            if not console.is_terminal:
                console.print(board.render())
            if not once:
                _stay(board)
        console.print("[bold green]PASS[/]" if passed else "[bold red]FAIL[/]")
    finally:
        if keep or not passed:
            console.print(f"Site file, data and log are in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if passed else 1


def _play(board: Board, folder: Path, stack: ExitStack) -> bool:
    began = time.monotonic()
    ports = Ports.free()
    broker = BrokerProcess(folder, ports)
    try:
        day = stack.enter_context(contextlib.closing(_Peers(ports, folder))).day
        board.day = day
        board.say("the broker starts")
        stack.enter_context(broker)
        broker.wait_until_it_answers(day.scanners["CT1"].echo)
        _happen(board, day, broker)
    except (PeerError, OSError, RuntimeError, StopIteration, subprocess.SubprocessError) as problem:
        board.console.print(
            f"The day ended early: {type(problem).__name__}: {problem}", markup=False, highlight=False
        )
        if broker.started and not broker.alive:
            board.console.print(broker.last_words(), markup=False, highlight=False)
    passed = board.judge()
    board.say(f"judged after {time.monotonic() - began:.0f} s · make an account and look: {broker.pages}")
    return passed


class _Peers:
    """Everybody who talks to the broker, switched on together; the archive comes later."""

    def __init__(self, ports: Ports, folder: Path) -> None:
        self._stack = ExitStack()
        scanners = {"CT1": "CT", "CT2": "CT", "MR1": "MR", "CR1": "CR"}
        self.day = Day(
            ris=self._stack.enter_context(Ris(ports.hl7, ports.ris)),
            scanners={title: Scanner(title, kind, ports.dicom, AE_TITLE) for title, kind in scanners.items()},
            cad=self._stack.enter_context(StoragePeer("CADX", ports.cad)),
            archive=self._stack.enter_context(StoragePeer("PACS", ports.archive)),
            printer=self._stack.enter_context(Printer("FILM", ports.printer, folder)),
        )
        self.day.cad.switch_on()

    def close(self) -> None:
        """Switch everybody off."""
        self._stack.close()


def _happen(board: Board, day: Day, broker: BrokerProcess) -> None:
    now = datetime.now(UTC)
    today = now.strftime("%Y%m%d")
    ct1, ct2, mr1, cr1 = (day.scanners[title] for title in ("CT1", "CT2", "MR1", "CR1"))
    board.say("the RIS places five orders, one of them twice")
    for case in ORDERS:
        message = order_message(case, control_id=day.ris.control_id(), now=now, start=now)
        day.ris.send(message)
        if case is CHEST:
            day.ris.send(message)
    board.say("the scanners ask for their worklists")
    for scanner in day.scanners.values():
        day.worklists[f"{scanner.ae_title} morning"] = scanner.worklist(today)
    everything = "MR1 asks for everything"
    day.worklists[everything] = mr1.worklist(today, own=False, modality="")
    board.say("a name changes, an order is cancelled")
    later = now + timedelta(seconds=5)
    day.ris.send(
        update_message(replace(PLATES, name=CHANGED_NAME), control_id=day.ris.control_id(), now=later)
    )
    day.ris.send(cancel_message(ABDOMEN, control_id=day.ris.control_id(), now=later, start=now))
    day.worklists["CR1 later"] = cr1.worklist(today)
    day.worklists["CT1 after the cancellation"] = ct1.worklist(today)
    board.say("the exams begin")
    for case, scanner, moment in (
        (CHEST, ct1, "CT1 morning"),
        (HEAD, ct1, "CT1 morning"),
        (KNEE, mr1, "MR1 morning"),
        (PLATES, cr1, "CR1 later"),
    ):
        entry = next(e for e in day.worklists[moment] if e.AccessionNumber == case.accession_number)
        day.exams[case.key] = scanner.begin(entry, datetime.now(UTC))
    day.worklists["CT2 during"] = ct2.worklist(today, own=False)
    day.worklists[f"{everything} during"] = mr1.worklist(today, own=False, modality="")
    for case, scanner in ((CHEST, ct1), (HEAD, ct1), (KNEE, mr1), (PLATES, cr1)):
        board.say(f"{scanner.ae_title} examines: {case.procedure}")
        _examine(scanner, day.exams[case.key], case)
    day.worklists["CT2 after"] = ct2.worklist(today, own=False)
    board.say("the archive is down: its deliveries wait and are tried again")
    _wait(board, lambda: _archive_has_failed(day, broker), every_s=1.0)
    board.say("the archive is switched on")
    day.archive.switch_on()
    # As whoever mended it does: on a slow machine it has been tried five times by now, and would be left alone a minute.
    broker.tell("destinations", "resume", "archive")
    _wait(board, lambda: _has_settled(day))
    board.say("nothing more should come")
    time.sleep(_SURPLUS_S)
    day.orders = broker.ask("orders", "list")
    day.studies = broker.ask("images", "list")
    day.deliveries = broker.ask("deliveries", "list", "--limit", "500")
    day.explanation = broker.ask("routes", "explain", day.exams[HEAD.key].study_instance_uid)


def _examine(scanner: Scanner, exam: Exam, case: Case) -> None:
    """Send the images of one exam and report it complete."""
    series = scanner.send(exam, _SERIES[case.key], body_part=case.body_part, now=datetime.now(UTC))
    if case is HEAD:
        scanner.send(exam, (SCREEN_SHOT,), body_part=None, now=datetime.now(UTC))
    scanner.finish(exam, series, datetime.now(UTC))


def _archive_has_failed(day: Day, broker: BrokerProcess) -> bool:
    day.archive_retries = broker.ask("deliveries", "list", "--destination", "archive", "--limit", "500")
    return any(int(row.get("failures") or 0) > 0 for row in day.archive_retries)


def _has_settled(day: Day) -> bool:
    archived = {image.sop_instance_uid for image in day.archive.received}
    wanted = {
        image.sop_instance_uid for case in EXAMINED for image in day.images(case) if image.modality != "OT"
    }
    chest = [image for image in day.images(CHEST) if not image.localizer]
    heard = all("CM" in day.ris.heard_of(case.placer_order_number) for case in EXAMINED)
    return wanted <= archived and len(day.cad.received) >= len(chest) and bool(day.printer.films) and heard


def _wait(board: Board, done: Callable[[], bool], *, every_s: float = 0.2) -> None:
    """Wait until it is so, or for so long: the verdict will tell."""
    until = time.monotonic() + _SETTLE_S
    while not done() and time.monotonic() < until:
        board.look()
        time.sleep(every_s)


def _stay(board: Board) -> None:
    """Keep everything up until Ctrl-C."""
    board.say(f"{board.now} · Ctrl-C ends the demo")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(1.0)
