"""A foreign collector between the senders and the monitor; and one that gets the monitor's own records."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge.capture.convert import _TAKES_MIXED_SEQUENCES
from tests.senders.collecting import collector
from tests.senders.kinds import KINDS, assert_whole
from tests.senders.monitored import SAID, Monitor, monitor, once_each, run_to_the_end, watched_at
from tests.serving import child, environment, eventually, free_port

SENDER = str(Path(__file__).parent / "python_sender.py")
OUT = ["grpc", "http"]
IN = ["grpc", "http/protobuf"]


@pytest.fixture
def receiving() -> Iterator[Monitor]:
    with monitor() as running:
        yield running


@pytest.mark.parametrize("outgoing", OUT)
@pytest.mark.parametrize("incoming", IN)
def test_whole(incoming: str, outgoing: str, receiving: Monitor, tmp_path: Path) -> None:
    """SDK, collector, monitor: every value of every record, and the collector for peer."""
    with (
        receiving.watched() as watcher,
        collector(tmp_path, outgoing, receiving.endpoint(outgoing)) as between,
    ):
        run_to_the_end(sys.executable, SENDER, incoming, between.endpoint(incoming))
        assert_whole(watcher.wait_for(len(KINDS)), mixed=_TAKES_MIXED_SEQUENCES)
        watcher.assert_nothing_missed()


@pytest.mark.parametrize("outgoing", OUT)
def test_many(outgoing: str, receiving: Monitor, tmp_path: Path) -> None:
    """Two senders at once, by either protocol: none missing, none twice, each sender's in order."""
    count = 4_000
    with (
        receiving.watched() as watcher,
        collector(tmp_path, outgoing, receiving.endpoint(outgoing)) as between,
    ):
        senders = [
            threading.Thread(
                target=run_to_the_end,
                args=(sys.executable, SENDER, incoming, between.endpoint(incoming), str(count), f"order {number}"),
            )
            for number, incoming in enumerate(IN)
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        watcher.wait_for(2 * count)
        expected = [[f"order {number} {index}" for index in range(count)] for number in range(2)]
        once_each(watcher.texts(), expected[0] + expected[1])
        for number, texts in enumerate(expected):
            prefix = f"order {number} "
            assert [text for text in watcher.texts() if text.startswith(prefix)] == texts
        watcher.assert_nothing_missed()
        assert receiving.statistics()["duplicates"] == 0


# -- the monitor's own records ----------------------------------------------------------------------------------------

# As `audit-bridge serve`, with the root logger at DEBUG as a configuration might have it, and a first record, with
# whose export all may begin.
SERVE = """
import logging, sys
import bridge.serve
from bridge.cli import main

logging.getLogger().setLevel(logging.DEBUG)
logging.getLogger("team").warning("starting")
if sys.argv.pop(1) == "unguarded":
    bridge.serve._INGEST_LOGGERS = ()
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def records_of_itself(guard: str, protocol: str, folder: Path) -> list[int]:
    """A monitor under opentelemetry-instrument, fed by the collector that it logs to; counts of shown records.

    The first is that after a record of somebody else has come round; then one for each of the next four seconds.
    """
    (folder / "serve.py").write_text(SERVE)
    grpc_port, http_port, grpc_in, http_in = (free_port() for _ in range(4))
    endpoint = f"http://127.0.0.1:{grpc_in if protocol == 'grpc' else http_in}"
    env = environment(
        OTEL_SERVICE_NAME="monitor",
        OTEL_LOGS_EXPORTER="otlp",
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="none",
        OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED="true",
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc" if protocol == "grpc" else "http/protobuf",
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        OTEL_BLRP_SCHEDULE_DELAY="50",
    )
    script = Path(sys.executable).parent / "opentelemetry-instrument"
    ports = ["--port", "0", "--otlp-grpc-port", str(grpc_port), "--otlp-http-port", str(http_port)]
    command = [sys.executable, str(script), sys.executable, "serve.py", guard, *ports]
    target = f"http://127.0.0.1:{grpc_port if protocol == 'grpc' else http_port}"
    with (
        collector(folder, protocol, target, grpc_port=grpc_in, http_port=http_in) as between,
        child(*command, env=env, cwd=folder) as process,
    ):
        found = SAID.search(process.line("audit-bridge serve: "))
        assert found, process.lines
        with watched_at(found[1], "&history=1000") as watcher:
            eventually(lambda: "starting" in watcher.texts(), "its own record comes round")
            run_to_the_end(sys.executable, SENDER, "grpc", between.grpc_endpoint, "5")
            watcher.wait_for(5, lambda each: each["data"].get("service") == "storefront")
            counts = [len(watcher.records)]
            for _ in range(4):
                threading.Event().wait(1.0)
                counts.append(len(watcher.records))
            return counts


@pytest.mark.parametrize("protocol", OUT)
def test_its_own_records_come_round_once(protocol: str, tmp_path: Path) -> None:
    """What the monitor logs comes back to it by the collector, is shown, and begets no more: the count stands still."""
    counts = records_of_itself("guarded", protocol, tmp_path)
    assert counts[-1] == counts[-3], counts
    assert counts[-1] < 100, counts


@pytest.mark.parametrize("protocol", OUT)
def test_without_the_quiet_loggers_it_would_not_end(protocol: str, tmp_path: Path) -> None:
    """The same without the guard: each request begets the next, so the test above can see a loop."""
    counts = records_of_itself("unguarded", protocol, tmp_path)
    assert counts == sorted(set(counts)), counts
