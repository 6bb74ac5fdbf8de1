"""A program that sends what a service in Python may log, by the OpenTelemetry Python SDK, and ends.

    python python_sender.py http/protobuf|grpc ENDPOINT [NUMBER [PREFIX]]

With NUMBER it sends so many numbered records instead, every tenth of them an audit record.
"""

import sys
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource

AT = 1_764_000_000_123_456_789
SCOPE = "storefront.cart", "2.3.4"


def exporter(protocol: str, endpoint: str) -> Any:
    """Compressed, whichever way it goes."""
    if protocol == "grpc":
        import grpc

        return GrpcExporter(endpoint=endpoint, insecure=True, compression=grpc.Compression.Gzip)
    return HttpExporter(endpoint=f"{endpoint}/v1/logs", compression=Compression.Gzip)


def kinds(provider: LoggerProvider) -> None:
    """Everything that a record can have."""
    logger = provider.get_logger(*SCOPE)
    span = trace.SpanContext(
        0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_remote=False, trace_flags=trace.TraceFlags(1)
    )
    context = trace.set_span_in_context(trace.NonRecordingSpan(span))

    def emit(body: Any, number: SeverityNumber | None = SeverityNumber.INFO, at: Any = logger, **more: Any) -> None:
        at.emit(LogRecord(timestamp=AT, body=body, severity_number=number, **more))

    emit(
        "Stock is low – 3 left ✓",  # noqa: RUF001
        SeverityNumber.WARN2,
        severity_text="warn",
        context=context,
        attributes={
            "text": 'naïve \0 "quoted" 😀',
            "empty": "",
            "yes": True,
            "no": False,
            "zero": 0,
            "negative": -42,
            "large": 9_007_199_254_740_991,
            "double": 0.1,
            "bytes": b"\x00\x01\xfe\xff",
            "texts": ["a", "", "c"],
            "mixed": [1, 2.5, True, None, "x", ["y"]],
            "nothing": None,
            "nested": {"sku": "b-17", "sizes": [38, 39.5], "stock": {"left": 3, "sold": None}},
        },
    )
    for name in ("TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"):
        emit(f"at {name}", SeverityNumber[name], severity_text=name)
    emit("without a text", SeverityNumber.INFO3)
    emit("without a severity", None)
    emit(
        "Total failed",
        SeverityNumber.ERROR,
        attributes={
            "exception.type": "TypeError",
            "exception.message": "price is not a number",
            "exception.stacktrace": "TypeError: price is not a number\n    at total (cart.js:12:5)",
        },
    )
    emit({"order": 17, "lines": [{"sku": "b-17", "price": 9.5}], "coupon": None}, event_name="cart.checked_out")
    emit(
        "Role granted",
        context=context,
        attributes={
            "is_audit": True,
            "audit.action": "role_grant",
            "audit.actor.id": "ann",
            "audit.target.id": "user/u17",
            "audit.outcome": "success",
            "audit.metadata.role": "admin",
            "log.record.uid": "dd6481af-690a-445f-9b9c-d629c291e968",
        },
    )
    emit("by its name", at=provider.get_logger("audit.role"))
    emit("[AUDIT] by its text")
    emit("no", attributes={"is_audit": False})


def numbered(provider: LoggerProvider, number: int, prefix: str) -> None:
    """Records with ids."""
    logger = provider.get_logger("storefront.orders")
    for index in range(number):
        attributes: dict[str, Any] = {"log.record.uid": f"{prefix}-{index}", "is_audit": index % 10 == 0}
        logger.emit(LogRecord(body=f"{prefix} {index}", severity_number=SeverityNumber.INFO, attributes=attributes))


def main(protocol: str, endpoint: str, number: str = "", prefix: str = "order") -> None:
    """Send, and export all of it before the end."""
    resource = Resource(
        {"service.name": "storefront", "service.version": "7.1", "host.cpus": 8, "host.tags": ["eu", "blue"]}
    )
    provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
    processor = BatchLogRecordProcessor(exporter(protocol, endpoint), max_queue_size=100_000)
    provider.add_log_record_processor(processor)
    if number:
        numbered(provider, int(number), prefix)
    else:
        kinds(provider)
    provider.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
