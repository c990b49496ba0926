"""Fixtures of the curate tests."""

from toy_curate import config, home, make_task, sentences  # noqa: F401
