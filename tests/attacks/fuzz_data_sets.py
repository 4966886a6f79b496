"""Data sets under generated input: the header scanner, worklist identifiers and what is asked of them, and rules."""

from __future__ import annotations

import json
import random
import warnings
import zlib
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from broker.db.worklist_plan import plan_query
from broker.db.worklist_query import SqlWorklistReader
from broker.dicom.objects.answers import AnswerStyle, WorklistEncoder, answer_writer
from broker.dicom.objects.elements import MalformedDataSet, Syntax
from broker.dicom.objects.header import DEFLATED_TRANSFER_SYNTAXES, HeaderScanner, ScanPlan, known_keyword
from broker.dicom.objects.identifier import IdentifierRefused, read_identifier
from broker.domain.devices import DeviceProfile
from broker.domain.rule_syntax import RouteSyntaxError
from broker.domain.rules import compile_routes, decide
from broker.workflow.worklist import Visibility, Worklist
from tests.attacks.fuzz_engine import Target
from tests.bundled_files import bundled, data_set_of
from tests.data_sets import pydicom_reads, pydicom_writes
from tests.worklist_database import StillClock, sqlite_engine, store
from tests.worklist_entries import an_entry

SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
_PLAN = ScanPlan.of()
_TOKENS = (
    b"\xff\xff\xff\xff",
    b"\xfe\xff\x00\xe0\xff\xff\xff\xff",
    b"\xfe\xff\x0d\xe0\0\0\0\0",
    b"\xfe\xff\xdd\xe0\0\0\0\0",
    b"\xff\xfe\xe0\0\xff\xff\xff\xff",
    b"\x40\0\0\1SQ\0\0\xff\xff\xff\xff",
    b"\x40\0\0\1\xff\xff\xff\xff",
    b"\x10\0\x10\0PN",
    b"\x10\0\x10\0",
    *(vr.encode() for vr in ("OB", "SQ", "UN", "PN", "UT", "DA", "UI", "AT", "FD", "ZZ")),
    *(text.encode() for text in ("*", "?", "\\", "^", "=", "*\\*", "20261121-", "-", "ISO 2022 IR 87", "ISO_IR 192", "GB18030", "\x1b$B", "e\u0301")),
)  # fmt: skip


# --- the header scanner ------------------------------------------------------------------------------------


def _header_seeds() -> list[bytes]:
    """Answer the data sets of pydicom's files as far as a scanner looks, each behind a byte that names its syntax."""
    found: list[bytes] = []
    for path in bundled():
        syntax, data = data_set_of(path.read_bytes())
        place = SYNTAXES.index(syntax) if syntax in SYNTAXES else 1
        limit = len(data) if syntax in DEFLATED_TRANSFER_SYNTAXES else 3000
        if len(data) < 50_000 or limit < len(data):
            found.append(bytes([place]) + data[:limit])
    return found


def _header(data: bytes) -> None:
    """Hold the scanner to: no error, the cut does not matter, and a database can keep what it found."""
    if not data:
        return
    syntax, body = SYNTAXES[data[0] % len(SYNTAXES)], data[1:]
    whole = HeaderScanner(_PLAN, syntax)
    whole.feed(body)
    header = whole.finish()
    cut, draw, at = HeaderScanner(_PLAN, syntax), random.Random(zlib.crc32(data)), 0
    while at < len(body):
        step = draw.choice((1, 8, 100, 4096, 131_072))
        cut.feed(memoryview(body)[at : at + step])
        assert len(cut._rest) < 64 * 1024, "more is held than a value may have"
        at += step
    # What a damaged deflate stream yields before its damage shows depends on how much is inflated at once.
    assert cut.finish() == header or syntax in DEFLATED_TRANSFER_SYNTAXES, "the cut matters"
    for values in header.values.values():
        assert len(values) <= 512
        for value in values:
            assert "\x00" not in value
            value.encode()


# --- the header scanner beside pydicom ---------------------------------------------------------------------

_KEYWORDS = ("PatientName", "PatientID", "StudyInstanceUID", "SOPInstanceUID", "Modality", "AccessionNumber", "StudyDate", "Rows", "ImageType",
             "SliceThickness", "StationName", "SeriesNumber", "Manufacturer", "PatientAge")  # fmt: skip
_VALUES = {"UI": ("1.2.3", "1.2.840.10008.5.1.4.1.1.2"), "DA": ("20261121", ""), "US": (0, 512, 65535), "IS": ("7", ""), "DS": ("2.5", ""), "AS": ("042Y",),
           "CS": ("CT", "MR", ""), "PN": ("DOE^JANE", "Müller^Jörg", "")}  # fmt: skip
_BETWEEN = (
    "ReferencedSeriesSequence",
    "RequestAttributesSequence",
    "ProcedureCodeSequence",
    "OtherPatientIDsSequence",
)


def _drawn(draw: random.Random, depth: int = 0) -> Dataset:
    data_set = Dataset()
    if depth == 0:
        data_set.SpecificCharacterSet = draw.choice(("ISO_IR 100", "ISO_IR 192"))
    for keyword in draw.sample(_KEYWORDS, draw.randint(1, len(_KEYWORDS))):
        vr = known_keyword(keyword) or "LO"
        value = draw.choice(_VALUES.get(vr, ("A1", "", "x" * draw.choice((1, 63, 64)))))
        setattr(data_set, keyword, ["ORIGINAL", "PRIMARY"] if keyword == "ImageType" else value)
    if draw.random() < 0.4:
        data_set.add_new(0x00090010, "LO", "VENDOR")
        data_set.add_new(0x00091001, draw.choice(("OB", "UN")), draw.randbytes(2 * draw.randrange(2000)))
    if depth < 4:
        for keyword in draw.sample(_BETWEEN, draw.randrange(3)):
            items = [_drawn(draw, depth + 1) for _ in range(draw.randrange(3))]
            for item in items:
                item.is_undefined_length_sequence_item = draw.random() < 0.5
            setattr(data_set, keyword, items)
            data_set[keyword].is_undefined_length = draw.random() < 0.5
    return data_set


def _beside_pydicom(data: bytes) -> None:
    """Read a drawn data set, however it is written, as pydicom does; the bytes only choose which."""
    draw = random.Random(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data_set, syntax = _drawn(draw), draw.choice(list(Syntax))
        encoded = pydicom_writes(data_set, syntax)
        read = pydicom_reads(encoded, syntax)
        deflates = syntax is Syntax.EXPLICIT_LITTLE and draw.random() < 0.3
        if deflates:
            packer = zlib.compressobj(wbits=-15)
            encoded = packer.compress(encoded) + packer.flush()
        scanner = HeaderScanner(_PLAN, SYNTAXES[3] if deflates else syntax.value)
        scanner.feed(encoded)
        header = scanner.finish()
        if not deflates or scanner._inflated < 60_000:
            assert header.problem is None, header.problem
            for keyword in _KEYWORDS:
                theirs = _as_text(read[keyword].value) if keyword in read else None
                assert header.values.get(keyword) == theirs, keyword


def _as_text(value: object) -> tuple[str, ...]:
    if value is None or value == "":
        return ()
    items = list(value) if isinstance(value, (MultiValue, list)) else [value]
    numbers = (pydicom.valuerep.DSfloat, pydicom.valuerep.IS)
    return tuple(str(item.original_string if isinstance(item, numbers) else item) for item in items)


# --- worklist identifiers ----------------------------------------------------------------------------------


def _identifiers() -> list[bytes]:
    """Answer queries as devices ask them, each behind a byte for syntax and strictness."""
    queries: list[Dataset] = []
    for values in (
        {"PatientName": "", "PatientID": "", "AccessionNumber": "", "StudyInstanceUID": ""},
        {"PatientName": "HAY*^J?", "SpecificCharacterSet": "ISO_IR 192", "RequestedProcedureID": "RP1"},
        {"PatientID": "PID1", "PatientBirthDate": "17000101-18000101", "PatientSex": "M"},
        {"StudyInstanceUID": ["1.2.826.0.1.1", "1.2.3"], "AccessionNumber": "A1\\A2*"},
    ):
        for step in (
            None,
            {"Modality": "CT", "ScheduledStationAETitle": "CT1", "ScheduledProcedureStepStartDate": "20261121-20261122"},
            {"ScheduledProcedureStepStartDate": "20261121", "ScheduledProcedureStepStartTime": "0800-1800",
             "ScheduledProcedureStepStatus": "SCHEDULED", "ScheduledPerformingPhysicianName": "*"},
        ):  # fmt: skip
            query = Dataset()
            for keyword, value in values.items():
                setattr(query, keyword, value)
            if step is not None:
                item = Dataset()
                for keyword, value in step.items():
                    setattr(item, keyword, value)
                code = Dataset()
                code.CodeValue, code.CodingSchemeDesignator = "CTCH", ""
                item.ScheduledProtocolCodeSequence = [code]
                query.ScheduledProcedureStepSequence = [item]
            queries.append(query)
    syntaxes = list(Syntax)
    return [
        bytes([number % 6]) + pydicom_writes(query, syntaxes[number % 3])
        for number, query in enumerate(queries)
    ]


class _Asking:
    """Asks a small worklist everything that can be understood."""

    def __init__(self, folder: Path) -> None:
        self._opened = sqlite_engine(folder)
        engine = self._opened.__enter__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            store(engine, *(an_entry(number, name=name) for number, name in enumerate(_PEOPLE, start=1)))
        self._clock = StillClock()
        self._worklist = Worklist(SqlWorklistReader(engine), self._clock)
        self._pack = WorklistEncoder().encode(an_entry(1))

    def run(self, data: bytes) -> None:
        """Understand, plan for both databases, write an answer, and ask one in eight."""
        if not data:
            return
        syntax = list(Syntax)[data[0] % 3]
        device = DeviceProfile(is_strict=data[0] % 6 > 2)
        try:
            identifier = read_identifier(data[1:], syntax, device=device, calling_ae_title="CT1")
        except (IdentifierRefused, MalformedDataSet):
            return
        for is_postgresql in (False, True):
            plan_query(identifier.query, Visibility(), is_postgresql=is_postgresql)
        sets = (identifier.character_set or ("ISO_IR 100",), ("ISO_IR 100",))
        writer = answer_writer(identifier.keys, AnswerStyle(syntax=syntax, character_sets=sets))
        answer = writer.write(self._pack)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if zlib.crc32(data) % 8 == 0:
                pydicom_reads(answer, syntax)
                list(self._worklist.find(identifier.query, device))


_PEOPLE = ("HAYDN^JOSEPH", "MOZART^NANNERL", "BEETHOVEN^LUDWIG")


# --- rules -------------------------------------------------------------------------------------------------

_ROUTES = (
    [{"name": "all", "send": ["archive"]}],
    [{"name": "ct", "send": ["ai", "archive"], "when": {"Modality": "CT", "BodyPartExamined": ["CHEST", "THORAX"],
      "not": {"ImageType": "*LOCALIZER*"}}, "unit": "series", "stop": True}],
    [{"name": "r", "send": ["a"], "when": {"any": [{"SliceThickness": {"max": 1.5}}, {"StudyDate": {"min": "20260101"}},
      {"PatientAge": {"min": "018Y"}}, {"StationName": {"exists": False}}], "calling_ae_title": "CT?"}}],
)  # fmt: skip
_FACTS = {"Modality": ("CT",), "ImageType": ("ORIGINAL", "LOCALIZER"), "SliceThickness": ("1E999", "x"), "StudyDate": ("20261121",),
          "PatientAge": ("042Y",), "BodyPartExamined": ("A" * 300,), "calling_ae_title": ("CT1",)}  # fmt: skip
_RULE_TOKENS = tuple(
    json.dumps(word).encode()
    for word in ("*", "?*" * 120, "not", "any", "all", "min", "max", "exists", "order.status", "A.B", "", "\u0000", 1e308, -1, None, True, [], {})
)  # fmt: skip


def _rules(data: bytes) -> None:
    """Hold the compiler to its one error and decisions to none."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError):
        return
    try:
        routes = compile_routes(raw, known_keyword=known_keyword)
    except RouteSyntaxError:
        return
    for verdict in decide(routes, _FACTS).verdicts():
        assert verdict.route.name


def targets(folder: Path) -> dict[str, Target]:
    """Answer the targets of this file by name."""
    return {
        target.name: target
        for target in (
            Target("header", _header_seeds(), _header, _TOKENS),
            Target("pydicom", [bytes(8)], _beside_pydicom),
            Target("identifier", _identifiers(), _Asking(folder).run, _TOKENS),
            Target("rules", [json.dumps(routes).encode() for routes in _ROUTES], _rules, _RULE_TOKENS),
        )
    }
