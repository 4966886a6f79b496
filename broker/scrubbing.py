"""The site file as others may see it: without comments, secrets, contacts, and values rules compare patients with."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache

from ruamel.yaml import YAML

from broker.db.support import WITHHELD
from broker.placed_yaml import FileProblems, Key, PlacedYaml, dotted

_SECRET = re.compile(
    r"password|passwd|passphrase|secret|token|credential|(^|_)key$|api_?key|authorization|contact",
    re.IGNORECASE,
)
_ADDRESS_SECRET = re.compile(r"://[^/@\s]*@")
_OF_PATIENTS = re.compile(
    r"Patient|AccessionNumber|Physician|Operator|InstanceUID|StudyID|order\.(patient|accession|placer|filler)"
)
_WIDEST = 4096


@lru_cache(maxsize=16)
def scrubbed(body: str) -> str:
    """Answer a site file as others may see it. Raises FileProblems when it is no YAML."""
    out = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False  # a line for each value: a difference is one line
    yaml.width = _WIDEST
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(_scrub(_content(body)), out)
    return out.getvalue()


def hidden_differences(before: str, after: str) -> list[str]:
    """Name the keys whose values differ and are withheld. Raises FileProblems for what is no YAML."""
    old, new = (dict(_withheld(_content(body), ())) for body in (before, after))
    return [dotted(key) for key in sorted({*old, *new}, key=dotted) if old.get(key) != new.get(key)]


@lru_cache(maxsize=16)  # versions do not change, and reading one takes a while
def _content(body: str) -> object:
    return PlacedYaml.read("site file", body, refused=FileProblems).content()


def _is_withheld(key: str) -> bool:
    return bool(_SECRET.search(key) or _OF_PATIENTS.search(key))


def _scrub(value: object, *, withhold: bool = False) -> object:
    if isinstance(value, Mapping):
        return {
            str(key): _scrub(item, withhold=withhold or _is_withheld(str(key))) for key, item in value.items()
        }
    if isinstance(value, list):
        return [_scrub(item, withhold=withhold) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if withhold:
        return WITHHELD
    return _ADDRESS_SECRET.sub("://[withheld]@", value) if isinstance(value, str) else value


def _withheld(value: object, key: Key, *, withhold: bool = False) -> Iterator[tuple[Key, object]]:
    """Walk to the values that are shown as withheld, in whole or in part."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _withheld(item, (*key, name), withhold=withhold or _is_withheld(name))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _withheld(item, (*key, number), withhold=withhold)
    elif value is None or isinstance(value, bool):
        return
    elif withhold or (isinstance(value, str) and _ADDRESS_SECRET.search(value)):
        yield key, value
