"""monitor_endpoint: a process that shows nothing itself, and sends all of it to an audit-bridge serve."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from starlette.testclient import TestClient, WebSocketDenialResponse

import bridge
from bridge.autostart import AutostartExporter, running_server
from bridge.otlp import monitor_exporter
from bridge.settings import Settings
from tests.telemetry import Sink, Team, get_logger, grpc_sink, http_sink, said, shown, wait_until

logger = get_logger("shop.orders")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import os

    for name in os.environ:
        if name.startswith(("BRIDGE_", "OTEL_")):
            monkeypatch.delenv(name)
    yield
    monkeypatch.undo()


@pytest.mark.parametrize("sink", [http_sink, grpc_sink])
def test_everything_goes_to_the_monitor_and_nothing_is_shown_here(sink: Any) -> None:
    """In order: plain records, audit records, and those of the native Logs API."""
    team = Team()
    with sink() as monitor:
        # The stock gRPC exporter is chosen by the port, which a test can't choose.
        endpoint = monitor.endpoint
        b = team.setup(monitor_endpoint=endpoint) if sink is http_sink else grpc_bridge(team, endpoint)
        logger.info("Order %s placed", "o-1", extra={"order": "o-1"})
        bridge.audit_log(logger, "Role granted", action="role_grant", metadata={"role": "admin"}, actor="u1")
        assert b.force_flush(timeout=10)
        team.provider.get_logger("native").emit(LogRecord(body="by hand"))
        assert b.force_flush(timeout=10)
        rows = monitor.rows()
        assert [row["body"] for row in rows] == ["Order o-1 placed", "Role granted", "by hand"]
        assert rows[1]["attributes"]["audit.metadata.role"] == "admin"
        assert shown(b) == []
        assert b.statistics().monitored == 3
        assert b.statistics().dropped == {}
        assert b.shutdown(timeout=5)


def grpc_bridge(team: Team, endpoint: str) -> bridge.Bridge:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bridge.otlp._usual_protocol", lambda endpoint: "grpc")
        return team.setup(monitor_endpoint=endpoint)


def test_port_4317_means_grpc() -> None:
    """As for otlp_endpoint; a path or a host that looks like it does not count."""
    for endpoint, package in (
        ("http://monitor:4317", "grpc"),
        ("https://monitor:4317/", "grpc"),
        ("http://monitor:4318", "http"),
        ("http://monitor:43170", "http"),
        ("http://monitor/:4317", "http"),
    ):
        exporter = monitor_exporter(Settings(monitor_endpoint=endpoint), {})
        assert f".{package}." in type(exporter).__module__, endpoint
        exporter.shutdown()


def test_the_collector_gets_its_own_copy() -> None:
    """One record each, whatever the other does."""
    with http_sink() as monitor, http_sink() as collector:
        b = bridge.setup(monitor_endpoint=monitor.endpoint, otlp_endpoint=collector.endpoint)
        logger.warning("one")
        assert b.force_flush(timeout=10)
        assert [row["body"] for row in monitor.rows()] == ["one"] == [row["body"] for row in collector.rows()]
        assert (b.statistics().exported, b.statistics().monitored) == (1, 1)


def test_what_the_monitor_does_not_take_is_counted() -> None:
    """And a flush says so."""
    with http_sink(status=400) as monitor, said() as words:
        b = bridge.setup(monitor_endpoint=monitor.endpoint)
        logger.warning("one")
        assert not b.force_flush(timeout=10)
        assert b.statistics().dropped == {"monitor_failed": 1}
    assert any("1 log records were not delivered to the monitor by OTLP" in word for word in words)


def headers_at(monitor: Sink) -> dict[str, str]:
    (headers,) = monitor.headers
    return {name.lower(): value for name, value in headers.items()}


def test_the_collectors_headers_are_not_for_the_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vendor's key stays the vendor's; the bridge's own token is sent."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret,authorization=Basic%20other")
    with http_sink() as monitor:
        b = bridge.setup(monitor_endpoint=monitor.endpoint, token="let-me-in")
        logger.warning("one")
        assert b.force_flush(timeout=10)
        headers = headers_at(monitor)
    assert headers["authorization"] == "Bearer let-me-in"
    assert headers["api-key"] == ""


def test_the_routes_say_where_to_look() -> None:
    """The live view refuses with 404; the statistics stay."""
    with http_sink() as monitor:
        b = bridge.setup(monitor_endpoint=monitor.endpoint)
        client = TestClient(b.app, base_url="http://127.0.0.1", client=("127.0.0.1", 1))
        with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("ws://127.0.0.1/ws/monitor"):
            pass
        assert refused.value.status_code == 404
        assert monitor.endpoint in refused.value.text
        assert monitor.endpoint in client.get("/").text
        assert json.loads(client.get("/api/stats").text)["monitored"] == 0


def test_the_entry_point_sends_to_the_monitor(monkeypatch: pytest.MonkeyPatch) -> None:
    """And starts no server."""
    from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor

    with http_sink() as monitor:
        monkeypatch.setenv("BRIDGE_MONITOR_ENDPOINT", monitor.endpoint)
        team = Team()
        team.provider.add_log_record_processor(SimpleLogRecordProcessor(AutostartExporter()))
        team.provider.get_logger("native").emit(LogRecord(body="by hand"))
        wait_until(lambda: [row["body"] for row in monitor.rows()] == ["by hand"])
        assert running_server() is None
        team.provider.shutdown()
