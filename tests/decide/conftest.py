"""The toys and fixtures of the evaluate tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluate"))
from evaluate_toys import home, run, task  # noqa: F401
