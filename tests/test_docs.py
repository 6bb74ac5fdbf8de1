"""The documentation says what the code does: settings, attributes, statistics, commands, names and links."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import bridge
from bridge.assembly import Statistics
from bridge.capture.export import TO_COLLECTOR, TO_MONITOR
from bridge.cli import parser as command_line
from bridge.live import messages, session, session_v2
from bridge.live.session_v2 import parse_options
from bridge.record import attributes, filters, message
from bridge.record.event import LogEvent
from bridge.record.filters import FILTER_PARAMETERS, FilterError, parse_query
from bridge.settings import Settings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *PAGES]


def without_code(text: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^( *)(```+).*?^\1\2 *$", "", text, flags=re.MULTILINE | re.DOTALL)


def rows(page: Path, heading: str) -> Iterator[list[str]]:
    """The rows of every table on ``page`` whose first column is headed ``heading``."""
    inside = False
    for line in page.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            inside = False
        elif cells[0] == heading:
            inside = True
        elif inside and not set(cells[0]) <= set("- "):
            yield cells


def quoted(cell: str) -> list[str]:
    """The names in backticks."""
    return re.findall(r"`([^`]+)`", cell)


# -- settings ---------------------------------------------------------------------------------------------------------


def test_every_setting_is_documented_with_its_variable_and_default() -> None:
    """And no setting that is none."""
    documented = {}
    for keyword, variable, default, _meaning in rows(REFERENCE / "settings.md", "Keyword"):
        documented[quoted(keyword)[0]] = (quoted(variable), ast.literal_eval(quoted(default)[0]))
    variables = {name: [variable] for variable, name in Settings.environment_names().items()}
    expected = {name: (variables.get(name, []), item.default) for name, item in Settings.names().items()}
    assert documented == expected


def test_variables_named_anywhere_exist() -> None:
    """No page sends its reader after a setting that is not there."""
    known = set(Settings.environment_names())
    named = {
        (path.name, name)
        for path in DOCUMENTS
        for name in re.findall(r"\bBRIDGE_[A-Z_]*[A-Z]\b(?!\*)", path.read_text())
        if path.name not in ("CONTRIBUTING.md", "CHANGELOG.md")
    }
    assert {name for name in named if name[1] not in known and name[1] + "_" not in "".join(known)} == set()


# -- attributes -------------------------------------------------------------------------------------------------------


def test_every_attribute_is_documented() -> None:
    """Each name of bridge.record.attributes, and no other in the tables."""
    names = {
        value
        for name, value in vars(attributes).items()
        if name.isupper() and isinstance(value, str) and name != "SCHEMA_VERSION"
    }
    documented = [name for cells in rows(REFERENCE / "attributes.md", "Attribute") for name in quoted(cells[0])]
    assert len(documented) == len(set(documented))
    assert names - set(documented) == set()
    assert set(documented) - names == {"log.format_error", "bridge.conversion"}


# -- statistics -------------------------------------------------------------------------------------------------------


def test_every_statistic_is_documented() -> None:
    """In the order of the fields."""
    documented = [name for cells in rows(REFERENCE / "statistics.md", "Field") for name in quoted(cells[0])]
    assert documented == list(Statistics._fields)


def counted_reasons() -> set[str]:
    """What the code passes to ``Drops.add``, or keeps in a ``Lane`` to pass it later."""
    found = {reason for lane in (TO_COLLECTOR, TO_MONITOR) for reason in (lane.queue_full, lane.failed, lane.shutdown)}
    for path in Path(bridge.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "add"
                and ast.unparse(node.func.value).endswith("drops")
            ):
                if ast.unparse(node.args[0]).startswith("self._lane."):
                    continue
                texts = [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
                assert texts, f"{path.name}:{node.lineno}: the reason has to be written out"
                found |= {text for text in texts if isinstance(text, str)}
    return found


def test_every_reason_of_a_drop_is_documented() -> None:
    """And no reason that the code can't count."""
    documented = {name for cells in rows(REFERENCE / "statistics.md", "Reason") for name in quoted(cells[0])}
    assert documented == counted_reasons()
    assert "queue_full" in documented


# -- the wire ---------------------------------------------------------------------------------------------------------


def test_every_close_code_of_the_session_is_documented() -> None:
    """1012 is the server's own."""
    documented = {int(cells[0]) for cells in rows(REFERENCE / "wire-protocol.md", "Code")}
    codes = {value for name, value in vars(session).items() if name.startswith("CLOSE_")}
    assert documented == codes | {1012}


WIRE = REFERENCE / "wire-protocol.md"


def test_every_parameter_of_the_wire_is_documented() -> None:
    """Filters, with those that may be repeated, and what else version 2 takes."""
    tables = [(quoted(cells[0])[0], cells[1]) for cells in rows(WIRE, "Parameter")]
    filters = {name: meaning for name, meaning in tables if name in FILTER_PARAMETERS}
    others = {name for name, _ in tables} - set(filters)
    assert set(filters) == FILTER_PARAMETERS
    for name in FILTER_PARAMETERS:
        value = {"streams": "audit", "min_severity": "WARN", "trace_id": "abcd"}.get(name, "x")
        repeated = [(name, value), (name, value)]
        if filters[name] == "no":
            with pytest.raises(FilterError):
                parse_query(repeated)
        else:
            parse_query(repeated)
    assert others == {"v", "history", "after", "batch", "max_rate"}
    for name in others - {"v"}:
        parse_options([(name, {"after": "e:1"}.get(name, "1"))])


def filter_of(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def test_documented_filters_do_what_is_said() -> None:
    """What the table says of values, where it is easy to get wrong."""
    event = LogEvent(
        timestamp=0,
        observed_timestamp=0,
        severity_number=13,
        level="WARNING",
        logger="shop.orders",
        message="Order o-1 is late",
        is_audit=True,
        action="role_grant",
        metadata={"role": "admin", "tags": ("a", "b")},
        record_id="7f0c",
        attributes={"audit.actor.id": "u1", "paid": True, "total": 17.0, "a.b": {"c": "x"}, "thread.id": 1425},
        resource={"service.name": "shop"},
    )
    good = (
        "logger=shop logger=shop.* logger=*.orders min_severity=WARN min_severity=warning min_severity=13 service=shop "
        "streams=audit,system attr=actor:u1 attr=audit.actor.id:u* attr=role:admin attr=tags:b attr=paid "
        "attr=paid:true attr=total:17 attr=a.b.c:x attr=id:7f0c attr=action:role_* attr=service.name:shop "
        "q=LATE q=42 re=o-\\d re="
    )
    bad = (
        "logger=sho logger=orders logger=shop? logger=Shop min_severity=ERROR service=sho streams=system attr=actor:u "
        "attr=Paid attr=total:1 attr=a.c:x q=shopping re=LATE"
    )
    for case in good.split():
        assert parse_query([filter_of(case)]).matches(event), case
    for case in bad.split():
        assert not parse_query([filter_of(case)]).matches(event), case


def test_limits_of_the_wire_are_documented() -> None:
    """The numbers of the tables are those of the code."""
    limits = {cells[0]: cells[1] for heading in ("Limit", "What") for cells in rows(WIRE, heading)}
    numbers = {
        "characters of a value, of all values together": [filters.MAX_PARAMETER_CHARS, filters.MAX_TOTAL_CHARS],
        "values of one repeated parameter": [filters.MAX_VALUES],
        "words in `q`": [filters.MAX_WORDS],
        "`*` and runs of `?` in one value": [filters.MAX_WILDCARDS],
        "dots in the key of `attr`": [filters.MAX_ATTRIBUTE_DOTS],
        "characters of `re`": [filters.MAX_PATTERN_CHARS, filters.MAX_PROGRAM_SIZE],
        "work of `re` on one record": [filters.REGEX_WORK // 1_000_000],
        "a message from a client": [session.MAX_CLIENT_TEXT >> 10],
        "messages from a client, version 2": [
            session_v2._MESSAGES_PER_SECOND,
            session_v2._MESSAGES_BURST,
            session_v2._REFUSED_BEFORE_CLOSE,
        ],
        "a `history` answer": [messages.MAX_HISTORY, session_v2._HISTORY_BYTES >> 20, session_v2._HISTORY_SCAN],
    }
    for name, values in numbers.items():
        found = [int(number.replace(",", "")) for number in re.findall(r"\b\d[\d,]*\b", limits[name])]
        assert found[: len(values)] == values, name


def test_every_word_of_the_wire_is_documented() -> None:
    """Reasons of gaps, codes of errors, keys of a record: those that the code has."""
    source = (Path(bridge.__file__).parent / "live" / "session_v2.py").read_text()
    source += (Path(bridge.__file__).parent / "live" / "messages.py").read_text()
    gaps = {quoted(cells[0])[0] for cells in rows(WIRE, "Reason")}
    assert gaps == {"evicted", "slow_client", "rate_limit", "epoch_changed"}
    errors = {quoted(cells[0])[0] for cells in rows(WIRE, "Error")}
    assert errors == set(re.findall(r'BadMessage\(\s*"(\w+)"', source)) | set(re.findall(r'code="(\w+)"', source))
    assert all(f'"{word}"' in source for word in gaps)
    tables = [(name, len(cells)) for cells in rows(WIRE, "Key of `data`") for name in quoted(cells[0])]
    version_1, version_2 = ([name for name, columns in tables if columns == wanted] for wanted in (4, 3))
    assert version_1 == [*message._SystemData.__struct_fields__, "action", "metadata"]
    keys = [name for name in message._RichData.__struct_fields__ if name not in ("stream", "sequence", "hash")]
    assert sorted(version_2) == sorted(keys)


# -- the command line -------------------------------------------------------------------------------------------------


def subcommands() -> Mapping[str, argparse.ArgumentParser]:
    (action,) = (action for action in command_line()._actions if isinstance(action, argparse._SubParsersAction))
    choices: Mapping[str, argparse.ArgumentParser] = action.choices
    return choices


def test_every_command_and_option_is_documented() -> None:
    """Under its own heading, and none that is not there."""
    _, *sections = re.split(r"^## `audit-bridge ([a-z-]+)`$", (REFERENCE / "cli.md").read_text(), flags=re.MULTILINE)
    documented = {}
    for name, text in zip(sections[::2], sections[1::2], strict=True):
        text = re.split(r"^## ", text, flags=re.MULTILINE)[0]
        options = re.findall(r"^\| (`--[^|]+) \|", text, re.MULTILINE)
        documented[name] = {option for cell in options for option in quoted(cell)}
    expected = {
        name: {option for action in command._actions for option in action.option_strings} - {"-h", "--help"}
        for name, command in subcommands().items()
    }
    assert documented == expected


# -- the names --------------------------------------------------------------------------------------------------------


def test_every_public_name_is_documented() -> None:
    """In reference/api.md, once."""
    named = re.findall(r"^::: bridge\.([A-Za-z_]+)$", (REFERENCE / "api.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(bridge.__all__)
    from bridge import testing

    tested = re.findall(r"^::: bridge\.testing\.([A-Za-z_]+)$", (REFERENCE / "api.md").read_text(), re.MULTILINE)
    assert sorted(tested) == sorted([*testing.__all__, "audit_events"])


def test_every_public_name_has_a_docstring() -> None:
    """Methods and properties too: the page is made of them."""
    bare = []
    for name in bridge.__all__:
        thing = getattr(bridge, name)
        if not thing.__doc__:
            bare.append(name)
        if isinstance(thing, type):
            bare += [
                f"{name}.{member}"
                for member, value in vars(thing).items()
                if not member.startswith("_") and (callable(value) or isinstance(value, property)) and not value.__doc__
            ]
    assert bare == []


# -- the pages --------------------------------------------------------------------------------------------------------


def test_every_page_is_in_the_navigation() -> None:
    """Once."""
    listed = re.findall(r"^ +- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


def anchors(page: Path) -> set[str]:
    text = page.read_text()
    titles = re.findall(r"^#+ (.+)$", without_code(text), re.MULTILINE)
    found = {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}
    return found | set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_internal_links_lead_somewhere(page: Path) -> None:
    """To a file, and to a heading of it; links of the site stay in the site."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        parts = urlsplit(target)
        if parts.scheme:
            continue
        path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        inside = DOCS in path.parents if DOCS in page.parents else path.is_relative_to(ROOT)
        good = path.exists() and inside
        if good and parts.fragment and path.suffix == ".md":
            good = parts.fragment in anchors(path)
        if not good:
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_pages_name_no_machine_path(page: Path) -> None:
    """Nor a name of a folder that only its writer has."""
    paths = re.findall(r"(?<![\w.$}~/:-])/(?:home|root|Users|work|tmp|opt|usr)/[^\s`)]*", page.read_text())
    assert paths == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_pages_have_one_title(page: Path) -> None:
    """The navigation shows it."""
    assert len(re.findall(r"^# .+", without_code(page.read_text()), re.MULTILINE)) == 1


def test_site_builds(tmp_path: Path) -> None:
    """Strictly: no warning."""
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=dict(os.environ, NO_MKDOCS_2_WARNING="1"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    api = (tmp_path / "site" / "reference" / "api.html").read_text()
    assert set(re.findall(r":(?:class|func|meth|mod|attr):", api)) == set()
    for name in bridge.__all__:
        assert f'id="bridge.{name}"' in api


def test_settings_explain_themselves() -> None:
    """The code's own words about a setting are there for whoever has no documentation."""
    assert [item.name for item in dataclasses.fields(Settings) if not item.metadata["doc"]] == []
