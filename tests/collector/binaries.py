"""The foreign programs that these tests run, and where they are. Without one its tests are skipped; in CI they fail."""

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CONFIGS = ROOT / "collector_config"


def cache() -> Path:
    """Where `make collector` puts what it builds: outside the checkout, so that the next checkout has it too."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "otel-audit-bridge"


def cached_name(stem: str, made_from: Path) -> Path:
    """The place of what was made from a file: another content, another place."""
    return cache() / f"{stem}-{hashlib.sha256(made_from.read_bytes()).hexdigest()[:16]}"


def otelcol() -> str:
    """The OpenTelemetry Collector: the one that OTELCOL names, or that of `make collector`."""
    if named := os.environ.get("OTELCOL"):
        return named
    built = cached_name("otelcol", CONFIGS / "builder.yaml")
    if not built.exists():
        pytest.skip("no OpenTelemetry Collector for collector_config/builder.yaml: run make collector, or set OTELCOL")
    return str(built)


@functools.cache
def rotel() -> str:
    """The Rotel collector: its Python package carries the program."""
    spec = importlib.util.find_spec("rotel")
    places = list(spec.submodule_search_locations or ()) if spec else []
    places.append(str(Path(sys.executable).parent))
    for name in ("rotel-agent", "rotel"):
        for place in places:
            program = Path(place, name)
            if program.is_file() and os.access(program, os.X_OK):
                tried = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=False)
                if tried.returncode != 0:  # it is linked with libpython, which Debian's python3 comes without
                    pytest.skip(f"Rotel does not run here: {tried.stderr.strip()[-300:]}")
                return str(program)
    pytest.skip("the package rotel, which carries the Rotel collector, is not installed")


@functools.cache
def openssl() -> str:
    """The openssl command, for certificates that live as long as a test."""
    found = shutil.which("openssl")
    if found is None:
        pytest.skip("no openssl command")
    return found


@functools.cache
def kafka() -> tuple[str, str]:
    """Java, and the class path of a Kafka broker; its jars come by Maven, once, into Maven's own cache."""
    java, maven = shutil.which("java"), shutil.which("mvn")
    if java is None or maven is None:
        pytest.skip("Kafka needs java and mvn (Debian: apt-get install maven)")
    pom = Path(__file__).parent / "kafka" / "pom.xml"
    listed = cached_name("kafka-classpath", pom)
    if not listed.exists() or not all(Path(jar).exists() for jar in listed.read_text().split(os.pathsep)):
        listed.parent.mkdir(parents=True, exist_ok=True)
        part = listed.with_name(f"{listed.name}.{os.getpid()}")
        command = [maven, "-B", "-q", "-f", str(pom), "dependency:build-classpath", f"-Dmdep.outputFile={part}"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        if made.returncode != 0:
            pytest.skip(f"Maven did not bring Kafka: {(made.stdout + made.stderr)[-2_000:]}")
        part.rename(listed)
    return java, listed.read_text()
