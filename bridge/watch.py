"""A client of ``/ws/monitor``, version 2, that comes back: what ``audit-bridge tail`` is made of.

:class:`Follower` is the sans-I/O half: it knows where the stream is and how to ask for the rest of it.
:func:`follow` is the socket around it.
"""

from __future__ import annotations

import random
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import msgspec

from bridge.errors import BridgeError, MissingDependency

__all__ = ["Follower", "Message", "WatchRefused", "follow", "monitor_url"]

_PATH: Final = "/ws/monitor"

_FIRST_WAIT_SECONDS: Final = 0.25
_LONGEST_WAIT_SECONDS: Final = 10.0

# Statistics come every second. Silence this long means that the peer is gone without a word.
_SILENCE_SECONDS: Final = 30.0

_MAX_REASON_CHARS: Final = 200

_FINAL_CODES: Final = frozenset({1009, 4400, 4401, 4410})


class WatchRefused(BridgeError):
    """The server does not serve this client, and asking again would not help, or was not wanted."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url = url
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.url}: {self.reason}"


class Message(NamedTuple):
    """A message of the server, as it came and parsed."""

    text: str
    data: dict[str, Any]


def monitor_url(url: str) -> str:
    """The WebSocket address for what a person would type.

    ``8765``, ``localhost:8765``, ``http://host:8765``, ``https://host/prefix/``, ``ws://host/ws/monitor``. Raises
    :class:`WatchRefused` if nothing can be made of it.
    """
    given = url.strip()
    if given.isdigit():
        given = f"127.0.0.1:{given}"
    if "://" not in given:
        given = f"http://{given}"
    try:
        parts = urlsplit(given)
        scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
        host = parts.hostname
        if scheme is None or not host or not host.isprintable() or " " in host or parts.port == 0:
            raise ValueError
        host.encode("idna")  # what looking it up begins with
    except ValueError:
        raise WatchRefused(url, "not an address of a monitor; for example http://127.0.0.1:8765") from None
    path = parts.path if parts.path.endswith(_PATH) else parts.path.rstrip("/") + _PATH
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


class Follower:
    """Where a client is in the stream, over any number of connections."""

    def __init__(self, url: str, parameters: Sequence[tuple[str, str]], *, history: int = 0, after: str = "") -> None:
        self.url = url
        self.cursor = after
        self.ready = False
        """True once everything asked for from the past has come."""
        self._parameters = list(parameters)
        self._history = history

    def address(self) -> str:
        """The address to connect to next: with the cursor once there is one."""
        parameters = [("v", "2"), *self._parameters]
        if self.cursor:
            parameters.append(("after", self.cursor))
        elif self._history:
            parameters.append(("history", str(self._history)))
        parts = urlsplit(self.url)
        # Of what the address says itself, everything but what this client depends on.
        own = {"v", "batch", "after"} if self.cursor else {"v", "batch"}
        given = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in own]
        return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode(given + parameters), ""))

    def heard(self, text: str) -> Message:
        """Take note of a message. Raises ``ValueError`` if it is none of the protocol's."""
        try:
            data = msgspec.json.decode(text)
        except msgspec.DecodeError as error:  # a ValueError only since msgspec 0.20
            raise ValueError(str(error)) from None
        if not isinstance(data, dict) or not isinstance(data.get("type"), str):
            raise ValueError("not a message of the monitor's")
        # A gap that was told is behind us: cut off right here, it is not told again.
        cursor = data.get("to") if data["type"] == "gap" else data.get("cursor")
        if data["type"] == "hello" and not self.cursor and not self._history:
            # From here on: cut off before the first record, it goes on from this very place.
            cursor = data.get("newest")
        if isinstance(cursor, str):
            self.cursor = cursor
        if data["type"] == "ready":
            self.ready = True
        return Message(text, data)


def follow(
    follower: Follower,
    *,
    token: str | None = None,
    say: Callable[[str], None] = lambda words: None,
    wait: Callable[[float], None] = time.sleep,
    follow_on: bool = True,
) -> Iterator[Message]:
    """Every message, over as many connections as it takes; ends at ``ready`` unless ``follow_on``.

    ``say`` hears what happens to the connection. Raises :class:`WatchRefused` when trying again would not help or,
    without ``follow_on``, at the first failure; :class:`MissingDependency` without the ``websockets`` package.
    """
    try:
        from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus, InvalidURI
        from websockets.sync.client import connect
    except ImportError:
        raise MissingDependency("websockets", "watching a monitor", "server") from None

    headers = {"Authorization": f"Bearer {token}"} if token else None
    pause = _FIRST_WAIT_SECONDS
    while True:
        reason = ""
        try:
            with connect(
                follower.address(),
                additional_headers=headers,
                compression=None,
                max_size=None,
                open_timeout=10,
                close_timeout=1,
                proxy=None,
            ) as socket:
                while True:
                    message = follower.heard(_text(socket.recv(timeout=_SILENCE_SECONDS)))
                    pause = _FIRST_WAIT_SECONDS
                    yield message
                    if follower.ready and not follow_on:
                        return
        except ConnectionClosed as closed:
            frame = closed.rcvd
            if frame is not None and frame.code in _FINAL_CODES:
                raise WatchRefused(follower.url, frame.reason or f"closed with {frame.code}") from None
            reason = (frame.reason or f"closed with {frame.code}") if frame is not None else "the connection was cut"
        except InvalidStatus as refused:
            words = _first_line((refused.response.body or b"").decode(errors="replace"))
            if refused.response.status_code < 500:
                raise WatchRefused(follower.url, f"HTTP {refused.response.status_code} {words}".rstrip()) from None
            reason = f"HTTP {refused.response.status_code}"
        except ssl.SSLCertVerificationError as error:
            # A ValueError too. Trying again would change nothing.
            words = f"its certificate is not trusted ({error.verify_message}); name its authority in SSL_CERT_FILE"
            raise WatchRefused(follower.url, words) from None
        except (InvalidHandshake, InvalidURI, ValueError) as error:
            if not (isinstance(error, InvalidMessage) and isinstance(error.__cause__, EOFError | OSError)):
                raise WatchRefused(follower.url, f"this is no monitor ({_first_line(str(error))})") from None
            reason = "the connection was cut before there was an answer"
        except TimeoutError:
            reason = "nothing was heard for a while"
        except OSError as error:
            reason = error.strerror or str(error)
        if not follow_on:
            raise WatchRefused(follower.url, reason)
        say(f"{follower.url}: {reason}; trying again")
        # Spread out, so that a restarted server does not meet all its clients in the same instant.
        wait(pause * random.uniform(0.5, 1.0))  # noqa: S311
        pause = min(pause * 2, _LONGEST_WAIT_SECONDS)


def _first_line(text: str) -> str:
    """What a person wants to see of an answer that may be a whole page."""
    lines = text.strip().splitlines()
    return lines[0][:_MAX_REASON_CHARS] if lines else ""


def _text(message: str | bytes) -> str:
    return message if isinstance(message, str) else message.decode(errors="replace")
