"""Every registry test has a home of its own."""

from registry_toys import home  # noqa: F401
