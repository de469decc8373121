"""Timed runs, one module each: ``python -m benchmarks.NAME`` at the repository root prints one line of JSON."""
