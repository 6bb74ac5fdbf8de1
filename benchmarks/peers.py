"""What a user would pick instead: every peer makes the same call, or the nearest its own API has.

Each is made in a process of its own. `drain()` returns when every record so far is processed; `processed()`
counts what came out at the far end, so that a peer that drops can't look cheap.
"""

from __future__ import annotations

import datetime
import json
import logging
import logging.handlers
import queue
import warnings
from collections.abc import Callable, Sequence
from typing import Any

LOGGER_NAME = "shop.instances"
# No burst reaches it: a stock queue that drops would be paid for work it did not do.
RAISED_QUEUE_RECORDS = 1_000_000

logger = logging.getLogger(LOGGER_NAME)


class Peer:
    """A way to log. The defaults are those of a handler that works synchronously."""

    def loop(self, ids: Sequence[str]) -> None:
        for id_ in ids:
            logger.info("Instance %s spawned", id_, extra={"instance_id": id_, "role": "worker"})

    def call(self, id_: str) -> None:
        logger.info("Instance %s spawned", id_, extra={"instance_id": id_, "role": "worker"})

    def drain(self) -> None:
        """Wait, without spinning, until all records so far are processed."""

    def processed(self) -> int | None:
        """Records that reached the far end; None if the peer can't say."""
        return None

    def dropped(self) -> dict[str, int] | None:
        """Records the peer itself says it dropped."""
        return None

    def close(self) -> None:
        """End background threads."""


null_logger = logging.getLogger("null.instances")


class NullPeer(Peer):
    """A NullHandler as far up as the others have their handler, in a tree of its own: the root logger stays as it is.

    A peer may look after its handler on the root (ours puts it back); taking it off would measure that.
    """

    def __init__(self) -> None:
        parent = logging.getLogger("null")
        parent.propagate = False
        parent.setLevel(logging.INFO)
        parent.handlers[:] = [logging.NullHandler()]

    def loop(self, ids: Sequence[str]) -> None:
        for id_ in ids:
            null_logger.info("Instance %s spawned", id_, extra={"instance_id": id_, "role": "worker"})

    def call(self, id_: str) -> None:
        null_logger.info("Instance %s spawned", id_, extra={"instance_id": id_, "role": "worker"})


class HandlerPeer(Peer):
    """One handler on the root logger and nothing else there."""

    def __init__(self, handler: logging.Handler) -> None:
        self._handler = handler
        logging.getLogger().handlers[:] = [handler]


class FilePeer(HandlerPeer):
    """The message alone, as the default formatter has it: the least that a file costs."""

    def __init__(self) -> None:
        super().__init__(logging.FileHandler("/dev/null"))


class QueuePeer(HandlerPeer):
    """QueueHandler in front of the same FileHandler."""

    def __init__(self) -> None:
        self._queue: queue.Queue[Any] = queue.Queue()
        self._count = 0
        target = logging.FileHandler("/dev/null")
        target.addFilter(self._counted)
        self._listener = logging.handlers.QueueListener(self._queue, target)
        self._listener.start()
        super().__init__(logging.handlers.QueueHandler(self._queue))

    def _counted(self, record: logging.LogRecord) -> bool:
        self._count += 1
        return True

    def drain(self) -> None:
        self._queue.join()

    def processed(self) -> int:
        return self._count

    def close(self) -> None:
        self._listener.stop()


class StockPeer(HandlerPeer):
    """OpenTelemetry's handler and its batch processor, around an exporter that does `work` with a batch."""

    def __init__(
        self,
        work: Callable[[Sequence[Any]], object],
        *,
        deprecated: bool = False,
        queue_records: int | None = RAISED_QUEUE_RECORDS,
    ) -> None:
        from opentelemetry.sdk._logs import LoggerProvider
        from opentelemetry.sdk._logs.export import (
            BatchLogRecordProcessor,
            LogRecordExporter,
            LogRecordExportResult,
        )
        from opentelemetry.sdk.resources import Resource

        peer = self

        class Exporter(LogRecordExporter):
            def export(self, batch: Sequence[Any]) -> LogRecordExportResult:
                work(batch)
                peer._count += len(batch)
                return LogRecordExportResult.SUCCESS

            def force_flush(self, timeout_millis: int = 30_000) -> bool:
                return True

            def shutdown(self) -> None:
                pass

        self._count = 0
        self.provider = LoggerProvider(resource=Resource.create({"service.name": "bench"}), shutdown_on_exit=False)
        self.provider.add_log_record_processor(BatchLogRecordProcessor(Exporter(), max_queue_size=queue_records))
        if deprecated:
            from opentelemetry.sdk._logs import LoggingHandler as Handler

            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                super().__init__(Handler(logger_provider=self.provider))
        else:
            from opentelemetry.instrumentation.logging.handler import LoggingHandler

            super().__init__(LoggingHandler(logger_provider=self.provider))

    def drain(self) -> None:
        self.provider.force_flush()

    def processed(self) -> int:
        return self._count

    def close(self) -> None:
        self.provider.shutdown()


def message_of(readable: Any) -> dict[str, Any]:
    """The least a live view needs of a record: what a user writes into an exporter of their own."""
    record = readable.log_record
    moment = datetime.datetime.fromtimestamp(record.timestamp / 1e9, datetime.UTC)
    return {
        "type": "system_log",
        "data": {
            "timestamp": moment.isoformat(timespec="milliseconds"),
            "level": record.severity_text,
            "logger": readable.instrumentation_scope.name,
            "message": record.body,
            "attributes": dict(record.attributes or {}),
            "trace_id": record.trace_id,
            "span_id": record.span_id,
        },
    }


def no_work(batch: Sequence[Any]) -> None:
    pass


def make_json(batch: Sequence[Any]) -> None:
    for readable in batch:
        json.dumps(message_of(readable))


def stock_orjson() -> Peer:
    import orjson

    def work(batch: Sequence[Any]) -> None:
        for readable in batch:
            message = message_of(readable)
            # orjson has no integers above 64 bits; the wire wants hex anyway.
            message["data"]["trace_id"] = f"{message['data']['trace_id']:032x}"
            orjson.dumps(message)

    return StockPeer(work)


class OtlpPeer(StockPeer):
    """The stock handler, the stock queue and the stock OTLP/gRPC exporter, against a real server process."""

    def __init__(self, address: str, *, queue_records: int | None = RAISED_QUEUE_RECORDS) -> None:
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.sdk._logs.export import LogRecordExportResult

        exporter = OTLPLogExporter(endpoint=f"http://{address}", insecure=True)

        def work(batch: Sequence[Any]) -> None:
            if exporter.export(batch) is not LogRecordExportResult.SUCCESS:
                raise RuntimeError("the sink refused a batch")

        self._exporter = exporter
        super().__init__(work, queue_records=queue_records)

    def close(self) -> None:
        super().close()
        self._exporter.shutdown()


class StructlogPeer(Peer):
    """structlog's own fast path: JSON to /dev/null, no standard logging below."""

    def __init__(self) -> None:
        import structlog

        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            logger_factory=structlog.WriteLoggerFactory(file=open("/dev/null", "w")),
            cache_logger_on_first_use=True,
        )
        self._log = structlog.get_logger().bind(logger_name=LOGGER_NAME)

    def loop(self, ids: Sequence[str]) -> None:
        log = self._log
        for id_ in ids:
            log.info("Instance %s spawned", id_, instance_id=id_, role="worker")

    def call(self, id_: str) -> None:
        self._log.info("Instance %s spawned", id_, instance_id=id_, role="worker")


class LoguruPeer(Peer):
    """loguru with a plain text sink; its `serialize=True` would cost more."""

    def __init__(self) -> None:
        from loguru import logger as log

        log.remove()
        log.add("/dev/null", format="{time} {level} {name} {message} {extra}", level="INFO")
        self._log = log

    def loop(self, ids: Sequence[str]) -> None:
        log = self._log
        for id_ in ids:
            log.info("Instance {} spawned", id_, instance_id=id_, role="worker")

    def call(self, id_: str) -> None:
        self._log.info("Instance {} spawned", id_, instance_id=id_, role="worker")


class LogfirePeer(HandlerPeer):
    """logfire's handler on its own tracer; nothing is sent anywhere."""

    def __init__(self) -> None:
        import logfire
        from opentelemetry.sdk.trace import SpanProcessor

        peer = self

        class Counter(SpanProcessor):
            def on_end(self, span: Any) -> None:
                peer._count += 1

        self._count = 0
        self._logfire = logfire.configure(
            send_to_logfire=False,
            console=False,
            metrics=False,
            inspect_arguments=False,
            service_name="bench",
            additional_span_processors=[Counter()],
        )
        super().__init__(logfire.LogfireLoggingHandler())

    def drain(self) -> None:
        self._logfire.force_flush()

    def close(self) -> None:
        self._logfire.shutdown()


def _ours(address: str) -> Peer:
    from benchmarks.ours import OurPeer

    return OurPeer()


def _ours_batch(address: str) -> Peer:
    from benchmarks.ours import OurBatchPeer

    return OurBatchPeer()


# name: (what the table calls it, module that must be installed, how to make it given the sink's address)
PEERS: dict[str, tuple[str, str | None, Callable[[str], Peer]]] = {
    "null": ("NullHandler", None, lambda _: HandlerPeer(logging.NullHandler())),
    "stock": (
        "stock handler + batch(no-op)",
        "opentelemetry.instrumentation.logging.handler",
        lambda _: StockPeer(no_work),
    ),
    "ours": ("bridge", "bridge", _ours),
    "ours-batch": ("bridge + batch(no-op) on the provider", "bridge", _ours_batch),
    "stock-json": (
        "stock + batch(json)",
        "opentelemetry.instrumentation.logging.handler",
        lambda _: StockPeer(make_json),
    ),
    "stock-orjson": ("stock + batch(orjson)", "orjson", lambda _: stock_orjson()),
    "stock-sdk": (
        "deprecated SDK handler + batch(no-op)",
        "opentelemetry.sdk._logs",
        lambda _: StockPeer(no_work, deprecated=True),
    ),
    "stock-otlp": (
        "stock + batch(OTLP/gRPC)",
        "opentelemetry.exporter.otlp.proto.grpc",
        lambda address: OtlpPeer(address),
    ),
    "stock-otlp-default": (
        "the same, queue as shipped (2,048)",
        "opentelemetry.exporter.otlp.proto.grpc",
        lambda address: OtlpPeer(address, queue_records=None),
    ),
    "file": ("FileHandler /dev/null", None, lambda _: FilePeer()),
    "queue": ("QueueHandler + listener + FileHandler", None, lambda _: QueuePeer()),
    "structlog": ("structlog JSON /dev/null", "structlog", lambda _: StructlogPeer()),
    "loguru": ("loguru text /dev/null", "loguru", lambda _: LoguruPeer()),
    "logfire": ("logfire, nothing sent", "logfire", lambda _: LogfirePeer()),
}
