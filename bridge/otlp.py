"""Logs out by OTLP: where to, and by which of the stock exporters."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from opentelemetry.util.re import parse_env_headers

from bridge.errors import MissingDependency, SettingsError
from bridge.settings import Settings

__all__ = ["monitor_exporter", "otlp_endpoint", "otlp_exporter"]


def otlp_endpoint(settings: Settings, environ: dict[str, str], ours: bool) -> str | None:
    """Where to send, "" for "as the exporter's own variables say", None for nowhere.

    On a provider that a team has set up, the standard variables are theirs to act on: sending as well would double
    every record. There only an explicit ``otlp_endpoint`` counts.
    """
    if settings.otlp_endpoint is not None:
        return settings.otlp_endpoint
    named = environ.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT") or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    if not ours or not named:
        return None
    wanted = environ.get("OTEL_LOGS_EXPORTER", "otlp")
    return "" if "otlp" in (word.strip() for word in wanted.split(",")) else None


def otlp_exporter(endpoint: str, settings: Settings, environ: dict[str, str]) -> Any:
    """The stock exporter for ``endpoint``, "" for "as its own variables say"."""
    protocol = (
        settings.otlp_protocol
        or environ.get("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL")
        or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    )
    if not protocol:
        named = endpoint or environ.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT") or environ["OTEL_EXPORTER_OTLP_ENDPOINT"]
        protocol = _usual_protocol(named)
    if protocol not in ("grpc", "http/protobuf"):
        raise SettingsError(
            "OTEL_EXPORTER_OTLP_PROTOCOL",
            protocol,
            "must be grpc or http/protobuf for logs",
            "http/json is not supported",
        )
    return _exporter(protocol, endpoint, {})


def monitor_exporter(settings: Settings, environ: dict[str, str]) -> Any:
    """The stock exporter for ``monitor_endpoint``. Of the standard variables it heeds those of TLS and time only.

    The headers of ``OTEL_EXPORTER_OTLP_HEADERS`` are the collector's, keys of a vendor as often as not.
    """
    endpoint = settings.monitor_endpoint or ""
    protocol = _usual_protocol(endpoint)
    # HTTP's exporter adds the variables' headers to those that it is given: it is given empty ones.
    told = environ.get("OTEL_EXPORTER_OTLP_LOGS_HEADERS") or environ.get("OTEL_EXPORTER_OTLP_HEADERS") or ""
    headers = dict.fromkeys(parse_env_headers(told, liberal=True), "") if protocol == "http/protobuf" else {}
    headers["x-audit-bridge"] = "monitor"  # gRPC's takes them from the variables if it is given none
    if settings.token is not None:
        headers["authorization"] = f"Bearer {settings.token}"
    return _exporter(protocol, endpoint, headers)


def _usual_protocol(endpoint: str) -> str:
    return "grpc" if urlsplit(endpoint).port == 4317 else "http/protobuf"


def _exporter(protocol: str, endpoint: str, headers: dict[str, str]) -> Any:
    try:
        if protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcExporter

            return GrpcExporter(
                endpoint=endpoint or None, insecure=endpoint.startswith("http:") or None, headers=headers or None
            )
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpExporter

        if endpoint and not endpoint.rstrip("/").endswith("/v1/logs"):
            endpoint = endpoint.rstrip("/") + "/v1/logs"
        return HttpExporter(endpoint=endpoint or None, headers=headers or None)
    except ImportError as error:
        raise MissingDependency(
            f"opentelemetry-exporter-otlp-proto-{'grpc' if protocol == 'grpc' else 'http'}",
            f"sending logs by OTLP ({error})",
            "otlp",
        ) from None
