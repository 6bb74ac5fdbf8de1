from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.record.redact import DEFAULT_KEYS, DEFAULT_PATTERNS, NO_REDACTION, Redactor
from bridge.record.values import freeze

R = Redactor()
GONE = "[REDACTED]"
CANARY = "hunter2Canary"

SECRET_KEYS = [
    "password",
    "PASSWORD",
    "passwd",
    "pwd",
    "passphrase",
    "userPassword",
    "dbpassword",
    "password2",
    "passWord",
    "secret",
    "client_secret",
    "clientSecret",
    "token",
    "access_token",
    "refresh-token",
    "id.token",
    "accessToken",
    "password_reset_token",
    "authorization",
    "Proxy-Authorization",
    "HTTP_AUTHORIZATION",
    "cookie",
    "Set-Cookie",
    "cookies",
    "api key",
    "apikey",
    "api_key",
    "X-Api-Key",
    "xApiKey",
    "APIKey",
    "private_key",
    "privateKey",
    "credential",
    "credentials",
    "session_token",
    "connection_string",
    "ConnectionString",
    "db_pass",
    "aws_secret_access_key",
    "http.request.header.authorization",
    "user%5Bpassword%5D",
]
HARMLESS_KEYS = [
    "token_count", "tokens_used", "password_changed", "author", "tokenizer", "cookie_consent", "token_type",
    "password_changed_at", "secret_name", "compass", "keyboard", "primary_key", "key", "monkey", "secretary",
    "bypass", "authority", "user.name", "pass",
]  # fmt: skip


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_secret_keys_lose_their_value(key: str) -> None:
    """The whole value under a secret name goes, whatever its type."""
    values: list[Any] = [CANARY, 12345, True, 1.5, b"x", (CANARY,), {"a": CANARY}]
    for value in values:
        assert R.attributes({key: value}) == {key: GONE}
    assert R.attributes({key: None}) == {key: None}


@pytest.mark.parametrize("key", HARMLESS_KEYS)
def test_harmless_keys_keep_their_value(key: str) -> None:
    """A name that only sounds like a secret, or speaks about one, keeps its value."""
    attributes: Any = {key: "some words", "n": (1, {key: 5})}
    assert R.attributes(attributes) is attributes
    assert R.text(f"{key}=words") == f"{key}=words"


@pytest.mark.parametrize("key", ["max_tokens", "has_password", "gen_ai.usage.input_tokens", "tokens"])
def test_counts_and_flags_stay_only_as_such(key: str) -> None:
    """Under a counting name numbers and flags stay, other text goes."""
    for value in (5, True, None, "512", "false"):
        assert R.value(key, value) == value
    assert R.value(key, CANARY) == GONE
    assert R.text(f"{key}=512 {key}={CANARY}") == f"{key}=512 {key}={GONE}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Bearer abcdef.12345 x", f"Bearer {GONE} x"),
        ("Basic dXNlcjpwYXNz x", f"Basic {GONE} x"),
        ("Authorization: Bearer abc\nHost: x", f"Authorization: {GONE}\nHost: x"),
        ('curl -H "Authorization: Bearer abc" u', f'curl -H "Authorization: {GONE}" u'),
        ("Authorization=Bearer abc x", f"Authorization={GONE} x"),
        ("Cookie: a=b; c=d\r\nHost: x", f"Cookie: {GONE}\r\nHost: x"),
        ("cookie=a=b; c=d x", f"cookie={GONE} x"),
        ("postgres://bob:pw@host/db", f"postgres://bob:{GONE}@host/db"),
        ("redis://:p@ss@host", f"redis://:{GONE}@host"),
        ("x://bob:p/w@host", f"x://bob:{GONE}@host"),
        ("https://x-access-token:abc@host/x", f"https://x-access-token:{GONE}@host/x"),
        ("https://0123456789abcdef0123456789abcdef@sentry.io/1", f"https://{GONE}@sentry.io/1"),
        ("password=abc user=bob", f"password={GONE} user=bob"),
        ("password=a,b;c!) x", f"password={GONE}) x"),
        ("User(password='it\\'s', id=1)", f"User(password='{GONE}', id=1)"),
        ('{"password": "a\\"b", "id": 1}', f'{{"password": "{GONE}", "id": 1}}'),
        ('{"b": "{\\"password\\": \\"a b\\"}"}', f'{{"b": "{{\\"password\\": \\"{GONE}\\"}}"}}'),
        ('{"tokens": ["a", "b]"], "id": 1}', f'{{"tokens": {GONE}, "id": 1}}'),
        ("{b'token': b'a'}", f"{{b'token': b'{GONE}'}}"),
        ("[(b'cookie', b'a=b'), (b'host', b'h')]", f"[(b'cookie', b{GONE}), (b'host', b'h')]"),
        ("/x?a=1&token=abc&b=2", f"/x?a=1&token={GONE}&b=2"),
        ("user[password]=abc", f"user[password]={GONE}"),
        ("cmd --password abc --x y", f"cmd --password {GONE} --x y"),
        ("token: abc", f"token: {GONE}"),
        ("API key: abc", f"API key: {GONE}"),
        ("Server=x;Password=abc;Db=y", f"Server=x;Password={GONE};Db=y"),
        ("msg:password:abc", f"msg:password:{GONE}"),
        ("'\\r\\ncookie: a=b; c=d", f"'\\r\\ncookie: {GONE}"),
        ("'GET /\\r\\nauthorization: Bearer abc'", f"'GET /\\r\\nauthorization: {GONE}"),
        ("a -----BEGIN RSA PRIVATE KEY-----\nab-c\n-----END RSA PRIVATE KEY----- b", f"a {GONE} b"),
        ("private_key=-----BEGIN PRIVATE KEY-----\nab", f"private_key={GONE}"),
        ("x eyJhbGciOi.eyJzdWIi.c2ln-_ y", f"x {GONE} y"),
        ("id AKIAABCDEFGHIJKLMNOP x", f"id {GONE} x"),
        ("aws_secret_access_key=abc/+", f"aws_secret_access_key={GONE}"),
        ("ghp_" + "a1" * 18, GONE),
        ("github_pat_" + "a1" * 18, GONE),
        ("xoxb-123456789-abc", GONE),
        ("sk_live_abcdefgh1234", GONE),
    ],
)
def test_secrets_in_text(text: str, expected: str) -> None:
    """Each form in which secrets appear in text is found, and nothing around it is lost."""
    assert R.text(text) == expected
    assert R.text(expected) == expected
    assert R.attributes({"a": (text,)}) == {"a": (expected,)}


@pytest.mark.parametrize(
    "text",
    [
        "Basic authentication is on",
        "bearer authentication failed: 401",
        "http://host:8080/a@b",
        "ssh://git@github.com/x",
        "std::token::x",
        "secret://path",
        "keyboard: us, passenger=3",
        "password=",
        "password: ''",
    ],
)
def test_ordinary_text_stays(text: str) -> None:
    """Text that only resembles a secret comes back as the same object."""
    assert R.text(text) is text


def test_pairs_bytes_and_keys() -> None:
    """Header lists, bytes and keys that are secrets themselves are covered."""
    attributes: Any = {
        "headers": ((b"authorization", b"abc"), (b"host", b"h")),
        "body": b'\xff{"password":"abc"}',
        "sessions": {"ghp_" + "a1" * 18: 1},
    }
    expected = {
        "headers": ((b"authorization", GONE), (b"host", b"h")),
        "body": b'\xff{"password":"[REDACTED]"}',
        "sessions": {GONE: 1},
    }
    assert R.attributes(attributes) == expected


def test_own_keys_and_patterns() -> None:
    """Own names in any style, own expressions and own shapes work in attributes and text."""
    own = Redactor(
        keys=(*DEFAULT_KEYS, "Card-Number", r"acct\d?"),
        patterns=(*DEFAULT_PATTERNS, r"cust-(?P<secret>\d+)"),
        replacement="***",
    )
    assert own.text("cardNumber=4 acct1=5 cust-77 pwd=x") == "cardNumber=*** acct1=*** cust-*** pwd=***"
    assert own.attributes({"card.number": 4}) == {"card.number": "***"}
    names = Redactor(keys=("iban",))
    assert names.text("IBAN: DE1 password=x") == "IBAN: *** password=x".replace("***", GONE)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patterns": ["a("]}, r"'a\('.*position 1.*re\.escape"),
        ({"keys": ["a("]}, r"'a\('.*position 1.*re\.escape"),
        ({"patterns": ["a*"]}, "empty text"),
        ({"patterns": ["[A-Z]+"]}, "replacement"),
        ({"replacement": ""}, "replacement"),
        ({"keys": "password"}, "list of patterns"),
    ],
)
def test_bad_settings_are_refused(settings: Any, message: str) -> None:
    """A setting that cannot work is refused with what, where and what to do."""
    with pytest.raises(ValueError, match=message):
        Redactor(**settings)


def test_cannot_be_changed() -> None:
    """A redactor in use by many threads does not change."""
    with pytest.raises(AttributeError):
        R.replacement = "x"


def test_no_redaction_returns_everything() -> None:
    """The null redactor returns the same objects."""
    attributes: Any = {"password": "x"}
    assert NO_REDACTION.attributes(attributes) is attributes
    assert NO_REDACTION.text("password=x") == "password=x"
    assert NO_REDACTION.value("password", "x") == "x"


def test_deep_nesting_stays_closed() -> None:
    """What is nested beyond the stack is hidden and not raised."""
    value: Any = CANARY
    for _ in range(100_000):
        value = (value,)
    assert R.value("a", value) == GONE


HOSTILE = [
    "eyJ",
    "xoxb-",
    "://a:b",
    "://a:@",
    "password=",
    'password="',
    'token=\\"',
    "token={\n",
    "a=",
    "key: ",
    "-----BEGIN PRIVATE KEY-----",
    "token=)",
    "bearer ",
    "Basic aB",
    "--token ",
    '"cookie: a" ',
    "token=\\",
    "token=a,aaaa",
    "token=a&aaaa",
    "token=a)]}>",
    "token='\\'",
    "password1",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_text_takes_linear_time(unit: str) -> None:
    """Ten times the text takes about ten times as long, far from the hundred of quadratic scanning."""

    def cost(length: int) -> float:
        text = unit * (length // len(unit))
        started = time.process_time()
        R.text(text)
        return time.process_time() - started

    small = max(min(cost(100_000) for _ in range(2)), 0.005)
    assert cost(1_000_000) < 40 * small


def test_ten_megabytes_are_handled() -> None:
    """A huge message is scanned to its end."""
    assert R.text("a b " * 2_500_000 + "password=x").endswith(f"password={GONE}")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda x: st.lists(x) | st.dictionaries(st.text(), x),
    max_leaves=10,
)


@given(st.sampled_from(SECRET_KEYS), values, st.lists(st.text() | st.none(), max_size=5))
def test_no_canary_survives_at_any_nesting(key: str, noise: Any, path: list[str | None]) -> None:
    """A secret under a secret name is never in the result, however deep."""
    nested: Any = {key: [CANARY, {"x": CANARY}], "noise": noise}
    for step in path:
        nested = [noise, nested] if step is None else {step: nested}
    assert CANARY not in repr(R.attributes({"a": freeze(nested)}))


@given(
    st.sampled_from(SECRET_KEYS),
    st.text(),
    st.text(),
    st.sampled_from(["{}={}", "{}: {}", '"{}": "{}"', "{}='{}'"]),
)
def test_no_canary_survives_in_text(key: str, before: str, after: str, form: str) -> None:
    """A secret after a secret name in text is never in the result, whatever is around it."""
    assert CANARY not in R.text(f"{before} {form.format(key, CANARY)} {after}")


PUNCTUATION = ["=", ":", " ", '"', "'", "\\", "\n", *"[]{}(),;&@", "://", "--", "b'"]
OTHERS = [GONE, CANARY, "ab.", "x", "Digest ", "1", "AKIAABCDEFGHIJKLMNOP"]
pieces = st.sampled_from([*HOSTILE, *SECRET_KEYS, *PUNCTUATION, *OTHERS])


@given(st.lists(pieces | st.text(max_size=5), max_size=15).map("".join))
def test_twice_is_once(text: str) -> None:
    """Redacting what was redacted changes nothing, and returns the same object."""
    once = R.text(text)
    assert R.text(once) == once


@given(st.text(st.characters(exclude_characters="=:-_@JI(")))
def test_clean_text_is_returned_itself(text: str) -> None:
    """Text without any trigger comes back as the same object."""
    if "bearer" not in text.lower() and "basic" not in text.lower():
        attributes: Any = {"a": text}
        assert R.text(text) is text
        assert R.attributes(attributes) is attributes
