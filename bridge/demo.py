"""A small real service under the bridge, its customers, and a viewer in the terminal.

Everything is real: uvicorn, HTTP requests over loopback, ``bridge.setup()``, and a WebSocket client on
``/ws/monitor`` that prints what any other client would receive.
"""

from __future__ import annotations

import http.client
import itertools
import json
import logging
import random
import signal
import socket
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import bridge
from bridge.capture.asgi import AuditContextMiddleware
from bridge.server.app import MONITOR_PATH
from bridge.server.standalone import StandaloneServer, bind
from bridge.terminal import Palette, render_gap, render_record

__all__ = ["create_service", "run_demo"]

_orders = logging.getLogger("shop.orders")
_stock = logging.getLogger("shop.stock")
_payments = logging.getLogger("shop.payments")
_sessions = logging.getLogger("audit.session")
_roles = logging.getLogger("shop.roles")

_numbers = itertools.count(7_731)


async def _place_order(request: Request) -> JSONResponse:
    order = f"o-{next(_numbers)}"
    total = round(random.uniform(5, 250), 2)
    with bridge.actor(request.headers.get("x-user", "anonymous")):
        _orders.info("Order %s placed", order, extra={"order": order, "total": total})
        _stock.debug("Reserved %d items", random.randint(1, 5), extra={"order": order})
        if random.random() < 0.15:
            _payments.warning("Card declined, retrying in %d ms", 200, extra={"order": order, "card_token": "tok_4111"})
        if random.random() < 0.07:
            try:
                raise TimeoutError("payment provider did not answer within 1500 ms")
            except TimeoutError:
                _payments.exception("Charge for %s failed", order, extra={"order": order})
            bridge.audit_log(
                _payments, f"Charge for {order} failed", action="charge", target=f"order/{order}", outcome="failure"
            )
            return JSONResponse({"order": order, "paid": False}, 502)
        if total > 200:
            bridge.audit_log(
                _orders,
                f"Order {order} approved above the limit",
                action="approve",
                metadata={"total": total, "limit": 200},
                target=f"order/{order}",
                outcome="success",
            )
    return JSONResponse({"order": order, "total": total}, 201)


async def _log_in(request: Request) -> JSONResponse:
    user = request.headers.get("x-user", "anonymous")
    good = random.random() > 0.2
    with bridge.actor(user):
        # A plain record of a logger below "audit." is an audit record too.
        _sessions.info(
            "%s logged in" if good else "%s: wrong password",
            user,
            extra={"action": "login", "metadata": {"user": user, "method": "password"}},
        )
    return JSONResponse({"user": user}, 200 if good else 401)


async def _grant_role(request: Request) -> JSONResponse:
    user, role = request.path_params["user"], random.choice(["admin", "editor", "auditor"])
    with bridge.actor(request.headers.get("x-user", "anonymous")):
        bridge.audit_log(
            _roles,
            f"Role {role} granted to {user}",
            action="role_grant",
            metadata={"role": role},
            target=f"user/{user}",
            outcome="success",
        )
    return JSONResponse({"user": user, "role": role})


def create_service(monitor: bridge.Bridge) -> Starlette:
    """The service: three endpoints of its own, and the monitor's routes."""
    app = Starlette(
        routes=[
            Route("/orders", _place_order, methods=["POST"]),
            Route("/login", _log_in, methods=["POST"]),
            Route("/users/{user}/roles", _grant_role, methods=["POST"]),
            *monitor.routes(prefix=""),
        ]
    )
    app.add_middleware(AuditContextMiddleware)
    return app


def _customers(port: int, stop: threading.Event) -> None:
    """Send requests until told to stop: about five a second, as a handful of people would."""
    users = ("u1022", "u2209", "u3301", "u8472")
    # One of each at first, so that even a short demo shows every kind of record.
    first = ["/login", "/orders", f"/users/{users[0]}/roles"]
    while not stop.wait(random.uniform(0.05, 0.35)):
        path = (
            first.pop(0)
            if first
            else random.choices(["/orders", "/login", f"/users/{random.choice(users)}/roles"], weights=[6, 3, 1])[0]
        )
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            try:
                connection.request(
                    "POST", path, headers={"x-user": random.choice(users), "x-request-id": f"r-{next(_numbers)}"}
                )
                connection.getresponse().read()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException):
            stop.wait(0.2)


def _view(port: int, stop: threading.Event, watching: threading.Event, counts: dict[str, int]) -> None:
    """A client like any other: connect to /ws/monitor and print what comes."""
    from websockets.exceptions import WebSocketException
    from websockets.sync.client import connect

    palette = Palette.for_stream(sys.stdout)
    try:
        # A connection made here, and not by connect(), which would go through a proxy that the environment names.
        plain = socket.create_connection(("127.0.0.1", port), timeout=5)
        with connect(
            f"ws://127.0.0.1:{port}{MONITOR_PATH}?v=2", sock=plain, compression=None, max_size=None
        ) as monitor:
            watching.set()
            while not stop.is_set():
                try:
                    message = json.loads(monitor.recv(timeout=0.2))
                except TimeoutError:
                    continue
                counts[message["type"]] = counts.get(message["type"], 0) + 1
                if message["type"] in ("system_log", "audit_log"):
                    print(render_record(message, palette, service=False, stacks=False), flush=True)
                elif message["type"] == "gap":
                    print(render_gap(message, palette), flush=True)
    except BrokenPipeError:
        stop.set()
    except (WebSocketException, OSError) as error:
        if not stop.is_set():
            print(f"audit-bridge: the viewer lost its connection: {error}", file=sys.stderr)
            stop.set()


def run_demo(*, port: int, seconds: float | None) -> int:
    """Run the service, its customers and the viewer until Ctrl-C, SIGTERM, or for ``seconds``; the exit code."""
    stop, watching = threading.Event(), threading.Event()
    counts: dict[str, int] = {}
    with ExitStack() as undo:
        # This process is ours alone. With every write the server's thread lets go of the interpreter, and would wait
        # Python's 5 ms for it whenever another thread is busy.
        undo.callback(sys.setswitchinterval, sys.getswitchinterval())
        sys.setswitchinterval(0.000_5)
        listener = bind("127.0.0.1", port, token=None)
        undo.callback(listener.close)
        for number in (signal.SIGINT, signal.SIGTERM):
            undo.callback(signal.signal, number, signal.signal(number, lambda *_: stop.set()))
        root, shop = logging.getLogger(), logging.getLogger("shop")
        server_logger = logging.getLogger("uvicorn.error")  # says a line about every viewer
        for logger, level in ((root, logging.INFO), (shop, logging.DEBUG), (server_logger, logging.WARNING)):
            undo.callback(logger.setLevel, logger.level)
            logger.setLevel(level)
        # The viewer is where warnings are seen; a second copy on standard error would be confusing here.
        root.addHandler(quiet := logging.NullHandler())
        undo.callback(root.removeHandler, quiet)
        monitor = bridge.setup(service_name="demo-shop", flush_on_sigterm=False, monitor_endpoint=None)
        undo.callback(monitor.shutdown, timeout=2.0)
        server = StandaloneServer(create_service(monitor), listener)
        undo.callback(server.stop)
        server.start()
        _wait_until(lambda: server.started, 10.0)
        print(
            f"audit-bridge demo: {server.url}/ (records: ws://127.0.0.1:{server.port}{MONITOR_PATH}); Ctrl-C ends",
            flush=True,
        )
        viewer = threading.Thread(target=_view, args=(server.port, stop, watching, counts), daemon=True)
        customers = threading.Thread(target=_customers, args=(server.port, stop), daemon=True)
        viewer.start()
        _wait_until(lambda: watching.is_set() or stop.is_set(), 10.0)
        customers.start()
        stop.wait(seconds)
        stop.set()
        for thread in (customers, viewer):
            thread.join(2.0)
        lost = sum(monitor.statistics().dropped.values())
        print(
            f"audit-bridge demo: shown {counts.get('system_log', 0)} system and {counts.get('audit_log', 0)} "
            f"audit records; {lost} lost",
            flush=True,
        )
    return 0


def _wait_until(condition: Any, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
