from __future__ import annotations

import io
import logging
import logging.config
from collections.abc import Iterator
from contextlib import contextmanager
from logging.config import dictConfig as dict_config_imported_before
from typing import Any

import pytest

from bridge.capture.attachment import RootAttachment
from bridge.capture.handler import Captured, CaptureHandler
from bridge.capture.intake import CallQueue, Drops
from tests.logging_state import fresh_logging, standard_error
from tests.telemetry import get_logger, said

ROOT = logging.getLogger()
EMPTY: dict[str, Any] = {"version": 1, "disable_existing_loggers": False}
WIPING = EMPTY | {"handlers": {"null": {"class": "logging.NullHandler"}}, "root": {"handlers": ["null"]}}


class Rival(logging.Handler):
    """Sends records where we send them."""


class Attached:
    def __init__(self, **arguments: Any) -> None:
        self.queue: CallQueue[Captured] = CallQueue(1_000, 1 << 20)
        self.handler = CaptureHandler(self.queue, Drops(), **arguments)
        self.attachment = RootAttachment(self.handler, is_rival=lambda each: isinstance(each, Rival))

    def messages(self) -> list[str]:
        return [fields["msg"] for fields, *_ in self.queue.take(1_000)]


@contextmanager
def attached(**arguments: Any) -> Iterator[Attached]:
    it = Attached(**arguments)
    it.attachment.attach()
    try:
        yield it
    finally:
        it.attachment.detach()


@fresh_logging()
def test_attach_and_detach_leave_no_trace() -> None:
    """Handlers, functions and levels are as before."""
    names = [(logging, "basicConfig"), (logging.config, "fileConfig"), (logging.config.DictConfigurator, "configure")]
    before = [getattr(owner, name) for owner, name in names]
    theirs = Rival()
    ROOT.addHandler(theirs)
    audit = logging.getLogger("audit")
    level = audit.level
    audit.setLevel(logging.NOTSET)
    with attached() as it:
        assert ROOT.handlers == [it.handler]
        assert audit.level == logging.INFO
        assert [getattr(owner, name) for owner, name in names] != before
    assert ROOT.handlers == [theirs]
    assert [getattr(owner, name) for owner, name in names] == before
    assert audit.level == logging.NOTSET
    audit.setLevel(level)


@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR])
@fresh_logging()
def test_an_audit_level_somebody_chose_stays(level: int) -> None:
    """Before us or meanwhile: we only undo what we did."""
    audit = logging.getLogger("audit")
    audit.setLevel(level)
    with attached():
        assert audit.level == level
    assert audit.level == level
    audit.setLevel(logging.NOTSET)
    with attached():
        audit.setLevel(level)
    assert audit.level == level
    audit.setLevel(logging.NOTSET)


@fresh_logging()
def test_a_plain_basic_config_still_does_its_work() -> None:
    """Our handler does not count: the user's handler is added, and ours stays last."""
    stream = io.StringIO()
    with attached() as it:
        logging.basicConfig(stream=stream, format="%(message)s")
        assert [type(each) for each in ROOT.handlers] == [logging.StreamHandler, CaptureHandler]
        logging.warning("hello")
        assert stream.getvalue() == "hello\n"
        assert it.messages() == ["hello"]
        logging.basicConfig(stream=io.StringIO())
        assert len(ROOT.handlers) == 2, "it has a handler now, as Python says"


@pytest.mark.parametrize(
    "configure",
    [
        lambda path: logging.basicConfig(force=True, stream=io.StringIO()),
        lambda path: logging.config.dictConfig(WIPING),
        lambda path: dict_config_imported_before(WIPING),
        lambda path: logging.config.fileConfig(path, disable_existing_loggers=False),
    ],
)
@fresh_logging()
def test_the_handler_stays_through_every_way_to_set_up_logging(configure: Any, tmp_path: Any) -> None:
    """One copy of the handler is on the root logger, at once, and what the user asked for is there."""
    path = tmp_path / "logging.ini"
    path.write_text(
        "[loggers]\nkeys=root\n[handlers]\nkeys=h\n[formatters]\nkeys=\n"
        "[logger_root]\nhandlers=h\n[handler_h]\nclass=NullHandler\nargs=()\n"
    )
    ROOT.addHandler(logging.NullHandler())
    with attached() as it:
        configure(path)
        assert ROOT.handlers[1:] == [it.handler]
        assert isinstance(ROOT.handlers[0], logging.NullHandler | logging.StreamHandler)
        logging.warning("hello")
        assert it.messages() == ["hello"]


@fresh_logging()
def test_a_configuration_that_fails_leaves_the_handler_there() -> None:
    """The error is the caller's; the handler stays."""
    with attached() as it:
        with pytest.raises(ValueError, match="Unable to configure"):
            logging.config.dictConfig(EMPTY | {"handlers": {"x": {"class": "no.such.Class"}}})
        assert ROOT.handlers == [it.handler]


@fresh_logging()
def test_after_detach_a_wrapper_that_stayed_passes_on() -> None:
    """Somebody wrapped our wrapper: theirs is left alone, and goes on working."""
    original = logging.basicConfig
    try:
        with attached():
            ours = logging.basicConfig

            def theirs(**arguments: Any) -> None:
                ours(**arguments)

            logging.basicConfig = theirs
        assert logging.basicConfig is theirs
        logging.basicConfig(stream=io.StringIO())
        assert len(ROOT.handlers) == 1
    finally:
        logging.basicConfig = original


@fresh_logging()
def test_a_configuration_within_a_configuration() -> None:
    """dictConfig may call basicConfig: the handler is back when the outer one is done."""
    seen: list[list[logging.Handler]] = []

    class Nested(logging.NullHandler):
        def __init__(self) -> None:
            super().__init__()
            logging.basicConfig(force=True, stream=io.StringIO())
            seen.append(ROOT.handlers[:])

    with attached() as it:
        logging.config.dictConfig(EMPTY | {"handlers": {"h": {"()": Nested}}, "root": {"handlers": ["h"]}})
        assert it.handler not in seen[0]
        assert ROOT.handlers.count(it.handler) == 1


@fresh_logging()
def test_a_rival_is_taken_off_and_comes_back() -> None:
    """Added before or after, by the next record it is gone, and it is back after detach, once."""
    first, second = Rival(), Rival()
    ROOT.addHandler(first)
    with said() as words, attached() as it:
        assert ROOT.handlers == [it.handler]
        ROOT.addHandler(second)
        logging.warning("hello")
        assert ROOT.handlers == [it.handler]
        assert len(words) == 2
        assert f"{__name__}.Rival" in words[0]
        ROOT.addHandler(first)
    assert ROOT.handlers == [first, second]


@fresh_logging()
def test_without_a_judge_nobody_is_a_rival() -> None:
    """Whoever wants two copies gets them."""
    it = Attached()
    it.attachment = RootAttachment(it.handler)
    rival = Rival()
    ROOT.addHandler(rival)
    it.attachment.attach()
    assert ROOT.handlers == [rival, it.handler]
    it.attachment.detach()


@fresh_logging()
def test_a_handler_that_was_taken_off_comes_back_at_a_check() -> None:
    """However the root's handlers were changed, the next check puts ours back, and it is told."""
    with said() as words, attached() as it:
        ROOT.handlers = []
        it.attachment.check()
        assert ROOT.handlers == [it.handler]
        assert words == ["INFO the handler was taken off the root logger; it is back"]
        it.attachment.detach()
        it.attachment.check()
        assert ROOT.handlers == []


# -- the last resort --------------------------------------------------------------------------------------------------


@fresh_logging()
def test_warnings_without_another_handler_still_go_to_standard_error() -> None:
    """As Python would have done it: from WARNING up, once."""
    with attached() as it, standard_error() as text:
        get_logger("app.x").info("quiet")
        get_logger("app.x").warning("loud")
        logging.error("louder")
        logging.getLogger().handle(logging.makeLogRecord({"name": "unheard.of", "levelno": 30, "msg": "odd"}))
        assert text.getvalue() == "loud\nlouder\nodd\n"
        assert it.messages() == ["quiet", "loud", "louder", "odd"]
        assert "unheard.of" not in logging.Logger.manager.loggerDict


@fresh_logging()
def test_without_a_last_resort_nothing_is_written() -> None:
    """Python's switch is respected."""
    last_resort, logging.lastResort = logging.lastResort, None
    try:
        with attached(), standard_error() as text:
            logging.warning("loud")
            assert text.getvalue() == ""
    finally:
        logging.lastResort = last_resort


@pytest.mark.parametrize("name", ["", "shop", "shop.server"])
@fresh_logging()
def test_no_duplicate_where_somebody_handles_the_record(name: str) -> None:
    """A handler of the application's anywhere on the way is enough."""
    theirs = logging.NullHandler()
    logging.getLogger(name).addHandler(theirs)
    with attached(), standard_error() as text:
        get_logger("shop.server").warning("loud")
        assert text.getvalue() == ""
    logging.getLogger(name).removeHandler(theirs)


@fresh_logging()
def test_a_high_level_of_ours_hides_no_warning_from_standard_error() -> None:
    """level=ERROR is about what is captured, not about what Python prints."""
    with attached(level=logging.ERROR) as it, standard_error() as text:
        logging.warning("loud")
        assert text.getvalue() == "loud\n"
        assert it.messages() == []


@fresh_logging()
def test_an_ignored_loggers_warning_still_goes_to_standard_error() -> None:
    """Ignoring is about the live view."""
    with attached(ignored_loggers=("noisy",)) as it, standard_error() as text:
        logging.getLogger("noisy").warning("loud")
        assert text.getvalue() == "loud\n"
        assert it.messages() == []


# -- loggers that don't propagate -------------------------------------------------------------------------------------


@contextmanager
def island(name: str = "island") -> Iterator[logging.Logger]:
    logger = get_logger(name)
    logger.propagate = False
    try:
        yield logger
    finally:
        logger.propagate = True
        logger.handlers.clear()


@fresh_logging()
def test_a_logger_that_does_not_propagate_is_captured_once_attached() -> None:
    """Its records, and its children's; once, however often it is attached, and not after detach."""
    with island() as logger, attached() as it:
        logger.info("before")
        it.attachment.attach_logger("island")
        it.attachment.attach_logger("island")
        it.attachment.attach_logger("island.child")
        logger.info("parent")
        get_logger("island.child").info("child")
        assert it.messages() == ["parent", "child"]
        it.attachment.detach()
        logger.info("after")
        assert it.messages() == []
        assert logger.handlers == []


@fresh_logging()
def test_a_logger_that_propagates_is_not_captured_twice() -> None:
    """Attaching is harmless where it is not needed."""
    with attached() as it:
        it.attachment.attach_logger("shop")
        get_logger("shop.server").info("m")
        assert it.messages() == ["m"]


@fresh_logging()
def test_attached_loggers_respect_our_level() -> None:
    """The bridge's level counts there too."""
    with island() as logger, attached(level=logging.WARNING) as it:
        it.attachment.attach_logger("island")
        logger.info("m")
        logger.warning("w")
        assert it.messages() == ["w"]


@fresh_logging()
def test_an_attached_loggers_warning_still_goes_to_standard_error() -> None:
    """With no handler but ours on its way, which ends before the root logger's, Python's last resort is used."""
    ROOT.addHandler(logging.NullHandler())
    with island() as logger, attached() as it, standard_error() as text:
        it.attachment.attach_logger("island")
        logger.warning("loud")
        assert text.getvalue() == "loud\n"


@fresh_logging()
def test_attached_loggers_stay_attached_through_a_configuration() -> None:
    """uvicorn.Config() sets up uvicorn's loggers anew: they are still captured, at once."""
    with island() as logger, attached() as it:
        it.attachment.attach_logger("island")
        logging.config.dictConfig(
            EMPTY
            | {"handlers": {"null": {"class": "logging.NullHandler"}}, "loggers": {"island": {"handlers": ["null"]}}}
        )
        logger.propagate = False
        logger.info("m")
        assert it.messages() == ["m"]


def test_nothing_is_attached_to_what_is_detached() -> None:
    """After detach an attachment attaches nothing."""
    it = Attached()
    it.attachment.attach_logger("island")
    assert logging.getLogger("island").handlers == []
