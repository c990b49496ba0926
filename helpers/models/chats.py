"""From the tokens of an answer back to what it says, what it calls, and what it thought."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from helpers.records import read_calls, with_calls

OPEN, CLOSE = "<think>", "</think>"
OWN_FORMS = ("<|channel", "<function=", "<arg_key>", "<|tool_call", "<|start|>")  # of templates


def split_thoughts(text: str) -> tuple[str, str]:
    """(thoughts, what is said); an answer that was cut while it thought says nothing."""
    thoughts, is_closed, said = text.rpartition(CLOSE)
    if not is_closed and text.startswith(OPEN):
        thoughts, said = text, ""
    return thoughts.strip().removeprefix(OPEN).strip(), said.strip()


def read_answer(
    tokenizer: Any,
    prompt: Sequence[int],
    tokens: Sequence[int],
    tools: list[dict[str, Any]] | None = None,
) -> tuple[str, str]:
    """(the answer with its calls as one text, its thoughts) of the tokens that followed a prompt.

    Templates with forms of their own are read by the parsers of trl and transformers.
    """
    if any(form in str(tokenizer.chat_template) for form in OWN_FORMS):
        fields = _parsed(tokenizer, prompt, tokens, tools)
        if fields is not None:
            thoughts = fields.get("reasoning_content") or fields.get("thinking") or ""
            return with_calls(fields["content"].strip(), fields.get("tool_calls")), thoughts.strip()
    text = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    thoughts, said = split_thoughts(text)
    return with_calls(*read_calls(said)) if tools else said, thoughts


def _parsed(
    tokenizer: Any, prompt: Sequence[int], tokens: Sequence[int], tools: Any
) -> dict[str, Any] | None:
    """The answer's fields; None where nobody knows this template."""
    from trl.chat_template_utils import add_response_schema, parse_response

    if getattr(tokenizer, "response_template", None) is None:
        try:
            add_response_schema(tokenizer)
        except ValueError:
            return None
    return parse_response(tokenizer, list(tokens), prefix=list(prompt), tools=tools)
