"""YAML 1.2 whose keys know where they stand: in files people edit, every mistake is told as file:line:column: key: problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.constructor import ConstructorError, RoundTripConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from broker.errors import ConfigurationError

Key = tuple[str | int, ...]

MAX_CHARS = 1024 * 1024
MAX_VALUES = 100_000
"""An alias stands for what it names: a few lines of aliases of aliases could stand for billions of values."""
MAX_DEPTH = 40
_TOO_DEEP = "is nested too deeply"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake, where it stands. Line and column count from 1; 0 = the whole file or the environment."""

    file: str
    line: int
    column: int
    key: str
    text: str

    def __str__(self) -> str:
        """Say it as compilers do."""
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        return f"{place}: {self.key}: {self.text}" if self.key else f"{place}: {self.text}"


class FileProblems(ConfigurationError):
    """A file has mistakes."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """Keep all of them."""
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class PlacedYaml:
    """A file as read: a mapping, and where each of its keys stands."""

    name: str
    tree: CommentedMap

    @classmethod
    def read(cls, name: str, body: str, *, refused: type[FileProblems]) -> Self:
        """Read a text. Raises `refused` with the place where it is no mapping in YAML."""

        def problem(text: str, line: int = 0, column: int = 0) -> FileProblems:
            return refused([Problem(name, line, column, "", text)])

        if len(body) > MAX_CHARS:
            raise problem(f"is longer than {MAX_CHARS:,} characters")
        yaml = YAML(typ="rt")
        yaml.Constructor = _BoundedConstructor
        yaml.version = (1, 2)
        try:
            tree = yaml.load(body)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            text = str(error.problem or error.context or "is not YAML").splitlines()[0]
            raise problem(text, *((mark.line + 1, mark.column + 1) if mark else (0, 0))) from error
        except YAMLError as error:
            raise problem(str(error).splitlines()[0]) from error
        except RecursionError:
            raise problem(_TOO_DEEP) from None
        if tree is None:
            tree = CommentedMap()
        if not isinstance(tree, CommentedMap):
            raise problem("must be a mapping", 1, 1)
        return cls(name, tree)

    def content(self) -> dict[str, Any]:
        """Answer what the file says, without how it is written."""
        content: dict[str, Any] = _plain(self.tree)
        return content

    def position(self, key: Key) -> tuple[int, int]:
        """Find where a key, or its nearest enclosing key, stands."""
        line, column = 1, 1
        node: Any = self.tree
        for part in key:
            try:
                if isinstance(node, CommentedMap) and part in node:
                    row, offset = node.lc.key(part)
                elif isinstance(node, CommentedSeq) and isinstance(part, int) and part < len(node):
                    row, offset = node.lc.item(part)
                else:
                    break
            except (KeyError, AttributeError, TypeError):  # it came from elsewhere than the file
                break
            line, column, node = row + 1, offset + 1, node[part]
        return line, column

    def problem(self, key: Key, text: str) -> Problem:
        """Place a mistake at its key, or at the nearest key around it."""
        return Problem(self.name, *self.position(key), dotted(key), text)


def dotted(key: Key) -> str:
    """Write a key as people say it: `listen.dicom.port`."""
    return ".".join(str(part) for part in key)


class _BoundedConstructor(RoundTripConstructor):
    """Looks at what the file stands for before anything is made of it."""

    def construct_document(self, node: Node) -> Any:
        """Make what the file says. Raises MarkedYAMLError when it is more than a file of ours says."""
        _bound(node, iter(range(MAX_VALUES)), 0)
        return super().construct_document(node)


def _bound(node: Node, left: Iterator[int], depth: int) -> None:
    if next(left, None) is None:
        raise ConstructorError(None, None, f"stands for more than {MAX_VALUES:,} values", None)
    if depth > MAX_DEPTH:
        raise ConstructorError(None, None, _TOO_DEEP, node.start_mark)
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if not isinstance(key, ScalarNode):  # the time to make such keys doubles with each level
                raise ConstructorError(None, None, "a key must be a plain word", key.start_mark)
            _bound(value, left, depth + 1)
    elif isinstance(node, SequenceNode):
        for value in node.value:
            _bound(value, left, depth + 1)


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
