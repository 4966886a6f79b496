"""Importing reads nothing, connects to nothing and starts nothing."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("broker", "workers")
    for path in (ROOT / package).rglob("*.py")
    if "migrations" not in path.parts and path.name != "__main__.py"
)
PROGRAM = """
import importlib, socket, sys, threading

def refuse(*args, **kwargs):
    raise AssertionError("connects at import")

socket.socket.connect = socket.socket.bind = refuse
before = threading.active_count()
for name in sys.argv[1:]:
    importlib.import_module(name)
assert threading.active_count() == before, threading.enumerate()
"""


def test_importing_every_module_does_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *MODULES], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_start_loads_nothing_it_does_not_serve_with(tmp_path):
    """A broker that was killed whole is back when this is done; what one role alone needs is loaded by it."""
    program = "import sys, broker.cli, broker.embedded\nbroker.embedded._preload()\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert {"sqlalchemy", "pydicom", "celery"} <= loaded
    assert not loaded & {"alembic", "psycopg", "fastapi", "uvicorn", "jinja2", "pynetdicom"}


def test_nothing_dangerous_is_called_anywhere():
    import ast

    banned = {"eval", "exec", "compile"}
    found = []
    for package in ("broker", "workers"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in banned:
                    found.append(f"{path}:{node.lineno} {node.func.id}")
                if isinstance(node, ast.keyword) and node.arg == "shell" and getattr(node.value, "value", 0):
                    found.append(f"{path}:{node.lineno} shell")
                if isinstance(node, ast.Import) and {a.name for a in node.names} & {
                    "pickle",
                    "marshal",
                    "shelve",
                }:
                    found.append(f"{path}:{node.lineno} pickle")
    assert found == []


def test_the_command_line_refuses_to_run_without_assertions():
    broker = Path(sys.executable).with_name("broker")
    done = subprocess.run(
        [sys.executable, "-O", broker, "--version"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "python -O" in done.stderr
