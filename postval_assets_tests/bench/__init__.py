"""Benchmarks, run by ``make bench``; what the figures mean is in docs/benchmarks.md."""
