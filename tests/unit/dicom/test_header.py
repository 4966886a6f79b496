"""The header scanner, with pydicom as the oracle and hostile bytes as the crowd."""

from __future__ import annotations

import io
import random
import struct
import time
import warnings
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.filewriter import write_dataset
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence

from broker.dicom.objects.header import (
    MAX_DEPTH,
    MAX_ELEMENTS,
    Header,
    HeaderScanner,
    ScanPlan,
    known_keyword,
)
from broker.domain.rules import compile_routes
from tests.bundled_files import bundled, data_set_of

IMPLICIT, EXPLICIT, BIG, DEFLATED = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
PLAN = ScanPlan.of()


def scan(data: bytes, syntax: str, *, plan: ScanPlan = PLAN, piece: int = 1 << 17) -> Header:
    scanner = HeaderScanner(plan, syntax)
    for start in range(0, len(data), piece):
        scanner.feed(memoryview(data)[start : start + piece])
    return scanner.finish()


def encoded(dataset: Dataset, syntax: str = EXPLICIT) -> bytes:
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_implicit_VR = syntax == IMPLICIT
    buffer.is_little_endian = syntax != BIG
    write_dataset(buffer, dataset)
    data = buffer.getvalue()
    if syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-15)
        data = packer.compress(data) + packer.flush()
    return data


def a_dataset() -> Dataset:
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
    ds.SOPInstanceUID = "1.2.3.4"
    ds.AccessionNumber = ""
    ds.Modality = "CT"
    ds.PatientName = "Müller^Jörg"
    ds.PatientID = "P1"
    ds.StudyInstanceUID = "1.2.3"
    ds.SeriesInstanceUID = "1.2.3.1"
    ds.Rows = 512
    ds.SliceThickness = "2.50"
    item = Dataset()
    item.ScheduledProcedureStepID = "SPS1"
    item.RequestedProcedureID = "RP1"
    other = Dataset()
    other.ScheduledProcedureStepID = "SPS2"
    ds.RequestAttributesSequence = Sequence([item, other])
    ds.PixelData = b"\0" * 1000
    ds["PixelData"].VR = "OW"
    return ds


EXPECTED = {
    "SpecificCharacterSet": ("ISO_IR 192",),
    "ImageType": ("ORIGINAL", "PRIMARY", "AXIAL"),
    "SOPClassUID": ("1.2.840.10008.5.1.4.1.1.2",),
    "SOPInstanceUID": ("1.2.3.4",),
    "AccessionNumber": (),
    "Modality": ("CT",),
    "PatientName": ("Müller^Jörg",),
    "PatientID": ("P1",),
    "StudyInstanceUID": ("1.2.3",),
    "SeriesInstanceUID": ("1.2.3.1",),
    "Rows": ("512",),
    "SliceThickness": ("2.50",),
    "RequestAttributesSequence.ScheduledProcedureStepID": ("SPS1", "SPS2"),
    "RequestAttributesSequence.RequestedProcedureID": ("RP1",),
}


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG, DEFLATED])
@pytest.mark.parametrize("piece", [1, 7, 100, 1 << 17])
@pytest.mark.parametrize("undefined", [False, True])
def test_every_transfer_syntax_and_every_cut_of_it_reads_the_same(
    syntax: str, piece: int, undefined: bool
) -> None:
    dataset = a_dataset()
    dataset["RequestAttributesSequence"].is_undefined_length = undefined
    for item in dataset.RequestAttributesSequence:
        item.is_undefined_length_sequence_item = undefined
    header = scan(encoded(dataset, syntax), syntax, piece=piece)
    assert header.problem is None
    assert dict(header.values) == EXPECTED


def _values(dataset: Dataset, key: str) -> tuple[str, ...] | None:
    head, _, rest = key.partition(".")
    if rest:
        if head not in dataset or not isinstance(dataset[head].value, Sequence):
            return None
        found = [v for item in dataset[head].value if (v := _values(item, rest)) is not None]
        return tuple(text for values in found for text in values) if found else None
    if head not in dataset:
        return None
    value = dataset[head].value
    if value is None or value == "":
        return ()
    items = list(value) if isinstance(value, (MultiValue, list)) else [value]
    numbers = (pydicom.valuerep.DSfloat, pydicom.valuerep.IS)
    texts = tuple(
        str(item.original_string if isinstance(item, numbers) else item).strip(" \x00") for item in items
    )
    return texts if any(texts) else ()


@pytest.mark.parametrize("path", bundled(), ids=lambda path: path.name)
def test_the_scanner_agrees_with_pydicom_on_its_own_files(path: Path) -> None:
    raw = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(io.BytesIO(raw), force=True, stop_before_pixels=True)
            dataset.decode()
            oracle = {key: _values(dataset, key) for key in sorted(set(_plan_keys()))}
        except Exception:  # whatever it is, the scanner must survive what pydicom does not read
            dataset, oracle = None, {}
    syntax, data = data_set_of(raw)
    header = scan(data, syntax)
    if dataset is None or header.problem:
        return  # broken files: surviving them is the promise
    for key, wanted in oracle.items():
        if wanted is None:
            assert key not in header.values, key
        else:
            found, expected = header.values.get(key), wanted
            assert found is not None, key
            if key in ("PatientName", "ReferringPhysicianName"):
                found = tuple(name.rstrip("^=") for name in found)
                expected = tuple(name.rstrip("^=") for name in wanted)
            assert found == expected, key


def _plan_keys() -> list[str]:
    leaves = [wanted.key for wanted in PLAN.wanted.values() if not wanted.items]
    return leaves + [leaf.key for wanted in PLAN.wanted.values() for leaf in (wanted.items or {}).values()]


def test_most_bundled_files_are_really_compared() -> None:
    compared = 0
    for path in bundled():
        syntax, data = data_set_of(path.read_bytes())
        compared += scan(data, syntax).problem is None
    assert compared >= 0.8 * len(bundled())


def test_a_keyword_or_path_of_a_rule_is_read_too() -> None:
    dataset = a_dataset()
    dataset.KVP = "120"
    code = Dataset()
    code.CodeValue = "CTCHEST"
    dataset.ProcedureCodeSequence = Sequence([code])
    routes = compile_routes(
        [{"name": "r", "send": ["a"], "when": {"KVP": 120, "ProcedureCodeSequence.CodeValue": "CT*"}}],
        known_keyword=known_keyword,
    )
    header = scan(encoded(dataset), EXPLICIT, plan=ScanPlan.of(routes.image_keys))
    assert header.values["KVP"] == ("120",)
    assert header.values["ProcedureCodeSequence.CodeValue"] == ("CTCHEST",)


def test_large_elements_in_between_are_stepped_over_not_held() -> None:
    dataset = a_dataset()
    dataset.add_new(0x00290010, "LO", "VENDOR")
    dataset.add_new(0x00291010, "OB", b"x" * 3_000_000)
    scanner = HeaderScanner(PLAN, EXPLICIT)
    data = encoded(dataset)
    for start in range(0, len(data), 1 << 17):
        scanner.feed(memoryview(data)[start : start + (1 << 17)])
        assert len(scanner._rest) < 16_384
    assert scanner.finish().values["RequestAttributesSequence.RequestedProcedureID"] == ("RP1",)


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT])
def test_senders_that_contradict_their_transfer_syntax_are_read_as_they_write(syntax: str) -> None:
    other = EXPLICIT if syntax == IMPLICIT else IMPLICIT
    assert dict(scan(encoded(a_dataset(), syntax), other).values) == EXPECTED


def test_a_deflate_bomb_costs_only_its_first_64_kib() -> None:
    packer = zlib.compressobj(wbits=-15)
    start = encoded(a_dataset())[:-1012]
    bomb = packer.compress(start + b"\x29\x00\x10\x10OB\0\0\xf0\xff\xff\x0f" + b"\0" * 50_000_000)
    bomb += packer.flush()
    began = time.thread_time()
    header = scan(bomb, DEFLATED)
    assert time.thread_time() - began < 0.2
    assert header.values["SOPInstanceUID"] == ("1.2.3.4",)


def test_nesting_deeper_than_the_limit_is_a_problem_not_a_recursion() -> None:
    data = encoded(Dataset()) + b"".join(
        struct.pack("<HH2sHL", 8, 0x1115, b"SQ", 0, 0xFFFFFFFF)
        + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
        for _ in range(5000)
    )
    header = scan(data, EXPLICIT)
    assert header.problem == f"is nested deeper than {MAX_DEPTH} levels"


def test_depth_of_32_is_read() -> None:
    inner = Dataset()
    for _ in range(MAX_DEPTH):
        outer = Dataset()
        outer.ReferencedSeriesSequence = Sequence([inner])
        outer["ReferencedSeriesSequence"].is_undefined_length = True
        inner.is_undefined_length_sequence_item = True
        inner = outer
    inner.Modality = "CT"
    inner.SOPInstanceUID = "1.2.3.4"
    inner.StudyInstanceUID = "1.2.3"
    header = scan(encoded(inner), EXPLICIT)
    assert header.problem is None
    assert header.values["StudyInstanceUID"] == ("1.2.3",)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", None),
        (b"\x08\x00", "middle"),
        (encoded(a_dataset())[:100], "middle"),
        (b"\0" * 128 + b"DICM" + b"\0" * 100, "0000 or 0002"),
        (b"\x02\x00\x10\x00UI\x02\x001\0", "0000 or 0002"),
        (struct.pack("<HHL", 0xFFFE, 0xE000, 4) + b"xxxx", "outside a sequence"),
        (b"\x08\x00\x05\x00CS\x04\x00abcd\x08\x00\x16\x00\x01\x02\x04\x00abcd", "without a value repr"),
        (b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\x08\x00\x60\x00CS\x02\x00CT", "where an item belongs"),
        (
            b"\x40\x00\x75\x02SQ\0\0\x0c\0\0\0\xfe\xff\x00\xe0\x20\0\0\0" + b"x" * 40,
            "longer than its sequence",
        ),
        (
            b"\x40\x00\x75\x02SQ\0\0\x14\0\0\0\xfe\xff\x00\xe0\x0c\0\0\0\x40\x00\x09\x00SH\x44\x44"
            + b"x" * 40,
            "longer than what holds it",
        ),
        (b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x0d\xe0\0\0\0\0", "wrong place"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", None),
    ],
)
def test_a_broken_data_set_is_a_header_with_a_problem(data: bytes, words: str | None) -> None:
    header = scan(data, EXPLICIT)
    assert (header.problem is None) is (words is None)
    assert (words or "") in (header.problem or "")


def test_not_deflated_is_said_of_what_is_not() -> None:
    assert "not deflated" in (scan(b"\xff" * 100, DEFLATED).problem or "")


def test_endless_small_elements_are_counted_and_given_up() -> None:
    element = b"\x09\x00\x10\x10CS\x00\x00"
    scanner = HeaderScanner(PLAN, EXPLICIT)
    scanner.feed(element * 1_000_000)
    assert scanner.done
    assert scanner._base <= len(element) * (MAX_ELEMENTS + 1)


def test_a_long_value_is_cut_and_many_values_are_bounded() -> None:
    dataset = a_dataset()
    dataset.add_new(0x0008103E, "LO", b"x" * 60_000)
    dataset.ImageType = ["A"] * 2000
    header = scan(encoded(dataset), EXPLICIT)
    assert header.problem is None
    assert len(header.values["SeriesDescription"][0]) == 4096
    assert len(header.values["ImageType"]) == 256
    assert header.values["Rows"] == ("512",)


def test_values_hold_nothing_a_database_cannot_store() -> None:
    dataset = a_dataset()
    data = encoded(dataset).replace(b"P1", b"\0\x41").replace("Müller".encode(), b"M\xff\xfe\xed\xa0\x80")
    header = scan(data, EXPLICIT)
    for values in header.values.values():
        for value in values:
            assert "\0" not in value
            value.encode("utf-8")


@given(st.binary(max_size=400), st.sampled_from([IMPLICIT, EXPLICIT, BIG, DEFLATED]))
@settings(max_examples=400, deadline=None)
def test_no_bytes_make_it_raise(data: bytes, syntax: str) -> None:
    assert isinstance(scan(data, syntax, piece=61), Header)


def test_no_mutation_of_a_real_header_makes_it_raise_or_dawdle() -> None:
    random.seed(7)
    for syntax in (IMPLICIT, EXPLICIT, BIG):
        original = encoded(a_dataset(), syntax)
        for _ in range(700):
            data = bytearray(original)
            for _ in range(random.randint(1, 6)):
                data[random.randrange(len(data))] = random.choice((0, 1, 0x7F, 0xFF, random.randrange(256)))
            whole = scan(bytes(data), syntax)
            assert whole == scan(bytes(data), syntax, piece=33), "the cut must not matter"


@pytest.mark.parametrize(
    ("keyword", "vr"),
    [("Modality", "CS"), ("SmallestImagePixelValue", "US"), ("modality", None), ("", None), ("Nope", None)],
)
def test_keywords_are_those_of_the_dictionary(keyword: str, vr: str | None) -> None:
    assert known_keyword(keyword) == vr
