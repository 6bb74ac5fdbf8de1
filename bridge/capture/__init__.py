"""Python logging → OpenTelemetry: what happens on the calling thread, and right behind it."""
