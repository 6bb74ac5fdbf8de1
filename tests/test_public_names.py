from __future__ import annotations

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import bridge

MODULES = [name for _, name, _ in pkgutil.walk_packages(bridge.__path__, "bridge.") if not name.endswith("__main__")]


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


@pytest.mark.parametrize("name", sorted(bridge.__all__))
def test_every_public_name_is_there(name: str) -> None:
    """Lazy or not, once and always the same object."""
    value = getattr(bridge, name)
    assert value is getattr(bridge, name)
    assert getattr(value, "__doc__", None)


def test_dir_and_all_are_the_same() -> None:
    """dir() shows the public names, sorted."""
    assert dir(bridge) == sorted(bridge.__all__)


def test_a_wrong_name_is_an_attribute_error() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="module 'bridge' has no attribute 'nonsense'"):
        _ = bridge.nonsense


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_exports_is_there(name: str) -> None:
    """Every name in __all__ exists, once."""
    module = load(name)
    exported = getattr(module, "__all__", [])
    assert [each for each in exported if not hasattr(module, each)] == []
    assert sorted(set(exported)) == sorted(exported)


def test_a_module_that_only_audits_pays_for_no_sdk() -> None:
    """import bridge and bridge.audit_log() leave the OpenTelemetry SDK and Starlette alone."""
    code = (
        "import sys, logging, bridge; bridge.audit_log(logging.getLogger('a'), 'm'); "
        "print([m for m in ('opentelemetry.sdk', 'starlette', 'uvicorn') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_the_names_that_others_write_against() -> None:
    """These never go away."""
    fixed = {
        "setup",
        "audit_log",
        "audit_log_async",
        "actor",
        "WebSocketLogRecordExporter",
        "LogStreamHandler",
        "get_log_stream_handler",
        "setup_log_streaming",
        "AuditUnavailable",
        "AuditContextMiddleware",
        "AuditReceipt",
        "Bridge",
    }
    assert fixed - set(bridge.__all__) == set()


def test_every_public_name_has_a_lazy_home_or_is_imported() -> None:
    """The lazy table holds public names only."""
    assert set(bridge._LAZY) - set(bridge.__all__) == set()
    source = Path(bridge.__file__).read_text()
    for name, module in bridge._LAZY.items():
        assert re.search(rf"from {re.escape(module)} import .*\b{name}\b", source), name
