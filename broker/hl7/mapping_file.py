"""Mapping files: what of a message becomes what of an order, as YAML a site engineer edits.

The package ships `mappings/default.yaml`. A `default.yaml` of the site is laid over it, key by key; any other
file of the site names the senders it is for and is laid over both. Everything is checked when it is loaded,
and every mistake is told as `file:line:column: key: problem`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path as FilePath
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from broker.errors import ConfigurationError

Key = tuple[str | int, ...]


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


@dataclass(frozen=True, slots=True)
class MappingProblem:
    """One mistake, where it stands; line and column count from 1."""

    file: str
    line: int
    column: int
    key: str
    text: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.key}: {self.text}" if self.key else f"{place}: {self.text}"


class MappingFileError(ConfigurationError):
    """The HL7 mapping files have mistakes."""

    def __init__(self, problems: Sequence[MappingProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Layer:
    """One file as read: its plain content, and where each key stands."""

    name: str
    tree: CommentedMap
    content: Mapping[str, object]

    def problem(self, key: Key, text: str) -> MappingProblem:
        """Place a mistake at its key, or at the nearest key around it."""
        line, column = 1, 1
        node: object = self.tree
        for part in key:
            if isinstance(node, CommentedMap) and part in node:
                row, offset = node.lc.key(part)
            elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
                row, offset = node.lc.item(part)
            else:
                break
            line, column, node = row + 1, offset + 1, node[part]
        return MappingProblem(self.name, line, column, ".".join(str(part) for part in key), text)


Check = Callable[[MappingFile], list[tuple[Key, str]]]
"""Finds mistakes a schema cannot see: paths, converters, keywords, actions."""


def load_mapping_files(directory: FilePath | None, check: Check) -> tuple[MappingFile, list[MappingFile]]:
    """Read the shipped mapping, lay the site's files over it; answer the common one and those of senders.

    Raises MappingFileError with every mistake of every file.
    """
    shipped = files("broker.hl7").joinpath("mappings/default.yaml")
    layers = [_parse("broker/hl7/mappings/default.yaml", shipped.read_text(encoding="utf-8"))]
    sender_layers: list[Layer] = []
    problems: list[MappingProblem] = []
    for path in sorted(directory.glob("*.yaml")) if directory is not None and directory.is_dir() else []:
        try:
            layer = _parse(str(path), path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            problems.append(MappingProblem(str(path), 0, 0, "", f"cannot be read: {type(error).__name__}"))
            continue
        except MappingFileError as error:
            problems += error.problems
            continue
        if path.stem == "default":
            layers.append(layer)
        elif layer.content.get("senders"):
            sender_layers.append(layer)
        else:
            problems.append(layer.problem(("senders",), "a file that is not default.yaml names its senders"))
    common = _compose(layers, check, problems)
    ours = [_compose([*layers, layer], check, problems) for layer in sender_layers]
    if problems or common is None:
        raise MappingFileError(problems)
    return common, [mapping for mapping in ours if mapping is not None]


def _parse(name: str, body: str) -> Layer:
    yaml = YAML(typ="rt")
    yaml.version = (1, 2)
    try:
        tree = yaml.load(body)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        text = str(error.problem or error.context or "is not YAML").splitlines()[0]
        raise MappingFileError([MappingProblem(name, line, column, "", text)]) from error
    except YAMLError as error:
        raise MappingFileError([MappingProblem(name, 0, 0, "", str(error).splitlines()[0])]) from error
    if tree is None:
        tree = CommentedMap()
    if not isinstance(tree, CommentedMap):
        raise MappingFileError([MappingProblem(name, 1, 1, "", "must be a mapping")])
    content = _plain(tree)
    assert isinstance(content, dict)
    return Layer(name, tree, content)


def _plain(node: object) -> object:
    if isinstance(node, Mapping):
        return {str(key): _plain(value) for key, value in node.items()}
    if isinstance(node, (list, CommentedSeq)):
        return [_plain(value) for value in node]
    if isinstance(node, bool) or node is None:
        return node
    for kind in (str, int, float):  # ruamel's scalars remember their style; the models want plain ones
        if isinstance(node, kind):
            return kind(node)
    return str(node)


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


def _compose(layers: list[Layer], check: Check, problems: list[MappingProblem]) -> MappingFile | None:
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
        problem = owner.problem(key, text)
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
