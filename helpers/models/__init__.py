"""Anything that answers a chat: the embedded model, local folders, adapters, endpoints.

Nothing heavy is imported here: torch, transformers and the SDK come with the first use.
"""

from __future__ import annotations

from typing import Any

from helpers.models import embedded as embedded
from helpers.models.answers import Answer, Model, failed
from helpers.models.api import ApiModel, answer_of, api_key, is_loopback, openai_client
from helpers.models.batched import Batched
from helpers.models.batches import Batches
from helpers.models.chats import read_answer
from helpers.models.connection import Refused, whole
from helpers.models.decoding import follow_rows, supported
from helpers.models.embeddings import embed, load_embedder
from helpers.models.leaving import HELD_BACK, permission_of
from helpers.models.loading import check_may_send, load_model
from helpers.models.local import END_TOKENS, LocalModel, load_network, resolve_compute
from helpers.models.logged import LoggedModel, question
from helpers.models.practice import PRACTICE, resolve_base_url
from helpers.models.prices import (
    STALE_DAYS,
    batch_prices,
    is_paid,
    price_warnings,
    real_cost,
    request_cost,
    token_cost,
    token_price,
    worst_cost,
)
from helpers.models.providers import PROVIDERS, Provider, provider_of, serves_until
from helpers.models.tokens import (
    as_dicts,
    context_of,
    control_tokens,
    count_chats,
    count_text,
    is_openai,
    load_tokenizer,
    render_text,
    render_tokens,
    template_args,
    template_fingerprints,
    tokenizer_of,
    tools_of,
)
from helpers.models.weights import base_path, offline_env


def __getattr__(name: str) -> Any:
    """The products, which bring torch in with them."""
    if name in ("FrozenLayer", "FrozenLinear", "frozen_linear", "product"):
        from helpers.models.kernels import products

        return getattr(products, name)
    raise AttributeError(f"helpers.models has no {name}")
