"""What Prometheus reads: requests, searches, answers, shards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from hiperrag.service.state import Service

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """The service's own registry: several services in one process do not mix."""

    def __init__(self, service: Service) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "hiperrag_requests", "Requests by route and status.", ("route", "method", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "hiperrag_request_seconds",
            "From a request to the end of its response.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.search_seconds = Histogram(
            "hiperrag_search_seconds",
            "Search of one question or batch of them, encoding included.",
            ("collection",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_sentence_seconds = Histogram(
            "hiperrag_first_sentence_seconds",
            "From a question to the first checked sentence of its answer.",
            ("collection",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.answers = Counter(
            "hiperrag_answers",
            "Answers by how they ended: supported, refused, cancelled, failed.",
            ("collection", "end"),
            registry=self.registry,
        )
        self.tokens = Counter("hiperrag_generated_tokens", "Tokens that generators wrote.", registry=self.registry)
        self.in_progress = Gauge("hiperrag_requests_in_progress", "Requests not yet answered.", registry=self.registry)
        self.registry.register(_State(service))

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)


class _State(Collector):
    """What is looked up when Prometheus asks."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterable[Metric]:
        shards = GaugeMetricFamily(
            "hiperrag_shards", "Shards of a collection, total and open.", labels=["collection", "state"]
        )
        for name, collection in self._service.collections.items():
            health = collection.shard_health()
            shards.add_metric([name, "total"], health.total)
            shards.add_metric([name, "open"], health.open)
        yield shards
        yield GaugeMetricFamily("hiperrag_threads_taken", "Threads at work.", value=self._service.slots.taken)
        yield GaugeMetricFamily("hiperrag_threads_total", "Threads there may be.", value=self._service.slots.total)
        yield GaugeMetricFamily("hiperrag_starting", "1 while models are loaded.", value=int(self._service.starting))
