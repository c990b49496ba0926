"""Counting tokens by the tokenizer of a base model."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from helpers.models.chat import render_tokens
from helpers.records import Message, WorkbookError


def tokenizer_of(base_model: str) -> Any:
    """The tokenizer of embedded, tiny, a folder or a hub id, loaded once."""
    from helpers.models import base_path

    return load_tokenizer(base_path(base_model))


@cache
def load_tokenizer(path: str) -> Any:
    """The tokenizer in a folder or of a hub id, with a padding token and a chat template, or an error that says so."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise WorkbookError(f"no tokenizer could be loaded from {path}: {str(error).splitlines()[0]}") from None
    if not tokenizer.chat_template:
        raise WorkbookError(f"{path} has no chat template; use the instruction-tuned variant of this model")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def count_text(base_model: str, texts: Iterable[str]) -> list[int]:
    """Tokens of plain texts, without template."""
    tokenizer = tokenizer_of(base_model)
    texts = list(texts)
    return [len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []


def count_chats(base_model: str, chats: Iterable[list[Message]], generation_prompt: bool = True) -> list[int]:
    """Tokens of rendered chats (with an answer in the chat: pass generation_prompt=False)."""
    tokenizer = tokenizer_of(base_model)
    return [len(render_tokens(tokenizer, chat, generation_prompt)) for chat in chats]
