import unicodedata
from datetime import date, time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.domain.character_sets import by_dicom_term, canonical_dicom_terms, transliterate
from broker.domain.values import (
    UID,
    AccessionNumber,
    AETitle,
    DateRange,
    PersonName,
    TimeRange,
    _without_marks,
    date_text,
    fold_name,
    parse_date,
    time_text,
)
from broker.errors import InvalidValue

END = time(23, 59, 59, 999_999)


@pytest.mark.parametrize("text", ["CT1", "  CT1 ", "A" * 16, "A B", "CT1\x00"])
def test_an_ae_title_is_trimmed_and_kept(text):
    assert str(AETitle(text)) == text.strip(" \x00")


@pytest.mark.parametrize("text", ["", "   ", "A" * 17, "A\\B", "A\nB", "CTÜ", "\x1b[31m"])
def test_what_cannot_be_an_ae_title_is_not_constructed(text):
    with pytest.raises(InvalidValue):
        AETitle(text)


@pytest.mark.parametrize("text", ["1.2.3", "0", "2.25.0", "1." + "2" * 62, "1.2.840.10008.1.1\x00"])
def test_a_uid_is_dotted_decimal(text):
    assert UID(text).value == text.rstrip("\x00")


@pytest.mark.parametrize(
    "text", ["", "1..2", "1.02", ".1", "1.", "../../etc", "1.2\n3", "1." + "2" * 63, "1.2a", "1.2/3", "１.２"]
)
def test_what_cannot_be_a_uid_is_not_constructed(text):
    with pytest.raises(InvalidValue):
        UID(text)
    assert not UID.is_valid(text)


@pytest.mark.parametrize("text", ["", "A" * 17, "A\\B", "A\x07"])
def test_an_accession_number_is_refused_rather_than_cut(text):
    with pytest.raises(InvalidValue):
        AccessionNumber(text)


def test_a_person_name_drops_empty_tails():
    assert str(PersonName.parse("Doe^John^^^=山田^太郎=")) == "Doe^John=山田^太郎"


@pytest.mark.parametrize("text", ["", "^^^", "=", "A=B=C=D", "A^B^C^D^E^F", "A\\B", "A\x1bB", "A" * 65])
def test_what_cannot_be_a_name_is_not_constructed(text):
    with pytest.raises(InvalidValue):
        PersonName.parse(text)


def test_names_agree_without_case_and_accents_in_any_script():
    assert PersonName.parse("Müller^Eva").is_same_as(PersonName.parse("MULLER^EVA^Maria"))
    assert PersonName.parse("YAMADA^TARO=山田^太郎").is_same_as(PersonName.parse("=山田^太郎"))
    assert not PersonName.parse("MULLER^EVA").is_same_as(PersonName.parse("MULLER^ERNA"))


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_folding_drops_every_mark_and_nothing_else(text):
    whole = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    assert _without_marks(text) == whole


@pytest.mark.timeout(30)
def test_folding_a_name_of_marks_costs_what_its_length_costs():
    assert fold_name("E" + "\u0301\u0323" * 500_000) == "E"


@given(st.text(max_size=40))
def test_folding_a_name_twice_is_folding_it_once(text):
    assert fold_name(fold_name(text)) == fold_name(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20261121", date(2026, 11, 21)),
        ("2026.11.21", date(2026, 11, 21)),
        ("2026-11-21", date(2026, 11, 21)),
        ("2026/11/21", date(2026, 11, 21)),
        (" 20261121 ", date(2026, 11, 21)),
        ("20261121101500.5+0100", date(2026, 11, 21)),
        ("20260231", None),
        ("2026", None),
        ("", None),
        ("yesterday", None),
    ],
)
def test_dates_are_read_leniently(text, expected):
    assert parse_date(text) == expected


D20, D21, D22 = date(2026, 11, 20), date(2026, 11, 21), date(2026, 11, 22)


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("20261121", D21, D21),
        ("2026-11-21", D21, D21),
        ("20261120-20261122", D20, D22),
        ("20261120 - 20261122", D20, D22),
        ("20261121-", D21, None),
        ("-20261121", None, D21),
        ("2026-11-20-2026-11-22", D20, D22),
        ("2026-11-20 - 2026-11-22", D20, D22),
        ("2026.11.20-2026.11.22", D20, D22),
        ("20261120080000-20261122180000", D20, D22),
        ("00000000-99999999", None, None),
        ("00000000-20261121", None, D21),
        ("20261121-99999999", D21, None),
    ],
)
def test_date_ranges_are_read_leniently(text, first, last):
    dates = DateRange.parse(text)
    assert dates is not None
    assert (dates.first, dates.last) == (first, last)


@pytest.mark.parametrize(
    "text", ["x", "20261301", "20260231-20260301", "1-2", "20261121-x", "20261121\\20261122"]
)
def test_what_is_no_date_range_is_nothing(text):
    assert DateRange.parse(text) is None


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("0930", time(9, 30), time(9, 30, 59, 999_999)),
        ("09", time(9), time(9, 59, 59, 999_999)),
        ("093015", time(9, 30, 15), time(9, 30, 15, 999_999)),
        ("093015.25", time(9, 30, 15, 250_000), time(9, 30, 15, 259_999)),
        ("09:30", time(9, 30), time(9, 30, 59, 999_999)),
        ("1000-1800", time(10), time(18, 0, 59, 999_999)),
        ("10:00 - 18:00:00", time(10), time(18, 0, 0, 999_999)),
        ("1000-", time(10), None),
        ("-1800", None, time(18, 0, 59, 999_999)),
        ("000000-240000", time(0), END),
        ("235960", time(23, 59, 59), time(23, 59, 59, 999_999)),
    ],
)
def test_times_cover_what_their_precision_says(text, first, last):
    times = TimeRange.parse(text)
    assert times is not None
    assert (times.first, times.last) == (first, last)


@pytest.mark.parametrize("text", ["25", "0960", "noon", "1", "10-x", "235961"])
def test_what_is_no_time_is_nothing(text):
    assert TimeRange.parse(text) is None


@given(st.dates(min_value=date(1, 1, 1)), st.times())
def test_dates_and_times_are_read_as_they_are_written(day, moment):
    assert parse_date(date_text(day)) == day
    times = TimeRange.parse(time_text(moment))
    assert times is not None
    assert times.contains(moment)


@given(st.text(alphabet="0123456789-.:/ \\*?T+", max_size=40))
def test_no_text_makes_the_readers_fail(text):
    DateRange.parse(text)
    TimeRange.parse(text)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["ISO_IR 100"], ("ISO_IR 100",)),
        (["iso_ir100"], ("ISO_IR 100",)),
        (["ISO-IR 100 "], ("ISO_IR 100",)),
        (["ISO 2022 IR 100"], ("ISO_IR 100",)),
        (["", "ISO 2022 IR 87"], ("", "ISO 2022 IR 87")),
        (["ISO_IR 192", "ISO 2022 IR 87"], None),
        (["LATIN"], None),
    ],
)
def test_character_set_terms_are_recognised_in_their_variants(values, expected):
    assert canonical_dicom_terms(values) == expected


def test_every_term_of_the_standard_has_a_codec_that_python_knows():
    for term in ("ISO_IR 6", "ISO_IR 100", "ISO_IR 13", "ISO_IR 166", "ISO_IR 192", "GB18030", "GBK",
                 "ISO 2022 IR 87", "ISO 2022 IR 149", "ISO 2022 IR 58", "ISO_IR 144"):  # fmt: skip
        found = by_dicom_term(term)
        assert found is not None
        "a".encode(found.codec)


@pytest.mark.parametrize(
    ("text", "codec", "expected"),
    [
        ("Müller", "ascii", "Mueller"),
        ("Müller", "iso8859_1", "Müller"),
        ("Łukasz Żółć", "iso8859_1", "Lukasz Zólc"),
        ("Иванов^Юрий", "iso8859_1", "Ivanov^Iurii"),
        ("Παπαδόπουλος", "ascii", "Papadopoylos"),
        ("山田", "iso8859_1", ""),
        ("O’Neil—ß", "ascii", "O'Neil-ss"),
    ],
)
def test_transliteration_never_answers_a_question_mark(text, codec, expected):
    assert transliterate(text, codec) == expected


@given(st.text(max_size=30), st.sampled_from(["ascii", "iso8859_1", "iso8859_5"]))
def test_what_was_transliterated_can_be_encoded(text, codec):
    written = transliterate(text, codec)
    written.encode(codec)
    if "?" not in unicodedata.normalize("NFKD", text):
        assert "?" not in written
