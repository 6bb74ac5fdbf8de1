from __future__ import annotations

import pytest

from tests.record.queries import TRACE, assert_refused, event, query


@pytest.mark.parametrize(
    ("given", "streams"),
    [
        ("audit", {"audit"}),
        (" System ", {"system"}),
        ("system,audit", {"audit", "system"}),
        (["audit", "SYSTEM"], {"audit", "system"}),
    ],
)
def test_streams(given: str | list[str], streams: set[str]) -> None:
    """A stream that is not asked for is left out."""
    wanted = query(streams=given)
    assert wanted.streams == streams
    assert wanted.matches(event(is_audit=True)) is ("audit" in streams)
    assert wanted.matches(event()) is ("system" in streams)


@pytest.mark.parametrize(
    ("name", "lowest"),
    [
        ("NOTSET", 0),
        ("trace", 1),
        ("TRACE2", 2),
        ("DEBUG", 5),
        ("Info4", 12),
        ("WARN", 13),
        ("warning", 13),
        ("ERROR1", 17),
        ("CRITICAL", 21),
        ("fatal4", 24),
        ("13", 13),
        (" 0 ", 0),
        ("24", 24),
    ],
)
def test_min_severity(name: str, lowest: int) -> None:
    """Names of Python and OpenTelemetry in any case, and numbers, set the lowest severity number shown."""
    wanted = query(min_severity=name)
    shown = [n for n in range(25) if wanted.matches(event(severity_number=n, level=""))]
    assert shown == list(range(lowest, 25))


def test_min_severity_without_a_number() -> None:
    """A record with a level's name and no number is judged by the name."""
    wanted = query(min_severity="WARN")
    assert wanted.matches(event(severity_number=0, level="Error"))
    assert not wanted.matches(event(severity_number=0, level="INFO"))
    assert not wanted.matches(event(severity_number=0, level="NOTICE"))


@pytest.mark.parametrize(
    ("globs", "shown", "hidden"),
    [
        (["app"], ["app", "app.x", "app.x.y"], ["apple", "my.app", ""]),
        (["app.*"], ["app.x", "app.x.y", "app."], ["app", "apple"]),
        (["*.db"], ["app.db", ".db"], ["db", "app.db.pool"]),
        (["a?p"], ["app", "a.p"], ["ap", "app.x"]),
        (["App"], ["App"], ["app"]),
        (["*"], ["", "x"], []),
        (["app", "x*"], ["app.y", "x", "xy"], ["y"]),
        (["a*b*c", "[ab]"], ["abc", "a.b.c", "abbcc", "[ab]"], ["ab", "acb", "a", "abcd"]),
        (["*a??b*"], ["xaaabx", "a--b", "aaxb"], ["ab", "axb", "axxxb"]),
        (["?"], ["x", "é"], ["", "xy"]),
        (["??*"], ["ab", "abc"], ["a"]),
        (["a*a"], ["aa", "aba"], ["a"]),
        (["a*a?bb*"], ["aaxbb", "a.axbb"], ["axbbb", "abbbb"]),
        (["*a?*?b"], ["a12b"], ["a1b", "ab"]),
    ],
)
def test_logger(globs: list[str], shown: list[str], hidden: list[str]) -> None:
    """Globs fit the whole name, any of several will do, and a plain name covers the loggers below it."""
    wanted = query(logger=globs)
    assert [name for name in shown + hidden if wanted.matches(event(logger=name))] == shown


def test_service() -> None:
    """A service is its exact name, and any of several will do."""
    wanted = query(service=["orders", "shop*"])
    names = ["orders", "Orders", "shop*", "shop1", 5, None]
    assert [n for n in names if wanted.matches(event(resource={"service.name": n}))] == ["orders", "shop*"]
    assert not wanted.matches(event())


@pytest.mark.parametrize("prefix", [TRACE, TRACE.upper(), TRACE[:4], f" {TRACE[:9]} "])
def test_trace_id(prefix: str) -> None:
    """A trace id, or its beginning, is found in any case."""
    wanted = query(trace_id=prefix)
    assert wanted.matches(event(trace_id=TRACE))
    assert not wanted.matches(event(trace_id="0" * 32))
    assert not wanted.matches(event())


@pytest.mark.parametrize(
    ("name", "value", "position", "text"),
    [
        (
            "streams",
            "system, logs",
            7,
            "streams='system, logs' at position 7: streams are system and audit; write streams=audit for one of them",
        ),
        ("streams", ",", 0, "*"),
        (
            "min_severity",
            "30",
            None,
            "min_severity='30': severities are TRACE, DEBUG, INFO, WARN, ERROR, FATAL (TRACE2 … FATAL4) or 0 to 24; "
            "Python's level 30 is 13 here",
        ),
        ("min_severity", "LOUD", None, "*or 0 to 24; use one like WARN, ERROR or 13"),
        ("min_severity", "-1", None, "*"),
        ("min_severity", "9" * 500, None, "*"),
        ("min_severity", "٣", None, "*"),
        ("trace_id", " 4bg9", 3, "trace_id=' 4bg9' at position 3: *; take out 'g'"),
        ("trace_id", "abc", None, "*: a trace id is 32 hexadecimal digits, or the first 4 or more of them; *"),
        ("trace_id", "a" * 33, 32, "*; shorten it: it has 33"),
    ],
)
def test_refused(name: str, value: str, position: int | None, text: str) -> None:
    """What cannot be in the field is refused, with what can."""
    assert_refused(name, value, position, text)
