"""Logs out by OTLP with the standard variables: TLS with certificates, headers, compression, time; and to a monitor."""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

import bridge
from tests.receiving import Serving, serving
from tests.serving import listening_socket
from tests.telemetry import get_logger, grpc_sink, http_sink

logger = get_logger("shop.orders")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        # To requests, which carries OTLP over HTTP, the *_CA_BUNDLE count more than the exporter's own certificate.
        if name.startswith(("BRIDGE_", "OTEL_")) or name.endswith("CA_BUNDLE"):
            monkeypatch.delenv(name)
    yield
    monkeypatch.undo()


class Papers:
    """A certificate for the server, one for the sender, and the authority that signed both."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        for name, host in (("server", "localhost"), ("sender", "sender")):
            issued = authority.issue_cert(host)
            (folder / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
            issued.private_key_pem.write_to_path(folder / f"{name}.key")
        self.folder = folder

    def path(self, name: str) -> str:
        return str(self.folder / name)


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    return Papers(tmp_path_factory.mktemp("papers"))


@pytest.fixture(scope="module")
def guarded(papers: Papers) -> Iterator[Serving]:
    """A monitor that takes nothing without a certificate."""
    options = ("--tls-certificate", papers.path("server.pem"), "--tls-key", papers.path("server.key"))
    with serving(*options, "--tls-client-ca", papers.path("ca.pem")) as running:
        yield running
        running.end()


def accepted(running: Serving, papers: Papers) -> int:
    context = ssl.create_default_context(cafile=papers.path("ca.pem"))
    with urllib.request.urlopen(f"https://localhost:{running.view}/api/stats", timeout=10, context=context) as answer:
        return int(json.loads(answer.read())["accepted"])


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_certificates(protocol: str, guarded: Serving, papers: Papers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of records arrive over mutual TLS, packed; without the sender's certificate nothing does."""
    port = guarded.grpc if protocol == "grpc" else guarded.http
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"https://localhost:{port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", papers.path("ca.pem"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_CERTIFICATE", papers.path("ca.pem"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "2")
    before = accepted(guarded, papers)
    b = bridge.setup(service_name="shop")
    logger.warning("Stranger")
    assert not b.force_flush(timeout=20)
    assert b.statistics().dropped == {"otlp_failed": 1}
    b.shutdown(timeout=1)
    for kind in ("", "LOGS_"):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{kind}CLIENT_CERTIFICATE", papers.path("sender.pem"))
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{kind}CLIENT_KEY", papers.path("sender.key"))
    b = bridge.setup(service_name="shop")
    logger.warning("Order %s placed", "o-1")
    bridge.audit_log(logger, "Order approved", action="approve")
    assert b.force_flush(timeout=20)
    assert (b.statistics().exported, b.statistics().dropped) == (2, {})
    assert accepted(guarded, papers) == before + 2
    assert b.shutdown(timeout=5)


@pytest.mark.parametrize(("protocol", "sink"), [("grpc", grpc_sink), ("http/protobuf", http_sink)])
def test_headers_and_compression(protocol: str, sink: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector gets the headers meant for it, and what it gets is packed if it is to be."""
    with sink() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", collector.endpoint + "/v1/logs" * (sink is http_sink))
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", protocol)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=k-1")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        b = bridge.setup()
        logger.warning("one")
        assert b.force_flush(timeout=20)
        headers = {name.lower(): value for name, value in collector.headers[0].items()}
        assert headers["api-key"] == "k-1"
        if sink is http_sink:
            assert headers["content-encoding"] == "gzip"
        assert [row["body"] for row in collector.rows()] == ["one"]


def test_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that never answers is given up after the time that the variable says, and counted."""
    with listening_socket() as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        b = bridge.setup()
        began = time.monotonic()
        logger.warning("one")
        assert not b.force_flush(timeout=20)
        assert time.monotonic() - began < 10
        assert b.statistics().dropped == {"otlp_failed": 1}


def test_nothing_is_sent_twice() -> None:
    """With a collector and a monitor each gets every record once, at once or late, in the order of the calls."""
    with http_sink() as collector, http_sink() as monitor:
        b = bridge.setup(otlp_endpoint=collector.endpoint, monitor_endpoint=monitor.endpoint)

        def log(number: int) -> None:
            for index in range(200):
                logger.warning("%d-%d", number, index)

        threads = [threading.Thread(target=log, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        bridge.audit_log(logger, "last", action="end")
        assert b.force_flush(timeout=20)
        for sink in (collector, monitor):
            bodies = [row["body"] for row in sink.rows()]
            assert len(bodies) == len(set(bodies)) == 801
            for n in range(4):
                assert [body for body in bodies if body.startswith(f"{n}-")] == [f"{n}-{i}" for i in range(200)]
