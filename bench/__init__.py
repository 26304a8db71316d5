"""Benchmarks anyone can run: they print tables and assert nothing."""
