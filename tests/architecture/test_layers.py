"""Imports point inward: domain <- workflow <- adapters <- entry."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("broker/**/*.py"), *ROOT.glob("workers/**/*.py")])
ADAPTERS = {"hl7", "dicom", "dicomweb", "webhook", "db", "files", "web"}
ADAPTER_FILES = {
    "destinations",
    "queue",
    "settings",
    "site_file",
    "placed_yaml",
    "logs",
    "metrics",
    "audit",
    "valkey",
}
DENIED_IN_DOMAIN = {"socket", "os", "random", "logging", "asyncio", "threading", "time", "subprocess"}
STDLIB = set(sys.stdlib_module_names)


def imports(path):
    """Answer every absolute module name a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path):
    """Answer (rank, package) of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] == "workers":
        return "entry", "workers"
    name = parts[1]
    if name == "errors" or name == "domain" or name == "__init__":
        return "domain", "domain"
    if name == "workflow":
        return "workflow", "workflow"
    if name in ADAPTERS or name in ADAPTER_FILES:
        return "adapter", name
    return "entry", name


def of(rank):
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in SOURCES if room(path)[0] == rank]


def inside(name, *packages):
    return any(name == p or name.startswith(p + ".") for p in packages)


@pytest.mark.parametrize("path", of("domain"))
def test_domain_knows_only_itself_and_the_standard_library(path):
    for name in imports(path):
        top = name.partition(".")[0]
        if top == "broker":
            assert inside(name, "broker.domain", "broker.errors"), name
        else:
            assert top in STDLIB, name
            assert top not in DENIED_IN_DOMAIN, name


@pytest.mark.parametrize("path", of("domain"))
def test_domain_does_not_ask_the_clock(path):
    calls = [n.func for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
    assert not [c for c in calls if isinstance(c, ast.Attribute) and c.attr in {"now", "today", "utcnow"}]


@pytest.mark.parametrize("path", of("workflow"))
def test_workflow_knows_only_domain_and_its_ports(path):
    for name in imports(path):
        top = name.partition(".")[0]
        if top == "broker":
            assert inside(name, "broker.domain", "broker.errors", "broker.workflow", "broker.failpoints"), (
                name
            )
        else:
            assert top in STDLIB, name


@pytest.mark.parametrize("path", of("adapter"))
def test_an_adapter_imports_no_other_adapter_and_nothing_above(path):
    own = room(path)[1]
    # The site file is the reader of the settings' schema: one adapter in two files.
    family = {"settings", "site_file"} if own in {"settings", "site_file"} else {own}
    below = ("broker.domain", "broker.errors", "broker.workflow", "broker.failpoints", "broker.placed_yaml")
    allowed = (*below, *(f"broker.{name}" for name in family))
    for name in imports(path):
        if name.partition(".")[0] == "broker" and name not in {"broker", "broker.__version__"}:
            assert inside(name, *allowed), name


@pytest.mark.parametrize("path", [pytest.param(p, id=str(p.relative_to(ROOT))) for p in SOURCES])
def test_broker_never_imports_the_workers(path):
    if path.relative_to(ROOT).parts[0] == "broker":
        assert not [name for name in imports(path) if inside(name, "workers")]


def test_there_are_no_rooms_without_a_name():
    forbidden = {"utils", "helpers", "common", "misc", "types"}
    assert not [path for path in SOURCES if path.stem in forbidden]


def test_no_test_imports_another():
    """What two tests need stands in a module of its own: moving a test must break nobody."""
    for path in (ROOT / "tests").rglob("*.py"):
        borrowed = [name for name in imports(path) if re.search(r"^tests\.(\w+\.)*test_", name)]
        assert not borrowed, f"{path}: {borrowed}"
