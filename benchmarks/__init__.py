"""Benchmarks and the makers of the shipped sample data; no run needs them."""
