"""Makes record_toys.py and run_toys.py importable from every folder of tests."""

import os

from hypothesis import settings
from run_toys import driver, toys  # noqa: F401 (fixtures)
from webhook_toy import hook  # noqa: F401 (a fixture)

# In CI the same examples at every run: what is found there can be seen again. By hand new ones.
settings.register_profile("ci", derandomize=True, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
