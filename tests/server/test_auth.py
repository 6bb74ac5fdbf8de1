"""Who may watch: every rule, over plain ASGI scopes."""

import hmac
from typing import Any

import pytest

from bridge.server.auth import Policy, judge, judge_ingest, judge_peer

OPEN = Policy()
LOOPBACK = {"host": "127.0.0.1:8765"}


def scope(client: Any = ("127.0.0.1", 50_000), headers: dict[str, str] | None = None) -> dict[str, Any]:
    given = LOOPBACK if headers is None else headers
    return {
        "type": "websocket",
        "client": client,
        "headers": [(key.lower().encode(), value.encode("latin-1")) for key, value in given.items()],
    }


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1", "::1%lo"], ids=lambda a: a)
def test_loopback_peers(address: str) -> None:
    """Without a token a peer on this machine may watch."""
    assert judge(scope((address, 1)), OPEN) is None


@pytest.mark.parametrize(
    "client",
    [
        ("192.0.2.7", 1),
        ("10.0.0.1", 1),
        ("::ffff:192.0.2.7", 1),
        ("fd00::2", 1),
        ("0.0.0.0", 1),
        ("127.0.0.1.example.com", 1),
        ("localhost", 1),
        ("unix", 1),
        ("", 1),
        None,
    ],
    ids=str,
)
def test_other_peers(client: Any) -> None:
    """Without a token nobody else may, nor one whose address is unknown."""
    refusal = judge(scope(client), OPEN)
    assert refusal is not None
    assert (refusal.kind, "no token is set" in refusal.reason) == ("forbidden", True)


@pytest.mark.parametrize(
    "name",
    [
        "Forwarded",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "X-Forwarded-Server",
        "X-Forwarded-Ssl",
        "X-Forwarded-Prefix",
        "X-Forwarded-User",
        "X-Real-IP",
    ],
)
@pytest.mark.parametrize("value", ["127.0.0.1", ""])
def test_forwarding_headers(name: str, value: str) -> None:
    """Without a token a request that any proxy has marked is refused; with one the mark does not matter."""
    request = scope(headers=LOOPBACK | {name: value})
    refusal = judge(request, OPEN)
    assert refusal is not None
    assert refusal.reason == f"the request came through a proxy (it has {name.lower()!r}), and no token is set"
    assert judge(scope(headers=LOOPBACK | {name: value, "authorization": "Bearer t"}), Policy("t")) is None


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8765", "localhost", "LocalHost:80", "[::1]", "[::1]:8765", "app.localhost", "localhost."],
)
def test_loopback_hosts(host: str) -> None:
    """A Host that can only mean this machine is known."""
    assert judge(scope(headers={"host": host}), OPEN) is None


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8765",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "notlocalhost",
        "127.0.0.1@evil.example",
        "127.0.0.1 evil.example",
        "192.0.2.7",
        "0.0.0.0:8765",
        "[::1",
        "",
    ],
)
def test_rebound_hosts(host: str) -> None:
    """Any other Host is refused: a page of a stranger may have rebound its name to us."""
    refusal = judge(scope(headers={"host": host}), OPEN)
    assert refusal is not None
    assert refusal.kind == "forbidden"


def test_a_missing_host() -> None:
    """A request without Host is refused, with a token too."""
    assert judge(scope(headers={}), OPEN) is not None
    assert judge(scope(headers={"authorization": "Bearer t"}), Policy("t")) is not None


def test_allowed_hosts() -> None:
    """Hosts on the list are known, in any case; with a token and a list, only those."""
    policy = Policy(allowed_hosts=("Ops.example",))
    assert judge(scope(headers={"host": "ops.EXAMPLE:80"}), policy) is None
    assert judge(scope(headers={"host": "other.example"}), policy) is not None
    with_token = Policy("t", allowed_hosts=("ops.example",))
    for host, good in (("ops.example", True), ("other.example", False), ("localhost", True)):
        request = scope(("192.0.2.7", 1), {"host": host, "authorization": "Bearer t"})
        assert (judge(request, with_token) is None) is good
    assert judge(scope(("192.0.2.7", 1), {"host": "any.example", "authorization": "Bearer t"}), Policy("t")) is None


@pytest.mark.parametrize(
    ("origin", "host", "good"),
    [
        ("http://127.0.0.1:8765", "127.0.0.1:8765", True),
        ("HTTP://LOCALHOST:8765", "localhost:8765", True),
        ("http://localhost", "localhost", True),
        ("http://localhost:80", "localhost", True),
        ("https://localhost", "localhost:443", True),
        ("http://[::1]:8765", "[::1]:8765", True),
        ("https://ops.example", "127.0.0.1:8765", True),
        ("HTTPS://OPS.example", "127.0.0.1:8765", True),
        ("http://ops.example", "127.0.0.1:8765", False),
        ("http://evil.example", "127.0.0.1:8765", False),
        ("http://localhost:8765", "127.0.0.1:8765", False),
        ("http://127.0.0.1:8766", "127.0.0.1:8765", False),
        ("http://127.0.0.1", "127.0.0.1:8765", False),
        ("http://127.0.0.1:8765.evil.example", "127.0.0.1:8765", False),
        ("http://evil.example/127.0.0.1:8765", "127.0.0.1:8765", False),
        ("null", "127.0.0.1:8765", False),
        ("", "127.0.0.1:8765", False),
        ("file://", "127.0.0.1:8765", False),
        ("chrome-extension://abc", "127.0.0.1:8765", False),
        ("http://[::1", "127.0.0.1:8765", False),
    ],
)
def test_origins(origin: str, host: str, good: bool) -> None:
    """A page may connect if its origin is the server's own, port included, or on the list."""
    policy = Policy(allowed_origins=("https://ops.example",))
    refusal = judge(scope(headers={"host": host, "origin": origin}), policy)
    assert (refusal is None) is good
    if refusal is not None:
        assert (refusal.kind, "allowed_origins" in refusal.remedy) == ("forbidden", True)


def test_an_origin_with_a_token() -> None:
    """A token does not excuse a foreign origin."""
    headers = LOOPBACK | {"authorization": "Bearer t", "origin": "http://evil.example"}
    refusal = judge(scope(headers=headers), Policy("t"))
    assert refusal is not None
    assert refusal.kind == "forbidden"


@pytest.mark.parametrize(
    ("authorization", "good"),
    [
        ("Bearer s3cret", True),
        ("bearer  s3cret ", True),
        ("Bearer s3cre", False),
        ("Bearer s3crets", False),
        ("Bearer ", False),
        ("Bearer", False),
        ("Basic s3cret", False),
        ("s3cret", False),
        ("Bearer S3CRET", False),
        ("", False),
        ("Bearer \xff", False),
    ],
)
def test_tokens(authorization: str, good: bool) -> None:
    """With a token, from anywhere, exactly ``Authorization: Bearer <token>`` is let in."""
    for client in (("127.0.0.1", 1), ("192.0.2.7", 1), None):
        refusal = judge(scope(client, LOOPBACK | {"authorization": authorization}), Policy("s3cret"))
        assert (refusal is None) is good
        if refusal is not None:
            assert refusal.kind == "token"
            assert "s3cr" not in str(refusal).lower()


def test_a_missing_token() -> None:
    """With a token, a loopback peer without it is refused."""
    refusal = judge(scope(), Policy("t"))
    assert refusal is not None
    assert (refusal.kind, refusal.remedy) == ("token", "send the header Authorization: Bearer <token>")


def test_a_token_that_is_not_ascii() -> None:
    """A token may hold any text; the header carries its UTF-8."""
    token = "gehäim"
    request = scope()
    request["headers"].append((b"authorization", f"Bearer {token}".encode()))
    assert judge(request, Policy(token)) is None


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a refusal takes does not tell how much of a token was right."""
    compared: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, known: bytes) -> bool:
        compared.append((given, known))
        return given == known

    monkeypatch.setattr(hmac, "compare_digest", compare)
    judge(scope(headers=LOOPBACK | {"authorization": "Bearer guess"}), Policy("t"))
    judge(scope(), Policy("t"))
    assert compared == [(b"guess", b"t"), (b"", b"t")]


def test_refusals_are_one_line() -> None:
    """What a client sends can't put a line break into what is logged, nor fill the log."""
    for headers in (
        {"host": "evil\r\nexample" + "x" * 5_000},
        LOOPBACK | {"origin": "http://evil\n" + "x" * 5_000},
        LOOPBACK | {"x-forwarded-" + "y" * 5_000: ""},
    ):
        refusal = judge(scope(headers=headers), OPEN)
        assert refusal is not None
        assert str(refusal).isprintable()
        assert len(str(refusal)) < 500


# -- who may send ------------------------------------------------------------------------------------------------------

STRANGER = ("192.0.2.7", 1)


@pytest.mark.parametrize(
    ("client", "headers", "kind"),
    [
        (("127.0.0.1", 1), LOOPBACK, None),
        (("127.0.0.1", 1), LOOPBACK | {"authorization": "Bearer s3cret"}, None),
        (("127.0.0.1", 1), LOOPBACK | {"authorization": "Bearer wrong"}, None),
        (("127.0.0.1", 1), LOOPBACK | {"x-forwarded-for": "192.0.2.7"}, "token"),
        (("127.0.0.1", 1), LOOPBACK | {"forwarded": "", "authorization": "Bearer s3cret"}, None),
        (("127.0.0.1", 1), {"host": "evil.example"}, "token"),
        (("127.0.0.1", 1), LOOPBACK | {"origin": "http://evil.example"}, "forbidden"),
        (("127.0.0.1", 1), LOOPBACK | {"origin": "http://evil.example", "authorization": "Bearer s3cret"}, "forbidden"),
        (STRANGER, {"host": "192.0.2.1:4318"}, "token"),
        (STRANGER, {"host": "192.0.2.1:4318", "authorization": "Bearer wrong"}, "token"),
        (STRANGER, {"host": "192.0.2.1:4318", "authorization": "Bearer s3cret"}, None),
        (None, LOOPBACK, "token"),
        (None, {"authorization": "Bearer s3cret"}, "forbidden"),
    ],
)
def test_senders_with_a_token(client: Any, headers: dict[str, str], kind: str | None) -> None:
    """A token is for strangers: a service on this machine needs none, unless a proxy or a page speaks for another."""
    refusal = judge_ingest(scope(client, headers), Policy("s3cret"))
    assert (refusal.kind if refusal else None) == kind


def test_senders_without_a_token() -> None:
    """Without a token, who may watch may send."""
    for client in (("127.0.0.1", 1), STRANGER, None):
        for headers in (LOOPBACK, {"host": "evil.example"}, LOOPBACK | {"x-real-ip": ""}):
            request = scope(client, headers)
            assert judge_ingest(request, OPEN) == judge(request, OPEN)


@pytest.mark.parametrize(
    ("address", "authorization", "token", "kind"),
    [
        ("127.0.0.1", "", None, None),
        ("::1", "", "s3cret", None),
        ("::ffff:127.0.0.1", "Bearer wrong", "s3cret", None),
        ("192.0.2.7", "", None, "forbidden"),
        ("192.0.2.7", "Bearer s3cret", None, "forbidden"),
        ("192.0.2.7", "", "s3cret", "token"),
        ("192.0.2.7", "Bearer wrong", "s3cret", "token"),
        ("192.0.2.7", "Bearer s3cret", "s3cret", None),
        ("", "", None, "forbidden"),
        ("", "Bearer s3cret", "s3cret", None),
    ],
)
def test_peers(address: str, authorization: str, token: str | None, kind: str | None) -> None:
    """gRPC has an address and a token to go by."""
    refusal = judge_peer(address, authorization, Policy(token))
    assert (refusal.kind if refusal else None) == kind
