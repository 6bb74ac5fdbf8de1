"""Version 2 of the conversation, sans-I/O: no socket, no clock, no event loop.

What the rings give goes in as chunks, the client's words as text, the time as a number of seconds; frames come out.
The rules: a client never sees a record twice, never out of order, and never misses one without a ``gap`` that counts
it. Counts of a gap are before filters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from bridge.live.chunk import Chunk, RichEncoder
from bridge.live.messages import (
    MAX_HISTORY,
    BadMessage,
    Cursor,
    HistoryRequest,
    Pause,
    Ping,
    Resume,
    Subscribe,
    encode,
    format_cursor,
    parse_cursor,
    read_client_message,
)
from bridge.live.ring import Entry, Gap
from bridge.live.session import (
    CLOSE_GOING_AWAY,
    CLOSE_TOO_SLOW,
    CLOSE_WRONG_REQUEST,
    MAX_CLIENT_TEXT,
    Close,
    Delivery,
    too_big,
)
from bridge.record.filters import Filter, FilterError, parse_object

__all__ = ["HEARTBEAT_SECONDS", "OPTIONS", "Options", "SessionV2", "Source", "parse_options"]

HEARTBEAT_SECONDS: Final = 15.0
"""Proxies cut sockets that are idle for 30 s; a page's script can't see WebSocket pings, so this is a message."""

STATS_SECONDS: Final = 1.0

# A person clicks a few times a second. What comes faster than this is a program gone wrong, or an attack.
_MESSAGES_PER_SECOND: Final = 20
_MESSAGES_BURST: Final = 60
_REFUSED_BEFORE_CLOSE: Final = 200

# Answers that wait because the client does not read. One history answer may be this large too.
_MAX_CONTROL_BYTES: Final = 2 << 20
_HISTORY_BYTES: Final = 1 << 20

# Records looked at for one history answer: filters run on the event loop that serves everybody.
_HISTORY_SCAN: Final = 5_000


class Source(Protocol):
    """What a session needs to know of the rings. All of it is memory; nothing waits."""

    epoch: str

    def start(self) -> int:
        """The place before everything held."""
        ...

    def end(self) -> int:
        """The place after everything."""
        ...

    def backwards(self, seq: int, limit: int) -> Sequence[Entry]:
        """Up to ``limit`` held records with numbers up to ``seq``, newest first."""
        ...


OPTIONS: Final = frozenset({"v", "history", "after", "after_audit", "batch", "max_rate"})
"""Names of the query's parameters that are not the filter's."""


class Options(NamedTuple):
    """What the query asks for beside the filter."""

    history: int = 0
    after: Cursor | None = None
    batch: bool = False
    max_rate: int = 0


def parse_options(parameters: Sequence[tuple[str, str]]) -> Options:
    """Options from the query's parameters that are not the filter's. Raises FilterError (it names the parameter)."""
    options = Options()
    seen: set[str] = set()
    for name, value in parameters:
        if name in seen:
            raise FilterError(name, value, "may be given once", "leave the others out")
        seen.add(name)
        match name:
            case "v":
                continue
            case "history":
                options = options._replace(history=_number(name, value, 0, 100_000))
            case "max_rate":
                options = options._replace(max_rate=_number(name, value, 1, 1_000_000))
            case "batch":
                if value not in ("0", "1"):
                    raise FilterError(name, value, "must be 0 or 1", "write batch=1")
                options = options._replace(batch=value == "1")
            case "after":
                cursor = parse_cursor(value)
                if cursor is None:
                    raise FilterError(name, value, "must be a cursor", "use one that the server sent")
                options = options._replace(after=cursor)
            case "after_audit":
                raise FilterError(name, value, "needs the durable trail, not in this release", "use after=")
            case _:
                raise FilterError(name, value, "is no parameter of this server", "leave it out")
    return options


def _number(name: str, value: str, low: int, high: int) -> int:
    if value.isascii() and value.isdigit() and len(value) < 10 and low <= int(value) <= high:
        return int(value)
    raise FilterError(name, value, f"must be a number from {low} to {high}", f"for example {name}={max(low, 100)}")


class SessionV2:
    """One client. Made with the time it connected; :meth:`begin` comes first."""

    version: Final = 2

    def __init__(
        self,
        source: Source,
        filter: Filter,
        options: Options,
        *,
        pid: int,
        statistics: Callable[[], Mapping[str, Any]],
        now: float,
    ) -> None:
        self._source = source
        self.filter = filter
        self.batch = options.batch
        self.seq = source.end()
        """The number of the last record that is behind the client; filtered records are behind it too."""
        self.close: Close | None = None
        self.paused = False
        self.skipped_system = 0
        self.skipped_audit = 0
        self._options = options
        self._pid = pid
        self._statistics = statistics
        self._control: list[bytes] = []
        self._control_bytes = 0
        self._ready_at: int | None = None
        # Behind because it asked for what is past, or paused; else a gap means that it is slow.
        self._catching_up = False
        self._rate_tokens = float(options.max_rate)
        self._rate_at = now
        self._rate_gap: Gap | None = None
        self._message_tokens = float(_MESSAGES_BURST)
        self._message_at = now
        self._refused = 0
        self._next_stats = now + STATS_SECONDS
        self._next_heartbeat = now + HEARTBEAT_SECONDS

    # -- what the shell asks ------------------------------------------------------------------------------------------

    @property
    def wants_records(self) -> bool:
        """False while paused or closed."""
        return not self.paused and self.close is None

    @property
    def follows(self) -> bool:
        """True while a chunk without gaps goes to this client just as it is, with nothing before or behind it."""
        return not (
            self._control
            or self._catching_up
            or self.paused
            or self.close is not None
            or self._options.max_rate
            or self._ready_at is not None
        )

    @property
    def cursor(self) -> str:
        """:attr:`seq` as the client knows it."""
        return format_cursor(self._source.epoch, self.seq)

    def take_control(self) -> list[bytes]:
        """Control messages to send before anything else."""
        control, self._control = self._control, []
        self._control_bytes = 0
        return control

    # -- events -------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Say hello and find the place to start from."""
        source = self._source
        end = source.end()
        self._say(
            "hello",
            epoch=source.epoch,
            oldest=format_cursor(source.epoch, source.start()),
            newest=format_cursor(source.epoch, end),
            pid=self._pid,
            limits={
                "message_bytes": MAX_CLIENT_TEXT,
                "messages_per_second": _MESSAGES_PER_SECOND,
                "history": MAX_HISTORY,
                "heartbeat_seconds": HEARTBEAT_SECONDS,
            },
        )
        if self._options.after is not None:
            self._seek(self._options.after)
        elif self._options.history:
            # A filter has to be tried on each; without one the last N are simply the last N.
            scan = self._options.history if self.filter.is_everything else _HISTORY_SCAN
            found, _ = self._find_back(end, self._options.history, scan=scan)
            if found:
                self.seq = found[-1].seq - 1
        if self.seq == end:
            self._say("ready", cursor=self.cursor)
        else:
            self._ready_at = end
            self._catching_up = True

    def deliver(self, chunk: Chunk, now: float) -> Delivery:
        """Go past a chunk that starts at :attr:`seq`."""
        if chunk.missed_audit and not self._catching_up:
            self._leave("too_slow", CLOSE_TOO_SLOW, "too slow: audit records were gone before they could be sent", 0)
            return Delivery(self.take_control(), [], [])
        own: list[bytes] | None = None
        if chunk.gaps or self._options.max_rate:
            own = self._interleave(chunk, now)
        self.seq = chunk.seq
        after: list[bytes] = []
        if self._ready_at is not None and self.seq >= self._ready_at:
            self._ready_at = None
            if self._rate_gap is not None:
                after.append(self._take_rate_gap())
            after.append(encode("ready", cursor=self.cursor))
        if self._catching_up and self.seq >= self._source.end():
            self._catching_up = False
        return Delivery([], own, after)

    def receive(self, text: str | bytes, now: float) -> None:
        """A message from the client."""
        if self.close is not None:
            return  # it is being sent away, and what it still says must not pile up
        if (close := too_big(text)) is not None:
            self.close = close
            return
        if not self._admit(now):
            return
        try:
            message = read_client_message(text)
            match message:
                case Subscribe():
                    self._subscribe(message)
                case Pause():
                    self.paused = True
                case Resume():
                    self._resume(message)
                case HistoryRequest():
                    self._history(message)
                case Ping():
                    self._say("pong", id=message.id)
        except BadMessage as error:
            self._say("error", code=error.code, id=error.id, message=str(error))
        if self._control_bytes > _MAX_CONTROL_BYTES:
            self.stuck("too slow: it asks, and does not read the answers")

    def tick(self, now: float) -> None:
        """Time has passed: statistics, heartbeats, what the rate limit has kept back. About once a second."""
        if self._rate_gap is not None:
            self._push(self._take_rate_gap())
        if now >= self._next_stats:
            self._next_stats = now + STATS_SECONDS
            self._say(
                "stats",
                cursor=self.cursor,
                paused=self.paused,
                behind=self._source.end() - self.seq,
                skipped={"system": self.skipped_system, "audit": self.skipped_audit},
                **self._statistics(),
            )
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT_SECONDS
            self._say("heartbeat", cursor=self.cursor)

    def shut_down(self, retry_ms: int = 1_000) -> None:
        """The server ends: goodbye and 1001."""
        if self.close is None:
            self._leave("shutdown", CLOSE_GOING_AWAY, "the monitor is shutting down", retry_ms)

    def stuck(self, reason: str) -> None:
        """The client takes nothing any more: 4408. A goodbye would not get through."""
        self.close = Close(CLOSE_TOO_SLOW, reason)

    # -- the parts ----------------------------------------------------------------------------------------------------

    def _say(self, type: str, **fields: Any) -> None:
        if "cursor" in fields and self._rate_gap is not None:
            # A cursor past what was kept back: whoever resumes from it has to have been told.
            self._push(self._take_rate_gap())
        self._push(encode(type, **fields))

    def _push(self, message: bytes) -> None:
        self._control.append(message)
        self._control_bytes += len(message)

    def _gap(self, reason: str, gap: Gap) -> bytes:
        self.skipped_system += gap.system
        self.skipped_audit += gap.audit
        epoch = self._source.epoch
        cursors = {"from": format_cursor(epoch, gap.after), "to": format_cursor(epoch, gap.to)}
        return encode("gap", reason=reason, system=gap.system, audit=gap.audit, **cursors)

    def _leave(self, reason: str, code: int, words: str, retry_ms: int) -> None:
        self._say("goodbye", reason=reason, retry_ms=retry_ms, cursor=self.cursor)
        self.close = Close(code, words)

    def _seek(self, cursor: Cursor) -> None:
        """Stand behind ``cursor``. What is held no more since then shows as gaps on the way."""
        source = self._source
        if cursor.epoch != source.epoch:
            # Another run of the program. What it held is gone with it, and nobody knows how much that was; what this
            # run has shown and no longer holds is counted by the gaps that follow.
            self.seq = 0
            self._push(
                encode(
                    "gap",
                    reason="epoch_changed",
                    system=0,
                    audit=0,
                    **{"from": format_cursor(*cursor), "to": self.cursor},
                )
            )
        elif cursor.seq > source.end():
            newest = format_cursor(source.epoch, source.end())
            raise BadMessage("bad_cursor", f"after={format_cursor(*cursor)}: the newest record is {newest}")
        else:
            self.seq = cursor.seq
        if self._rate_gap is not None and self.seq <= self._rate_gap.after:
            self._rate_gap = None  # what was kept back comes again

    def _subscribe(self, message: Subscribe) -> None:
        try:
            self.filter = parse_object(message.filter)
        except FilterError as error:
            raise BadMessage("bad_filter", str(error), message.id) from None
        self._say("subscribed", id=message.id, cursor=self.cursor)

    def _resume(self, message: Resume) -> None:
        if message.after is not None:
            # Going back is asking for some records twice: allowed, it was asked for.
            self._seek(message.after)
        self.paused = False
        self._catching_up = self.seq < self._source.end()

    def _history(self, message: HistoryRequest) -> None:
        source = self._source
        before = self.seq + 1
        if message.before is not None:
            if message.before.epoch != source.epoch:
                self._say("history", id=message.id, data=[], more=False, before=None)
                return
            before = min(message.before.seq, source.end() + 1)
        found, reached = self._find_back(before - 1, message.limit, scan=_HISTORY_SCAN, size=_HISTORY_BYTES)
        encode_record = RichEncoder(source.epoch)
        data = b",".join(encode_record(entry) for entry in reversed(found))
        head = encode(
            "history", id=message.id, before=format_cursor(source.epoch, reached), more=reached > source.start() + 1
        )
        self._push(head[:-1] + b',"data":[' + data + b"]}")

    def _find_back(self, seq: int, limit: int, *, scan: int, size: int | None = None) -> tuple[list[Entry], int]:
        """Up to ``limit`` matching records up to ``seq``, newest first, and the number that the search came down to.

        With ``size`` it ends as well once the records found have so many bytes.
        """
        found: list[Entry] = []
        taken = 0
        reached = seq + 1
        matches = self.filter.matches
        for entry in self._source.backwards(seq, scan):
            reached = entry.seq
            if matches(entry.event):
                found.append(entry)
                taken += entry.size
                if len(found) == limit or (size is not None and taken >= size):
                    break
        return found, reached

    def _interleave(self, chunk: Chunk, now: float) -> list[bytes]:
        """The chunk's messages with its gaps between them, and without the system records that are too many now."""
        # What is past was asked for by number; the limit is for what comes.
        rate = 0 if self._catching_up else self._options.max_rate
        if rate:
            self._rate_tokens = min(rate, self._rate_tokens + (now - self._rate_at) * rate)
            self._rate_at = now
        reason = "evicted" if self._catching_up else "slow_client"
        messages: list[bytes] = []
        passed: list[Entry] = []
        gaps = iter(chunk.gaps)
        gap = next(gaps, None)

        def flush() -> None:
            messages.extend(chunk.encode(passed, 2, self.batch))
            passed.clear()
            if self._rate_gap is not None:
                messages.append(self._take_rate_gap())

        for entry in chunk.entries:
            while gap is not None and gap.to < entry.seq:
                flush()
                messages.append(self._gap(reason, gap))
                gap = next(gaps, None)
            if rate and not entry.event.is_audit:
                if self._rate_tokens < 1:
                    before = self._rate_gap or Gap(0, 0, entry.seq - 1, entry.seq)
                    self._rate_gap = before._replace(system=before.system + 1, to=entry.seq)
                    continue
                self._rate_tokens -= 1
            if self._rate_gap is not None:
                flush()
            passed.append(entry)
        messages.extend(chunk.encode(passed, 2, self.batch))
        passed.clear()
        while gap is not None:
            flush()
            messages.append(self._gap(reason, gap))
            gap = next(gaps, None)
        return messages

    def _take_rate_gap(self) -> bytes:
        gap, self._rate_gap = self._rate_gap, None
        return self._gap("rate_limit", gap) if gap is not None else b""

    def _admit(self, now: float) -> bool:
        """Whether the client may say something now; one that goes on when told not to is shown the door."""
        self._message_tokens = min(
            _MESSAGES_BURST, self._message_tokens + (now - self._message_at) * _MESSAGES_PER_SECOND
        )
        self._message_at = now
        if self._message_tokens >= _MESSAGES_BURST:
            self._refused = 0  # it has calmed down
        if self._message_tokens >= 1:
            self._message_tokens -= 1
            return True
        self._refused += 1
        if self._refused > _REFUSED_BEFORE_CLOSE:
            self.close = Close(CLOSE_WRONG_REQUEST, f"more than {_MESSAGES_PER_SECOND} messages a second, for long")
        elif self._refused == 1 or self._refused % 50 == 0:
            # Not an answer to each: answering a flood doubles it.
            self._say(
                "error",
                code="rate_limited",
                id=None,
                message=f"at most {_MESSAGES_PER_SECOND} messages a second; {self._refused} were not heard",
            )
        return False
