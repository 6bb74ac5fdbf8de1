"""``audit-bridge serve``."""

from __future__ import annotations

import argparse
import os
from typing import Any

from bridge.cli.arguments import port

_OPTIONS = (
    ("host", str, "ADDRESS", "address to listen on (default: BRIDGE_HOST, else 127.0.0.1)"),
    ("port", port, "N", "port of the live view (default: BRIDGE_PORT, else 8765)"),
    ("otlp-grpc-port", port, "N", "port for OTLP over gRPC (default: BRIDGE_OTLP_GRPC_PORT, else 4317)"),
    ("otlp-http-port", port, "N", "port for OTLP over HTTP (default: BRIDGE_OTLP_HTTP_PORT, else 4318)"),
    ("tls-certificate", str, "FILE", "speak TLS with this certificate (PEM), on all ports"),
    ("tls-key", str, "FILE", "the certificate's key (PEM)"),
    ("tls-client-ca", str, "FILE", "senders must show a certificate that these authorities (PEM) signed"),
)


def register(commands: Any) -> None:
    """Add the command."""
    command = commands.add_parser(
        "serve",
        help="run the monitor of a fleet: OTLP in, live view out",
        description="Takes log records by OTLP, over gRPC and HTTP, from services in any language and from collectors, "
        "and shows them live. Every BRIDGE_* setting that has no option here is read from the environment.",
        allow_abbrev=False,
    )
    for name, kind, metavar, words in _OPTIONS:
        command.add_argument(f"--{name}", type=kind, metavar=metavar, help=words)
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM."""
    from bridge.serve import run_serve
    from bridge.settings import Settings

    given = {name.replace("-", "_"): getattr(arguments, name.replace("-", "_")) for name, *_ in _OPTIONS}
    environ = dict(os.environ)
    settings = Settings.from_env(environ, **{name: value for name, value in given.items() if value is not None})
    return run_serve(settings, environ)
