"""The LoggerProvider to feed: the team's, or one of our own, and what of ours stands on it."""

from __future__ import annotations

import logging
import weakref
from typing import TYPE_CHECKING, Any

from opentelemetry import _logs as otel_logs
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.resources import SERVICE_NAME, Resource

from bridge.capture.export import ProcessorSwitch
from bridge.diagnostics import say
from bridge.errors import SettingsError
from bridge.live.exporter import LiveTap, WebSocketLogRecordExporter
from bridge.record.redact import redactor_for
from bridge.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["OwnProvider", "find_provider", "is_rival", "switch_of", "tap_of"]


class OwnProvider(LoggerProvider):
    """The provider that setup() makes. It knows whether anybody but us stands on it.

    While nobody does, handing every record to it would cost 12 µs a record for a tap that skips them all.
    """

    has_processors = False

    def add_log_record_processor(self, log_record_processor: Any) -> None:
        if not isinstance(log_record_processor, LiveTap | ProcessorSwitch):
            self.has_processors = True
        super().add_log_record_processor(log_record_processor)


_made: weakref.WeakSet[Any] = weakref.WeakSet()  # providers that setup() made, and may use again
_taps: weakref.WeakKeyDictionary[Any, LiveTap] = weakref.WeakKeyDictionary()
_switches: weakref.WeakKeyDictionary[Any, ProcessorSwitch] = weakref.WeakKeyDictionary()


def find_provider(
    settings: Settings, environ: dict[str, str], undo: list[Callable[[], None]]
) -> tuple[LoggerProvider, bool]:
    """The provider to use, and whether setup() made it."""
    given = settings.logger_provider
    if given is not None:
        if not isinstance(given, LoggerProvider):
            raise SettingsError(
                "logger_provider", given, "must be an opentelemetry.sdk._logs.LoggerProvider", "or leave it out"
            )
        _warn_of_ignored_name(settings, given)
        return given, False
    present = otel_logs.get_logger_provider()
    if isinstance(present, LoggerProvider):
        if present not in _made:
            _warn_of_ignored_name(settings, present)
            return present, False
        if present.resource.attributes == _resource(settings).attributes:
            return present, True
    provider = OwnProvider(resource=_resource(settings))
    _made.add(provider)
    if isinstance(present, LoggerProvider):
        # OpenTelemetry lets the global provider be set once. Ours serves logging; the old one still shows what the
        # native Logs API says, under its own resource.
        tap = tap_of(present)
        tap.connect(WebSocketLogRecordExporter(redactor=redactor_for(settings), rules=settings.audit_rules))
        undo.append(lambda: tap.connect(None))
        say(
            logging.INFO, "the global LoggerProvider of an earlier setup() stays, with its resource, for native records"
        )
    else:
        otel_logs.set_logger_provider(provider)
    return provider, True


def _warn_of_ignored_name(settings: Settings, provider: LoggerProvider) -> None:
    theirs = provider.resource.attributes.get(SERVICE_NAME)
    if settings.service_name is not None and settings.service_name != theirs:
        say(
            logging.WARNING,
            "service_name=%r has no effect: the LoggerProvider that was set before says %r",
            settings.service_name,
            theirs,
        )


def _resource(settings: Settings) -> Resource:
    return Resource.create({SERVICE_NAME: settings.service_name} if settings.service_name else {})


def tap_of(provider: LoggerProvider) -> LiveTap:
    tap = _taps.get(provider)
    if tap is None:
        tap = _taps[provider] = LiveTap()
        provider.add_log_record_processor(tap)
    return tap


def switch_of(provider: LoggerProvider) -> ProcessorSwitch:
    switch = _switches.get(provider)
    if switch is None:
        switch = _switches[provider] = ProcessorSwitch()
        provider.add_log_record_processor(switch)
    return switch


def is_rival(handler: logging.Handler, provider: LoggerProvider) -> bool:
    """OpenTelemetry's own logging handlers (SDK's, contrib's), when they feed the provider that we feed."""
    kind = type(handler)
    if not any(
        base.__name__ == "LoggingHandler" and base.__module__.startswith("opentelemetry.") for base in kind.__mro__
    ):
        return False
    theirs = getattr(handler, "_logger_provider", None)
    return theirs is provider or not isinstance(theirs, LoggerProvider)
