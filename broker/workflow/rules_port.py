"""What the page of the rules reads: which way today's images took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RuleTraffic:
    """Which way the images took since an instant."""

    sources: Mapping[str, int]
    """Calling AE title -> series received."""
    matches: Mapping[tuple[str, str], int]
    """Calling AE title and rule -> series the rule matched."""
    unrouted: Mapping[str, int]
    """Calling AE title -> series of which no rule took some image."""
    deliveries: Mapping[tuple[str, str], int]
    """Rule and destination -> deliveries planned."""
    cut: bool = False
    """There was more; the newest are counted."""


class RuleReports(Protocol):
    """Reads for the page of the rules."""

    def rule_traffic(self, *, since: datetime) -> RuleTraffic:
        """Answer which way the images took since an instant."""
        ...

    def rules_known_since(self, names: Sequence[str]) -> Mapping[str, datetime]:
        """Answer since when a configuration has named each rule, as far as one did."""
        ...
