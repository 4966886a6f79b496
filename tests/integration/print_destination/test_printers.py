"""The `print` destination and what printers answer, leave open or break off, DCMTK's among them."""

from __future__ import annotations

import errno
import re
import shutil
import socket
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pynetdicom import evt

from broker.domain.delivery import Delivered, Misconfigured, MoreToSend, Rejected, RetryLater, Unknown
from broker.errors import LeaseLost
from tests.integration.print_destination.film_printer import pixels_of
from tests.parcels import Ledger, a_parcel, an_image, an_item
from tests.ports import free_port

# ---- what printers answer ------------------------------------------------------------------------------


def test_a_printer_in_failure_is_left_alone(printer, destination_to, items):
    peer = printer(status="FAILURE", info="SUPPLY EMPTY")
    ledger = Ledger()
    destination = destination_to(peer.port)
    outcome = destination.send(a_parcel(items(1)), ledger)
    assert isinstance(outcome, RetryLater)
    assert "SUPPLY EMPTY" in outcome.reason
    assert ledger.results == []
    assert peer.operations == ["get printer"]
    assert not destination.check().ok


def test_a_printer_that_warns_or_does_not_tell_prints(printer, destination_to, items):
    peer = printer(status="WARNING", info="SUPPLY LOW")
    assert isinstance(destination_to(peer.port).send(a_parcel(items(1)), Ledger()), Delivered)
    assert "SUPPLY LOW" in destination_to(peer.port).check().detail
    mute = printer()
    mute.says["get printer"] = 0x0112
    assert isinstance(destination_to(mute.port).send(a_parcel(items(1)), Ledger()), Delivered)


@pytest.mark.parametrize("operation", ["create session", "create film"])
@pytest.mark.parametrize("status", [0x0105, 0x0106])
def test_a_refused_attribute_is_left_out_and_asked_once_more(
    printer, destination_to, items, operation, status
):
    peer = printer()
    peer.says[operation] = [status]
    assert isinstance(destination_to(peer.port).send(a_parcel(items(1)), Ledger()), Delivered)
    assert peer.operations.count(operation) == 2
    if operation == "create film":
        assert "FilmSizeID" not in peer.film_attributes[0]
        assert peer.film_attributes[0].ImageDisplayFormat == "STANDARD\\1,1"


def test_a_printer_without_presentation_luts_prints(printer, destination_to, items):
    peer = printer(lut=False)
    assert isinstance(destination_to(peer.port).send(a_parcel(items(1)), Ledger()), Delivered)
    assert "create lut" not in peer.operations
    refusing = printer()
    refusing.says["create lut"] = 0x0106
    assert isinstance(destination_to(refusing.port).send(a_parcel(items(1)), Ledger()), Delivered)
    assert "ReferencedPresentationLUTSequence" not in refusing.film_attributes[0]


@pytest.mark.parametrize("status", [0xC603, 0xC605])
def test_an_image_too_large_for_the_printer_is_sent_smaller_once(printer, destination_to, items, status):
    peer = printer()
    peer.says["set image"] = [status]
    assert isinstance(destination_to(peer.port).send(a_parcel(items(1)), Ledger()), Delivered)
    stubborn = printer()
    stubborn.says["set image"] = status
    ledger = Ledger()
    outcome = destination_to(stubborn.port).send(a_parcel(items(1)), ledger)
    assert isinstance(outcome, Rejected if status == 0xC603 else RetryLater)
    assert stubborn.operations.count("set image") == 2
    assert stubborn.printed == []
    assert stubborn.operations[-1] == "delete session"
    small = pixels_of(peer.printed[0][1])
    assert small.shape[1] < (14 * 25.4 - 16) / 25.4 * 100 / 1.9


@pytest.mark.parametrize(
    ("operation", "status", "expected"),
    [
        ("print", 0xC602, RetryLater),
        ("print", 0xC603, Rejected),
        ("print", 0x0110, RetryLater),
        ("create film", 0xC616, Rejected),
        ("create session", 0x0110, RetryLater),
        ("create session", 0x0213, RetryLater),
        ("create film", 0x0122, Rejected),
        ("create film", 0x0124, Misconfigured),
        ("print", 0xB603, Unknown),
    ],
)
def test_failures_are_told_apart_and_nothing_is_settled(
    printer, destination_to, items, operation, status, expected
):
    peer = printer()
    peer.says[operation] = status
    ledger = Ledger()
    outcome = destination_to(peer.port).send(a_parcel(items(2)), ledger)
    assert isinstance(outcome, expected), outcome
    assert ledger.delivered == []
    if operation != "create session":
        assert "delete session" in peer.operations


@pytest.mark.parametrize("status", [0xB604, 0xB605, 0xB609, 0xB60A])
def test_warnings_of_the_printer_do_not_hold_a_film_unless_it_is_a_mammogram(
    printer, destination_to, items, status
):
    peer = printer()
    peer.says["set image"] = status
    assert isinstance(destination_to(peer.port).send(a_parcel(items(1)), Ledger()), Delivered)
    outcome = destination_to(peer.port).send(a_parcel(items(1, Modality="MG")), Ledger())
    assert isinstance(outcome, Rejected if status in {0xB609, 0xB60A} else Delivered)


# ---- what nobody knows ---------------------------------------------------------------------------------


def test_silence_after_the_print_command_is_unknown_and_nothing_is_settled(printer, destination_to, items):
    release = threading.Event()
    peer = printer()
    peer.on_action = lambda event: release.wait(60)
    ledger = Ledger()
    outcome = destination_to(peer.port, timeouts={"response_s": 3}).send(a_parcel(items(2)), ledger)
    release.set()
    assert isinstance(outcome, Unknown)
    assert "may have been printed" in outcome.reason
    assert ledger.results == []


def test_an_abort_after_the_print_command_is_unknown_and_earlier_films_stay_settled(
    printer, destination_to, items
):
    peer = printer()
    peer.on_action = lambda event: event.assoc.abort() if len(peer.printed) == 1 else None
    ledger = Ledger()
    outcome = destination_to(peer.port, layout={"columns": 1, "rows": 2}).send(a_parcel(items(6)), ledger)
    assert isinstance(outcome, Unknown)
    assert ledger.delivered == [1, 2]


def test_an_abort_before_the_print_command_is_tried_again(printer, destination_to, items):
    peer = printer()
    original = peer.on_set

    def abort(event):
        event.assoc.abort()
        return original(event)

    peer.server.bind(evt.EVT_N_SET, abort)
    ledger = Ledger()
    outcome = destination_to(peer.port).send(a_parcel(items(1)), ledger)
    assert isinstance(outcome, RetryLater)
    assert peer.printed == []
    assert ledger.results == []


def test_trouble_while_cleaning_up_does_not_undo_a_printed_film(printer, destination_to, items):
    peer = printer()
    peer.says["delete film"] = peer.says["delete session"] = 0x0112
    ledger = Ledger()
    assert isinstance(destination_to(peer.port).send(a_parcel(items(1)), ledger), Delivered)
    assert ledger.delivered == [1]


def test_a_lost_lease_prints_nothing_more(printer, destination_to, items):
    peer = printer()
    with pytest.raises(LeaseLost):
        destination_to(peer.port).send(a_parcel(items(1)), Ledger(lose_after=0))
    assert peer.printed == []


def test_a_closed_port_and_a_stranger_are_told_apart(destination_to, items, printer):
    destination = destination_to(free_port())
    assert isinstance(destination.send(a_parcel(items(1)), Ledger()), RetryLater)
    assert not destination.check().ok
    peer = printer()
    peer.server.ae.require_called_aet = True
    stranger = destination_to(peer.port, called_ae_title="OTHER")
    assert isinstance(stranger.send(a_parcel(items(1)), Ledger()), Misconfigured)


def test_more_films_than_allowed_are_refused_before_the_first(printer, destination_to, items):
    peer = printer()
    ledger = Ledger()
    destination = destination_to(peer.port, layout={"columns": 1, "rows": 1}, max_films=2)
    outcome = destination.send(a_parcel(items(3)), ledger)
    assert isinstance(outcome, Rejected)
    assert "max_films" in outcome.reason
    assert peer.operations == []


def test_a_long_job_leaves_the_rest_to_the_next_slice(printer, destination_to, items, monkeypatch):
    monkeypatch.setattr("broker.dicom.destinations.print.SLICE_S", 0.0)
    peer = printer()
    ledger = Ledger()
    parcel = items(3)
    destination = destination_to(peer.port, layout={"columns": 1, "rows": 1})
    assert isinstance(destination.send(a_parcel(parcel), ledger), MoreToSend)
    assert ledger.delivered == [1]
    assert len(peer.printed) == 1


def test_an_object_without_pixels_is_refused_alone(printer, destination_to, items):
    peer = printer()
    ledger = Ledger()
    parcel = items(1, PixelData=None, Rows=None) + items(1, first=2)
    assert isinstance(destination_to(peer.port).send(a_parcel(parcel), ledger), Rejected)
    assert (ledger.rejected, ledger.delivered) == ([1], [2])


@pytest.mark.parametrize("is_before_the_first_film", [True, False])
def test_a_picture_that_cannot_be_opened_just_now_waits_and_printed_films_stay_settled(
    printer, destination_to, items, unopenable, is_before_the_first_film
):
    peer, ledger, parcel = printer(), Ledger(), items(2)
    destination = destination_to(peer.port, layout={"columns": 1, "rows": 1})
    # It is opened once before the first film, and once for its own.
    with unopenable(parcel[1].path, errno.EMFILE, first=0 if is_before_the_first_film else 1):
        outcome = destination.send(a_parcel(parcel), ledger)
    assert isinstance(outcome, RetryLater)
    assert outcome.ours
    printed = [] if is_before_the_first_film else [1]
    assert (ledger.delivered, ledger.rejected, len(peer.printed)) == (printed, [], len(printed))
    assert isinstance(destination.send(a_parcel(parcel[len(printed) :]), ledger), Delivered)


def test_colour_is_printed_as_gray(printer, destination_to, tmp_path):
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[..., 1] = 255
    ds = an_image(
        pixels=pixels, bits=8, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0
    )
    peer = printer()
    assert isinstance(
        destination_to(peer.port).send(a_parcel([an_item(ds, tmp_path / "s")]), Ledger()), Delivered
    )
    film = pixels_of(peer.printed[0][1])
    assert film[film.shape[0] // 2, film.shape[1] // 2] == 150


# ---- DCMTK's printer -----------------------------------------------------------------------------------


@contextmanager
def dcmprscp(tmp_path):
    port = free_port()
    for name in ("spool", "database", "log"):
        (tmp_path / name).mkdir()
    settings = Path("/etc/dcmtk/dcmpstat.cfg").read_text()
    printers = Path("/etc/dcmtk/printers.cfg").read_text()
    full = re.search(r"(?ms)^\[IHEFULL\]$.*?^SupportsTrim = true$", printers)
    general = settings.split("[[COMMUNICATION]]")[0]
    for section, folder in (("PRINT", "spool"), ("DATABASE", "database")):
        general = re.sub(rf"(?ms)(^\[{section}\]$.*?^Directory = )\S+", rf"\g<1>{tmp_path / folder}", general)
    general = re.sub(r"(?m)^LogDirectory = .*$", f"LogDirectory = {tmp_path / 'log'}", general)
    configuration = tmp_path / "printer.cfg"
    configuration.write_text(
        general + "\n[[COMMUNICATION]]\n" + full[0].replace("Port = 10005", f"Port = {port}") + "\n"
    )
    process = subprocess.Popen(
        ["dcmprscp", "-c", configuration, "-p", "IHEFULL"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            assert process.poll() is None, "dcmprscp ended"
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield port, tmp_path / "database"
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.peer
@pytest.mark.skipif(shutil.which("dcmprscp") is None, reason="DCMTK's printer is not installed")
@pytest.mark.parametrize("bits", [8, 12])
def test_dcmtks_printer_prints_our_films(destination_to, items, tmp_path, bits):
    with dcmprscp(tmp_path) as (port, database):
        destination = destination_to(port, bits=bits, medium="BLUE FILM", film_destination="PROCESSOR")
        assert destination.check().ok
        ledger = Ledger()
        outcome = destination.send(a_parcel(items(5)), ledger)
        assert isinstance(outcome, Delivered), outcome
        assert sorted(ledger.delivered) == [1, 2, 3, 4, 5]
        spooled = [pydicom.dcmread(path, force=True) for path in database.glob("HG_*.dcm")]
    images = [ds for ds in spooled if "PixelData" in ds]
    assert len(images) == 5
    assert all(ds.BitsStored == bits for ds in images)
