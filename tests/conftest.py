"""Makes tests/record_toys.py importable from every folder of tests."""
