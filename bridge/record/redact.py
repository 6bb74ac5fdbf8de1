"""Taking secrets out of messages and attributes before anybody sees them.

Pure: no I/O, no clock, no logging, no threads, no OpenTelemetry.  All built-in scanning is linear in the
length of the text; patterns that a user adds are as good as the user wrote them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, Literal, NoReturn, cast

from bridge.errors import SettingsError
from bridge.record.values import AnyValue
from bridge.settings import Settings

__all__ = ["DEFAULT_KEYS", "DEFAULT_PATTERNS", "NO_REDACTION", "Redactor", "redactor_for"]

DEFAULT_KEYS: Final[tuple[str, ...]] = (
    r"[a-z0-9]*pass_?(?:words?|wd|phrases?)",
    r"(?:admin|database|db|ftp|ldap|mail|mongo|mysql|pg|postgres|proxy|redis|root|smtp|ssh|user)_?pass",
    r"pwd",
    r"[a-z0-9]*secrets?",
    r"[a-z0-9]*tokens?",
    r"(?:http|proxy)?authori[sz]ation|basic_auth",
    r"(?:set|http)?cookies?",
    r"x?api_?keys?",
    r"(?:access|account|encryption|master|private|secret|secretaccess|signing)_?keys?",
    r"credentials?|creds?",
    r"connection_?strings?|conn_?str(?:ing)?",
)
"""Regular expressions for whole words of a key in snake case: "X-Api-Key" and "xApiKey" are "x_api_key"."""

# No word boundary where what is before may be replaced too: twice has to be the same as once.
DEFAULT_PATTERNS: Final[tuple[str, ...]] = (
    # A block without its end was cut off: all that follows belongs to it.
    r"-----BEGIN [^\n-]{0,40}PRIVATE KEY[^\n-]{0,20}-----"
    r"[^-]*+(?:-(?!----END )[^-]*+)*+(?:-----END [^\n-]{0,60}-----)?",
    r"\(b['\"](?i:(?:proxy-)?authorization|(?:set-)?cookie|x-api-key)['\"], ?b"
    r"(?P<secret>'[^'\n]*+'?|\"[^\"\n]*+\"?)",
    r"(?i:bearer[ \t]++)(?!(?i:authentication|authorization|credentials?|challenges?)\b)"
    r"(?P<secret>[\w.~+/\-]{8,}+=*+)",
    # "Basic" is also an adjective: only what looks like base64 counts.
    r"(?i:basic[ \t]++)(?P<secret>[A-Za-z0-9+/](?=[a-z+/]*+[A-Z0-9=])[A-Za-z0-9+/]{7,}+=*+)",
    # From the start of the run, and once only; starting at each "eyJ" would be quadratic.
    r"(?<![\w\-])(?>[\w\-]*?(?=eyJ))(?P<secret>eyJ[\w\-]++\.[\w\-]++(?:\.[\w\-]*+)*+)",
    r"(?<![A-Z0-9])A(?:KIA|SIA)[A-Z0-9]{16}(?![A-Z0-9])",
    r"(?<![A-Za-z0-9])(?:gh[oprsu]_[A-Za-z0-9]{16,}+|github_pat_\w{16,}+)",
    r"(?<![A-Za-z0-9])xox[a-z]-[A-Za-z0-9\-]{8,}+",
    r"(?<![A-Za-z0-9])[rs]k_(?:live|test)_[A-Za-z0-9]{8,}+",
    # The user stays; a password may hold "@" and, within reason, "/".
    r"://[^\s/?#@:\"'<>\[]*+:(?P<secret>[^\s/?\"'<>]+|(?!\d+[/?#])[^\s\"'<>]{1,256})@",
    # A user alone is a name, unless it is as long as a token and has a digit.
    r"://(?P<secret>(?=[A-Za-z_.~%\-]*+\d)[\w.~%\-]{20,}+)@",
)
"""Regular expressions for secrets with a shape; the group "secret" is replaced if there is one, else all."""

# Lower-case texts of which one must be there for the pattern to have a chance.
_TRIGGERS: Final[dict[str, tuple[str, ...]]] = dict(
    zip(
        DEFAULT_PATTERNS,
        (
            ("-----begin ",),
            ("(b",),
            ("bearer",),
            ("basic",),
            ("eyj",),
            ("akia", "asia"),
            ("gho_", "ghp_", "ghr_", "ghs_", "ghu_", "github_pat_"),
            ("xox",),
            ("k_live_", "k_test_"),
            ("://",),
            ("://",),
        ),
        strict=True,
    )
)
_WORDS: Final = ("pass", "pwd", "secret", "token", "auth", "cookie", "key", "cred", "conn")

# A key that ends so speaks about a secret and does not hold it; the value stays, whatever it is.
_ABOUT: Final = frozenset(
    "age alg algorithm at attempt attempts budget change changed consent count counts created date"
    " days disabled domain enabled endpoint error errors exists expire expired expires expiration"
    " expiry failed failures file host hours in invalid issued issuer kind len length limit limits"
    " max min minutes missing ms name path policy port present provided provider refreshed required"
    " requested retries revoked rotated scheme scope scopes seconds secs size state status strength"
    " time total ttl type updated uri url usage used valid verified version".split()
)
# With one of these the value should be a number or a flag, and then it stays.
_COUNTING: Final = frozenset("count has is max min num require required requires total".split())
_PLAIN: Final = re.compile(r"(?i:[+-]?\d{1,12}(?:\.\d{1,6})?|true|false|yes|no|none|null)")

_KEEP: Final = 0
_HIDE: Final = 1
_HIDE_UNLESS_PLAIN: Final = 2
_RENAME: Final = 4

_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_BETWEEN: Final = re.compile(r"(?:%[0-9A-Fa-f]{2}|[\W_])+")
_NAME_ONLY: Final = re.compile(r"[\w\-. ]+")

_MAX_CACHED: Final = 4_096
_MAX_CACHED_KEY: Final = 128
_SCAN_BUDGET: Final = 1_000_000
_MAX_PASSES: Final = 8

# A name and what stands between it and its value.  Only at the start of a run, which keeps it linear.
_PAIR: Final = re.compile(
    r"(?<![\w.%\-])(?:(--[\w.\-]++)[ \t]++(?=[^\s\-=:])"
    r"|([\w.%\-]++)(?:\\*+[\"'])?+\]?+[ \t]*+(?:=>|:=|={1,3}+|:(?!:|//))[ \t]*+)"
)
_WORD_BEFORE: Final = re.compile(r"([\w.\-]{1,32}) \Z")
_QUOTE: Final = re.compile(r"(?:[bBuUrR]{1,2}+)?+(\\*+)([\"'])")
_LEVELS: Final = (0, 1, 3, 7)  # backslashes before a quote in JSON within JSON within ...
_CLOSING: Final = {
    (level, quote): re.compile(rf"(?<!\\)(?:\\{{{2 * (level + 1)}}})*+\\{{{level}}}{quote}")
    for level in _LEVELS
    for quote in "\"'"
}
# What ends a value without quotes.  In doubt it goes on: too much hidden is better than half a secret shown.
_STOP: Final = (
    r"(?:&(?=[\w.%\[\]\-]{1,64}=|\s|\Z)|[,;](?=\s|\Z|[\w.\-]{1,40}\s?[=:])"
    r"|[)\]}>](?=[)\]}>\"',;.]{0,8}(?:\s|\Z))|\\{0,7}[\"'](?=[\s,;:)\]}>&]|\Z))"
)
_BARE: Final = re.compile(rf"(?:[^\s&,;)\]}}>\"'\\]++|(?!{_STOP})\S)*+")
_SCHEME: Final = re.compile(r"(?i:basic|bearer|token|negotiate|ntlm|api-?key)[ \t]++(?=[^\s\-=:])")
_PARAMETERS: Final = re.compile(r"(?i:digest|oauth|hawk|signature|aws4-hmac-sha256)\b")
_COOKIES: Final = re.compile(r"[^\s=;,&\"']++=[^\s;\"']*+(?:; ?[^\s=;\"']++=[^\s;\"']*+)*+")
_LINE: Final = re.compile(r"[^\r\n]*+")
_LINE_TO: Final = {quote: re.compile(rf"[^\r\n{quote}]*+") for quote in "\"'"}
_BRACKETS: Final = re.compile(r"[\[{(]|[\]})]|\"(?:[^\"\\]|\\.)*+\"?|'(?:[^'\\]|\\.)*+'?", re.DOTALL)
_ODD_REPLACEMENT: Final = re.compile(r"[\"'\\=:@&,;\r\n]|\A\s|\s\Z|\A\Z")


class Redactor:
    """Replaces secrets in text and attributes; immutable, may be shared by threads, never raises once built.

    keys: regular expressions for whole words of a key in snake case, or plain names in any style
    ("Card-Number"). A key that matches has its value replaced, in attributes at any depth and in text
    ("key=value", "key: value", JSON, Python reprs, query strings, headers, "--key value").  Default keys
    only: a name that speaks *about* a secret ("token_type", "password_changed") keeps its value; numbers,
    flags and their texts stay under names that count ("max_tokens", "has_password", any plural "...tokens").
    All else under a secret name goes, numbers and flags too; only None and "" stay, as they tell no more
    than that there is nothing.

    patterns: regular expressions searched in all text, case-sensitive; the group "secret" or the match is
    replaced.

    Raises ValueError for what cannot work.  Redacting twice gives what redacting once gives.
    """

    __slots__ = (
        "_always",
        "_cache",
        "_custom",
        "_default",
        "_extra",
        "_pair_words",
        "_patterns",
        "replacement",
    )

    replacement: str
    _always: bool
    _cache: dict[str, int]
    _custom: tuple[re.Pattern[str], ...]
    _default: re.Pattern[str] | None
    _extra: tuple[str, ...]
    _pair_words: tuple[str, ...] | None
    _patterns: tuple[tuple[re.Pattern[str], str | int, tuple[str, ...] | None], ...]

    def __init__(
        self,
        *,
        keys: Sequence[str] = DEFAULT_KEYS,
        patterns: Sequence[str] = DEFAULT_PATTERNS,
        replacement: str = "[REDACTED]",
    ) -> None:
        for name, given in (("keys", keys), ("patterns", patterns)):
            if isinstance(given, str):
                raise ValueError(f"{name} must be a list of patterns, not the single text {given!r}")
        if _ODD_REPLACEMENT.search(replacement):
            raise ValueError(
                f"replacement {replacement!r} must not be empty, begin or end with space, or hold any of"
                " quotes, backslashes, line ends, = : @ & , ; (they change what the text around it means)"
            )
        words: list[str] | None = []
        default: list[str] = []
        custom: list[re.Pattern[str]] = []
        for key in keys:
            if key in DEFAULT_KEYS:
                default.append(key)
                continue
            plain = _NAME_ONLY.fullmatch(key) is not None
            source = _snake(key) if plain else key
            _compile(key, "key")
            if plain and words is not None and (parts := [part for part in source.split("_") if part]):
                words.append(max(parts, key=len))
            else:
                words = None
            custom.append(_compile(key, "key", rf"(?:^|(?<=_))(?:{source})\d*(?:_|$)", re.IGNORECASE))
        put = object.__setattr__
        put(self, "replacement", replacement)
        put(self, "_cache", {})
        put(self, "_default", re.compile(_whole_words(default)) if default else None)
        put(self, "_custom", tuple(custom))
        put(self, "_pair_words", None if words is None else (*(_WORDS if default else ()), *words))
        put(self, "_extra", tuple(words or ()))
        compiled: list[tuple[re.Pattern[str], str | int, tuple[str, ...] | None]] = []
        for pattern in patterns:
            regex = _compile(pattern, "pattern")
            for text, what in (("", "the empty text"), (replacement, f"the replacement {replacement!r}")):
                if regex.search(text):
                    raise ValueError(
                        f"redaction pattern {pattern!r} matches {what} (position 0);"
                        " make it narrower or choose another replacement"
                    )
            group: str | int = "secret" if "secret" in regex.groupindex else 0
            compiled.append((regex, group, _TRIGGERS.get(pattern)))
        put(self, "_patterns", tuple(compiled))
        put(self, "_always", words is None or any(triggers is None for _, _, triggers in compiled))

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a Redactor cannot be changed ({name})")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"a Redactor cannot be changed ({name})")

    def text(self, s: str) -> str:
        """Return `s` with the secrets in it replaced; the same object if there are none."""
        if not self._suspect(s):
            return s
        return self._scan(s)

    def attributes(self, mapping: dict[str, AnyValue]) -> dict[str, AnyValue]:
        """Return the attributes without secrets; the same object if nothing had to change."""
        if self._is_quiet(mapping, []):
            return mapping
        try:
            return self._dict(mapping)
        except RecursionError:
            return dict.fromkeys(mapping, self.replacement)

    def record(self, message: str, attributes: dict[str, AnyValue]) -> tuple[str, dict[str, AnyValue]]:
        """:meth:`text` of a message and :meth:`attributes` together, which costs less: most have no secret."""
        if self._is_quiet(attributes, [message]):
            return message, attributes
        return self.text(message), self.attributes(attributes)

    def _is_quiet(self, mapping: dict[str, AnyValue], texts: list[str]) -> bool:
        """Whether nothing in `mapping` and `texts` needs a closer look; `texts` is used up."""
        cached = self._cache.get
        value: Any
        for key, value in mapping.items():
            kind = type(value)
            mode = cached(key)
            if mode is None:
                mode = self._mode(key)
            if mode or kind is dict or kind is tuple or kind is bytes:
                return False
            if kind is str:
                texts.append(value)
        # One look at all texts together: no trigger contains a line end, so none is made by joining.
        return not texts or not self._suspect("\n".join(texts))

    def pair(self, key: str, v: AnyValue) -> tuple[str, AnyValue]:
        """:meth:`attributes` of a single one."""
        if self._cache.get(key) == _KEEP:
            kind = type(v)
            if kind is str:
                return key, self.text(cast(str, v))
            if kind is not dict and kind is not tuple and kind is not bytes:
                return key, v
        (redacted,) = self.attributes({key: v}).items()
        return redacted

    def value(self, key: str, v: AnyValue) -> AnyValue:
        """Return the value under `key` without secrets, all of it replaced if the key is secret."""
        try:
            return self._value(self._mode(key), v)
        except RecursionError:
            return self.replacement  # nested beyond what `freeze` lets through, or little stack left: stay closed

    # -- values --

    def _value(self, mode: int, v: AnyValue) -> AnyValue:
        kind = type(v)
        if mode & _HIDE or (mode & _HIDE_UNLESS_PLAIN and not _is_plain(v)):
            return v if v is None or v == "" or v == self.replacement else self.replacement
        if kind is str:
            return self.text(cast(str, v))
        if kind is dict:
            return self._dict(cast("dict[str, AnyValue]", v))
        if kind is tuple:
            return self._tuple(cast("tuple[AnyValue, ...]", v))
        if kind is bytes:
            return self._bytes(cast(bytes, v))
        return v

    def _dict(self, mapping: dict[str, AnyValue]) -> dict[str, AnyValue]:
        out: dict[str, AnyValue] = {}
        changed = False
        for key, old in mapping.items():
            mode = self._mode(key)
            new = self._value(mode, old)
            if mode & _RENAME:
                name = self.text(key)
                number = 1
                while name in out or (name in mapping and name != key):
                    number += 1
                    name = f"{self.text(key)}#{number}"
                changed = True
                out[name] = new
            else:
                out[key] = new
            changed = changed or new is not old
        return out if changed else mapping

    def _tuple(self, items: tuple[AnyValue, ...]) -> tuple[AnyValue, ...]:
        out: list[AnyValue] = []
        changed = False
        for old in items:
            new: AnyValue
            if type(old) is tuple and len(old) == 2 and type(old[0]) in (str, bytes):
                # A pair within a list, as headers are often passed around.
                name = old[0].decode("utf-8", "replace") if type(old[0]) is bytes else cast(str, old[0])
                first, second = self._value(_KEEP, old[0]), self._value(self._mode(name), old[1])
                new = old if first is old[0] and second is old[1] else (first, second)
            else:
                new = self._value(_KEEP, old)
            out.append(new)
            changed = changed or new is not old
        return tuple(out) if changed else items

    def _bytes(self, data: bytes) -> bytes:
        text = data.decode("utf-8", "surrogateescape")  # gives back every byte that is not touched
        new = self.text(text)
        return data if new is text else new.encode("utf-8", "surrogateescape")

    # -- keys --

    def _mode(self, key: str) -> int:
        mode = self._cache.get(key)
        if mode is None:
            mode = self._decide(key)
            # The text of a key is looked at too, as some dicts are keyed by token.
            if self.text(key) is not key:
                mode |= _RENAME
            if len(key) <= _MAX_CACHED_KEY:
                if len(self._cache) >= _MAX_CACHED:
                    self._cache.clear()
                self._cache[key] = mode
        return mode

    def _decide(self, key: str) -> int:
        snake = _snake(key)
        for regex in self._custom:
            if regex.search(snake):
                return _HIDE
        if self._default is None or not self._default.search(snake):
            return _KEEP
        words = [word.rstrip("0123456789") for word in snake.split("_") if word]
        if words[-1] in _ABOUT:
            return _KEEP
        if words[-1].endswith("tokens") or not _COUNTING.isdisjoint(words):
            return _HIDE_UNLESS_PLAIN
        return _HIDE

    # -- text --

    def _suspect(self, s: str) -> bool:
        """Whether a closer look is worth it; sure about "no".  Written out, as it runs for every record.

        Single characters are found many times faster than words, so they decide which words are looked for.
        """
        if self._always:
            return True
        low = s.lower()
        if ":" in low or "=" in low or "--" in low:
            if "ok" in low and ("token" in low or "cookie" in low):
                return True
            if "cre" in low and ("secret" in low or "cred" in low):
                return True
            if "pass" in low or "pwd" in low or "key" in low or "auth" in low or "conn" in low:
                return True
            if "@" in low and "://" in low:
                return True
            for word in self._extra:
                if word in low:
                    return True
        if "_" in low and ("_pat_" in low or "_live_" in low or "_test_" in low or _has_github(low)):
            return True
        if "-" in low and ("xox" in low or "-----begin " in low):
            return True
        if "J" in s and "eyJ" in s:
            return True
        if "I" in s and ("AKIA" in s or "ASIA" in s):
            return True
        return "bearer" in low or "basic" in low or ("(b" in low and "," in low)

    def _scan(self, s: str) -> str:
        # What was replaced can bring what stood on both sides of it together; so look until nothing is found.
        out = s
        for _ in range(_MAX_PASSES):
            before, out = out, self._pass(out)
            if out == before:
                break
        return s if out == s else out

    def _pass(self, s: str) -> str:
        low = s.lower()
        for regex, group, triggers in self._patterns:
            if triggers is None or any(trigger in low for trigger in triggers):
                s = self._replace(regex, group, s)
        words = self._pair_words
        if words is None or any(word in low for word in words):
            s = self._pairs(s)
        return s

    def _replace(self, regex: re.Pattern[str], group: str | int, s: str) -> str:
        parts: list[str] = []
        done = 0
        for match in regex.finditer(s):
            start, end = match.span(group)
            if start < end:
                parts += (s[done:start], self.replacement)
                done = end
        return "".join((*parts, s[done:])) if parts else s

    def _pairs(self, s: str) -> str:
        parts: list[str] = []
        done = at = 0
        values = _Values(s, self.replacement)
        while match := _PAIR.search(s, at):
            at = match.end()
            mode, name = self._named(s, match)
            if mode == _KEEP:
                continue
            start, end = values.span(match, name)
            if start < end and not (mode == _HIDE_UNLESS_PLAIN and _PLAIN.fullmatch(s, start, end)):
                parts += (s[done:start], self.replacement)
                done = end
            at = max(at, end)
        return "".join((*parts, s[done:])) if parts else s

    def _named(self, s: str, match: re.Match[str]) -> tuple[int, str]:
        group = 1 if match[2] is None else 2
        start, end = match.span(group)
        # Of a long run only the end counts; what is before was no name, or a hostile one.
        start_used = max(start, end - _MAX_CACHED_KEY)
        name = s[start_used:end]
        mode = self._short_mode(name)
        if mode == _KEEP and start and s[start - 1] == "\\" and name[0] in "nrt":
            name = name[1:]  # an escaped line end, as reprs and JSON have them
            mode = self._short_mode(name)
        if mode == _KEEP and name.lower() in ("key", "keys", "string"):
            before = _WORD_BEFORE.search(s[max(0, start - 33) : start])  # "API key: ..."
            if before:
                mode = self._short_mode(f"{before[1]}_{name}")
        return mode, name

    def _short_mode(self, name: str) -> int:
        return self._mode(name) & ~_RENAME


class _Values:
    """Finds where values end in one text.  Looking for brackets that never close is on a budget."""

    __slots__ = ("budget", "replacement", "s")

    def __init__(self, s: str, replacement: str) -> None:
        self.s = s
        self.replacement = replacement
        self.budget = _SCAN_BUDGET

    def span(self, pair: re.Match[str], name: str) -> tuple[int, int]:
        s, start = self.s, pair.end()
        quote = _QUOTE.match(s, start)
        if quote:
            return self._quoted(quote)
        if s.startswith(self.replacement, start):
            after = start + len(self.replacement)
            if s.startswith("@", after) and s.startswith("://", pair.start() - 3):
                return after, after  # a URL's user happens to be called "token"
            end = self._line_end(pair, after) if self._is_header(pair, name) else _bare_end(s, after)
            return (after, after) if end == after else (start, end)
        if s[start : start + 1] in ("[", "{", "("):
            return start, self._bracketed(start)
        word = _snake(name).rpartition("_")[2]
        if self._is_header(pair, name) or (word.startswith("authori") and _PARAMETERS.match(s, start)):
            return start, self._line_end(pair, start)
        if word.startswith("cookie"):
            cookies = _COOKIES.match(s, start)
            if cookies:
                return start, max(cookies.end(), _bare_end(s, start))
        scheme = _SCHEME.match(s, start)
        return start, _bare_end(s, scheme.end() if scheme else start)

    def _is_header(self, pair: re.Match[str], name: str) -> bool:
        word = _snake(name).rpartition("_")[2]
        return ":" in pair[0] and word in ("authorization", "authorisation", "cookie", "cookies")

    def _quoted(self, opening: re.Match[str]) -> tuple[int, int]:
        start = opening.end()
        kind = (len(opening[1]), opening[2])
        closing = _CLOSING.get(kind)
        # Linear: if this finds nothing there is no further opening of the kind, as that would close this one.
        if closing is not None:
            close = closing.search(self.s, start)
            if close:
                return start, close.end() - kind[0] - 1
        return start, _end(_LINE, self.s, start)

    def _bracketed(self, start: int) -> int:
        if self.budget <= 0:
            return len(self.s)
        depth = 0
        for match in _BRACKETS.finditer(self.s, start):
            char = self.s[match.start()]
            if char in "[{(":
                depth += 1
            elif char in ")}]":
                depth -= 1
                if depth == 0:
                    return _bare_end(self.s, match.end())
        self.budget -= len(self.s) - start
        return _end(_LINE, self.s, start)

    def _line_end(self, pair: re.Match[str], start: int) -> int:
        """The end of a header's line, or of the quotes around the whole header."""
        before = self.s[pair.start() - 1] if pair.start() else ""
        if before not in _LINE_TO:
            return _end(_LINE, self.s, start)
        end = _end(_LINE_TO[before], self.s, start)
        while end > start and self.s[end - 1] == "\\":
            end -= 1
        return end


class _Off(Redactor):
    """Redacts nothing."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(keys=(), patterns=())

    def text(self, s: str) -> str:
        return s

    def attributes(self, mapping: dict[str, AnyValue]) -> dict[str, AnyValue]:
        return mapping

    def record(self, message: str, attributes: dict[str, AnyValue]) -> tuple[str, dict[str, AnyValue]]:
        return message, attributes

    def pair(self, key: str, v: AnyValue) -> tuple[str, AnyValue]:
        return key, v

    def value(self, key: str, v: AnyValue) -> AnyValue:
        return v


NO_REDACTION: Final[Redactor] = _Off()
"""The redactor that returns everything as it is."""


def _snake(key: str) -> str:
    """ "X-Api-Key", "xApiKey" and "x.api.key" as "x_api_key"."""
    return _BETWEEN.sub("_", _CAMEL.sub("_", key)).lower().strip("_")


def _whole_words(patterns: Sequence[str]) -> str:
    return rf"(?:^|(?<=_))(?:{'|'.join(patterns)})\d*(?:_|$)"


def _has_github(low: str) -> bool:
    return "ghp_" in low or "gho_" in low or "ghs_" in low or "ghu_" in low or "ghr_" in low


def _is_plain(v: AnyValue) -> bool:
    if type(v) is str:
        return _PLAIN.fullmatch(v) is not None
    return v is None or type(v) in (bool, int, float)


def _end(regex: re.Pattern[str], s: str, start: int) -> int:
    match = regex.match(s, start)
    return match.end() if match else start


def _bare_end(s: str, start: int) -> int:
    return _end(_BARE, s, start)


def _compile(given: str, what: Literal["key", "pattern"], source: str | None = None, flags: int = 0) -> re.Pattern[str]:
    try:
        return re.compile(given if source is None else source, flags)
    except (re.error, OverflowError, RecursionError) as error:
        position = getattr(error, "pos", None)
        where = "" if source is not None or position is None else f" at position {position}"
        raise ValueError(
            f"redaction {what} {given!r} is not a regular expression{where}: {error};"
            " correct it, or use re.escape() if it is meant literally"
        ) from None


def redactor_for(settings: Settings) -> Redactor:
    """The redactor that the settings ask for. Raises :class:`SettingsError` for a pattern that can't be used."""
    if not settings.redact:
        return NO_REDACTION
    try:
        return Redactor(
            keys=(*DEFAULT_KEYS, *settings.redact_keys), patterns=(*DEFAULT_PATTERNS, *settings.redact_patterns)
        )
    except ValueError as error:
        raise SettingsError("redact_patterns", settings.redact_patterns, str(error)) from None
