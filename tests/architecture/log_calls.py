"""Finds every line our own code may log: its event and its keys, from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEVELS = frozenset({"debug", "info", "warning", "error", "critical", "exception"})
_LOGGERS = frozenset({"log", "_log", "say"})


@dataclass(frozen=True, slots=True)
class LogCall:
    """One call of a logger."""

    module: str
    line: int
    level: str
    events: tuple[str, ...]
    """The texts it may have; empty: made when it is called."""
    keys: frozenset[str]


def log_calls() -> Iterator[LogCall]:
    """Answer every call of a logger in the product."""
    for path in sorted([*ROOT.glob("broker/**/*.py"), *ROOT.glob("workers/**/*.py")]):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        shared = _dictionaries(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and (level := _level(node.func)):
                keys = frozenset(word.arg for word in node.keywords if word.arg)
                for word in node.keywords:
                    if word.arg is None and isinstance(word.value, ast.Name):
                        keys |= shared[word.value.id]
                yield LogCall(module, node.lineno, level, tuple(_texts(node.args[0])), keys)


def _dictionaries(tree: ast.AST) -> dict[str, frozenset[str]]:
    """Answer the keys of dictionaries that are written out, by the name they are given."""
    return {
        target.id: frozenset(key.value for key in node.value.keys if isinstance(key, ast.Constant))
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _level(func: ast.expr) -> str | None:
    """Answer the level of a call such as `log.info`, `self._log.info`, `structlog.get_logger().info` or `say`."""
    if isinstance(func, ast.Name):
        return "warning" if func.id == "say" else None
    if not isinstance(func, ast.Attribute) or func.attr not in LEVELS:
        return None
    owner = func.value
    if isinstance(owner, ast.Call):
        owner = owner.func
        return func.attr if isinstance(owner, ast.Attribute) and owner.attr == "get_logger" else None
    name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
    return func.attr if name in _LOGGERS else None


def _texts(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from _texts(node.body)
        yield from _texts(node.orelse)
