"""From chats to tokens: the one way that serving, evaluation and training share, and counting by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from helpers.records import Message, WorkbookError


def plain(chat: Sequence[Message]) -> list[dict[str, Any]]:
    """OpenAI message dicts without empty keys."""
    return [m.model_dump(exclude_none=True) | {"content": m.content} for m in chat]


def render_tokens(tokenizer: Any, chat: Sequence[Message], generation_prompt: bool = True) -> list[int]:
    """Token ids of a chat by the tokenizer's own template.

    Templates know no "developer" role and choke on a missing content, so these become "system" and "". A chat without
    a system turn gets the template's default one where it has one (SmolLM2's has).
    """
    turns = [
        turn | {"content": turn["content"] or "", "role": "system" if turn["role"] == "developer" else turn["role"]}
        for turn in plain(chat)
    ]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=generation_prompt, return_dict=False)


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


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """id -> text of the tokens that steer a chat (<|im_end|> and the like)."""
    added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def tokenizer_of(base_model: str) -> Any:
    """The tokenizer of embedded, tiny, a folder or a hub id, loaded once."""
    from helpers.models import base_path

    return load_tokenizer(base_path(base_model))


def count_text(base_model: str, texts: Sequence[str]) -> list[int]:
    """Tokens of plain texts, without template."""
    encode = tokenizer_of(base_model)
    return [len(ids) for ids in encode(list(texts), add_special_tokens=False)["input_ids"]] if texts else []


def count_chats(base_model: str, chats: Iterable[list[Message]]) -> list[int]:
    """Tokens of rendered chats, generation prompt included."""
    tokenizer = tokenizer_of(base_model)
    return [len(render_tokens(tokenizer, chat)) for chat in chats]
