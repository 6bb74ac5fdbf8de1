"""Coverage-guided fuzzing of both decoders, with atheris; pytest does not collect it.

In a venv with the bridge's extra ``serve`` and atheris:
``python -m tests.receive.fuzz protobuf -max_total_time=180 -rss_limit_mb=2048``, or ``json``; a folder for the corpus
may follow.
"""

import sys
from collections.abc import Callable

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["bridge"]):
    from bridge.live.messages import format_cursor
    from bridge.receive.decode import decode_protobuf
    from bridge.receive.decode_json import decode_json
    from bridge.receive.records import Decoded, Malformed, Origins, TooMany
    from bridge.record.message import encode_v1, encode_v2
    from bridge.record.received import EventBuilder
    from bridge.record.redact import redactor_for
    from bridge.settings import Settings

# Short, so that cutting is reached.
BUILDER = EventBuilder(redactor_for(Settings()), text_chars=256)


def target(decode: Callable[..., Decoded]) -> Callable[[bytes], None]:
    """What is called with every input: it decodes, and shows what came out."""

    def run(data: bytes) -> None:
        try:
            decoded = decode(data, BUILDER, Origins(BUILDER), arrived=1, peer="127.0.0.1:1")
        except (Malformed, TooMany):
            return
        for event in decoded.events[:20]:
            encode_v1(event)
            encode_v2(event, format_cursor("fuzz", 1))

    return run


if __name__ == "__main__":
    decoders = {"protobuf": decode_protobuf, "json": decode_json}
    decoder = decoders[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target(decoder))
    atheris.Fuzz()
