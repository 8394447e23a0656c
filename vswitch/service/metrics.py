"""Prometheus metrics, read from the engine's own counters at the moment of the scrape.

The forwarding path counts in plain dictionaries; nothing of prometheus-client is on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from . import log


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


def counters(name: str, said: str, label: str, counts: Mapping[Any, int]) -> Iterator[Sample]:
    """Yield a sample for each of `counts`, whose keys become the values of one label."""
    for key, count in counts.items():
        yield Sample("counter", name, said, {label: str(key)}, count)


def common(daemon: str, faults: Mapping[str, int]) -> Iterator[Sample]:
    """Yield what every daemon counts: `faults` are those of its tunnel."""
    said = "Packets that could not be sent, by cause."
    yield from counters(f"{daemon}_tunnel_faults", said, "cause", faults)
    said = "Log lines that could not be written."
    yield Sample("counter", f"{daemon}_log_lines_lost", said, {}, log.stderr.lost)


def serve(app: FastAPI, read: Callable[[], Iterable[Sample]]) -> None:
    """Add `GET /metrics` to an API."""

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(render(read), media_type="text/plain; version=0.0.4")


def render(read: Callable[[], Iterable[Sample]]) -> bytes:
    """Render the samples in the Prometheus text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reader(read))
    return generate_latest(registry)
