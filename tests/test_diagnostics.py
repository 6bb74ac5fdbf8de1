from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator

import pytest

from bridge import diagnostics
from bridge.diagnostics import LOGGER_NAME, say, say_rarely
from tests.logging_state import standard_error
from tests.telemetry import said


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """The private logger as in a new process."""
    logger = logging.getLogger(LOGGER_NAME)
    handlers, level = logger.handlers[:], logger.level
    logger.handlers[:] = []
    logger.setLevel(logging.NOTSET)
    diagnostics._forget()
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)
    diagnostics._forget()


def silence_pytest() -> None:
    """pytest puts its own handlers on loggers that don't propagate, after the fixtures."""
    logging.getLogger(LOGGER_NAME).handlers.clear()


def test_words_go_to_standard_error() -> None:
    """From INFO up, one line each, whatever the root logger's level is."""
    silence_pytest()
    with standard_error() as text:
        say(logging.DEBUG, "quiet")
        say(logging.INFO, "here is %s", "it")
        say(logging.WARNING, "careful")
    assert text.getvalue() == "audit-bridge: INFO: here is it\naudit-bridge: WARNING: careful\n"


def test_words_do_not_reach_the_root_logger() -> None:
    """No record of ours can travel through the pipeline it speaks of."""
    seen: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.name)

    listener = Listener()
    logging.getLogger().addHandler(listener)
    say(logging.ERROR, "x")
    logging.getLogger().removeHandler(listener)
    assert seen == []


def test_words_can_be_sent_elsewhere() -> None:
    """With a handler of the user's, and the user's level, standard error stays empty."""
    logging.getLogger(LOGGER_NAME).setLevel(logging.ERROR)
    with standard_error() as text, said() as words:
        say(logging.WARNING, "a")
        say(logging.ERROR, "b")
    assert words == ["ERROR b"]
    assert text.getvalue() == ""


def test_dict_config_does_not_silence_us() -> None:
    """It disables every logger that it does not name; this one speaks on."""
    silence_pytest()
    logging.getLogger(LOGGER_NAME).disabled = True
    with standard_error() as text:
        say(logging.ERROR, "x")
    assert text.getvalue() == "audit-bridge: ERROR: x\n"


def test_saying_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not without a standard error, not with one that is closed, not with arguments that do not fit."""
    monkeypatch.setattr(sys, "stderr", None)
    say(logging.ERROR, "x")
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    say(logging.ERROR, "x")
    monkeypatch.undo()

    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise ValueError

    broken = Broken()
    logging.getLogger(LOGGER_NAME).addHandler(broken)
    say(logging.ERROR, "%d", "x")
    logging.getLogger(LOGGER_NAME).removeHandler(broken)


def test_the_same_is_said_once_a_minute() -> None:
    """For each key; the answer says whether it was said."""
    now = [0.0]

    def rarely(key: str) -> bool:
        return say_rarely(key, logging.WARNING, "%s at %s", key, now[0], clock=lambda: now[0])

    with said() as words:
        assert [rarely("a"), rarely("a"), rarely("b")] == [True, False, True]
        now[0] = 59.9
        assert rarely("a") is False
        now[0] = 60.0
        assert rarely("a") is True
    assert words == ["WARNING a at 0.0", "WARNING b at 0.0", "WARNING a at 60.0"]


def test_what_was_said_is_remembered_within_a_bound() -> None:
    """Hostile input can't grow the memory: the oldest key is forgotten."""
    with said() as words:
        for number in range(300):
            say_rarely(str(number), logging.WARNING, "m", clock=lambda: 0.0)
        assert len(diagnostics._said) == 256
        assert say_rarely("299", logging.WARNING, "m", clock=lambda: 0.0) is False
        assert say_rarely("0", logging.WARNING, "m", clock=lambda: 0.0) is True
    assert len(words) == 301
