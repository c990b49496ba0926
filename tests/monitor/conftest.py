"""Every monitor test has a home of its own, made as the registry's is."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "registry"))
from registry_toys import home  # noqa: F401
