"""Records as lines of a terminal: colours where they help, nothing that could take the terminal over."""

from __future__ import annotations

import json
import os
from typing import Any, Final

__all__ = ["Palette", "printable", "render_gap", "render_record"]

_LEVEL_COLOURS: Final = {
    "TRACE": "2",
    "DEBUG": "2",
    "INFO": "34",
    "WARNING": "33",
    "ERROR": "31",
    "CRITICAL": "1;31",
}
_OUTCOME_COLOURS: Final = {"success": "32", "failure": "31"}

# Attributes that every record has, or that have a place of their own in the line.
_QUIET_PREFIXES: Final = ("code.", "thread.", "process.", "exception.", "audit.", "asyncio.")
_QUIET: Final = frozenset({"is_audit", "log.record.uid"})
_MAX_DETAIL_CHARS: Final = 300


class Palette:
    """ANSI colours, or nothing where they would be noise."""

    def __init__(self, on: bool) -> None:
        self.on = on

    @classmethod
    def for_stream(cls, stream: Any) -> Palette:
        """Colours for a terminal that has some, unless ``NO_COLOR`` is set (https://no-color.org)."""
        return cls(stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb")

    def paint(self, code: str, text: str) -> str:
        """``text`` in the colour of an SGR ``code``."""
        return f"\033[{code}m{text}\033[0m" if self.on and text else text


def printable(text: str) -> str:
    """``text`` with control, format (bidirectional overrides among them) and unassigned characters made visible.

    Log content is hostile: as it stands it could move the cursor, set the title, or turn words around.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _detail(values: Any) -> str:
    if not isinstance(values, dict):
        return printable(json.dumps(values, ensure_ascii=False, default=str))
    shown = " ".join(
        f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for key, value in values.items()
        if key not in _QUIET and not key.startswith(_QUIET_PREFIXES)
    )
    return printable(shown[:_MAX_DETAIL_CHARS] + ("…" if len(shown) > _MAX_DETAIL_CHARS else ""))


def render_record(message: dict[str, Any], palette: Palette, *, service: bool = True, stacks: bool = True) -> str:
    """A record, of version 1 or 2, as one line, with its traceback below it if it has one."""
    data = message["data"]
    paint = palette.paint
    parts = [paint("2", printable(str(data["timestamp"])[11:23]))]
    of = data.get("service") if service else None
    if message["type"] == "audit_log":
        parts.append(paint("1;30;43", " AUDIT "))
        if of:
            parts.append(paint("36", printable(of)))
        outcome = data.get("outcome")
        if outcome and outcome != "unknown":
            parts.append(paint(_OUTCOME_COLOURS.get(outcome, "0"), printable(outcome)))
        way = [data.get("actor"), data.get("action"), data.get("target")]
        steps = [paint(code, printable(str(step))) for code, step in zip("1 33 1".split(), way, strict=True) if step]
        if steps:
            parts.append(paint("2", " → ").join(steps))
        parts.append(printable(data["message"]))
        if data.get("metadata"):
            parts.append(paint("2", _detail(data["metadata"])))
    else:
        level = data["level"]
        parts.append(paint(_LEVEL_COLOURS.get(level, "0"), f"{printable(level)[:7]:<7}"))
        if of:
            parts.append(paint("36", printable(of)))
        parts.append(paint("2", printable(data["logger"])))
        parts.append(printable(data["message"]))
    if data.get("attributes") and (detail := _detail(data["attributes"])):
        parts.append(paint("2", detail))
    line = " ".join(part for part in parts if part)
    exception = data.get("exception")
    if stacks and exception:
        stack = str(exception.get("stacktrace") or f"{exception.get('type')}: {exception.get('message')}").rstrip()
        line += "".join("\n" + paint("2", "    " + printable(each.expandtabs())) for each in stack.split("\n"))
    return line


_REASONS: Final = {
    "slow_client": "this client was too slow",
    "rate_limit": "kept back by max_rate",
    "evicted": "no longer held by the server",
    "epoch_changed": "the server has restarted; what it showed before is gone",
    "upstream": "lost before they reached the server",
}


def render_gap(message: dict[str, Any], palette: Palette) -> str:
    """A gap as a line that can't be overlooked."""
    counts = [f"{message.get(kind) or 0:,} {kind}" for kind in ("system", "audit") if message.get(kind)]
    reason = _REASONS.get(str(message.get("reason")), printable(str(message.get("reason"))))
    missing = f"{' and '.join(counts)} records missing" if counts else "records may be missing"
    return palette.paint("33", f"--- gap: {missing}: {reason} ---")
