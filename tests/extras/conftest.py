"""Fixtures of the tests of synthetic rows."""

from toy_curate import config, home, make_task, sentences  # noqa: F401
