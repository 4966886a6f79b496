"""Domain values as JSON columns hold them, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from broker.domain.orders import Attributes, AttributeValue, Code, PatientIdentifier


def storable(text: str, limit: int | None = None) -> str:
    """Answer a text of a peer as every database stores it: no NUL, no half characters, cut at `limit`.

    For what is kept as evidence, and may not be refused because it is strange.
    """
    if "\x00" in text:
        text = text.replace("\x00", "\ufffd")
    if not text.isascii():
        text = text.encode("utf-8", "replace").decode("utf-8")
    return text if limit is None else text[:limit]


def storable_or_none(text: str | None, limit: int | None = None) -> str | None:
    """Answer a text as `storable` does, and nothing for nothing."""
    return None if text is None else storable(text, limit)


def column_text(text: str | None, limit: int) -> str | None:
    """Answer a text for a column that is searched by: never cut, for a shortened number is another one's."""
    return None if text is None or len(text) > limit or storable(text) != text else text


def storable_json(value: Any) -> Any:
    """Answer a JSON value with every text in it `storable`."""
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {storable(str(key)): storable_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [storable(item) if type(item) is str else storable_json(item) for item in value]
    return value


def storable_values(values: Mapping[str, tuple[str, ...]]) -> dict[str, Any]:
    """Answer names and their texts as `storable_json` does; nearly always nothing has to change in them."""
    parts = list(values)
    for texts in values.values():
        parts += texts
    whole = "".join(parts)
    if "\x00" not in whole and whole.isascii():
        return dict(values)
    return {storable(name): storable_json(texts) for name, texts in values.items()}


def encode_attributes(attributes: Attributes) -> dict[str, Any]:
    """Write attributes: text as text, several values as a list, code items as a list of objects."""
    return {keyword: _encode_value(value) for keyword, value in attributes.items()}


def decode_attributes(stored: Mapping[str, Any]) -> dict[str, AttributeValue]:
    """Read what `encode_attributes` wrote."""
    return {keyword: _decode_value(value) for keyword, value in stored.items()}


def _encode_value(value: AttributeValue) -> Any:
    if isinstance(value, str):
        return value
    return [_encode_code(item) if isinstance(item, Code) else item for item in value]


def _encode_code(code: Code) -> dict[str, str]:
    item = {"value": code.value, "scheme": code.scheme, "meaning": code.meaning}
    if code.version is not None:
        item["version"] = code.version
    return item


def _decode_value(stored: Any) -> AttributeValue:
    if isinstance(stored, str):
        return stored
    if stored and isinstance(stored[0], dict):
        return tuple(Code(**item) for item in stored)
    return tuple(stored)


def encode_identifiers(identifiers: Iterable[PatientIdentifier]) -> list[dict[str, str]]:
    """Write patient identifiers without the parts that are not known."""
    fields = ("value", "issuer", "universal_id", "universal_id_type", "type_code")
    return [
        {name: part for name in fields if (part := getattr(identifier, name)) is not None}
        for identifier in identifiers
    ]


def decode_identifiers(stored: Iterable[Mapping[str, str]]) -> tuple[PatientIdentifier, ...]:
    """Read what `encode_identifiers` wrote."""
    return tuple(PatientIdentifier(**item) for item in stored)


def encode_values(values: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Write facts or series: name -> list of text values."""
    return {name: list(items) for name, items in values.items()}


def decode_values(stored: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """Read what `encode_values` wrote."""
    return {name: tuple(items) for name, items in stored.items()}
