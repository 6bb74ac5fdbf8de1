"""Records as lines of a terminal."""

import io
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.terminal import Palette, printable, render_gap, render_record

PLAIN, COLOURS = Palette(False), Palette(True)
SGR = re.compile(r"\x1b\[[0-9;]+m")

HOSTILE = [
    "\x1b[2J\x1b[H",
    "\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\",
    "\x1b]0;title\x07",
    "\x1bP1$r\x1b\\",
    "\x9b31m",
    "\x9d0;title\x9c",
    "a\rb",
    "a\nb\x0bc\x0cd",
    "a\x08\x08b\x7f",
    "\x00",
    "\u202egnp.exe",
    "\u2066a\u2069",
    "\u200b\u200d\ufeff",
    "\u2028\u2029\x85",
    "\ud800",
    "\U000e0041",
    "\ue000",
]


def system(**data: Any) -> dict[str, Any]:
    given = {"timestamp": "2025-10-08T18:30:45.123Z", "level": "INFO", "logger": "shop", "message": "hello"}
    return {"type": "system_log", "data": given | data}


def audit(**data: Any) -> dict[str, Any]:
    return {"type": "audit_log", "data": system()["data"] | data}


def assert_inert(line: str) -> None:
    """Nothing in it but printable characters, spaces, our colours and our line ends."""
    for character in SGR.sub("", line).replace("\n", ""):
        assert character.isprintable(), repr(character)
        assert unicodedata.category(character) not in ("Cf", "Cc", "Cs", "Co", "Zl", "Zp"), repr(character)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("palette", [PLAIN, COLOURS])
def test_hostile_content_is_inert_wherever_it_stands(text: str, palette: Palette) -> None:
    """No part of a record moves the cursor, sets a title, makes a link, turns words round, or breaks the line."""
    nested = {text: [text, {text: text}], "plain": text}
    messages = [
        system(level=text, logger=text, message=text, service=text, timestamp=f"{text}" * 9, attributes=nested),
        audit(
            message=text,
            service=text,
            actor=text,
            action=text,
            target=text,
            outcome=text,
            metadata=nested,
            attributes=nested,
        ),
        audit(action=nested, metadata=text),
    ]
    for message in messages:
        line = render_record(message, palette)
        assert_inert(line)
        assert "\n" not in line
    gap = render_gap({"type": "gap", "reason": text, "system": 1, "audit": 0}, palette)
    assert_inert(gap)
    stack = {"type": text, "message": text, "stacktrace": f"first {text}\n  second {text}"}
    lines = render_record(system(exception=stack), palette)
    assert_inert(lines)
    assert 1 + stack["stacktrace"].count("\n") == lines.count("\n")
    assert_inert(render_record(system(exception=stack | {"stacktrace": ""}), palette))


@given(st.text(max_size=60))
def test_printable_is_printable_and_loses_nothing(text: str) -> None:
    """Any text comes out printable; text that was so already is left as it is."""
    shown = printable(text)
    assert_inert(shown)
    assert "\n" not in shown
    if all(c == " " or (c.isprintable() and unicodedata.category(c) != "Cf") for c in text):
        assert text == shown
    else:
        assert text != shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grüße 日本 🎉", "grüße 日本 🎉"),
        ("a\tb", "a\\tb"),
        ("\x1b[31m", "\\x1b[31m"),
        ("\u202e", "\\u202e"),
        ("", ""),
    ],
)
def test_printable(text: str, expected: str) -> None:
    """Letters of all scripts stay; control and format characters are shown as escapes."""
    assert expected == printable(text)


def test_a_system_record() -> None:
    """Time, level, service, logger, message, and attributes that have no place of their own."""
    message = system(
        service="orders",
        attributes={
            "order": "o-1",
            "n": 2,
            "deep": {"a": [1]},
            "code.line.number": 7,
            "thread.id": 1,
            "is_audit": False,
        },
    )
    assert '18:30:45.123 INFO    orders shop hello order=o-1 n=2 deep={"a": [1]}' == render_record(message, PLAIN)
    assert "18:30:45.123 INFO    shop hello" == render_record(system(service="x"), PLAIN, service=False)


def test_an_audit_record() -> None:
    """Marked, with outcome, who did what to whom, and the metadata."""
    message = audit(actor="u1", action="grant", target="user/2", outcome="failure", metadata={"role": "admin"})
    line = "18:30:45.123  AUDIT  failure u1 → grant → user/2 hello role=admin"
    assert line == render_record(message, PLAIN)
    assert line == SGR.sub("", render_record(message, COLOURS))
    assert "18:30:45.123  AUDIT  hello" == render_record(audit(action=None, metadata={}, outcome="unknown"), PLAIN)
    assert "18:30:45.123  AUDIT  7 hello [1]" == render_record(audit(action=7, metadata=[1]), PLAIN)


def test_tracebacks_stand_below() -> None:
    """A stack is indented below its record, or left out if asked; without one, type and message stand there."""
    message = system(exception={"type": "E", "message": "m", "stacktrace": "Traceback:\n\tline\nE: m\n"})
    head = "18:30:45.123 INFO    shop hello"
    assert f"{head}\n    Traceback:\n            line\n    E: m" == render_record(message, PLAIN)
    assert head == render_record(message, PLAIN, stacks=False)
    assert f"{head}\n    E: m" == render_record(system(exception={"type": "E", "message": "m"}), PLAIN)


def test_long_details_are_cut() -> None:
    """Attributes take a few hundred characters of the line, no more."""
    line = render_record(system(attributes={"a": "x" * 10_000}), PLAIN)
    assert line.endswith("x…")
    assert len(line) < 400


@pytest.mark.parametrize(
    ("gap", "expected"),
    [
        (
            {"reason": "evicted", "system": 1_234, "audit": 2},
            "1,234 system and 2 audit records missing: no longer held",
        ),
        ({"reason": "slow_client", "system": 1, "audit": 0}, "1 system records missing: this client was too slow"),
        ({"reason": "rate_limit", "system": 5}, "5 system records missing: kept back by max_rate"),
        ({"reason": "epoch_changed", "system": 0, "audit": 0}, "records may be missing: the server has restarted"),
        ({"reason": "upstream", "audit": 3}, "3 audit records missing: lost before they reached the server"),
        ({"reason": "new one", "system": 1}, "1 system records missing: new one"),
        ({}, "records may be missing: None"),
    ],
)
def test_gaps(gap: dict[str, Any], expected: str) -> None:
    """A gap says how many of each kind are missing, and why."""
    assert f"--- gap: {expected}" in render_gap({"type": "gap", **gap}, PLAIN)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_only_for_a_terminal_that_has_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """No colours in a pipe, with NO_COLOR, or on a dumb terminal."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert (True, False) == (Palette.for_stream(Terminal()).on, Palette.for_stream(io.StringIO()).on)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Palette.for_stream(Terminal()).on
    monkeypatch.setenv("NO_COLOR", "")
    assert Palette.for_stream(Terminal()).on
    monkeypatch.setenv("TERM", "dumb")
    assert not Palette.for_stream(Terminal()).on
    assert ("\x1b[31mx\x1b[0m", "", "x") == (COLOURS.paint("31", "x"), COLOURS.paint("31", ""), PLAIN.paint("31", "x"))
