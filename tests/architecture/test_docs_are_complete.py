"""Every setting, option, rule operator, command and variable stands in docs/."""

from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from broker.cli import app
from broker.destinations import DestinationRegistry
from broker.settings import RESERVED_VARIABLES, Site

ROOT = Path(__file__).parents[2]
CONFIGURATION = (ROOT / "docs/configuration.md").read_text()
ALL = "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))])


def models(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in getattr(annotation, "__args__", ()) if (found := models(arg))), None)


def keys(model, prefix=""):
    for name, field in model.model_fields.items():
        inner = models(field.annotation)
        if inner is None:
            yield prefix + (field.alias or name)
        else:
            joint = {"destinations": ".*.", "devices": "[].", "collectors": "[]."}.get(name, ".")
            yield from keys(inner, prefix + name + joint)


@pytest.mark.parametrize("key", sorted(set(keys(Site))))
def test_every_setting_is_documented(key):
    row = next((line for line in CONFIGURATION.splitlines() if line.startswith(f"| `{key}` |")), "")
    assert row, "is not there"
    assert row.split("|")[3].strip(), "has no meaning"


def test_every_option_of_every_destination_is_documented_with_its_meaning():
    registry = DestinationRegistry.from_entry_points()
    for kind in registry.kinds():
        _, _, section = CONFIGURATION.partition(f"### `{kind}`")
        section = section.partition("###")[0]
        for name in registry.options_of(kind).model_fields:
            row = next((line for line in section.splitlines() if line.startswith(f"| `{name}` |")), "")
            assert row.split("|")[3:4] != [], f"{kind}.{name}"
            assert row.split("|")[3].strip(), f"{kind}.{name} has no meaning"


@pytest.mark.parametrize("variable", sorted(RESERVED_VARIABLES))
def test_every_variable_is_documented(variable):
    assert f"`{variable}`" in CONFIGURATION


def commands(command, name):
    if hasattr(command, "commands"):
        for child, inner in command.commands.items():
            yield from commands(inner, f"{name} {child}")
    else:
        yield name


@pytest.mark.parametrize("command", sorted(commands(typer.main.get_command(app), "broker")))
def test_every_command_is_documented(command):
    assert f"`{command}" in ALL


def test_links_lead_somewhere():
    import re

    for path in [ROOT / "README.md", *sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
            if "://" not in target and not target.startswith("mailto"):
                assert (path.parent / target).exists(), f"{path.name} -> {target}"
