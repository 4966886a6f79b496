"""A film says whose it is, legibly and completely, or there is no film."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from PIL import features

from broker.dicom.destinations.film import FilmSize, Grid, Orientation, Sheet
from broker.dicom.objects.annotation import Caption, Lettering, Unannotatable, caption_of, with_caption
from tests.parcels import an_image

LETTERING = Lettering()


def needs_shaping(text):
    """Skip where FriBidi is missing: without it, right-to-left names are refused rather than written backwards."""
    if any(unicodedata.bidirectional(letter) in {"R", "AL"} for letter in text) and not features.check(
        "raqm"
    ):
        pytest.skip("libfribidi0 is not installed")


@pytest.mark.parametrize(
    "text", ["Müller", "Łódź", "Ελένη", "Иванов", "שלום", "محمد", "Nguyễn", "O'Brien-Smith 3"]
)
def test_the_built_in_font_draws_the_scripts_of_europe_and_the_near_east(text):
    needs_shaping(text)
    assert LETTERING.can_draw(text)


@pytest.mark.parametrize(
    "text", ["山田", "홍길동", "ऋषि", "lost \ufffd text", "turned \u202e round", "\x1b[31m", "\ue000"]
)
def test_what_would_be_boxes_or_tricks_is_known_not_to_be_drawable(text):
    assert not LETTERING.can_draw(text)


def caption(**attributes):
    ds = an_image(SpecificCharacterSet="ISO_IR 192", **attributes)
    return caption_of(ds, LETTERING, frame=0, frames=1)


def test_a_caption_names_patient_id_birth_study_and_side():
    said = caption(Laterality="L").identity
    assert said == ("ZZTEST, ANNA", "ID ZZ-1", "born 1970-01-01", "study 2026-01-02", "laterality L")


def test_the_image_laterality_is_believed_before_the_series():
    ds = an_image(Laterality="L")
    ds.ImageLaterality = "R"
    assert caption_of(ds, LETTERING, frame=0, frames=1).identity[-1] == "laterality R"


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Doe^John^Q^Dr^Jr", "Doe, John Q, Dr Jr"),
        ("Doe", "Doe"),
        ("^John", "John"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada, Tarou"),
        ("Ivanov^Ivan=Иванов^Иван", "Иванов, Иван (Ivanov, Ivan)"),
    ],
)
def test_names_are_written_for_people(name, written):
    assert caption(PatientName=name).identity[0] == written


def test_an_unknown_birth_date_is_said_to_be_unknown():
    assert "born unknown" in caption(PatientBirthDate="").identity


def test_details_that_cannot_be_drawn_are_left_out_and_the_rest_stays():
    said = caption(InstitutionName="病院")
    assert "病院" not in " ".join(said.details)
    assert "image 1" in said.details


@pytest.mark.parametrize(("width", "height"), [(300, 300), (600, 250), (250, 600)])
def test_the_text_stands_beside_the_picture_never_over_it(width, height):
    mark = 12345
    seen = {}

    def picture(room_width, room_height):
        seen["room"] = (room_width, room_height)
        return np.full((room_height, room_width), mark, np.uint16)

    box = with_caption(picture, caption(), LETTERING, width=width, height=height, dots_per_mm=4)
    assert box.shape == (height, width)
    assert int((box == mark).sum()) == seen["room"][0] * seen["room"][1]
    assert box.max() > 60000


def test_a_long_identity_is_continued_not_cut():
    words = tuple(f"word{number}" for number in range(12))
    narrow, _ = LETTERING.written(Caption((" ".join(words),), ()), width=200, height=2000, dots_per_mm=4)
    wide, _ = LETTERING.written(Caption((" ".join(words),), ()), width=4000, height=2000, dots_per_mm=4)
    assert narrow.shape[0] >= 3 * wide.shape[0]
    assert abs(int((narrow > 30000).sum()) - int((wide > 30000).sum())) < 0.1 * int((wide > 30000).sum())


def test_a_box_too_small_for_the_identity_is_refused():
    with pytest.raises(Unannotatable, match="too small"):
        LETTERING.written(caption(), width=60, height=60, dots_per_mm=4)


# ---- films ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "millimetres"),
    [
        (FilmSize.IN_14X17, (355.6, 431.8)),
        (FilmSize.IN_8_5X11, (215.9, 279.4)),
        (FilmSize.CM_24X30, (240, 300)),
        (FilmSize.A4, (210, 297)),
    ],
)
def test_film_sizes_are_read_from_the_standards_words(size, millimetres):
    assert size.millimetres == pytest.approx(millimetres)


@pytest.mark.parametrize("orientation", list(Orientation))
@pytest.mark.parametrize("most", [Grid(1, 1), Grid(4, 5), Grid(3, 2), Grid(10, 10)])
def test_a_grid_holds_its_pictures_within_the_densest_layout(orientation, most):
    sheet = Sheet(FilmSize.IN_14X17, orientation, 100)
    for pictures in range(1, 130):
        grid = sheet.grid_for(pictures, most)
        assert grid.boxes >= min(pictures, most.boxes)
        assert grid.columns <= most.columns
        assert grid.rows <= most.rows


def test_a_lying_sheet_has_lying_boxes():
    standing, lying = (Sheet(FilmSize.IN_14X17, way, 100).box(Grid(1, 1)) for way in Orientation)
    assert standing == lying[::-1]
    assert Sheet(FilmSize.IN_14X17, Orientation.LANDSCAPE, 100).grid_for(2, Grid(4, 5)) == Grid(2, 1)
