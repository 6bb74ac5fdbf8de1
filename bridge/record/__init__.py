"""What a record is. Pure: no I/O, no clock, no OpenTelemetry."""
