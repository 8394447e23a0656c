"""Prometheus metrics, read from the engine's own counters at the moment of the scrape.

The forwarding path counts in plain dictionaries; nothing of prometheus-client is on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Sample(NamedTuple):
    """One number: `kind` is counter or gauge; samples of one name have the same label names."""

    kind: str
    name: str
    help: str
    labels: dict[str, str]
    value: float


class _Reader(Collector):
    def __init__(self, read: Callable[[], Iterable[Sample]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for sample in self._read():
            family = families.get(sample.name)
            if family is None:
                kind = CounterMetricFamily if sample.kind == "counter" else GaugeMetricFamily
                family = kind(sample.name, sample.help, labels=list(sample.labels))
                families[sample.name] = family
            family.add_metric(list(sample.labels.values()), sample.value)
        yield from families.values()


def render(read: Callable[[], Iterable[Sample]]) -> bytes:
    """Render the samples in the Prometheus text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reader(read))
    return generate_latest(registry)
