"""Who may watch. Pure decisions over an ASGI scope.

Without a token only a loopback peer with a loopback Host and no forwarding header is answered: a proxy in front would
make every stranger look local. Browsers on other sites can reach loopback too, so Origin must be our own or on the
list, and Host must be a known name, which defeats DNS rebinding.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

__all__ = ["Policy", "Refusal", "judge", "judge_ingest", "judge_peer"]

_FORWARDING: Final = ("forwarded", "x-real-ip")
_FORWARDING_PREFIX: Final = "x-forwarded-"


class Policy(NamedTuple):
    """The settings that decide."""

    token: str | None = None
    allowed_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()


class Refusal(NamedTuple):
    """Why a request is not answered. ``kind`` ``"token"`` asks for 401/4401, ``"forbidden"`` for 403 before accept."""

    kind: Literal["token", "forbidden"]
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}"


def judge(scope: Mapping[str, Any], policy: Policy) -> Refusal | None:
    """None if the request may be answered."""
    headers: dict[str, str] = {}
    for key, value in scope.get("headers") or ():
        headers.setdefault(bytes(key).decode("latin-1").lower(), bytes(value).decode("latin-1"))
    host = headers.get("host", "")
    origin = headers.get("origin")

    if policy.token is None:
        peer = scope.get("client")
        address = str(peer[0]) if peer else ""
        if not _is_loopback_address(address):
            return _stranger(address)
        for name in headers:
            if name in _FORWARDING or name.startswith(_FORWARDING_PREFIX):
                return Refusal(
                    "forbidden",
                    f"the request came through a proxy (it has {name[:40]!r}), and no token is set",
                    "set a token (token=, BRIDGE_TOKEN) to serve behind a proxy",
                )
    if not _host_allowed(host, policy):
        return Refusal(
            "forbidden",
            f"Host {host[:200]!r} is not a known name of this server",
            "add it to allowed_hosts (BRIDGE_ALLOWED_HOSTS)",
        )
    if origin is not None and not _origin_allowed(origin, host, policy):
        return Refusal(
            "forbidden",
            f"Origin {origin[:200]!r} is not this server's own",
            "add it to allowed_origins (BRIDGE_ALLOWED_ORIGINS)",
        )
    if policy.token is not None and not _has_token(headers.get("authorization", ""), policy.token):
        return _NO_TOKEN
    return None


def judge_ingest(scope: Mapping[str, Any], policy: Policy) -> Refusal | None:
    """None if the request may send records: one that needs no token (see above), or one that has it.

    A token keeps strangers out; services on this machine are none, and have no place to keep a token in.
    """
    if judge(scope, policy._replace(token=None)) is None:
        return None
    return judge(scope, policy)


def judge_peer(address: str, authorization: str, policy: Policy) -> Refusal | None:
    """The same for a protocol that browsers don't speak and proxies don't mark: gRPC."""
    if _is_loopback_address(address):
        return None
    if policy.token is None:
        return _stranger(address)
    return None if _has_token(authorization, policy.token) else _NO_TOKEN


_NO_TOKEN: Final = Refusal("token", "no or a wrong token", "send the header Authorization: Bearer <token>")


def _stranger(address: str) -> Refusal:
    return Refusal(
        "forbidden",
        f"peer {address or 'unknown'} is not on this machine, and no token is set",
        "set a token (token=, BRIDGE_TOKEN) to let other machines in",
    )


def _has_token(authorization: str, token: str) -> bool:
    scheme, _, given = authorization.partition(" ")
    # Compared as bytes: compare_digest() refuses text that is not ASCII.
    good = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token.encode())
    return scheme.lower() == "bearer" and good


def _is_loopback_address(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None)
    return bool((mapped or parsed).is_loopback)


def _host_name(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _host_allowed(host: str, policy: Policy) -> bool:
    name = _host_name(host)
    if name == "localhost" or name.endswith(".localhost") or _is_loopback_address(name):
        return True
    if name in (allowed.lower() for allowed in policy.allowed_hosts):
        return True
    # A page that rebinds DNS to us can't send the token: with one, any name is as good as another.
    return policy.token is not None and not policy.allowed_hosts and bool(name)


def _origin_allowed(origin: str, host: str, policy: Policy) -> bool:
    origin = origin.lower()
    if origin in policy.allowed_origins:
        return True
    try:
        parts = urlsplit(origin)
        own = urlsplit(f"{parts.scheme}://{host.lower()}")
        default = {"http": 80, "https": 443}.get(parts.scheme)
        if default is None:
            return False
        return (parts.hostname, parts.port or default) == (own.hostname, own.port or default)
    except ValueError:
        return False
