"""gateway-kafka.yaml, a real broker with TLS and passwords, and kafka-archiver.yaml behind it."""

from pathlib import Path

import grpc
import pytest

from tests.collector.binaries import kafka
from tests.collector.fleet import numbered
from tests.collector.kafka.broker import Broker
from tests.collector.running import Collector, grpc_export
from tests.collector.secrets import Secrets
from tests.collector.sinks import archive, arrived, copies
from tests.serving import eventually

pytestmark = [pytest.mark.timeout(300), pytest.mark.usefixtures("real_collector", "real_kafka")]


@pytest.fixture(scope="session")
def real_kafka() -> None:
    """A broker's jars, and a Java that runs them."""
    kafka()


def send(gateway: Collector, secrets: Secrets, texts: list[str], scope: str = "audit.shop") -> None:
    """Give the gateway records, each in a request of its own; it has accepted them when this returns."""
    for text in texts:
        code = grpc_export(gateway.address, secrets, secrets.token("gateway"), {"body": text, "scope": scope})
        assert code is grpc.StatusCode.OK


def test_gateway_to_topic_to_archive(tmp_path: Path, secrets: Secrets) -> None:
    """Audit records arrive, also what the gateway took while no broker was there, and what a killed archiver was at."""
    made = Broker(tmp_path / "kafka", secrets)
    with archive(secrets) as archived:
        where = {"KAFKA_BROKERS": made.address, "ARCHIVE_ENDPOINT": archived.endpoint}
        gateway = Collector("gateway-kafka.yaml", tmp_path / "gateway", secrets, **where)
        archiver = Collector("kafka-archiver.yaml", tmp_path / "archiver", secrets, **where)
        try:
            # No broker yet, and a gateway that is killed: what it has accepted is on its disk.
            gateway.start()
            send(gateway, secrets, numbered(1, 10))
            gateway.kill()
            with made.running("audit.logs.v1", "system.logs.v1"):
                gateway.start()
                archiver.start()
                arrived(archived, set(numbered(1, 10)), 90)
                send(gateway, secrets, ["Stock is low"], scope="shop")
                send(gateway, secrets, numbered(11, 15))
                arrived(archived, set(numbered(11, 15)), 60)
                assert copies(archived) == dict.fromkeys(numbered(1, 15), 1), "audit records only, and each once"
                # The archive takes records, gives no answer, and the archiver dies: Kafka gives it the same ones again.
                archived.answering.clear()
                send(gateway, secrets, numbered(16, 18))
                eventually(lambda: "n=16" in copies(archived), "the archive has taken a record and not answered", 60)
                # It commits once a second, and Kafka's tool takes longer than that to start.
                assert made.lag("audit-archiver") >= 1, "an offset was committed that the archive knows nothing of"
                archiver.kill()
                archived.answering.set()
                archiver.start()
                arrived(archived, set(numbered(16, 18)), 90)
                eventually(lambda: copies(archived)["n=16"] == 2, "it came again", 60)
                # Perhaps with others of the last second: offsets are committed once a second.
                assert set(copies(archived)) == set(numbered(1, 18))
                assert max(copies(archived).values()) == 2
        finally:
            gateway.end()
            archiver.end()
