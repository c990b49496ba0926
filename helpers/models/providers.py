"""What fine-tuning endpoints still offer: knowledge with a date, which gets old."""

from __future__ import annotations

from datetime import date
from typing import NamedTuple
from urllib.parse import urlsplit

SEEN = date(2026, 11, 22)  # on their pricing and deprecation pages


class Provider(NamedTuple):
    """What one of them offers, as known on `as_of`; both `until` days are the last ones."""

    host: str
    name: str
    as_of: date
    note: str
    train_until: date | None = None
    serve_until: date | None = None
    newcomers: bool = True  # may an organisation without earlier jobs start there?


PROVIDERS = (
    Provider(
        host="api.openai.com",
        name="OpenAI",
        as_of=SEEN,
        note=(
            "self-serve fine-tuning is being closed:"
            " new organisations get 403 training_not_available"
        ),
        train_until=date(2027, 1, 6),
        serve_until=date(2027, 1, 14),
        newcomers=False,
    ),
    Provider(
        host="openai.azure.com",
        name="Azure OpenAI / Foundry",
        as_of=SEEN,
        note="a tuned model must be deployed as well, which has an hourly fee",
        train_until=date(2027, 4, 14),
        serve_until=date(2027, 10, 1),
    ),
    Provider(
        host="api.tokenfactory.nebius.com",
        name="Nebius Token Factory",
        as_of=SEEN,
        note="speaks the same API for open models",
    ),
)


def host_of(base_url: str) -> str:
    """The host of a web address; "" where a text is none."""
    try:
        parts = urlsplit(base_url)
    except ValueError:  # http://[::1
        return ""
    return (parts.hostname or "") if parts.scheme in ("http", "https") else ""


def provider_of(base_url: str) -> Provider | None:
    """What is known of the provider behind an endpoint; None where nothing is."""
    host = host_of(base_url)
    for provider in PROVIDERS:
        if host == provider.host or host.endswith(f".{provider.host}"):
            return provider
    return None


def serves_until(base_url: str) -> date | None:
    """The last day on which the provider behind an endpoint serves tuned models, as announced."""
    provider = provider_of(base_url)
    return provider.serve_until if provider else None
