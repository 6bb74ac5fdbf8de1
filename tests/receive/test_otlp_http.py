"""``POST /v1/logs`` as an ASGI application: every answer, and bodies in pieces."""

import asyncio
import gzip
import itertools
import json
import zlib
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.receive.answers import Code
from bridge.receive.otlp_http import OtlpHttpEndpoint
from tests.receiving import JSON, PROTOBUF, Shown, as_json, gzip_bomb, said, status_of

pytestmark = pytest.mark.anyio

ONE = said("one").SerializeToString()
GONE = None


class Answer:
    def __init__(self, start: dict[str, Any], body: bytes) -> None:
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        self.body = body
        assert self.headers["content-length"] == str(len(body))


async def ask(
    shown: Shown,
    parts: Iterable[bytes | None],
    content_type: str | None = PROTOBUF,
    *,
    method: str = "POST",
    client: Any = ("127.0.0.1", 5),
    guard: Any = lambda scope: None,
    stuck: bool = False,
    **options: Any,
) -> Answer | None:
    """One request; ``None`` among the parts is a sender that leaves, and ``stuck`` one that never ends."""
    headers = options.pop("headers", {})
    if content_type is not None:
        headers = headers | {"Content-Type": content_type}
    rest = list(parts)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not rest:
            await asyncio.Event().wait()
        part = rest.pop(0)
        if part is GONE:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": part, "more_body": bool(rest) or stuck}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": "/v1/logs",
        "client": client,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }
    await OtlpHttpEndpoint(shown.receiver, guard, **options)(scope, receive, send)
    assert shown.receiver.pending_bytes == 0
    if not sent:
        return None
    start, end = sent
    assert (start["type"], end["type"]) == ("http.response.start", "http.response.body")
    return Answer(start, end["body"])


async def refused(shown: Shown, *arguments: Any, **options: Any) -> tuple[int, int, str]:
    """Status, code and reason of a refusal, and that nothing was shown."""
    answer = await ask(shown, *arguments, **options)
    assert answer is not None
    content_type = answer.headers["content-type"]
    if content_type == JSON:
        code = json.loads(answer.body)["code"]
        assert json.loads(answer.body)["message"]
    else:
        assert content_type == PROTOBUF
        code, words, seconds = status_of(answer.body)
        assert words
        assert (seconds, answer.headers.get("retry-after")) == (([1], "1") if code == 14 else ([], None))
    assert shown.events == []
    reasons = shown.counts().get("refused", {})
    assert list(reasons.values()) in ([1], [])
    return answer.status, code, next(iter(reasons), "")


@pytest.mark.parametrize("content_type", [PROTOBUF, "Application/X-Protobuf ; charset=utf-8", JSON, "application/JSON"])
@pytest.mark.parametrize("coding", ["", "identity", "gzip", " GZIP "])
async def test_taken(content_type: str, coding: str) -> None:
    """Protobuf and JSON, plain and gzip, are taken and answered in kind."""
    is_json = "json" in content_type.lower()
    body = json.dumps(as_json(said("one"))).encode() if is_json else ONE
    if "gzip" in coding.lower():
        body = gzip.compress(body)
    shown = Shown()
    answer = await ask(shown, [body], content_type, headers={"Content-Encoding": coding} if coding else {})
    assert answer is not None
    assert (answer.status, answer.body) == (200, b"{}" if is_json else b"")
    assert answer.headers["content-type"] == (JSON if is_json else PROTOBUF)
    assert (shown.messages, shown.events[0].peer) == (["one"], "127.0.0.1:5")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 200), max_size=8), st.booleans(), st.integers(1, 3))
def test_in_any_pieces(cuts: list[int], packed: bool, members: int) -> None:
    """However a body is cut, and of however many gzip members it is made, it is the same body."""
    body = ONE
    if packed:
        size = len(ONE) // members + 1
        body = b"".join(gzip.compress(ONE[start : start + size]) for start in range(0, len(ONE), size))
    places = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    parts = [body[start:end] for start, end in itertools.pairwise(places)]
    shown = Shown()
    answer = asyncio.run(ask(shown, [*parts, b""], headers={"content-encoding": "gzip"} if packed else {}))
    assert answer is not None
    assert (answer.status, shown.messages) == (200, ["one"])


async def test_partial_success() -> None:
    """Records that could not be read are told in the answer."""
    body = json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [7]}]}]}).encode()
    answer = await ask(Shown(), [body], JSON)
    assert answer is not None
    assert json.loads(answer.body)["partialSuccess"]["rejectedLogRecords"] == "1"


async def test_other_signals() -> None:
    """Traces get their own kind of partial success."""
    body = json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [{}]}]}]}).encode()
    answer = await ask(Shown(), [body], JSON, signal="spans")
    assert answer is not None
    assert json.loads(answer.body)["partialSuccess"]["rejectedSpans"] == "1"


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/grpc", "application/x-protobufs", "\xff"]
)
async def test_other_content_types(content_type: str | None) -> None:
    """Another content type is 415, and the refusal is protobuf."""
    assert await refused(Shown(), [ONE], content_type) == (415, 12, "unsupported")


@pytest.mark.parametrize("coding", ["deflate", "zstd", "br", "gzip, gzip", "x-gzip"])
async def test_other_encodings(coding: str) -> None:
    """Another encoding is 415, in the encoding of the request."""
    for content_type in (PROTOBUF, JSON):
        found = await refused(Shown(), [ONE], content_type, headers={"content-encoding": coding})
        assert found == (415, 12, "unsupported")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS", "DELETE"])
async def test_other_methods(method: str) -> None:
    """Anything but POST is 405 and is told what goes."""
    answer = await ask(Shown(), [], method=method)
    assert answer is not None
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(("code", "status"), [(Code.UNAUTHENTICATED, 401), (Code.PERMISSION_DENIED, 403)])
async def test_who_may_not_send(code: Code, status: int) -> None:
    """Who may not send is told before a byte of the body is read."""
    answer = await ask(Shown(), [], JSON, guard=lambda scope: (code, "no"))
    assert answer is not None
    assert (answer.status, json.loads(answer.body)) == (status, {"code": int(code), "message": "no"})
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert await refused(Shown(), [], guard=lambda scope: (code, "no")) == (status, int(code), "forbidden")


@pytest.mark.parametrize(
    ("parts", "headers"),
    [
        ([], {"content-length": "1025"}),
        ([b"x" * 1_025], {}),
        ([b"x" * 1_000, b"x" * 25], {}),
        ([gzip.compress(bytes(1_025))], {"content-encoding": "gzip"}),
        ([gzip.compress(bytes(1_000)), gzip.compress(bytes(25))], {"content-encoding": "gzip"}),
        ([gzip_bomb(1)[:1_000]], {"content-encoding": "gzip"}),
    ],
)
async def test_too_large(parts: list[bytes], headers: dict[str, str]) -> None:
    """What is larger than allowed, told, packed or unpacked, is 413, as soon as it is known."""
    shown = Shown(max_bytes=1_024)
    assert await refused(shown, parts, headers=headers, stuck=True) == (413, 8, "too_large")


async def test_as_large_as_allowed() -> None:
    """A body of exactly the bound is taken, whatever its head tells."""
    body = said("x" * 900).SerializeToString()
    for headers in ({}, {"content-length": str(len(body))}, {"content-length": "-1"}, {"content-length": "x"}):
        shown = Shown(max_bytes=len(body))
        answer = await ask(shown, [body], headers=headers)
        assert answer is not None
        assert answer.status == 200
        answer = await ask(shown, [gzip.compress(body)], headers={"content-encoding": "gzip"})
        assert answer is not None
        assert answer.status == 200


@pytest.mark.parametrize(
    "body",
    [
        b"not gzip",
        gzip.compress(ONE)[:-9],
        gzip.compress(ONE)[:5],
        gzip.compress(ONE)[:-8] + bytes(8),
        gzip.compress(ONE) + b"garbage",
        zlib.compress(ONE),
        gzip.compress(b"\xff"),
        gzip.compress(b"") * 101,
    ],
)
async def test_not_gzip(body: bytes) -> None:
    """What is no gzip, is cut, has a wrong checksum, garbage behind it or no OTLP in it, is 400."""
    assert await refused(Shown(), [body], headers={"content-encoding": "gzip"}) == (400, 3, "malformed")


async def test_empty_bodies() -> None:
    """No byte at all is a request without records, and a gzip of up to a hundred members is one body."""
    for body in (b"", gzip.compress(b""), gzip.compress(b"") * 99 + gzip.compress(ONE)):
        answer = await ask(Shown(), [body], headers={"content-encoding": "gzip"})
        assert answer is not None
        assert answer.status == 200


async def test_malformed() -> None:
    """What is no OTLP is 400, in the encoding of the request."""
    assert await refused(Shown(), [b"\xff"]) == (400, 3, "malformed")
    assert await refused(Shown(), [b"{"], JSON) == (400, 3, "malformed")


async def test_overload() -> None:
    """Without room for its bytes a request is 503 with the time to come again; a packed one too."""
    assert await refused(Shown(max_pending_bytes=10), [ONE]) == (503, 14, "overload")
    packed = {"content-encoding": "gzip"}
    assert await refused(Shown(max_pending_bytes=10), [gzip.compress(ONE)], headers=packed) == (503, 14, "overload")


async def test_too_slow() -> None:
    """A body that does not end in time is 408, and the connection is closed."""
    assert await refused(Shown(), [ONE], stuck=True, body_seconds=0.01) == (408, 4, "too_slow")
    answer = await ask(Shown(), [ONE], stuck=True, body_seconds=0.01)
    assert answer is not None
    assert answer.headers["connection"] == "close"


async def test_a_sender_that_leaves() -> None:
    """Nobody is left to answer, nothing is shown, nothing is counted, and its bytes are given back."""
    shown = Shown()
    assert await ask(shown, [ONE, GONE]) is None
    assert (shown.events, shown.counts()) == ([], {})


async def test_a_fault() -> None:
    """A fault of the monitor is 503: come again."""
    shown = Shown()

    def publish(events: Any) -> None:
        raise OSError

    shown.receiver._publish = publish
    assert await refused(shown, [ONE]) == (503, 14, "internal")


async def test_other_kinds_of_scopes() -> None:
    """What is no HTTP is nobody's here; a peer without an address has none."""
    await OtlpHttpEndpoint(Shown().receiver, lambda scope: None)({"type": "websocket"}, None, None)  # type: ignore[arg-type]
    shown = Shown()
    await ask(shown, [ONE], client=None)
    assert shown.events[0].peer == ""
