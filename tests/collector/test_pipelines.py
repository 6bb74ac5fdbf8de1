"""The files of collector_config/ at work: what arrives where, and who is let in."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from bridge.record.classify import is_audit
from tests.collector.binaries import CONFIGS
from tests.collector.fleet import fleet, measured, numbered, settled
from tests.collector.ports import free_port
from tests.collector.running import collector, file_bodies, grpc_export, post
from tests.collector.secrets import Secrets
from tests.collector.sinks import arrived, bodies, copies
from tests.collector.watching import monitor
from tests.serving import eventually
from tests.telemetry import run_script

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("real_collector")]


# -- the whole way ----------------------------------------------------------------------------------------------------

SERVICE = """
    import json, logging
    import bridge

    b = bridge.setup(service_name="orders", otlp_endpoint="ENDPOINT", otlp_protocol="PROTOCOL")
    logging.getLogger().setLevel(logging.DEBUG)
    log = logging.getLogger("orders")
    bridge.audit_log(log, "Role granted", action="role_grant", metadata={"role": "admin"}, target="user/u17")
    log.warning("flagged", extra={"is_audit": True})
    logging.getLogger("audit.orders").warning("named")
    log.warning("[AUDIT] told")
    log.info("Stock is low")
    log.debug("noise")
    print(json.dumps(b.force_flush(timeout=20)))
    b.shutdown()
"""
AUDIT = {"Role granted", "flagged", "named", "[AUDIT] told"}


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_service_to_archive_file_backend_and_monitor(protocol: str, tmp_path: Path, secrets: Secrets) -> None:
    """Audit records reach archive, file and monitor; system records backend and monitor; noise reaches none."""
    with (
        monitor(secrets) as watched,
        fleet(tmp_path, secrets, MONITOR_ENDPOINT=watched.http_endpoint) as running,
    ):
        running.gateway.start()
        running.agent.start()
        port = running.agent.grpc_port if protocol == "grpc" else running.agent.http_port
        service = SERVICE.replace("ENDPOINT", f"http://127.0.0.1:{port}").replace("PROTOCOL", protocol)
        delivered, errors = run_script(tmp_path, service)
        assert delivered is True, errors
        arrived(running.archive, AUDIT)
        arrived(running.logs, {"Stock is low"})
        watched.shows("audit_log", AUDIT)
        watched.shows("system_log", {"Stock is low"})
        eventually(lambda: set(file_bodies(running.gateway.audit_file)) == AUDIT, "the file has the audit records")
        settled(running)
        assert copies(running.archive) == dict.fromkeys(AUDIT, 1)
        assert set(bodies(running.logs)) == {"Stock is low"}
        assert set(watched.texts("audit_log")) == AUDIT
        assert set(watched.texts("system_log")) == {"Stock is low"}
        (granted,) = [row for row in running.archive.rows() if row["body"] == "Role granted"]
        assert granted["attributes"]["audit.action"] == "role_grant"
        assert granted["resource"]["service.name"] == "orders"
        assert granted["resource"]["host.name"]


def test_quickstart(tmp_path: Path, secrets: Secrets) -> None:
    """One collector between a service and the monitor: both panels get theirs."""
    with (
        monitor() as watched,
        collector(
            "quickstart.yaml", tmp_path / "collector", secrets, MONITOR_ENDPOINT=watched.grpc_endpoint
        ) as running,
    ):
        rows = [{"body": "Stock is low"}, {"body": "Role granted", "scope": "audit.orders"}]
        assert post(running.http_port, rows) == 200
        watched.shows("audit_log", {"Role granted"})
        watched.shows("system_log", {"Stock is low"})


# -- the routing condition --------------------------------------------------------------------------------------------

WORDS = ["true", "yes", "1", "-0", "nothing", "no", "No ", "OFF", "false", "FALSE", "0", "none", "null", "", " "]
FLAGS: list[Any] = [*WORDS, True, False, 1, 0, -1, 0.5, 0.0, -0.0, ["x"], {"a": 1}]
CASES: list[dict[str, Any]] = [
    *({"attributes": {"is_audit": flag}} for flag in FLAGS),
    {"attributes": {"audit.record.id": "0193-7f0c"}},
    {"attributes": {"audit.record.id": ""}},
    {"attributes": {"audit.action": "role_grant"}},
    *({"scope": scope} for scope in ("audit.shop", "audit.", "audit", "auditor", "shop.audit.x", "Audit.shop", "")),
    *({"text": text} for text in ("[AUDIT] x", "[AUDIT]", " [AUDIT]", "[audit] x", "AUDIT", "x [AUDIT]")),
    {},
]


def test_routing_agrees_with_the_bridge(tmp_path: Path, secrets: Secrets) -> None:
    """What the bridge takes for an audit record reaches the archive, by each of the four rules; nothing else does."""
    rows: list[dict[str, Any]] = []
    expected = set()
    for number, case in enumerate(CASES):
        body = f"{case.get('text', 'x')} case={number}"
        rows.append({"body": body} | {key: value for key, value in case.items() if key != "text"})
        if is_audit(case.get("scope", "shop"), body, case.get("attributes", {})):
            expected.add(body)
    # Bodies that are no texts, attributes without a value: they are system records, and no error.
    odd: list[dict[str, Any]] = [
        {"body": ["[AUDIT]"]},
        {"body": {"[AUDIT]": 1}},
        {"body": None},
        {"body": 7, "attributes": {"is_audit": None}},
    ]
    assert len(expected) >= 10
    with fleet(tmp_path, secrets) as running:
        running.gateway.start()
        running.agent.start()
        assert post(running.agent.http_port, rows + odd) == 200
        everything = {row["body"] for row in rows}
        eventually(lambda: len(bodies(running.archive) + bodies(running.logs)) >= len(rows + odd), "all are there")
        assert sorted(bodies(running.archive)) == sorted(expected)
        assert sorted(set(bodies(running.logs)) - {""}) == sorted(everything - expected)


# -- who is let in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["gateway.yaml", "gateway-kafka.yaml"])
def test_gateway_asks_for_tls_and_a_token(config: str, tmp_path: Path, secrets: Secrets) -> None:
    """Without TLS, without a token, or with a wrong one, nothing is taken."""
    other = Secrets(tmp_path / "other")
    nobody = f"127.0.0.1:{free_port()}"
    with collector(config, tmp_path / "gateway", secrets, ARCHIVE_ENDPOINT=nobody, KAFKA_BROKERS=nobody) as running:
        good = secrets.token("gateway")
        assert grpc_export(running.address, secrets, good) is grpc.StatusCode.OK
        assert grpc_export(running.address, secrets, None) is grpc.StatusCode.UNAUTHENTICATED
        assert grpc_export(running.address, secrets, secrets.token("archive")) is grpc.StatusCode.UNAUTHENTICATED
        assert grpc_export(running.address, None, good) is grpc.StatusCode.UNAVAILABLE
        assert grpc_export(running.address, other, good) is grpc.StatusCode.UNAVAILABLE
        assert post(running.http_port, [{"body": "x"}], authorization=f"Bearer {good}") == 400  # HTTP to an HTTPS port


# -- lanes ------------------------------------------------------------------------------------------------------------


def test_a_full_log_backend_doubles_no_audit_record(tmp_path: Path, secrets: Secrets) -> None:
    """The gateway refuses system records, its queue for them is full; audit records still arrive once."""
    with fleet(tmp_path, secrets, logs_status=503, LOGS_QUEUE_RECORDS="8200") as running:
        running.gateway.start()
        running.agent.start()
        noise = [{"body": "Stock is low"}] * 3_000
        for number in range(1, 11):
            rows = [*noise, {"body": f"n={number}", "scope": "audit.shop"}]
            assert post(running.agent.http_port, rows) == 200
        arrived(running.archive, set(numbered(1, 10)))
        eventually(lambda: any("queue is full" in line for line in running.gateway.said()), "the queue overflows")
        settled(running)
        assert copies(running.archive) == dict.fromkeys(numbered(1, 10), 1)


def test_what_the_archive_refuses_for_good_is_counted_and_in_the_file(tmp_path: Path, secrets: Secrets) -> None:
    """No collector repeats it: the README says so, and what to watch."""
    metric = "otelcol_exporter_send_failed_log_records"
    assert metric in (CONFIGS / "README.md").read_text()
    with fleet(tmp_path, secrets) as running:
        running.archive.refusing.set()
        running.gateway.start()
        running.agent.start()
        running.send(*numbered(1, 3))
        eventually(lambda: measured(running.gateway, metric, "otlp_grpc/archive") == 3, "it is counted")
        settled(running)
        eventually(lambda: file_bodies(running.gateway.audit_file) == numbered(1, 3), "it is in the file")
        running.archive.refusing.clear()
        running.send("n=4")
        arrived(running.archive, {"n=4"})
        assert bodies(running.archive) == ["n=4"]


def test_a_monitor_that_was_away_gets_the_audit_records(tmp_path: Path, secrets: Secrets) -> None:
    """It holds up neither the archive nor the backend; what it missed of audit records comes later, once."""
    http_port = free_port()
    with fleet(tmp_path, secrets, MONITOR_ENDPOINT=f"https://127.0.0.1:{http_port}") as running:
        running.gateway.start()
        running.agent.start()
        running.send(*numbered(1, 10))
        arrived(running.archive, set(numbered(1, 10)))
        with monitor(secrets, http_port=http_port) as watched:
            watched.shows("audit_log", set(numbered(1, 10)))
            assert sorted(watched.texts("audit_log")) == sorted(numbered(1, 10))
