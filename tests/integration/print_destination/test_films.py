"""The `print` destination makes films: how pictures stand on them, and whose they are."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import features

from broker.domain.delivery import Delivered, Misconfigured, Rejected
from tests.integration.print_destination.film_printer import FILM_SESSION, pixels_of
from tests.parcels import Ledger, a_parcel, an_image, an_item

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
