"""Certificates and tokens are made once: they take a second. A missing program is noticed before anything starts."""

import pytest

from tests.collector.binaries import otelcol, rotel
from tests.collector.secrets import Secrets


@pytest.fixture(scope="session")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Secrets:
    """What a Kubernetes secret would hold."""
    return Secrets(tmp_path_factory.mktemp("secrets"))


@pytest.fixture(scope="session")
def real_collector() -> str:
    """The OpenTelemetry Collector."""
    return otelcol()


@pytest.fixture(scope="session")
def real_rotel() -> str:
    """The Rotel collector."""
    return rotel()
