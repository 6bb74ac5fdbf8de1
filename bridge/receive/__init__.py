"""OTLP in: from services in any language, and from collectors."""
