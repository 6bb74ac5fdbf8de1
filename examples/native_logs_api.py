"""Records made with OpenTelemetry's own Logs API, shown live: no `logging` call is involved.

    python examples/native_logs_api.py [PORT]

The provider and its processors are the program's. Because `setup()` is told of the provider, its records are shown;
`capture_logging=False` leaves Python's logging alone.
"""

import sys
import threading
import time

import uvicorn
from opentelemetry._logs import LogRecord, SeverityNumber, get_logger, set_logger_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.resources import Resource

import bridge

provider = LoggerProvider(resource=Resource.create({"service.name": "thermostat"}))
set_logger_provider(provider)
b = bridge.setup(capture_logging=False)


def emit(scope: str, body: str, **attributes: str) -> None:
    """One record of the Logs API."""
    get_logger(scope).emit(
        LogRecord(
            timestamp=time.time_ns(),
            severity_number=SeverityNumber.INFO,
            severity_text="INFO",
            body=body,
            attributes=dict(attributes),
        )
    )


def work(stop: threading.Event) -> None:
    """A system record and an audit record every half second."""
    while not stop.wait(0.5):
        emit("thermostat.sensor", "19.5 °C in room 4")
        # A scope below "audit." makes an audit record, as a logger of that name does.
        emit("audit.thermostat", "Target set to 21 °C", **{"audit.action": "target_set", "audit.metadata.room": "4"})


if __name__ == "__main__":
    stop = threading.Event()
    threading.Thread(target=work, args=(stop,), daemon=True).start()
    uvicorn.run(b.app, port=int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
    stop.set()
