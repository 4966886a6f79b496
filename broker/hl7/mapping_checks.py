"""Checks of a mapping file that its schema cannot make: keywords, converters, paths, actions, devices."""

from __future__ import annotations

from collections.abc import Iterator

from pydicom.datadict import tag_for_keyword

from broker.domain.orders import OrderAction
from broker.domain.values import AETitle
from broker.errors import BrokerError, InvalidValue
from broker.hl7.charsets import charset_named
from broker.hl7.converters import CONVERTERS
from broker.hl7.mapping_file import FieldRule, MappingFile
from broker.hl7.rules import DATE_TIME, SECTIONS, SPECIAL, rules_of
from broker.hl7.tokenizer import Path
from broker.placed_yaml import Key

_STATION_KEYS = frozenset({"modality", "procedure_code", "sending_application", "sending_facility"})
_ACTIONS = frozenset(action.value for action in OrderAction)


def check_mapping(mapping: MappingFile) -> list[tuple[Key, str]]:
    """List every mistake with its key."""
    return [*_fields(mapping), *_actions(mapping), *_places(mapping), *_stations(mapping), *_sets(mapping)]


def _fields(mapping: MappingFile) -> Iterator[tuple[Key, str]]:
    for section in SECTIONS:
        for keyword, rule in rules_of(mapping, section).items():
            if rule is not None:
                for part, text in _field(keyword, rule):
                    yield (section, keyword, *part), text


def _field(keyword: str, rule: FieldRule) -> Iterator[tuple[Key, str]]:
    keywords = (f"{keyword}Date", f"{keyword}Time") if rule.as_ == DATE_TIME else (keyword,)
    if keyword not in SPECIAL and any(tag_for_keyword(each) is None for each in keywords):
        yield (), f"is not a DICOM keyword{' before Date and Time' if rule.as_ == DATE_TIME else ''}"
    if rule.as_ != DATE_TIME and rule.as_ not in CONVERTERS:
        yield ("as",), f"is not a converter; there are: {', '.join(sorted([*CONVERTERS, DATE_TIME]))}"
    if not rule.from_ and not rule.observation and rule.default is None:
        yield (), "needs `from`, `observation` or `default`"
    for text in rule.from_:
        if (complaint := _path(text)) is not None:
            yield ("from",), complaint


def _path(text: str) -> str | None:
    try:
        Path.parse(text)
    except InvalidValue as error:
        return f"{text}: {error}"
    return None


def _actions(mapping: MappingFile) -> Iterator[tuple[Key, str]]:
    for control, row in mapping.order_actions.items():
        for status, actions in row.items():
            for action in actions:
                if action not in _ACTIONS:
                    yield (
                        ("order_actions", control, status),
                        f"{action} is not one of: {', '.join(sorted(_ACTIONS))}",
                    )


def _places(mapping: MappingFile) -> Iterator[tuple[Key, str]]:
    for key, texts in (("from", mapping.identifiers.from_), ("otherwise", mapping.identifiers.otherwise)):
        for text in texts:
            if (complaint := _path(text)) is not None:
                yield ("identifiers", key), complaint
    for text in mapping.laterality:
        if (complaint := _path(text)) is not None:
            yield ("laterality",), complaint


def _stations(mapping: MappingFile) -> Iterator[tuple[Key, str]]:
    for number, rule in enumerate(mapping.stations):
        for key in rule.when:
            if key not in _STATION_KEYS and (complaint := _path(key)) is not None:
                yield ("stations", number, "when", key), complaint
        for title in rule.ae_titles:
            try:
                AETitle(title)
            except BrokerError as error:
                yield ("stations", number, "ae_titles"), str(error)


def _sets(mapping: MappingFile) -> Iterator[tuple[Key, str]]:
    for key, name in (
        ("character_set", mapping.reception.character_set),
        ("default_character_set", mapping.reception.default_character_set),
    ):
        if name is not None and charset_named(name) is None:
            yield ("reception", key), f"{name} is not a character set of HL7 table 0211"
