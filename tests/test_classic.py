from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import anyio
import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

import bridge
from bridge import classic
from bridge.classic import LogStreamHandler, get_log_stream_handler, setup_log_streaming
from tests.telemetry import get_logger, said

logger = logging.getLogger("shop.server")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    get_logger("shop.server")
    yield
    classic.reset_for_tests()


class Client:
    """The least that a client has to be."""

    def __init__(self, on_send: Callable[[Any], Awaitable[None]] | None = None) -> None:
        self.received: list[Any] = []
        self.on_send = on_send

    async def send_json(self, data: Any) -> None:
        if self.on_send is not None:
            await self.on_send(data)
        self.received.append(data)

    @property
    def messages(self) -> list[str]:
        return [each["data"]["message"] for each in self.received]


def made(msg: str) -> logging.LogRecord:
    return logging.makeLogRecord({"msg": msg, "levelno": 30, "levelname": "WARNING"})


async def eventually(condition: Callable[[], Any]) -> None:
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110  (what is waited for happens in another thread)
            await anyio.sleep(0.005)


@asynccontextmanager
async def streaming(**arguments: Any) -> AsyncIterator[LogStreamHandler]:
    """A handler of its own on a logger of its own."""
    handler = LogStreamHandler(**arguments)
    logger.addHandler(handler)
    try:
        yield handler
    finally:
        logger.removeHandler(handler)
        for key in list(handler._clients):
            handler._remove(key)
        assert handler._publisher.stop(5.0) is True


def run(main: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(main())  # type: ignore[arg-type]
    gc.collect()


def test_the_process_wide_handler_is_one() -> None:
    """A singleton at level DEBUG, on no logger by itself."""
    handler = get_log_stream_handler()
    assert handler is get_log_stream_handler() is bridge.get_log_stream_handler()
    assert handler.level == logging.DEBUG
    assert isinstance(handler, logging.Handler)
    assert handler not in logging.getLogger().handlers


def test_setup_attaches_it_once() -> None:
    """However often it is called; the loop is optional."""
    loop = asyncio.new_event_loop()
    handler = setup_log_streaming()
    assert setup_log_streaming(event_loop=loop) is handler
    assert setup_log_streaming(loop) is handler
    assert logging.getLogger().handlers.count(handler) == 1
    assert handler._loop is loop
    loop.close()


def test_a_handler_has_the_level_it_was_given() -> None:
    """NOTSET unless said."""
    assert LogStreamHandler().level == logging.NOTSET
    assert LogStreamHandler(logging.ERROR).level == logging.ERROR


def test_a_client_gets_exactly_version_1() -> None:
    """Both types, these keys, in order, from add_client() on."""

    async def main() -> None:
        async with streaming() as handler:
            client = Client()
            logger.info("before")
            handler.wait_published()
            handler.add_client(client)
            handler.add_client(client)
            assert handler.client_count == 1
            logger.warning("hello %s", "you")
            bridge.audit_log(logger, "granted", action="grant", metadata={"role": "admin"})
            await eventually(lambda: len(client.received) == 2)
            system, audit = client.received
            assert list(system) == list(audit) == ["type", "data"]
            assert (system["type"], audit["type"]) == ("system_log", "audit_log")
            assert list(system["data"]) == ["timestamp", "level", "logger", "message", "module", "function", "line"]
            assert system["data"] | {"timestamp": "", "line": 0} == {
                "timestamp": "",
                "level": "WARNING",
                "logger": "shop.server",
                "message": "hello you",
                "module": "test_classic",
                "function": "main",
                "line": 0,
            }
            assert list(audit["data"]) == ["timestamp", "level", "logger", "message", "action", "metadata"]
            assert (audit["data"]["action"], audit["data"]["metadata"]) == ("grant", {"role": "admin"})
            assert handler.statistics()["clients"] == 1
            assert handler.statistics()["published"] == 3

    run(main)


def test_a_client_that_raises_is_removed_and_the_others_go_on() -> None:
    """Its error reaches nobody else."""

    async def refuse(data: Any) -> None:
        raise ConnectionError("gone")

    async def main() -> None:
        async with streaming() as handler:
            bad, good = Client(refuse), Client()
            with said() as words:
                handler.add_client(bad)
                handler.add_client(good)
                logger.info("one")
                logger.info("two")
                await eventually(lambda: good.messages == ["one", "two"])
                await eventually(lambda: handler.client_count == 1)
            assert bad.received == []
            assert words == ["INFO removed a client that raised: ConnectionError('gone')"]

    run(main)


def test_a_slow_client_holds_up_nobody() -> None:
    """The others and the callers go on."""

    async def main() -> None:
        gate = asyncio.Event()

        async def wait(data: Any) -> None:
            await gate.wait()

        async with streaming() as handler:
            slow, good = Client(wait), Client()
            handler.add_client(slow)
            handler.add_client(good)
            for number in range(50):
                logger.info("%d", number)
            await eventually(lambda: len(good.received) == 50)
            assert slow.received == []
            gate.set()
            await eventually(lambda: len(slow.received) == 50)

    run(main)


def test_a_client_too_slow_for_an_audit_record_is_removed() -> None:
    """Skipped system records are counted; an audit record is never skipped in silence."""

    async def main() -> None:
        gate = asyncio.Event()

        async def wait(data: Any) -> None:
            await gate.wait()

        async with streaming() as handler:
            handler._hub.resize(system_records=5, system_bytes=1 << 20, audit_records=5, audit_bytes=1 << 20)
            client = Client(wait)
            handler.add_client(client)
            logger.info("first")
            await eventually(lambda: handler._hub.statistics().system == 1)
            for number in range(20):
                logger.info("%d", number)
            handler.wait_published()
            gate.set()
            await eventually(lambda: len(client.received) >= 5)
            assert handler.client_count == 1
            assert handler.statistics()["skipped_system"] > 0
            gate.clear()
            with said() as words:
                logger.info("again")
                await asyncio.sleep(0)
                for _ in range(20):
                    logger.info("x", extra={"is_audit": True})
                handler.wait_published()
                gate.set()
                await eventually(lambda: handler.client_count == 0)
            assert words[-1].startswith("WARNING removed a client too slow for ")

    run(main)


def test_a_removed_client_gets_nothing_more() -> None:
    """Removing one that is not there changes nothing."""

    async def main() -> None:
        async with streaming() as handler:
            client = Client()
            handler.add_client(client)
            logger.info("one")
            await eventually(lambda: client.messages == ["one"])
            handler.remove_client(client)
            handler.remove_client(client)
            logger.info("two")
            other = Client()
            handler.add_client(other)
            logger.info("three")
            await eventually(lambda: "three" in other.messages)
            assert client.messages == ["one"]

    run(main)


@pytest.mark.parametrize("log_between", [False, True])
def test_a_client_that_comes_back_at_once_is_served(log_between: bool) -> None:
    """Its former stay's end does not end the new one."""

    async def main() -> None:
        async with streaming() as handler:
            client = Client()
            handler.add_client(client)
            if log_between:
                logger.info("one")
                await eventually(lambda: client.messages == ["one"])
            handler.remove_client(client)
            handler.add_client(client)
            await asyncio.sleep(0)
            logger.info("two")
            await eventually(lambda: client.messages[-1:] == ["two"])
            assert handler.client_count == 1

    run(main)


def test_clients_and_loop_may_come_in_any_order_and_from_any_thread() -> None:
    """A client added before the loop is known is served once it is."""
    handler = LogStreamHandler()
    client, late = Client(), Client()
    handler.add_client(client)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    handler.set_event_loop(loop)
    handler.add_client(late)
    handler.handle(made("m"))
    asyncio.run(eventually(lambda: client.messages == late.messages == ["m"]))
    handler.remove_client(client)
    handler.remove_client(late)
    asyncio.run_coroutine_threadsafe(asyncio.sleep(0.01), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()
    assert handler._publisher.stop(5.0) is True


def test_a_loop_that_is_closed_is_told_of() -> None:
    """Nothing raises, a client that comes in another loop moves the handler there, and leaving still works."""
    handler = LogStreamHandler()
    loop = asyncio.new_event_loop()
    handler.set_event_loop(loop)
    stays = Client()
    task = loop.create_task(asyncio.sleep(0))
    loop.run_until_complete(task)
    loop.close()
    with said() as words:
        handler.add_client(stays)
    assert words == ["WARNING the event loop of a LogStreamHandler is closed"]
    handler._clients[id(stays)].task = task
    handler.remove_client(stays)

    async def main() -> None:
        client = Client()
        handler.add_client(client)
        handler.handle(made("m"))
        await eventually(lambda: client.messages == ["m"])
        handler.remove_client(client)
        await asyncio.sleep(0)

    run(main)
    handler._publisher.stop(5.0)


def test_filters_levels_and_what_others_call() -> None:
    """It is a logging handler like others: filtered, flushed, closed by dictConfig, and goes on."""

    async def main() -> None:
        async with streaming(level=logging.WARNING) as handler:
            client = Client()
            handler.add_client(client)
            handler.addFilter(lambda record: "secret" not in record.getMessage())
            handler.flush()
            handler.close()
            handler.acquire()
            handler.release()
            logger.info("too low")
            logger.warning("secret")
            logger.warning("shown")
            handler.emit(made("emitted"))
            await eventually(lambda: client.messages == ["shown", "emitted"])

    run(main)


def test_a_filter_may_replace_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Python 3.12 allows."""

    async def main() -> None:
        async with streaming() as handler:
            client = Client()
            handler.add_client(client)
            handler.addFilter(lambda record: True)
            monkeypatch.setattr(handler, "filter", lambda record: made("other"))
            logger.warning("m")
            await eventually(lambda: client.messages == ["other"])

    run(main)


class Service:
    """A service written for the classic API."""

    sent: ClassVar[list[str]] = []

    @staticmethod
    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        handler = get_log_stream_handler()
        handler.set_event_loop(asyncio.get_running_loop())
        handler.add_client(websocket)
        try:
            while True:
                await websocket.receive_text()
        except Exception:
            handler.remove_client(websocket)


def test_a_service_with_real_websockets() -> None:
    """Starlette's WebSocket as the client, the process-wide handler on the root logger."""
    setup_log_streaming()
    app = Starlette(routes=[WebSocketRoute("/ws", Service.endpoint)])
    with TestClient(app) as client, client.websocket_connect("/ws") as one, client.websocket_connect("/ws") as two:
        handler = get_log_stream_handler()
        anyio.run(eventually, lambda: handler.client_count == 2)
        logger.warning("hello é")
        for websocket in (one, two):
            assert websocket.receive_json()["data"]["message"] == "hello é"
    anyio.run(eventually, lambda: handler.client_count == 0)


def test_in_a_forked_child_it_starts_anew() -> None:
    """Clients and loop are the parent's."""
    handler = LogStreamHandler()
    handler.add_client(Client())
    handler.handle(made("m"))
    handler.wait_published()
    handler.after_fork()
    assert (handler.client_count, handler.statistics()["published"]) == (0, 0)
    handler.handle(made("m"))
    handler.at_exit()
    assert handler.statistics()["published"] == 1
    handler._publisher.stop(5.0)
