"""Mapping files: what of a message becomes what of an order, as YAML a site engineer edits.

The package ships `mappings/default.yaml`. A `default.yaml` of the site is laid over it, key by key; any other
file of the site names the senders it is for and is laid over both. Everything is checked when it is loaded,
and every mistake is told as `file:line:column: key: problem`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path as FilePath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from broker.placed_yaml import FileProblems, Key, PlacedYaml, Problem


def _listed(value: object) -> object:
    """Let a single value stand for a list of one."""
    return [value] if isinstance(value, (str, int)) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_listed)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, populate_by_name=True)


class Sender(_Model):
    """Whose messages a file is for; `*` and `?` are wildcards."""

    application: str = "*"
    facility: str = "*"


class FieldRule(_Model):
    """Where one attribute comes from: the first place that holds a value wins."""

    from_: Texts = Field(default=(), alias="from")
    as_: str = Field(default="text", alias="as")
    observation: Texts = ()
    """Observation identifiers (OBX-3.1 or OBX-3.2): the attribute is read from that OBX."""
    default: str | None = None
    required: bool = False


Rules = dict[str, FieldRule | None]
"""DICOM keyword -> rule; null takes a rule of the file below away."""


class IdentifierRules(_Model):
    """Which patient identifiers are read, and which of them names the patient."""

    from_: Texts = Field(default=("PID-3",), alias="from")
    otherwise: Texts = ("PID-2", "PID-4")
    """Read only when the places above hold none."""
    authorities: Texts = ()
    """Assigning authorities whose identifier is the primary one, best first; empty: by type."""
    types: Texts = ("MR", "PI", "PT")
    """Identifier types (table 0203) that are primary, best first."""
    default_issuer: str | None = None


class StationRule(_Model):
    """Where a step is done; the first rule that fits gives the stations."""

    when: dict[str, Texts] = Field(default_factory=dict)
    """`modality`, `procedure_code`, `sending_application`, `sending_facility` or a field path -> wildcards."""
    ae_titles: Texts = ()
    names: Texts = ()
    location: str | None = None


class Reception(_Model):
    """Which messages are taken at all, and how."""

    processing_ids: Texts = ("P",)
    lenient_version: bool = False
    character_set: str | None = None
    """Overrides MSH-18."""
    default_character_set: str | None = None
    """When MSH-18 is empty; else the listener's."""
    require_control_id: bool = True
    conflict: Literal["park", "AE"] = "park"
    """A message that is understood and contradicts what is known: keep it for a person and answer AA, or AE."""
    refused: Literal["AE", "park"] = "AE"
    """A message that is not understood: refuse it, or keep it for a person and answer AA."""
    complete_steps: Texts = ("OMI",)
    """Message types that list every step of an order: steps they lack are cancelled."""


class MappingFile(_Model):
    """The whole file."""

    senders: tuple[Sender, ...] = ()
    reception: Reception = Reception()
    events: dict[str, dict[str, Literal["order", "patient", "merge", "ignore", "response"]]] = {}
    order_actions: dict[str, dict[str, Texts]] = {}
    identifiers: IdentifierRules = IdentifierRules()
    patient: Rules = {}
    order: Rules = {}
    procedure: Rules = {}
    step: Rules = {}
    laterality: Texts = ()
    modalities: dict[str, str] = {}
    sexes: dict[str, str] = {}
    priorities: dict[str, str] = {}
    lateralities: dict[str, str] = {}
    stations: tuple[StationRule, ...] = ()


class MappingFileError(FileProblems):
    """The HL7 mapping files have mistakes."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One file: where each key stands, and what it says."""

    placed: PlacedYaml
    content: Mapping[str, object]

    @classmethod
    def read(cls, name: str, body: str) -> Self:
        """Read a text. Raises MappingFileError when it is no mapping in YAML."""
        placed = PlacedYaml.read(name, body, refused=MappingFileError)
        return cls(placed, placed.content())


Check = Callable[[MappingFile], list[tuple[Key, str]]]
"""Finds mistakes a schema cannot see: paths, converters, keywords, actions."""


def load_mapping_files(directory: FilePath | None, check: Check) -> tuple[MappingFile, list[MappingFile]]:
    """Read the shipped mapping, lay the site's files over it; answer the common one and those of senders.

    Raises MappingFileError with every mistake of every file.
    """
    shipped = files("broker.hl7").joinpath("mappings/default.yaml")
    layers = [Layer.read("broker/hl7/mappings/default.yaml", shipped.read_text(encoding="utf-8"))]
    sender_layers: list[Layer] = []
    problems: list[Problem] = []
    for path in sorted(directory.glob("*.yaml")) if directory is not None and directory.is_dir() else []:
        try:
            layer = Layer.read(str(path), path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            problems.append(Problem(str(path), 0, 0, "", f"cannot be read: {type(error).__name__}"))
            continue
        except MappingFileError as error:
            problems += error.problems
            continue
        if path.stem == "default":
            layers.append(layer)
        elif layer.content.get("senders"):
            sender_layers.append(layer)
        else:
            problems.append(
                layer.placed.problem(("senders",), "a file that is not default.yaml names its senders")
            )
    common = _compose(layers, check, problems)
    ours = [_compose([*layers, layer], check, problems) for layer in sender_layers]
    if problems or common is None:
        raise MappingFileError(problems)
    return common, [mapping for mapping in ours if mapping is not None]


# Sections laid over each other key by key; anything else is replaced whole.
_DEPTH = {
    "reception": 1,
    "events": 2,
    "order_actions": 2,
    "identifiers": 1,
    "patient": 1,
    "order": 1,
    "procedure": 1,
    "step": 1,
    "modalities": 1,
    "sexes": 1,
    "priorities": 1,
    "lateralities": 1,
}


def _overlay(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _merge(below.get(key), value, _DEPTH.get(key, 0))
    return merged


def _merge(below: object, above: object, depth: int) -> object:
    if depth == 0 or not isinstance(below, dict) or not isinstance(above, dict):
        return above
    return {**below, **{key: _merge(below.get(key), value, depth - 1) for key, value in above.items()}}


def _compose(layers: list[Layer], check: Check, problems: list[Problem]) -> MappingFile | None:
    """Lay files over each other; a mistake is placed in the topmost file that has its key."""
    content: dict[str, object] = {}
    for layer in layers:
        content = _overlay(content, layer.content)
    try:
        mapping = MappingFile.model_validate(content)
        found = check(mapping)
    except ValidationError as error:
        mapping = None
        found = [
            (
                tuple(part for part in detail["loc"] if part != "[key]"),
                "is not a known key" if detail["type"] == "extra_forbidden" else detail["msg"],
            )
            for detail in error.errors(include_url=False, include_context=False, include_input=False)
        ]
    for key, text in found:
        owner = next((layer for layer in reversed(layers) if _has(layer.content, key)), layers[-1])
        problem = owner.placed.problem(key, text)
        if problem not in problems:
            problems.append(problem)
    return mapping


def _has(content: object, key: Key) -> bool:
    """Tell whether a file says something at a key, looking at its first two parts."""
    for part in key[:2]:
        if not isinstance(content, dict) or part not in content:
            return False
        content = content[part]
    return True
