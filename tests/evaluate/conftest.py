"""The fixtures stand beside the toys, since the decide tests use both."""

from evaluate_toys import home, prints, run, task  # noqa: F401
