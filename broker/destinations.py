"""Kinds of destinations, found as entry points: ours and third parties' by the same door.

A plug-in is a class with `Options` (a pydantic model of its keys in the site file), `retry_safe`, and the
methods of the Destination port; it is built as `Plugin(options, context)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import entry_points
from typing import Any, ClassVar, Protocol, Self, cast

from pydantic import BaseModel, ValidationError

from broker.errors import ConfigurationError
from broker.workflow.destinations_port import Destination, DestinationContext

GROUP = "broker.destinations"
_MEMBERS = ("check", "send", "close")


class DestinationPlugin(Protocol):
    """A class that makes destinations."""

    Options: ClassVar[type[BaseModel]]
    retry_safe: ClassVar[bool]

    def __call__(self, options: Any, context: DestinationContext) -> Destination:
        """Build a destination; nothing is connected yet."""
        ...


Load = Callable[[], object]


class DestinationRegistry:
    """Knows the kinds; loads a plug-in when a site uses its kind, and not before."""

    def __init__(self, loaders: Mapping[str, Load]) -> None:
        """Take what loads each kind."""
        self._loaders = dict(loaders)
        self._plugins: dict[str, DestinationPlugin] = {}

    @classmethod
    def from_entry_points(cls) -> Self:
        """Find every installed plug-in. Raises ConfigurationError when two claim one kind."""
        loaders: dict[str, Load] = {}
        for point in entry_points(group=GROUP):
            if point.name in loaders:
                raise ConfigurationError(f"two plug-ins claim the destination kind {point.name!r}")
            loaders[point.name] = point.load
        return cls(loaders)

    @classmethod
    def of(cls, plugins: Iterable[type[Destination]]) -> Self:
        """Know exactly these plug-ins, each under its `kind`."""
        return cls({plugin.kind: lambda plugin=plugin: plugin for plugin in plugins})  # type: ignore[attr-defined,misc]

    def kinds(self) -> tuple[str, ...]:
        """Answer the kinds a site file may name."""
        return tuple(sorted(self._loaders))

    def plugin(self, kind: str) -> DestinationPlugin:
        """Answer the plug-in of a kind. Raises ConfigurationError."""
        if kind not in self._loaders:
            raise ConfigurationError(f"no destination kind {kind!r}; known: {', '.join(self.kinds())}")
        if kind not in self._plugins:
            try:
                loaded = self._loaders[kind]()
            except ImportError as error:
                raise ConfigurationError(f"the plug-in for {kind!r} cannot be loaded: {error}") from error
            self._plugins[kind] = _checked(kind, loaded)
        return self._plugins[kind]

    def options_of(self, kind: str) -> type[BaseModel] | None:
        """Answer the model of a kind's own keys; None: no such kind."""
        return self.plugin(kind).Options if kind in self._loaders else None

    def build(self, kind: str, options: Mapping[str, object], context: DestinationContext) -> Destination:
        """Build a destination from its keys in the site file. Raises ConfigurationError."""
        plugin = self.plugin(kind)
        try:
            checked = plugin.Options.model_validate(dict(options))
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(str(part) for part in problem['loc'])}: {problem['msg']}"
                for problem in error.errors(include_input=False, include_url=False)
            )
            raise ConfigurationError(f"destination {context.name}: {problems}") from None
        return plugin(checked, context)


def _checked(kind: str, plugin: object) -> DestinationPlugin:
    """Refuse at start-up what would fail in the night. Raises ConfigurationError."""
    wrong = []
    options = getattr(plugin, "Options", None)
    if not (isinstance(options, type) and issubclass(options, BaseModel)):
        wrong.append("Options is not a pydantic model")
    if not isinstance(getattr(plugin, "retry_safe", None), bool):
        wrong.append("retry_safe is not True or False")
    wrong += [f"{name}() is missing" for name in _MEMBERS if not callable(getattr(plugin, name, None))]
    if wrong:
        raise ConfigurationError(f"the plug-in for {kind!r} is not a destination: {', '.join(wrong)}")
    return cast("DestinationPlugin", plugin)
