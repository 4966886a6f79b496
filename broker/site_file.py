"""Reads the site file: YAML with positions -> `Site`, or every problem at once, each where it stands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from broker.domain.rules import KnownKeyword, Routes, RouteSyntaxError, compile_routes
from broker.errors import ConfigurationError
from broker.settings import RESERVED_VARIABLES, OptionsOf, Site

Path_ = tuple[str | int, ...]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong, where it stands. Line and column count from 1; 0 = the whole file or the environment."""

    file: str
    line: int
    column: int
    key: str
    text: str

    def __str__(self) -> str:
        """Say it as compilers do."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.key}: {self.text}" if self.key else f"{place}: {self.text}"


class SiteFileError(ConfigurationError):
    """The site file has problems."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Keep all of them."""
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class LoadedSite:
    """A valid site file with its compiled routes."""

    site: Site
    routes: Routes
    path: Path
    body: str
    sha256: str


def load_site(
    path: Path,
    *,
    environ: Mapping[str, str],
    options_of: OptionsOf,
    known_keyword: KnownKeyword,
) -> LoadedSite:
    """Read and check the whole file. Raises SiteFileError with every problem found."""
    try:
        body = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SiteFileError([Problem(str(path), 0, 0, "", f"cannot be read: {error}")]) from error
    tree = _parse(path, body)
    overrides = _apply_environment(tree, environ)
    problems: list[Problem] = []

    def add(key: Path_, text: str) -> None:
        line, column = _position(tree, key)
        variable = overrides.get(key)
        file, line, column = (f"environment {variable}", 0, 0) if variable else (str(path), line, column)
        problems.append(Problem(file, line, column, ".".join(str(part) for part in key), text))

    plain = _plain(tree)
    site: Site | None = None
    try:
        site = Site.model_validate(plain)
    except ValidationError as error:
        _collect(error, (), add)
    routes = _check_routes(plain.get("routes"), known_keyword, add)
    if site is not None:
        _check_references(site, options_of, add)
    if problems or site is None or routes is None:
        raise SiteFileError(sorted(problems, key=lambda p: (p.line, p.column, p.key)))
    return LoadedSite(site, routes, path, body, hashlib.sha256(body.encode()).hexdigest())


def _parse(path: Path, body: str) -> CommentedMap:
    yaml = YAML(typ="rt")
    yaml.version = (1, 2)
    try:
        tree = yaml.load(body)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        text = str(error.problem or error.context or "is not YAML").splitlines()[0]
        raise SiteFileError([Problem(str(path), line, column, "", text)]) from error
    except YAMLError as error:
        raise SiteFileError([Problem(str(path), 0, 0, "", str(error).splitlines()[0])]) from error
    if tree is None:
        return CommentedMap()
    if not isinstance(tree, CommentedMap):
        raise SiteFileError([Problem(str(path), 1, 1, "", "must be a mapping")])
    return tree


def _apply_environment(tree: CommentedMap, environ: Mapping[str, str]) -> dict[Path_, str]:
    """Set `BROKER_LISTEN__DICOM__PORT=104` as listen.dicom.port; answer which key came from which variable."""
    yaml = YAML(typ="safe")
    applied: dict[Path_, str] = {}
    for variable, text in sorted(environ.items()):
        base = variable.removesuffix("_FILE")
        if not variable.startswith("BROKER_") or variable in RESERVED_VARIABLES or base in RESERVED_VARIABLES:
            continue
        key = tuple(variable.removeprefix("BROKER_").lower().split("__"))
        if len(key) < 2:
            if not variable.startswith(("BROKER_TEST_", "BROKER_FAILPOINTS")):
                log.warning("variable not known", variable=variable)
            continue
        node: Any = tree
        for part in key[:-1]:
            child = node.get(part) if isinstance(node, CommentedMap) else None
            if not isinstance(child, CommentedMap):
                child = CommentedMap()
                node[part] = child
            node = child
        node[key[-1]] = yaml.load(text)
        applied[key] = variable
    return applied


def _plain(node: Any) -> Any:
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


def _position(tree: Any, key: Path_) -> tuple[int, int]:
    """Find where `key`, or its nearest enclosing key, stands."""
    line, column, node = 1, 1, tree
    for part in key:
        try:
            if isinstance(node, CommentedMap) and part in node:
                row, col = node.lc.key(part)
            elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
                row, col = node.lc.item(part)
            else:
                break
        except (KeyError, AttributeError, TypeError):
            break
        line, column, node = row + 1, col + 1, node[part]
    return line, column


def _collect(error: ValidationError, prefix: Path_, add: Any) -> None:
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        text = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            text = "is not a known key"
        add((*prefix, *(part for part in problem["loc"] if part != "[key]")), text)


def _check_routes(raw: Any, known_keyword: KnownKeyword, add: Any) -> Routes | None:
    try:
        return compile_routes(raw or [], known_keyword=known_keyword)
    except RouteSyntaxError as error:
        for path, text in error.problems:
            add(_route_path(path), text)
        return None


def _route_path(path: str) -> Path_:
    return tuple(int(part) if part.isdigit() else part for part in path.split("."))


def _check_references(site: Site, options_of: OptionsOf, add: Any) -> None:
    names = set(site.destinations)
    for name, destination in site.destinations.items():
        model: type[BaseModel] | None = options_of(destination.kind)
        if model is None:
            add(("destinations", name, "kind"), f"{destination.kind!r} is not a kind of destination")
            continue
        try:
            model.model_validate(destination.options)
        except ValidationError as error:
            _collect(error, ("destinations", name), add)
    if site.probe and site.probe.destination is not None:
        if site.probe.destination not in names:
            add(("probe", "destination"), f"{site.probe.destination!r} is not a destination")
        elif site.destinations[site.probe.destination].kind not in {"dicom", "folder"}:
            add(("probe", "destination"), "must be a destination of kind dicom or folder")
        elif site.destinations[site.probe.destination].safekeeping:
            add(("probe", "destination"), "must not be an archive: nothing of a synthetic exam is kept")
    if site.feedback and site.feedback.destination not in names:
        add(("feedback", "destination"), f"{site.feedback.destination!r} is not a destination")
    elif site.feedback and site.destinations[site.feedback.destination].kind != "mllp":
        add(("feedback", "destination"), "must be a destination of kind mllp")
    for number, route in enumerate(site.routes):
        sends: Iterable[Any] = route.get("send", []) if isinstance(route.get("send"), list) else []
        for position, target in enumerate(sends):
            if target not in names:
                add(("routes", number, "send", position), f"{target!r} is not a destination")
