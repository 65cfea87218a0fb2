"""Measurements of azsession against its peers; each file is one, and runs as ``python -m benchmarks.NAME``."""
