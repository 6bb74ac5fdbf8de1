"""``setup()`` and the Bridge: the one module that knows every part and how they hang together.

logging ─► CaptureHandler ─► queue ─► Publisher ─┬─► Hub ─► /ws/monitor
                                                 └─► ProcessorWorker ─► LoggerProvider ─► its processors, OTLP
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from bridge.capture import audit
from bridge.capture.attachment import RootAttachment
from bridge.capture.convert import Converter
from bridge.capture.export import TO_MONITOR, CountingBatchProcessor
from bridge.capture.handler import CaptureHandler
from bridge.capture.intake import CallQueue, Drops
from bridge.capture.process import watch_process
from bridge.capture.publisher import ProcessorWorker, Publisher
from bridge.diagnostics import _forget as _forget_diagnostics
from bridge.diagnostics import say
from bridge.errors import SetupError
from bridge.live.exporter import WebSocketLogRecordExporter, mark_shown
from bridge.live.hub import Hub, _forget_process_hub, process_hub
from bridge.otlp import monitor_exporter, otlp_endpoint, otlp_exporter
from bridge.provider import OwnProvider, find_provider, is_rival, switch_of, tap_of
from bridge.record.redact import redactor_for
from bridge.record.values import freeze
from bridge.settings import Settings, unknown_names
from bridge.threads import daemon

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.applications import Starlette
    from starlette.routing import BaseRoute

    from bridge.record.event import LogEvent

__all__ = ["Bridge", "Statistics", "setup"]


def version() -> str:
    """The installed version; ``0`` when run from a tree that was never installed."""
    try:
        return importlib.metadata.version("otel-audit-bridge")
    except importlib.metadata.PackageNotFoundError:
        return "0"


class Statistics(NamedTuple):
    """A frozen snapshot of a Bridge."""

    captured: int
    """Records taken from ``logging`` and ``audit_log``."""
    published: int
    """Of those, records shown to the live view."""
    dropped: dict[str, int]
    """Records lost, by reason; docs/reference/statistics names them all."""
    ignored: int
    """Chatter of our own transports, left out on purpose."""
    format_errors: int
    """Records whose arguments did not fit their message; they are shown as they are."""
    conversion_errors: int
    """Records that could not be converted in full; their message is shown, their attributes are not."""
    queued: int
    """Records waiting for the publisher."""
    clients: int
    system: int
    """System records that entered the live view, from any source."""
    audit: int
    """Audit records that entered the live view, from any source."""
    held_bytes: int
    """Bytes of both rings."""
    skipped_system: int
    """System records that live clients were too slow for, summed over clients."""
    skipped_audit: int
    """The same for audit records. A client of version 1 was closed with 4408, one of version 2 told by a gap."""
    exported: int
    """Records that the bridge's own OTLP exporter reported as delivered."""
    monitored: int
    """Records that ``monitor_endpoint`` took."""


class _Elsewhere:
    """Takes the place of a hub where another process shows the records."""

    def publish(self, events: Sequence[LogEvent]) -> None:
        """They go there by OTLP, with the provider's processors."""


class Bridge:
    """A running bridge. Made by :func:`setup`."""

    def __init__(self, settings: Settings, environ: dict[str, str]) -> None:
        self.settings = settings
        self._environ = environ
        self._lock = threading.RLock()
        self._down = False
        self._undo: list[Callable[[], None]] = []
        self._drops = Drops()
        self._hub = process_hub()
        self._publisher: Publisher | None = None
        self._processors: ProcessorWorker | None = None
        self._converter: Converter | None = None
        self._otlp: CountingBatchProcessor | None = None
        self._monitor: CountingBatchProcessor | None = None
        self._handler: CaptureHandler | None = None
        self._attachment: RootAttachment | None = None
        self._app: Starlette | None = None
        self._provider: Any = None
        if not settings.disabled:
            self._assemble()

    # -- building ---------------------------------------------------------------------------------------------------

    def _assemble(self) -> None:
        settings = self.settings
        hub = self._hub
        hub.reopen()
        hub.resize(
            system_records=settings.ring_system_records,
            system_bytes=settings.ring_system_bytes,
            audit_records=settings.ring_audit_records,
            audit_bytes=settings.ring_audit_bytes,
        )
        redactor = redactor_for(settings)
        own_threads: set[int] = set()

        provider, ours = find_provider(settings, self._environ, self._undo)
        self._provider = provider
        endpoint = otlp_endpoint(settings, self._environ, ours)
        if endpoint is not None:
            self._otlp = CountingBatchProcessor(
                lambda: otlp_exporter(endpoint, settings, self._environ),
                self._drops,
                environ=self._environ,
                own_threads=own_threads,
            )

        if settings.monitor_endpoint is not None:
            self._monitor = CountingBatchProcessor(
                lambda: monitor_exporter(settings, self._environ),
                self._drops,
                environ=self._environ,
                own_threads=own_threads,
                lane=TO_MONITOR,
            )
        else:
            tap = tap_of(provider)
            tap.connect(
                WebSocketLogRecordExporter(
                    hub, redactor=redactor, rules=settings.audit_rules, text_chars=settings.live_text_chars
                )
            )
            self._undo.append(lambda: tap.connect(None))
        senders = [each for each in (self._otlp, self._monitor) if each is not None]
        if senders:
            switch = switch_of(provider)
            switch.connect(*senders)
            self._undo.append(switch.connect)

        if not settings.capture_logging:
            self._undo.append(watch_process(self, sigterm=settings.flush_on_sigterm))
            return

        resource = {str(key): freeze(value) for key, value in provider.resource.attributes.items()}
        self._converter = Converter(
            redactor,
            resource=redactor.attributes(resource),
            text_chars=settings.live_text_chars,
            own_threads=own_threads,
        )
        loggers: dict[str, Any] = {}

        def emit(name: str, record: Any) -> None:
            logger = loggers.get(name)
            if logger is None:
                if len(loggers) >= 10_000:
                    loggers.clear()
                logger = loggers[name] = provider.get_logger(name)
            logger.emit(record)

        self._processors = ProcessorWorker(
            emit, self._drops, settings.export_queue_records, settings.queue_bytes, own_threads
        )
        queue: CallQueue[Any] = CallQueue(settings.queue_records, settings.queue_bytes)
        self._handler = handler = CaptureHandler(
            queue,
            self._drops,
            level=settings.level,
            rules=settings.audit_rules,
            ignored_loggers=settings.ignored_loggers,
        )
        self._attachment = RootAttachment(
            handler, is_rival=(lambda other: is_rival(other, provider)) if settings.replace_handlers else None
        )
        self._publisher = Publisher(
            queue,
            self._converter,
            hub if self._monitor is None else _Elsewhere(),
            self._drops,
            processors=self._processors,
            mark=lambda record: mark_shown(record, hub),
            wanted=lambda: bool(senders) or not isinstance(provider, OwnProvider) or provider.has_processors,
            on_idle=self._attachment.check,
        )
        self._attachment.attach()
        self._publisher.start()
        self._processors.start()
        audit.targets.append(handler)
        # At the head: the end of the process flushes us before anything we stand on is torn down.
        self._undo.append(watch_process(self, sigterm=settings.flush_on_sigterm))

    # -- what users call --------------------------------------------------------------------------------------------

    @property
    def hub(self) -> Hub:
        """The live hub: process-wide, shared with every exporter made without one."""
        return self._hub

    def routes(self, prefix: str = "/monitor") -> list[BaseRoute]:
        """Routes for an existing Starlette or FastAPI app: ``/ws/monitor`` as it is, all else under ``prefix``.

        ``app.router.routes.extend(b.routes())``. They need no lifespan.
        """
        from bridge.server.app import build_routes
        from bridge.server.auth import Policy

        settings = self.settings
        return build_routes(
            self._hub,
            Policy(settings.token, settings.allowed_origins, settings.allowed_hosts),
            prefix=prefix,
            max_clients=settings.max_clients,
            statistics=lambda: self.statistics()._asdict(),
            version=version(),
            elsewhere=settings.monitor_endpoint,
        )

    @property
    def app(self) -> Starlette:
        """A Starlette application with everything at its root."""
        with self._lock:
            if self._app is None:
                from bridge.server.app import build_app

                self._app = build_app(self.routes(prefix=""))
            return self._app

    def attach(self, *names: str) -> None:
        """Capture loggers that don't propagate to the root, e.g. ``b.attach("uvicorn", "uvicorn.access")``.

        Without names: those of uvicorn, gunicorn and hypercorn. Harmless for loggers that do propagate.
        :meth:`shutdown` undoes it.
        """
        from bridge.capture.loggers import SERVER_LOGGERS

        if self._attachment is not None:
            for name in names or SERVER_LOGGERS:
                self._attachment.attach_logger(name)

    def statistics(self) -> Statistics:
        """A frozen snapshot of what was captured, shown and lost."""
        hub = self._hub.statistics()
        publisher, converter, otlp = self._publisher, self._converter, self._otlp
        return Statistics(
            captured=publisher.captured if publisher is not None else 0,
            published=publisher.published if publisher is not None else 0,
            dropped=self._drops.snapshot(),
            ignored=converter.ignored if converter is not None else 0,
            format_errors=converter.format_errors if converter is not None else 0,
            conversion_errors=publisher.conversion_errors if publisher is not None else 0,
            queued=len(publisher.queue) if publisher is not None else 0,
            clients=hub.clients,
            system=hub.system,
            audit=hub.audit,
            held_bytes=hub.held_bytes,
            skipped_system=hub.skipped_system,
            skipped_audit=hub.skipped_audit,
            exported=otlp.exported if otlp is not None else 0,
            monitored=self._monitor.exported if self._monitor is not None else 0,
        )

    def force_flush(self, timeout: float = 5.0) -> bool:
        """Wait up to ``timeout`` seconds for everything logged before the call.

        True only if all of it was shown, went through the provider's processors, and (with OTLP configured here) was
        reported delivered. A team's own processors are flushed as well, and their answer counts.
        """
        deadline = time.monotonic() + timeout
        if self._publisher is not None and not self._publisher.flush(_left(deadline)):
            return False
        if self._processors is not None and not self._processors.flush(_left(deadline)):
            return False
        if self._provider is None:
            return True
        return _within(_left(deadline), lambda millis: bool(self._provider.force_flush(millis)))

    def shutdown(self, timeout: float | None = None) -> bool:
        """Flush, stop, and restore whatever :func:`setup` changed. True only if nothing was lost on the way.

        Live clients are told goodbye (1001). A provider that the team had set goes on; it is theirs.
        """
        deadline = time.monotonic() + (self.settings.shutdown_timeout if timeout is None else timeout)
        with self._lock:
            if self._down:
                return True
            self._down = True
        _forget_bridge(self)
        if self._handler in audit.targets:
            audit.targets.remove(self._handler)
        if self._attachment is not None:
            self._attachment.detach()
        lost_before = sum(self._drops.snapshot().values())
        complete = self.force_flush(_left(deadline))
        for part in (self._publisher, self._processors, self._otlp, self._monitor):
            if part is not None:
                # What is flushed ends at once; the moment more is for a machine that is busy.
                complete &= part.stop(max(_left(deadline), 0.2))
        complete &= sum(self._drops.snapshot().values()) == lost_before
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()
        self._hub.close()
        if self._publisher is not None:
            self._publisher.report()
        return complete

    # -- what the process says --------------------------------------------------------------------------------------

    def after_fork(self) -> None:
        """In a forked child: start anew, with nothing that is the parent's."""
        global _setup_lock
        _setup_lock = threading.RLock()  # another thread may have been in setup() or shutdown()
        self._lock = threading.RLock()
        self._hub.after_fork()
        if self._attachment is not None:
            # The watch over the root logger is the publisher's, which in a child starts with the first record: if the
            # handler is gone (Celery empties the root, then forks), none would ever come.
            self._attachment.check()
        if self._publisher is not None:
            self._publisher.after_fork()
        if self._processors is not None:
            self._processors.after_fork()
        for sender in (self._otlp, self._monitor):
            if sender is not None:
                sender.after_fork()

    def at_exit(self) -> None:
        """The process ends in an orderly way: deliver what is queued."""
        self.force_flush(self.settings.shutdown_timeout)
        if self._publisher is not None:
            self._publisher.report()


# -- one bridge a process -----------------------------------------------------------------------------------------

_current: Bridge | None = None
_setup_lock = threading.RLock()


def setup(**arguments: Any) -> Bridge:
    """Connect Python logging to OpenTelemetry and to the live view. Returns the running :class:`Bridge`.

    Arguments are the fields of :class:`~bridge.settings.Settings`; they win over ``BRIDGE_*`` in the environment,
    which win over the standard ``OTEL_*``. Joins the global SDK LoggerProvider if there is one, else makes and sets
    one. Called again with the same arguments it returns the same Bridge.

    Raises :class:`SettingsError` for a bad setting and :class:`SetupError` if it was called with others before.
    """
    global _current
    with _setup_lock:
        environ = dict(os.environ)
        settings = Settings.from_env(environ, **arguments)
        if _current is not None:
            different = [
                name for name in Settings.names() if getattr(settings, name) != getattr(_current.settings, name)
            ]
            if not different:
                if _current._attachment is not None:
                    _current._attachment.check()
                return _current
            words = "; ".join(
                f"{name} was {getattr(_current.settings, name)!r} and is now {getattr(settings, name)!r}"
                if name != "token"
                else "token differs"
                for name in different
            )
            raise SetupError(
                f"setup() was called before with other settings: {words}; "
                "call it once, or shutdown() the first Bridge before"
            )
        for sentence in unknown_names(environ):
            say(logging.WARNING, "%s", sentence)
        _current = Bridge(settings, environ)
        if settings.disabled:
            say(logging.INFO, "disabled by BRIDGE_DISABLED: nothing is captured or shown")
        elif environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
            say(
                logging.WARNING,
                "OTEL_SDK_DISABLED is true: nothing goes to OpenTelemetry; %s",
                "the live view works" if settings.monitor_endpoint is None else "nor does anything to monitor_endpoint",
            )
        return _current


def current() -> Bridge | None:
    """The running Bridge, if there is one."""
    return _current


def _forget_bridge(bridge: Bridge) -> None:
    global _current
    with _setup_lock:
        if _current is bridge:
            _current = None


def reset_for_tests() -> None:
    """Shut down the running Bridge and forget all process-wide state."""
    if _current is not None:
        _current.shutdown(timeout=2.0)
    audit.targets.clear()
    _forget_process_hub()
    _forget_diagnostics()


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())


def _within(timeout: float, call: Callable[[int], bool]) -> bool:
    """Run ``call(milliseconds)`` in a thread and wait no longer than ``timeout`` seconds: stock flushes overrun."""
    answer: list[bool] = []

    def run() -> None:
        try:
            answer.append(call(int(timeout * 1_000)))
        except Exception as error:
            say(logging.WARNING, "a processor could not be flushed: %r", error)

    thread = daemon(run, "bridge-flush")
    try:
        thread.start()
    except RuntimeError:  # the interpreter is ending: no more threads
        run()
    thread.join(timeout) if thread.ident is not None else None
    return bool(answer and answer[0])
