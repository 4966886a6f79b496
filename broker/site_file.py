"""Reads the site file: YAML with positions -> `Site`, or every problem at once, each where it stands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from broker.domain.rules import KnownKeyword, Routes, RouteSyntaxError, compile_routes
from broker.placed_yaml import FileProblems, Key, PlacedYaml, Problem, dotted
from broker.settings import RESERVED_VARIABLES, OptionsOf, Site

log = structlog.get_logger()


class SiteFileError(FileProblems):
    """The site file has problems."""


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
    return parse_site(path, body, environ=environ, options_of=options_of, known_keyword=known_keyword)


def parse_site(
    path: Path,
    body: str,
    *,
    environ: Mapping[str, str],
    options_of: OptionsOf,
    known_keyword: KnownKeyword,
) -> LoadedSite:
    """Check what stands, or is to stand, in a site file. Raises SiteFileError with every problem found."""
    placed = PlacedYaml.read(str(path), body, refused=SiteFileError)
    overrides = _apply_environment(placed.tree, environ)
    problems: list[Problem] = []

    def add(key: Key, text: str) -> None:
        variable = overrides.get(key)
        problems.append(
            Problem(f"environment {variable}", 0, 0, dotted(key), text)
            if variable
            else placed.problem(key, text)
        )

    plain = placed.content()
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


def _apply_environment(tree: CommentedMap, environ: Mapping[str, str]) -> dict[Key, str]:
    """Set `BROKER_LISTEN__DICOM__PORT=104` as listen.dicom.port; answer which key came from which variable."""
    yaml = YAML(typ="safe")
    applied: dict[Key, str] = {}
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


def _collect(error: ValidationError, prefix: Key, add: Any) -> None:
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


def _route_path(path: str) -> Key:
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
