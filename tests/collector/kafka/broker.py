"""One real Kafka broker on loopback, with TLS and SCRAM as the configurations want them."""

import contextlib
import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.collector.binaries import kafka
from tests.collector.ports import free_port
from tests.collector.secrets import Secrets
from tests.serving import child

PASSWORD = "of-the-broker"
USERS = ("otel-gateway", "audit-archiver")
_SMALL = (
    "-Xms64m",
    "-Xmx320m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
)


class Broker:
    """A broker that runs; ``address`` is for clients with TLS and a password."""

    def __init__(self, folder: Path, secrets: Secrets) -> None:
        self.folder = folder
        self._java, self._class_path = kafka()
        # Not port 0: clients are told the address that is configured.
        clients, tools, controller = free_port(), free_port(), free_port()
        self.address = f"127.0.0.1:{clients}"
        self._tools_address = f"127.0.0.1:{tools}"
        folder.mkdir(parents=True)
        (folder / "keystore.pem").write_text(secrets.text("tls.key") + secrets.text("tls.crt"))
        self._properties = folder / "server.properties"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"CLIENTS://{self.address},TOOLS://{self._tools_address},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"CLIENTS://{self.address},TOOLS://{self._tools_address}",
            "listener.security.protocol.map": "CLIENTS:SASL_SSL,TOOLS:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "TOOLS",
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.clients.scram-sha-512.sasl.jaas.config": (
                "org.apache.kafka.common.security.scram.ScramLoginModule required;"
            ),
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(folder / "keystore.pem"),
            "log.dirs": str(folder / "data"),
            "auto.create.topics.enable": "false",
            # One broker can't hold the three copies that are the default.
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            # The default waits three seconds for more members before a consumer gets its partitions.
            "group.initial.rebalance.delay.ms": "0",
        }
        self._properties.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        users = [f"--add-scram=SCRAM-SHA-512=[name={user},password={PASSWORD}]" for user in USERS]
        identity = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        self._run("kafka.tools.StorageTool", "format", "-t", identity, "-c", str(self._properties), *users)

    def command(self, main: str, *arguments: str) -> list[str]:
        """A command that runs a class of Kafka's."""
        return [self._java, *_SMALL, "-cp", self._class_path, main, *arguments]

    def _run(self, main: str, *arguments: str) -> str:
        done = subprocess.run(
            self.command(main, *arguments), cwd=self.folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def lag(self, group: str) -> int:
        """How many messages a consumer group has not marked as done."""
        tool = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
        told = self._run(tool, "--bootstrap-server", self._tools_address, "--describe", "--group", group)
        head, *rows = [line.split() for line in told.splitlines() if "LAG" in line or group in line]
        lags = [row[head.index("LAG")] for row in rows if row[0] == group]
        assert lags, told
        return sum(int(lag) for lag in lags if lag != "-")

    @contextlib.contextmanager
    def running(self, *topics: str) -> Iterator[None]:
        """The broker runs, and has these topics, of one partition each."""
        with child(*self.command("kafka.Kafka", str(self._properties)), cwd=self.folder) as process:
            process.line("Kafka Server started", timeout=90)
            where = ("--bootstrap-server", self._tools_address, "--partitions", "1", "--create", "--topic")
            # At once: each is a Java of its own, and takes seconds to start.
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda topic: self._run("org.apache.kafka.tools.TopicCommand", *where, topic), topics))
            yield
