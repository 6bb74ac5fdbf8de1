"""What can be said of the files in collector_config/ without running a pipeline: by the Collector, and by reading."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from bridge.settings import Settings
from tests.collector.binaries import CONFIGS, ROOT, cache, otelcol
from tests.collector.running import folders
from tests.collector.secrets import Secrets

COLLECTOR_FILES = ["agent.yaml", "gateway-kafka.yaml", "gateway.yaml", "kafka-archiver.yaml", "quickstart.yaml"]
OTHER_FILES = ["builder.yaml", "compose.yaml", "helm-gateway-values.yaml", "kubernetes-monitor.yaml"]
KINDS = {"receivers": "receiver", "processors": "processor", "exporters": "exporter", "connectors": "connector"}
KINDS["extensions"] = "extension"


def loaded(name: str) -> Any:
    """A file's content, before any variable is filled in."""
    return yaml.safe_load((CONFIGS / name).read_text())


def validate(path: Path, secrets: Secrets, folder: Path) -> subprocess.CompletedProcess[str]:
    """What the Collector thinks of a configuration."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder), **folders(folder, secrets)}
    command = [otelcol(), "validate", "--config", str(path)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=50, check=False)


def components(name: str) -> set[tuple[str, str]]:
    """The components of a configuration: kind and type."""
    config = loaded(name)
    return {(kind, each.partition("/")[0]) for plural, kind in KINDS.items() for each in config.get(plural, {})}


USED = set().union(*(components(name) for name in COLLECTOR_FILES))


# -- the real Collector -----------------------------------------------------------------------------------------------


def test_every_file_has_a_test() -> None:
    """A configuration that nobody validates would be a promise that nobody keeps."""
    assert sorted(path.name for path in CONFIGS.glob("*.y*ml")) == sorted(COLLECTOR_FILES + OTHER_FILES)


@pytest.mark.parametrize("name", COLLECTOR_FILES)
def test_collector_accepts(name: str, secrets: Secrets, tmp_path: Path) -> None:
    """It knows every component and every setting."""
    result = validate(CONFIGS / name, secrets, tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("what", "instead", "complaint"),
    [
        ("file_storage", "file_storagge", "file_storagge"),
        ("max_elapsed_time", "max_elapsed", "max_elapsed"),
        ("IsMatch(body", "IsMach(body", "IsMach"),
    ],
)
def test_collector_refuses_mistakes(what: str, instead: str, complaint: str, secrets: Secrets, tmp_path: Path) -> None:
    """So that its acceptance means something."""
    wrong = tmp_path / "agent.yaml"
    wrong.write_text((CONFIGS / "agent.yaml").read_text().replace(what, instead))
    result = validate(wrong, secrets, tmp_path)
    assert result.returncode != 0
    assert complaint in result.stdout + result.stderr


def test_builder_builds_what_is_used_and_no_more() -> None:
    """Every component of builder.yaml is used by a file, and the other way round."""
    listing = subprocess.run([otelcol(), "components"], capture_output=True, text=True, timeout=50, check=True).stdout
    built = yaml.safe_load(listing)
    found = {(kind, each["name"]) for plural, kind in KINDS.items() for each in built[plural] or []}
    if os.environ.get("OTELCOL"):
        assert found >= USED
    else:
        assert found == USED


# -- versions ---------------------------------------------------------------------------------------------------------


def test_one_version() -> None:
    """The builder, its modules, and the images that users are told to take."""
    text = (CONFIGS / "builder.yaml").read_text()
    version = loaded("builder.yaml")["dist"]["version"]
    modules = re.findall(r"gomod: (\S+) v(\S+)", text)
    others = {module.rsplit("/", 1)[1]: its for module, its in modules if its != version}
    stable = version.replace("0.158.0", "1.64.0")
    assert others == {
        "routingconnector": "0.157.0",
        **dict.fromkeys(("envprovider", "fileprovider", "yamlprovider"), stable),
    }
    assert loaded("compose.yaml")["services"]["collector"]["image"].endswith(f":{version}")
    assert loaded("helm-gateway-values.yaml")["image"]["tag"] == version
    assert f"({version.removesuffix('.0')})" in (CONFIGS / "README.md").read_text()


# -- make collector ---------------------------------------------------------------------------------------------------

FAKE_GO = """\
#!/bin/sh
[ "$1" = version ] && { echo go version go0; exit; }
echo "$CGO_ENABLED $*" >> "$HOME/calls"
made=$(sed -n 's/^  output_path: "\\(.*\\)"$/\\1/p' "$4")
echo '#!/bin/sh' > "$made/otelcol-audit"
chmod +x "$made/otelcol-audit"
[ ! -e "$HOME/broken" ]
"""


def build(home: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run build.sh with a fake Go, in this environment alone."""
    go = home / "go"
    go.write_text(FAKE_GO)
    go.chmod(0o755)
    environ = {"PATH": os.environ["PATH"], "HOME": str(home), "GO": str(go)} | environ
    command = ["sh", str(CONFIGS / "build.sh")]
    return subprocess.run(command, env=environ, cwd=home, capture_output=True, text=True, timeout=50, check=False)


def test_build_happens_once_and_where_the_tests_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the builder of the version that builder.yaml names, without cgo; nothing is left over."""
    monkeypatch.delenv("OTELCOL", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(pytest.skip.Exception):
        otelcol()
    built = build(tmp_path)
    assert built.returncode == 0, built.stderr
    assert built.stdout == f"{otelcol()}\n"
    assert [path.name for path in cache().iterdir()] == [Path(otelcol()).name]
    again = build(tmp_path, GO="/nowhere/go")
    assert (again.returncode, again.stdout) == (0, built.stdout)
    (call,) = (tmp_path / "calls").read_text().splitlines()
    version = loaded("builder.yaml")["dist"]["version"]
    assert call.startswith(f"0 run go.opentelemetry.io/collector/cmd/builder@v{version} --config ")


def test_broken_build_is_no_build(tmp_path: Path) -> None:
    """What a failing builder leaves behind is not taken for a Collector."""
    (tmp_path / "broken").touch()
    assert build(tmp_path).returncode != 0
    assert list((tmp_path / ".cache" / "otel-audit-bridge").iterdir()) == []
    (tmp_path / "broken").unlink()
    assert build(tmp_path).returncode == 0


def test_build_takes_the_named_one(tmp_path: Path) -> None:
    """OTELCOL wins; one that is no program is an error that says so."""
    assert build(tmp_path, OTELCOL=sys.executable).stdout == f"{sys.executable}\n"
    wrong = build(tmp_path, OTELCOL=str(tmp_path / "none"))
    assert wrong.returncode == 1
    assert "which is no program" in wrong.stderr


def test_build_without_go(tmp_path: Path) -> None:
    """It says what to do."""
    missing = build(tmp_path, GO="/nowhere/go")
    assert missing.returncode == 1
    assert "Go is missing (/nowhere/go)" in missing.stderr
    assert "make collector GO=/path/to/go" in missing.stderr


# -- what the files promise -------------------------------------------------------------------------------------------


def walk(value: Any, *path: str) -> Any:
    """Every scalar of a configuration, with the keys that lead to it."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from walk(each, *path, str(key))
    elif isinstance(value, list):
        for each in value:
            yield from walk(each, *path)
    else:
        yield path, value


@pytest.mark.parametrize("name", COLLECTOR_FILES)
def test_every_place_can_be_set_from_outside(name: str) -> None:
    """Addresses, ports, folders and secrets are variables; so the files that are tested are the files that are used."""
    places = {"endpoint", "brokers", "directory", "path", "filename", "host", "port", "username", "password"}
    fixed = [
        f"{'.'.join(path)}: {value}"
        for path, value in walk(loaded(name))
        if (path[-1] in places or path[-1].endswith("_file"))
        and not re.fullmatch(r":?(/[\w.-]+)?", re.sub(r"\$\{env:[^}]*\}", "", str(value)))
    ]
    assert fixed == []


def test_variables_are_documented() -> None:
    """With their defaults; and no variable that is in no file."""
    used: dict[str, set[str]] = {}
    for name in COLLECTOR_FILES:
        for variable, default in re.findall(r"\$\{env:(\w+)(?::-([^}]*))?\}", (CONFIGS / name).read_text()):
            used.setdefault(variable, set()).add(default)
    text = (CONFIGS / "README.md").read_text()
    rows = [line for line in text.splitlines() if re.match(r"\| `[A-Z_]+`", line)]
    documented = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row.split("|")[1])}
    assert documented == set(used)
    for row in rows:
        for variable in re.findall(r"`([A-Z_]+)`", row.split("|")[1]):
            for default in used[variable] - {""}:
                assert f"`{default}`" in row, variable


def test_readme_names_every_component() -> None:
    """And none that no file uses."""
    text = (CONFIGS / "README.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (receiver|processor|exporter|connector|extension) \|", text, re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert {(kind, name) for name, kind in rows} == USED


def test_readme_names_every_file() -> None:
    """As a link."""
    named = set(re.findall(r"\]\(([\w.-]+)\)", (CONFIGS / "README.md").read_text()))
    assert named == {path.name for path in CONFIGS.iterdir()} - {"README.md"}


ROUTERS = ["agent.yaml", "gateway.yaml", "gateway-kafka.yaml"]


def test_one_routing_condition() -> None:
    """All that route agree on what an audit record is, and lose none that matches nothing."""
    routes = [loaded(name)["connectors"]["routing/class"] for name in ROUTERS]
    assert all(route == routes[0] for route in routes)
    assert routes[0]["default_pipelines"] == ["logs/system"]
    assert [entry["pipelines"] for entry in routes[0]["table"]] == [["logs/audit"]]


@pytest.mark.parametrize("name", COLLECTOR_FILES)
def test_nothing_answers_before_it_has_stored(name: str) -> None:
    """No batch processor; every queue on disk is written through."""
    config = loaded(name)
    assert not [each for each in config["processors"] if each.startswith("batch")]
    storages = {key: value for key, value in config.get("extensions", {}).items() if key.startswith("file_storage")}
    for storage in storages.values():
        assert storage["fsync"] is True
        assert storage["create_directory"] is True
        assert storage["compaction"]["directory"] == storage["directory"]
    assert bool(storages) == (name in ROUTERS)


@pytest.mark.parametrize("name", ROUTERS)
def test_audit_way_gives_nothing_up(name: str) -> None:
    """Every exporter of the audit pipeline has a queue on disk, retries without end, and keeps the order."""
    config = loaded(name)
    pipeline = config["service"]["pipelines"]["logs/audit"]
    assert not pipeline.get("processors"), "nothing may filter audit records"
    for exporter in set(pipeline["exporters"]) - {"file/audit"}:
        settings = config["exporters"][exporter]
        queue = settings["sending_queue"]
        assert queue["storage"] in config["service"]["extensions"], exporter
        assert settings["retry_on_failure"] | {"max_elapsed_time": 0, "enabled": True} == settings["retry_on_failure"]
        assert queue["num_consumers"] == 1
        # The live view is the one that must not make anybody wait.
        assert queue.get("block_on_overflow", False) is not exporter.startswith("otlp_http/monitor")
        if exporter.startswith("kafka"):
            producer = settings["producer"]
            assert producer["required_acks"] == -1
            assert queue["batch"]["max_size"] < producer["max_message_bytes"]
        else:
            assert queue["batch"]["max_size"] < 4 << 20


@pytest.mark.parametrize("name", ROUTERS)
def test_system_way_gives_up_soon(name: str) -> None:
    """A queue of the best-effort way that fills makes the sender repeat whole requests."""
    config = loaded(name)
    for exporter in config["service"]["pipelines"]["logs/system"]["exporters"]:
        settings = config["exporters"][exporter]
        assert "storage" not in settings["sending_queue"]
        assert int(settings["retry_on_failure"]["max_elapsed_time"].removesuffix("s")) <= 30


def test_archiver_marks_what_the_archive_has() -> None:
    """An offset waits for the archive's answer; nothing is skipped, at the first start or because of an error."""
    config = loaded("kafka-archiver.yaml")
    receiver = config["receivers"]["kafka/audit"]
    assert receiver["message_marking"] == {"after": True, "on_error": False, "on_permanent_error": False}
    assert receiver["initial_offset"] == "earliest"
    assert receiver["error_backoff"]["max_elapsed_time"] == 0
    exporter = config["exporters"]["otlp_grpc/archive"]
    assert exporter["sending_queue"]["wait_for_result"] is True
    assert exporter["retry_on_failure"]["max_elapsed_time"] == 0


# -- containers -------------------------------------------------------------------------------------------------------


def test_compose_fits_the_files() -> None:
    """The variables and folders that it names exist; the monitor's command line is one."""
    services = loaded("compose.yaml")["services"]
    collector, monitor = services["collector"], services["monitor"]
    quickstart = (CONFIGS / "quickstart.yaml").read_text()
    assert [name for name in collector["environment"] if f"${{env:{name}:" not in quickstart] == []
    (mount,) = collector["volumes"]
    assert (CONFIGS / mount.split(":")[0]).is_file()
    assert (CONFIGS / monitor["build"]["context"]).resolve() == ROOT
    dockerfile = (ROOT / monitor["build"]["dockerfile"]).read_text()
    for source in re.findall(r"^COPY (.+) \S+$", dockerfile, re.MULTILINE):
        # The package itself is not here when the tests run against the built wheel.
        assert [name for name in source.split() if name != "bridge" and not (ROOT / name).exists()] == []
    assert set(monitor["environment"]) <= set(Settings.environment_names())


def test_kubernetes_fits_the_files() -> None:
    """Variables, folders, ports and the command are those of gateway.yaml and of the monitor."""
    from bridge.cli import parser

    values = loaded("helm-gateway-values.yaml")
    gateway = (CONFIGS / "gateway.yaml").read_text()
    assert [each["name"] for each in values["extraEnvs"] if f"${{env:{each['name']}:" not in gateway] == []
    mounted = {each["mountPath"] for each in values["extraVolumeMounts"]}
    assert mounted == {"/var/lib/otelcol", "/etc/otelcol/secrets"}
    assert all(f":-{folder}}}" in gateway for folder in mounted)
    deployment, service = yaml.safe_load_all((CONFIGS / "kubernetes-monitor.yaml").read_text())
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    parser().parse_args(container["args"])
    assert {each["name"] for each in container["env"]} <= set(Settings.environment_names())
    ports = {each["containerPort"] for each in container["ports"]}
    assert ports == {each["port"] for each in service["spec"]["ports"]}
    assert ports == {Settings().port, Settings().otlp_grpc_port, Settings().otlp_http_port}
