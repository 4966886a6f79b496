"""Writes gauges, and keeps the number of their labels bounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta

from prometheus_client.core import GaugeHistogramMetricFamily, GaugeMetricFamily, Metric

SPAN = timedelta(hours=1)
"""What happened is told of it."""
MOST_NAMES = 200
"""Of peers, in one metric: whoever calls under ever new names must not fill the monitoring."""
OTHER = "other"
Values = (
    Mapping[tuple[()], float]
    | Mapping[tuple[str], float]
    | Mapping[tuple[str, str], float]
    | Mapping[tuple[str, ...], float]
)
"""A number for each combination of labels."""
_PREFIX = "worklist_broker_"
_NAME_CHARACTERS = 64


def gauge(name: str, meaning: str, labels: Sequence[str], values: Values) -> Metric:
    """Write a gauge with a value for each combination of labels."""
    family = GaugeMetricFamily(_PREFIX + name, meaning, labels=labels)
    for key, value in values.items():
        family.add_metric(list(key), value)
    return family


def one(name: str, meaning: str, value: float | None) -> Metric:
    """Write a gauge without labels; None is not known, and is left out."""
    known: dict[tuple[()], float] = {} if value is None else {(): value}
    return gauge(name, meaning, (), known)


def histogram(
    name: str, meaning: str, label: str, bounds: Sequence[float], values: Mapping[str, Sequence[float]]
) -> Metric:
    """Write how values are spread, cumulated as Prometheus wants it."""
    family = GaugeHistogramMetricFamily(_PREFIX + name, meaning, labels=[label])
    for key, found in values.items():
        buckets = [
            (str(float(bound)), float(sum(1 for value in found if value <= bound))) for bound in bounds
        ]
        family.add_metric([key], [*buckets, ("+Inf", float(len(found)))], sum(found))
    return family


def bounded(values: Mapping[str, float]) -> dict[tuple[str, ...], float]:
    """Answer the largest of what peers with these names did, and the rest under one name."""
    largest = sorted(values, key=lambda name: (-values[name], name))
    kept: dict[tuple[str, ...], float] = {}
    for place, name in enumerate(largest):
        key = (named(name) if place < MOST_NAMES else OTHER,)
        kept[key] = kept.get(key, 0) + values[name]
    return kept


def named(text: str) -> str:
    """Make a label of what a peer calls itself."""
    return "".join(char if char.isprintable() else "·" for char in text)[:_NAME_CHARACTERS]
