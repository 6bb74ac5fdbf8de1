"""Promises that the project's own files make to each other."""

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LOCKS = ["requirements.lock", "requirements-oldest.lock"]
MADE_FOLDERS = {"__pycache__", "build", "dist", "htmlcov", "node_modules", "site"}

# Package registries, and folders of the machine that something was written on.
PRIVATE = re.compile(
    r"""
    \b(?:
        pypi\.org | pythonhosted\.org | npmjs\.(?:org|com) | yarnpkg\.com | crates\.io | golang\.org
        | maven\.(?:org|apache\.org) | deb\.debian\.org
    )\b
    | (?<![\w.$}~/-]) / (?:work|root|opt/wheels|home/\w+|Users/\w+) /
    """,
    re.VERBOSE,
)


def project_files() -> Iterator[Path]:
    """The files under version control; where git is absent, those in no folder that a tool made."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        command = [git, "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listing = subprocess.run(command, capture_output=True, text=True, check=False)
        if listing.returncode == 0:
            paths = [ROOT / name for name in listing.stdout.split("\0") if name]
            yield from (path for path in paths if path.is_file())
            return
    for folder, subfolders, names in os.walk(ROOT):
        subfolders[:] = [s for s in subfolders if s not in MADE_FOLDERS and (s[0] != "." or s == ".ci")]
        yield from (Path(folder, name) for name in names)


def text_of(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "replace")


def test_version_is_the_newest_in_the_changelog() -> None:
    released = re.findall(r"^## \[(\d[^\]]*)\]", text_of(ROOT / "CHANGELOG.md"), re.MULTILINE)
    assert version("otel-audit-bridge") == released[0]
    assert tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["version"] == released[0]


def test_no_file_names_a_registry_or_a_machine_path() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}" for path in project_files() for match in PRIVATE.finditer(text_of(path))
    ]
    assert found == []


def test_lock_files_hold_no_address() -> None:
    """Neither where packages come from nor anything else of the web."""
    locks = [path for path in project_files() if path.name.endswith(".lock") or path.name == "package-lock.json"]
    assert {"requirements.lock", "requirements-oldest.lock", "package-lock.json"} == {path.name for path in locks}
    assert [f"{path.name}: {line}" for path in locks for line in text_of(path).splitlines() if "://" in line] == []


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        # In two pieces, or this file would name them.
        ("see https://pypi" + ".org/project/x", True),
        ("open('/home" + "/ann/x')", True),
        ("cd /root" + "/main", True),
        ("pip install x", False),
        ("https://example.org/work/list", False),
        ("$HOME/work/x and ./root/x", False),
        ("/var/log/x and /tmp/x", False),
    ],
)
def test_what_counts_as_one(text: str, matches: bool) -> None:
    assert bool(PRIVATE.search(text)) is matches


@pytest.mark.parametrize("name", LOCKS)
def test_lock_holds_only_pins_and_hashes(name: str) -> None:
    pin = re.compile(r"[a-z0-9._-]+==[^ ]+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?|\s*#.*")
    lines = text_of(ROOT / name).splitlines()
    assert [line for line in lines if not pin.fullmatch(line)] == []
    assert [line for line in lines if "/" in line] == [], "it names an address or a folder"


def test_locks_cover_every_direct_dependency() -> None:
    settings = tomllib.loads(text_of(ROOT / "pyproject.toml"))
    project = settings["project"]
    extras = project["optional-dependencies"].values()
    direct = {
        re.split(r"[\[<>=~! ;]", requirement)[0].lower()
        for group in (project["dependencies"], *extras, settings["dependency-groups"]["dev"])
        for requirement in group
    } - {project["name"]}
    for name in LOCKS:
        locked = set(re.findall(r"^([a-z0-9._-]+)==", text_of(ROOT / name), re.MULTILINE))
        assert direct - locked == set(), f"run make lock: {name} is stale"


def test_oldest_lock_has_the_lower_bounds() -> None:
    project = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]
    bounded = "\n".join([*project["dependencies"], *project["optional-dependencies"]["otlp"]])
    lock = text_of(ROOT / "requirements-oldest.lock")
    bound = re.compile(r"^(msgspec|opentelemetry-\S+)>=([\d.]+)", re.MULTILINE)
    for name, oldest in bound.findall(bounded):
        assert re.search(rf"^{name}=={re.escape(oldest)}(\.0)* ", lock, re.MULTILINE), (name, oldest)


def test_ci_script_can_be_run() -> None:
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_in_documents_exist(document: str) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", text_of(ROOT / "Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:`|^\s*\$? ?|&& )make ([a-z][a-z-]*)", text_of(ROOT / document), re.MULTILINE))
    assert named, "it names no target at all"
    assert named - targets == set()
