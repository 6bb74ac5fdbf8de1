"""A gateway with an agent before it, and what stands behind both."""

import contextlib
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.collector.ports import free_port
from tests.collector.running import Collector, post
from tests.collector.secrets import Secrets
from tests.collector.sinks import Archive, archive
from tests.serving import eventually
from tests.telemetry import Sink, http_sink


class Fleet:
    """A gateway with an agent before it, and what stands behind it."""

    def __init__(self, folder: Path, secrets: Secrets, archived: Archive, logs: Sink, **variables: str) -> None:
        self.archive, self.logs = archived, logs
        defaults = {
            "ARCHIVE_ENDPOINT": archived.endpoint,
            "LOGS_ENDPOINT": logs.endpoint,
            # Nobody there, if a test does not say otherwise.
            "MONITOR_ENDPOINT": f"https://127.0.0.1:{free_port()}",
        }
        self.gateway = Collector("gateway.yaml", folder / "gateway", secrets, **defaults | variables)
        self.agent = Collector("agent.yaml", folder / "agent", secrets, GATEWAY_ENDPOINT=self.gateway.address)

    def send(self, *texts: str) -> None:
        """Give the agent audit records, each in a request of its own; it has accepted them when this returns."""
        for text in texts:
            assert post(self.agent.http_port, [{"body": text, "scope": "audit.shop"}]) == 200


@contextlib.contextmanager
def fleet(folder: Path, secrets: Secrets, *, logs_status: int = 200, **variables: str) -> Iterator[Fleet]:
    """Everything listens but the collectors: a test starts what it needs, and all of it ends."""
    with archive(secrets) as archived, http_sink(logs_status) as logs:
        made = Fleet(folder, secrets, archived, logs, **variables)
        try:
            yield made
        finally:
            made.agent.end()
            made.gateway.end()


def numbered(first: int, last: int) -> list[str]:
    """Texts of records, each another."""
    return [f"n={number}" for number in range(first, last + 1)]


def measured(of: Collector, metric: str, exporter: str) -> float:
    """What a collector's own metrics say of an exporter; 0 before there is anything to say."""
    with urllib.request.urlopen(f"http://127.0.0.1:{of.metrics_port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = [
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith(metric + "{") and f'exporter="{exporter}"' in line
    ]
    return sum(found)


def queued(of: Collector, exporter: str) -> float:
    """How much waits in the queue of an exporter."""
    assert measured(of, "otelcol_exporter_queue_capacity", exporter), "no such queue"
    return measured(of, "otelcol_exporter_queue_size", exporter)


def settled(running: Fleet) -> None:
    """Wait until neither collector holds an audit record that it would send again."""
    eventually(lambda: not queued(running.agent, "otlp_grpc/gateway_audit"), "the agent's queue is empty")
    eventually(lambda: not queued(running.gateway, "otlp_grpc/archive"), "the gateway's queue is empty")
