"""The `print` destination against DCMTK's printer and a strict one by pynetdicom."""

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
from PIL import features
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE, evt
from pynetdicom import _config as pynetdicom_config

from broker.dicom.destinations.print import PrintDestination, PrintOptions
from broker.domain.delivery import Delivered, Misconfigured, MoreToSend, Rejected, RetryLater, Unknown
from broker.errors import LeaseLost
from tests.parcels import Ledger, a_context, a_parcel, an_image, an_item

pynetdicom_config.LOG_HANDLER_LEVEL = "none"

GRAYSCALE_META = "1.2.840.10008.5.1.1.9"
FILM_BOX = "1.2.840.10008.5.1.1.2"
FILM_SESSION = "1.2.840.10008.5.1.1.1"
IMAGE_BOX = "1.2.840.10008.5.1.1.4"
PRESENTATION_LUT = "1.2.840.10008.5.1.1.23"


class Printer:
    """A printer by pynetdicom that keeps what it is told; `says` overrides statuses by operation."""

    def __init__(self, *, status="NORMAL", info="NORMAL", lut=True, grids=None):
        self.status, self.info, self.grids = status, info, grids
        self.operations: list[str] = []
        self.films: list[dict[int, Dataset]] = []
        self.film_attributes: list[Dataset] = []
        self.session_attributes: list[Dataset] = []
        self.printed: list[dict[int, Dataset]] = []
        self.says: dict[str, list[int] | int] = {}
        self.on_action = None
        ae = AE("IHEFULL")
        ae.add_supported_context(GRAYSCALE_META, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
        if lut:
            ae.add_supported_context(PRESENTATION_LUT, [ImplicitVRLittleEndian])
        handlers = [
            (evt.EVT_N_GET, self.on_get),
            (evt.EVT_N_CREATE, self.on_create),
            (evt.EVT_N_SET, self.on_set),
            (evt.EVT_N_ACTION, self.on_n_action),
            (evt.EVT_N_DELETE, self.on_delete),
        ]
        self.server = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = self.server.server_address[1]

    def answer(self, operation):
        self.operations.append(operation)
        said = self.says.get(operation, 0)
        return said.pop(0) if isinstance(said, list) and said else said if isinstance(said, int) else 0

    def on_get(self, event):
        ds = Dataset()
        ds.PrinterStatus, ds.PrinterStatusInfo = self.status, self.info
        return self.answer("get printer"), ds

    def on_create(self, event):
        request = event.request
        attributes = event.attribute_list
        made = Dataset()
        made.update(attributes)
        if request.AffectedSOPClassUID == FILM_SESSION:
            self.session_attributes.append(attributes)
            return self.answer("create session"), made
        if request.AffectedSOPClassUID == PRESENTATION_LUT:
            return self.answer("create lut"), made
        status = self.answer("create film")
        if (status >= 0x8000 and status < 0xB000) or status >= 0xC000 or 0x0100 <= status < 0x0300:
            return status, None
        self.film_attributes.append(attributes)
        match = re.fullmatch(r"STANDARD\\(\d+),(\d+)", str(attributes.ImageDisplayFormat))
        assert match, attributes.ImageDisplayFormat
        made.ReferencedImageBoxSequence = Sequence()
        for _ in range(int(match[1]) * int(match[2])):
            box = Dataset()
            box.ReferencedSOPClassUID, box.ReferencedSOPInstanceUID = IMAGE_BOX, generate_uid()
            made.ReferencedImageBoxSequence.append(box)
        self.films.append({})
        return status, made

    def on_set(self, event):
        status = self.answer("set image")
        if status < 0xC000:
            image = event.modification_list
            self.films[-1][int(image.ImageBoxPosition)] = image
        return status, event.modification_list

    def on_n_action(self, event):
        status = self.answer("print")
        if self.on_action is not None:
            self.on_action(event)
        if status == 0 or 0xB000 <= status < 0xC000:
            self.printed.append(self.films[-1])
        return status, None

    def on_delete(self, event):
        what = "film" if event.request.RequestedSOPClassUID == FILM_BOX else "session"
        return self.answer(f"delete {what}")

    def close(self):
        threading.Thread(target=self.server.shutdown, daemon=True).start()


@pytest.fixture
def printer():
    running = []

    def start(**kwargs):
        running.append(Printer(**kwargs))
        return running[-1]

    yield start
    for one in running:
        one.close()


@pytest.fixture
def destination_to(tmp_path):
    def make(port, **options):
        values = {
            "host": "127.0.0.1",
            "port": port,
            "called_ae_title": "IHEFULL",
            "dots_per_inch": 100,
            **options,
        }
        return PrintDestination(PrintOptions.model_validate(values), a_context(tmp_path, "film"))

    return make


@pytest.fixture
def items(tmp_path):
    def make(count, first=1, **attributes):
        return [
            an_item(
                an_image(**{"rows": 64, "columns": 64, "InstanceNumber": number, **attributes}),
                tmp_path / "store",
                number,
            )
            for number in range(first, first + count)
        ]

    return make


def pixels_of(image_box):
    image = image_box.BasicGrayscaleImageSequence[0]
    kind = "<u2" if image.BitsAllocated == 16 else "u1"
    return np.frombuffer(image.PixelData, kind)[: image.Rows * image.Columns].reshape(
        image.Rows, image.Columns
    )


# ---- films ---------------------------------------------------------------------------------------------


def test_one_image_fills_one_film_in_the_standards_order(printer, destination_to, items):
    peer = printer()
    ledger = Ledger()
    outcome = destination_to(peer.port).send(a_parcel(items(1)), ledger)
    assert isinstance(outcome, Delivered), outcome
    assert ledger.delivered == [1]
    assert peer.operations == [
        "get printer",
        "create session",
        "create lut",
        "create film",
        "set image",
        "print",
        "delete film",
        "delete session",
    ]
    film = peer.film_attributes[0]
    assert film.ImageDisplayFormat == "STANDARD\\1,1"
    assert film.FilmSizeID == "14INX17IN"
    assert film.FilmOrientation == "PORTRAIT"
    assert film.ReferencedFilmSessionSequence[0].ReferencedSOPClassUID == FILM_SESSION
    image = peer.printed[0][1].BasicGrayscaleImageSequence[0]
    assert (image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation) == (8, 8, 7, 0)
    assert image.PhotometricInterpretation == "MONOCHROME2"
    assert peer.printed[0][1].Polarity == "NORMAL"


@pytest.mark.parametrize(
    ("count", "formats"),
    [(2, ["1,2"]), (4, ["2,2"]), (5, ["2,3"]), (20, ["4,5"]), (23, ["4,5", "2,2"])],
)
def test_the_layout_follows_the_number_of_images(printer, destination_to, items, count, formats):
    peer = printer()
    ledger = Ledger()
    outcome = destination_to(peer.port, dots_per_inch=150).send(a_parcel(items(count)), ledger)
    assert isinstance(outcome, Delivered), outcome
    assert [str(film.ImageDisplayFormat) for film in peer.film_attributes] == [
        f"STANDARD\\{one}" for one in formats
    ]
    assert sorted(ledger.delivered) == list(range(1, count + 1))
    assert sum(len(film) for film in peer.printed) == count
    assert peer.operations.count("create session") == 1


def test_images_stand_in_order_of_series_and_number(printer, destination_to, tmp_path):
    numbers = [(2, 1), (1, 10), (1, 2)]
    parcel = [
        an_item(
            an_image(
                pixels=np.full((32, 32), 100 * place, np.uint16), SeriesNumber=series, InstanceNumber=number
            ),
            tmp_path / "store",
            place,
        )
        for place, (series, number) in enumerate(numbers, start=1)
    ]
    peer = printer()
    ledger = Ledger()
    destination_to(peer.port).send(a_parcel(parcel), ledger)
    assert ledger.delivered == [3, 2, 1]


def test_no_film_holds_two_patients(printer, destination_to, items):
    peer = printer()
    ledger = Ledger()
    parcel = items(2) + items(2, first=3, PatientID="ZZ-2") + items(1, first=5, PatientName="ZZTEST^BERTA")
    assert isinstance(destination_to(peer.port).send(a_parcel(parcel), ledger), Delivered)
    assert len(peer.printed) == 3
    assert peer.operations.count("create session") == 3
    assert sorted(len(film) for film in peer.printed) == [1, 2, 2]


def test_twelve_bits_are_sent_in_words_when_the_printer_takes_them(printer, destination_to, items):
    peer = printer()
    destination_to(peer.port, bits=12).send(a_parcel(items(1)), Ledger())
    image = peer.printed[0][1].BasicGrayscaleImageSequence[0]
    assert (image.BitsAllocated, image.BitsStored, image.HighBit) == (16, 12, 11)
    pixels = pixels_of(peer.printed[0][1])
    assert pixels.max() == 4095
    assert len(np.unique(pixels)) > 300


def test_the_picture_fills_its_box_and_never_leaves_it(printer, destination_to, tmp_path):
    parcel = [
        an_item(
            an_image(pixels=np.full((40, 80), 4000, np.uint16), WindowCenter=100, WindowWidth=10),
            tmp_path / "s",
        )
    ]
    peer = printer()
    destination_to(peer.port).send(a_parcel(parcel), Ledger())
    pixels = pixels_of(peer.printed[0][1])
    height, width = pixels.shape
    assert abs(width - (14 * 25.4 - 16) / 25.4 * 100) < 2
    assert abs(height - (17 * 25.4 - 16) / 25.4 * 100) < 2
    row = pixels[height // 2]
    white = np.flatnonzero(row == 255)
    # The true shape of 2:1 spans the whole width but for the margin.
    assert len(white) == white[-1] - white[0] + 1
    assert 0 < width - len(white) <= 2 * 1.6 / 25.4 * 100
    assert abs((pixels[:, width // 2] == 255).sum() - len(white) / 2) < 3


def test_monochrome1_is_white_where_monochrome2_is_black(printer, destination_to, tmp_path):
    ramp = np.tile(np.arange(64, dtype=np.uint16) * 60, (64, 1))
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    parcel = [
        an_item(
            an_image(pixels=ramp, PhotometricInterpretation=kind, InstanceNumber=number, **window),
            tmp_path / "s",
            number,
        )
        for number, kind in ((1, "MONOCHROME2"), (2, "MONOCHROME1"))
    ]
    peer = printer()
    destination_to(peer.port).send(a_parcel(parcel), Ledger())
    plain, inverse = (pixels_of(peer.printed[0][position]).astype(int) for position in (1, 2))
    middle = plain.shape[0] // 2
    left, right = np.flatnonzero((plain[middle] > 0) | (inverse[middle] > 0))[[3, -3]]
    assert plain[middle, left] < 30
    assert plain[middle, right] > 200
    assert abs(int(inverse[middle, left]) - (255 - int(plain[middle, left]))) <= 2
    assert abs(int(inverse[middle, right]) - (255 - int(plain[middle, right]))) <= 2


# ---- whose picture it is -------------------------------------------------------------------------------


def test_a_film_differs_by_who_is_on_it(printer, destination_to, items):
    peer = printer()
    destination = destination_to(peer.port)
    for attributes in (
        {},
        {"PatientName": "ZZTEST^BERTA"},
        {"PatientID": "ZZ-9"},
        {"PatientBirthDate": "19710101"},
        {"StudyDate": "20260103"},
        {"Laterality": "L"},
    ):
        assert isinstance(destination.send(a_parcel(items(1, **attributes)), Ledger()), Delivered)
    seen = {pixels_of(film[1]).tobytes() for film in peer.printed}
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({"PatientID": ""}, "patient id"),
        ({"PatientID": None}, "patient id"),
        ({"PatientName": ""}, "patient name"),
        ({"PatientName": "^^"}, "patient name"),
        ({"PatientName": "山田^太郎", "SpecificCharacterSet": "ISO_IR 192"}, "cannot draw"),
        ({"PatientID": "患者", "SpecificCharacterSet": "ISO_IR 192"}, "cannot draw"),
        ({"PatientName": "ZZ\u202eTEST", "SpecificCharacterSet": "ISO_IR 192"}, "cannot draw"),
    ],
)
def test_a_picture_that_cannot_be_named_is_not_printed(printer, destination_to, items, attributes, word):
    peer = printer()
    ledger = Ledger()
    outcome = destination_to(peer.port).send(a_parcel(items(1, **attributes) + items(1, first=2)), ledger)
    assert isinstance(outcome, Rejected)
    assert word in outcome.reason
    assert "ZZ" not in outcome.reason
    assert ledger.rejected == [1]
    assert ledger.delivered == [2]
    assert sum(len(film) for film in peer.printed) == 1


# Without it, right-to-left names are refused rather than written backwards.
NEEDS_FRIBIDI = pytest.mark.skipif(not features.check("raqm"), reason="libfribidi0 is not installed")


@pytest.mark.parametrize(
    "name",
    [
        "Müller-Lüdenscheid^Jörg",
        "Łukasz^Żółć",
        "Ελένη^Παπαδοπούλου",
        "Иванов^Иван",
        pytest.param("محمد^علي", marks=NEEDS_FRIBIDI),
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
    ],
)
def test_names_of_many_scripts_are_drawn_or_written_in_latin(printer, destination_to, items, name):
    peer = printer()
    outcome = destination_to(peer.port).send(
        a_parcel(items(1, PatientName=name, SpecificCharacterSet="ISO_IR 192")), Ledger()
    )
    assert isinstance(outcome, Delivered), outcome


def test_a_layout_too_dense_for_the_text_is_refused(printer, destination_to, items):
    peer = printer()
    ledger = Ledger()
    destination = destination_to(
        peer.port, film_size="8INX10IN", layout={"columns": 10, "rows": 10}, dots_per_inch=60
    )
    outcome = destination.send(a_parcel(items(43, rows=16, columns=16)), ledger)
    assert isinstance(outcome, Rejected)
    assert "too small" in outcome.reason
    assert peer.printed == []


def test_a_font_that_does_not_exist_is_a_matter_of_settings(printer, destination_to, items):
    destination = destination_to(printer().port, font="no-such.ttf")
    assert isinstance(destination.send(a_parcel(items(1)), Ledger()), Misconfigured)
    assert not destination.check().ok


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
    peer.on_action = lambda event: release.wait(10)
    ledger = Ledger()
    outcome = destination_to(peer.port, timeouts={"response_s": 0.5}).send(a_parcel(items(2)), ledger)
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
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    destination = destination_to(port)
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
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
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
        deadline = time.monotonic() + 10
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
        process.wait(10)


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
