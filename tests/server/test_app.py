"""The routes in applications, through Starlette's own test client."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

import bridge
from bridge.errors import SettingsError


def test_client(app: Any, **headers: str) -> TestClient:
    return TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50_000), headers=headers)


test_client.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture
def monitor() -> Iterator[bridge.Bridge]:
    b = bridge.setup(service_name="shop")
    yield b
    b.shutdown()


@pytest.mark.parametrize("kind", ["app", "starlette", "fastapi", "mounted"])
def test_a_record_gets_through(kind: str, monitor: bridge.Bridge) -> None:
    """Served as it is, extended into an application or mounted, without lifespan, it brings records to a client."""
    path = "/ws/monitor"
    app: Any = monitor.app
    if kind == "starlette":
        app = Starlette()
        app.router.routes.extend(monitor.routes())
    elif kind == "fastapi":
        app = FastAPI()
        app.router.routes.extend(monitor.routes())
    elif kind == "mounted":
        app = Starlette(routes=[Mount("/inner", routes=monitor.routes()), Mount("/whole", app=monitor.app)])
        path = "/inner/ws/monitor"
    paths = [path, "/whole/ws/monitor"] if kind == "mounted" else [path]
    for each in paths:
        with test_client(app).websocket_connect("ws://localhost" + each) as client:
            logging.getLogger("shop").warning("hello")
            message = client.receive_json()
        assert (message["type"], message["data"]["message"]) == ("system_log", "hello")
    assert monitor.app is monitor.app


@pytest.mark.parametrize("prefix", ["/monitor", "/a/b/", ""])
def test_http_routes(prefix: str, monitor: bridge.Bridge) -> None:
    """The page, the counts and the health answer stand under the prefix; /ws/monitor stays where it is."""
    app = FastAPI()
    app.router.routes.extend(monitor.routes(prefix))
    client = test_client(app)
    base = prefix.rstrip("/")
    index = client.get(base + "/")
    assert (index.status_code, "/ws/monitor" in index.text, f"{base}/api/stats" in index.text) == (200, True, True)
    assert client.get(base + "/healthz").text == "ok\n"
    logging.getLogger("shop").warning("counted")
    assert monitor.force_flush()
    statistics = client.get(base + "/api/stats")
    assert statistics.headers["content-type"] == "application/json"
    assert json.loads(statistics.text) == monitor.statistics()._asdict()
    assert json.loads(statistics.text)["system"] >= 1
    assert client.get("/ws/monitor").status_code == 426
    assert client.post("/ws/monitor").status_code == 426


def test_a_prefix_without_a_slash(monitor: bridge.Bridge) -> None:
    """A prefix that could not match anything is an error that shows the right form."""
    with pytest.raises(SettingsError, match="must start with /; for example /monitor"):
        monitor.routes("monitor")


PATHS = ["/monitor/", "/monitor/api/stats", "/monitor/healthz"]


@pytest.mark.parametrize("path", PATHS)
def test_every_route_is_guarded(path: str, monitor: bridge.Bridge, capsys: pytest.CaptureFixture[str]) -> None:
    """What the WebSocket refuses, the HTTP routes refuse too: 403 and one line."""
    app = Starlette(routes=monitor.routes())
    answer = test_client(app, origin="http://evil.example").get(path)
    assert (answer.status_code, answer.text.count("\n")) == (403, 1)
    assert answer.text.startswith("Origin 'http://evil.example' is not this server's own; ")
    assert test_client(app, host="evil.example").get(path).status_code == 403
    assert test_client(app, forwarded="for=1.2.3.4").get(path).status_code == 403
    assert TestClient(app, base_url="http://localhost", client=("192.0.2.7", 1)).get(path).status_code == 403
    assert capsys.readouterr().err.count("refused ") == 1


@pytest.mark.parametrize("path", PATHS)
def test_every_route_wants_the_token(path: str) -> None:
    """With a token, HTTP routes answer 401 without it."""
    monitor = bridge.setup(token="s3cret")
    app = Starlette(routes=monitor.routes())
    answer = test_client(app).get(path)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "s3cret" not in answer.text
    assert test_client(app, authorization="Bearer s3cret").get(path).status_code == 200
    monitor.shutdown()


def test_refusals_over_a_websocket(monitor: bridge.Bridge) -> None:
    """A refused client sees HTTP 403 and why; one with a wrong question sees the close code."""
    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        test_client(monitor.app, origin="http://evil.example").websocket_connect("ws://localhost/ws/monitor"),
    ):
        pass
    assert (denied.value.status_code, denied.value.text[:6]) == (403, "Origin")
    with test_client(monitor.app).websocket_connect("ws://localhost/ws/monitor?v=3") as client:
        with pytest.raises(WebSocketDisconnect) as closed:
            client.receive_json()
    assert closed.value.code == 4400


def test_the_plain_test_client_is_a_stranger(monitor: bridge.Bridge) -> None:
    """Starlette's test client as it comes is no loopback peer: the answer says why, and what to do."""
    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        TestClient(monitor.app).websocket_connect("ws://localhost/ws/monitor"),
    ):
        pass
    assert denied.value.text == (
        "peer testclient is not on this machine, and no token is set; "
        "set a token (token=, BRIDGE_TOKEN) to let other machines in\n"
    )


def test_after_shutdown(monitor: bridge.Bridge) -> None:
    """Once the bridge is shut down a client is told goodbye."""
    app = monitor.app
    with test_client(app).websocket_connect("ws://localhost/ws/monitor") as client:
        monitor.shutdown()
        with pytest.raises(WebSocketDisconnect) as closed:
            client.receive_json()
    assert closed.value.code == 1001
    with test_client(app).websocket_connect("ws://localhost/ws/monitor") as client:
        with pytest.raises(WebSocketDisconnect) as closed:
            client.receive_json()
    assert closed.value.code == 1001
