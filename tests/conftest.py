"""Makes record_toys.py and run_toys.py importable from every folder of tests."""

from run_toys import driver, toys  # noqa: F401 (fixtures)
from webhook_toy import hook  # noqa: F401 (a fixture)
