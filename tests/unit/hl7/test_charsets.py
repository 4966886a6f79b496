"""MSH-18 against the bytes: every set of table 0211, and what happens when the label is wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.hl7.charsets import ASCII, LATIN_1, UTF_8, CharsetNotTransportableError, charset_named, decode

MULLER = "Müller^Jürgen"


@pytest.mark.parametrize(
    ("term", "text"),
    [
        ("8859/1", "Müller"),
        ("8859/2", "Wałęsa"),
        ("8859/3", "Ħaż"),
        ("8859/4", "Kārlis"),
        ("8859/5", "Толстой"),
        ("8859/6", "محمد"),
        ("8859/7", "Παπαδόπουλος"),
        ("8859/8", "כהן"),
        ("8859/9", "Şahin"),
        ("8859/15", "Müller €"),
        ("ISO IR14", "ﾔﾏﾀﾞ"),
        ("KS X 1001", "홍길동"),
        ("GB 18030-2000", "王小东"),
        ("BIG-5", "許功蓋"),
        ("UNICODE UTF-8", "Müller 山田"),
        ("WINDOWS-1251", "Толстой"),
    ],
)
def test_a_declared_set_is_used(term, text):
    charset = charset_named(term)
    decoded = decode(text.encode(charset.codec), term)
    assert (decoded.text, decoded.suspect) == (text, False)


@pytest.mark.parametrize("spelling", ["UTF-8", "utf8", "UNICODE", "unicode utf-8", "UNICODE_UTF-8"])
def test_names_are_recognised_however_they_are_spelled(spelling):
    assert charset_named(spelling) == UTF_8


@pytest.mark.parametrize(
    ("spelling", "codec"),
    [("ISO8859-2", "iso8859_2"), ("8859/15", "iso8859_15"), ("cp1252", "cp1252"), ("ISO IR6", "ascii")],
)
def test_colloquial_names_are_recognised(spelling, codec):
    assert charset_named(spelling).codec == codec


@pytest.mark.parametrize("declared", ["", "8859/1", "ASCII"])
def test_unlabelled_utf_8_is_read_as_utf_8_and_marked(declared):
    decoded = decode(MULLER.encode(), declared)
    assert (decoded.text, decoded.charset, decoded.suspect) == (MULLER, UTF_8, True)


@pytest.mark.parametrize("declared", ["", "8859/1"])
def test_latin_1_bytes_are_read_as_latin_1(declared):
    decoded = decode(MULLER.encode("latin-1"), declared)
    assert (decoded.text, decoded.suspect) == (MULLER, False)


def test_windows_quotes_labelled_latin_1_are_read_as_windows_text():
    decoded = decode("O\u2019Neill".encode("cp1252"), "8859/1")
    assert (decoded.text, decoded.suspect) == ("O\u2019Neill", True)


def test_bytes_the_declared_set_cannot_have_never_lose_the_message():
    decoded = decode(b"abc \x81\x8d\xff", "UNICODE UTF-8")
    assert decoded.suspect
    assert decoded.text.startswith("abc ")


def test_an_unknown_name_falls_back_to_the_default_and_is_marked():
    decoded = decode("Wałęsa".encode("iso8859_2"), "KLINGON", default=charset_named("8859/2"))
    assert (decoded.text, decoded.suspect) == ("Wałęsa", True)


def test_a_byte_order_mark_says_utf_8():
    assert decode(b"\xef\xbb\xbf" + MULLER.encode(), "").text == MULLER


def test_an_override_beats_the_label():
    thai = charset_named("TIS-620")
    decoded = decode("สมชาย".encode("tis_620"), "CNS 11643-1992", override=thai)
    assert (decoded.text, decoded.suspect) == ("สมชาย", False)


def test_japanese_text_with_code_extensions_is_decoded_before_it_is_split():
    # The trail bytes of JIS X 0208 include | ^ ~ and &.
    wire = "PID|山田^太郎|x".encode("iso2022_jp")
    assert decode(wire, "ASCII~ISO IR87").text == "PID|山田^太郎|x"
    assert decode(wire, "ISO IR87").text == "PID|山田^太郎|x"
    assert decode(wire, "~ISO IR87").text == "PID|山田^太郎|x"


def test_japanese_switches_written_as_escapes_are_followed():
    wire = b"PID|\\M2442\\" + "山田".encode("iso2022_jp")[3:-3] + b"\\C2842\\|x"
    assert decode(wire, "~ISO IR87").text == "PID|山田|x"


def test_korean_with_its_designation_is_decoded():
    assert decode(b"\x1b$)C" + "홍길동".encode("euc_kr"), "ASCII~KS X 1001").text == "홍길동"


@pytest.mark.parametrize("term", ["UNICODE UTF-16", "UTF-16LE", "UNICODE UTF-32"])
def test_sets_that_mllp_cannot_carry_are_refused(term):
    with pytest.raises(CharsetNotTransportableError) as caught:
        decode(b"MSH|", term)
    assert caught.value.hl7_condition == "207"
    assert caught.value.field == "MSH-18"


def test_plain_ascii_is_never_suspect():
    assert decode(b"MSH|^~\\&|", "8859/5").charset.term == "8859/5"
    assert decode(b"MSH|", "").charset == LATIN_1
    assert decode(b"MSH|", "ASCII").charset == ASCII


@given(st.binary(max_size=300), st.text(max_size=20))
def test_decoding_is_total(raw, declared):
    try:
        decoded = decode(raw, declared)
    except CharsetNotTransportableError:
        return
    assert isinstance(decoded.text, str)
