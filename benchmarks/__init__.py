"""Side by side measurements against what a user would pick instead. Run with `python -m benchmarks`."""
