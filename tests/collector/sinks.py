"""What stands at the end of a pipeline in these tests: an archive that asks for TLS and a token, and a log backend."""

import collections
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from tests.collector.ports import free_port
from tests.collector.secrets import Secrets
from tests.serving import eventually
from tests.telemetry import Sink


class Archive(Sink):
    """An OTLP/gRPC server that can be stopped and come back, and that can take records without an answer."""

    def __init__(self, secrets: Secrets) -> None:
        super().__init__()
        self.port = free_port()
        self.endpoint = f"127.0.0.1:{self.port}"
        self.answering = threading.Event()
        self.answering.set()
        self.refusing = threading.Event()
        self.refused = 0
        self._secrets = secrets
        self._server: Any = None

    def start(self) -> None:
        """Listen."""
        import grpc

        def export(request: bytes, context: Any) -> bytes:
            token = dict(context.invocation_metadata()).get("authorization")
            if self.refusing.is_set() or token != f"Bearer {self._secrets.token('archive')}":
                self.refused += 1
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "no or a wrong token")
            self.take(request)
            # Whoever has no patience for an answer goes; the thread must go as well.
            while not self.answering.wait(0.05) and context.is_active():
                pass
            return b""

        method = grpc.unary_unary_rpc_method_handler(export)
        service = "opentelemetry.proto.collector.logs.v1.LogsService"
        self._server = grpc.server(ThreadPoolExecutor(max_workers=4))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": method}),))
        key, certificate = (self._secrets.text(name).encode() for name in ("tls.key", "tls.crt"))
        assert self._server.add_secure_port(self.endpoint, grpc.ssl_server_credentials([(key, certificate)]))
        self._server.start()

    def stop(self) -> None:
        """Be gone, for as long as it takes."""
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None


@contextmanager
def archive(secrets: Secrets, *, listening: bool = True) -> Iterator[Archive]:
    """An archive."""
    made = Archive(secrets)
    if listening:
        made.start()
    try:
        yield made
    finally:
        made.answering.set()
        made.stop()


def bodies(sink: Sink) -> list[str]:
    """What the records that have arrived say, in the order of their arrival."""
    return [row["body"] for row in sink.rows()]


def copies(sink: Sink) -> dict[str, int]:
    """How often each record has arrived, by what it says."""
    return dict(collections.Counter(bodies(sink)))


def arrived(sink: Sink, wanted: set[str], seconds: float = 30.0) -> None:
    """Wait until all of these have arrived."""
    eventually(lambda: wanted <= set(bodies(sink)), f"{len(wanted)} records arrive", seconds)


def request_of(rows: list[dict[str, Any]], resource: dict[str, str] | None = None) -> ExportLogsServiceRequest:
    """An OTLP request; a row has ``body`` and perhaps ``scope`` and ``attributes``, of any type that OTLP knows."""
    request = ExportLogsServiceRequest()
    of_resource = request.resource_logs.add()
    for name, value in (resource or {"service.name": "shop"}).items():
        _set(of_resource.resource.attributes.add(), name, value)
    for row in rows:
        of_scope = of_resource.scope_logs.add()
        of_scope.scope.name = row.get("scope", "shop")
        record = of_scope.log_records.add(severity_number=9, severity_text="INFO", time_unix_nano=1)
        _fill(record.body, row["body"])
        for name, value in row.get("attributes", {}).items():
            _set(record.attributes.add(), name, value)
    return request


def _set(pair: Any, name: str, value: Any) -> None:
    pair.key = name
    _fill(pair.value, value)


_FIELDS: dict[type, str] = {str: "string_value", bool: "bool_value", int: "int_value", float: "double_value"}


def _fill(target: Any, value: Any) -> None:
    if isinstance(value, (list, tuple)):
        target.array_value.SetInParent()
        for each in value:
            _fill(target.array_value.values.add(), each)
    elif isinstance(value, dict):
        target.kvlist_value.SetInParent()
        for name, each in value.items():
            _set(target.kvlist_value.values.add(), name, each)
    elif value is not None:
        setattr(target, _FIELDS[type(value)], value)
