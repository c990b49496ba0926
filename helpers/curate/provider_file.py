"""The file rules of OpenAI-compatible fine-tuning APIs, so that a whole file can be judged without uploading it.

Rules and wording follow the supervised fine-tuning guide, the API's schema and the messages that the service is known
to answer with; the codes are those of OpenAI's cookbook where it has one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from helpers.records import Record

MIN_EXAMPLES = 10
MAX_FILE_BYTES = 512 * 2**20
MAX_TOKENS = 65_536  # training tokens of one example (gpt-4o family; take the model's own limit where it is known)
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MESSAGE_KEYS = {
    "role",
    "content",
    "name",
    "weight",
    "tool_calls",
    "tool_call_id",
    "function_call",
    "refusal",
}
EXAMPLE_KEYS = {"messages", "tools", "parallel_tool_calls", "functions"}
OPENAI_TOKENS = (
    "endoftext",
    "endofprompt",
    "fim_prefix",
    "fim_middle",
    "fim_suffix",
    "im_start",
    "im_end",
    "im_sep",
)
SPECIAL_TOKENS = tuple(f"<|{name}|>" for name in OPENAI_TOKENS)
Found = Iterator[tuple[str, str]]  # (code, message)


class FileIssue(Record):
    """One broken rule: the line it stands on (0: the file as a whole), its code, and what is wrong (no values)."""

    line: int
    code: str
    message: str


def judge_provider_file(
    source: Path | str | Iterable[str | bytes],
    count: Callable[[str], int] | None = None,
    max_tokens: int = MAX_TOKENS,
) -> list[FileIssue]:
    """Every broken file rule of a training file (a path, or its lines), all rows, in order; [] means it would be taken.

    `count` (text -> tokens) switches the length rule on. The rules are those of supervised fine-tuning on chats.
    """
    path = Path(source) if isinstance(source, Path | str) else None
    found: list[FileIssue] = []
    if path is not None and path.stat().st_size > MAX_FILE_BYTES:
        found.append(
            FileIssue(
                line=0, code="file_too_large", message=f"larger than {MAX_FILE_BYTES // 2**20} MiB"
            )
        )
    examples = 0
    with open(path, "rb") if path is not None else contextlib.nullcontext(source) as lines:
        for number, line in enumerate(lines, 1):
            example, issues = _parse(
                line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line, number
            )
            if example is not None:
                examples += 1
                issues += _chat(example)
                if (
                    count is not None
                    and (length := count(json.dumps(example, ensure_ascii=False))) > max_tokens
                ):
                    issues.append(
                        ("too_many_tokens", f"about {length} tokens; the limit is {max_tokens}")
                    )
            found += [
                FileIssue(line=number, code=code, message=message) for code, message in issues
            ]
    if examples < MIN_EXAMPLES:
        said = f"Training file has {examples} example(s), but must have at least {MIN_EXAMPLES} examples"
        found.append(FileIssue(line=0, code="invalid_n_examples", message=said))
    return found


def _parse(line: bytes, number: int) -> tuple[dict[str, Any] | None, list[tuple[str, str]]]:
    """The row's object, or None and why there is none."""
    issues = []
    if number == 1 and line.startswith(b"\xef\xbb\xbf"):
        issues.append(
            (
                "byte_order_mark",
                "the file begins with a byte order mark; save it as UTF-8 without one",
            )
        )
        line = line[3:]
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        return None, [*issues, ("not_utf8", f"byte {error.start} is not UTF-8")]
    except RecursionError:
        return None, [*issues, ("not_json", "nested too deeply")]
    except ValueError as error:
        said = (
            "an empty line"
            if not line.strip()
            else getattr(error, "msg", "NaN and Infinity are not JSON")
        )
        return None, [*issues, ("not_json", said)]
    if not isinstance(value, dict):
        return None, [*issues, ("data_type", "a line must be a JSON object")]
    return value, issues


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _chat(example: dict[str, Any]) -> Found:
    """Rules of one chat example."""
    for key in sorted(set(example) - EXAMPLE_KEYS):
        yield "example_unrecognized_key", f"the example holds the extra key {key[:40]!r}"
    tools = example.get("tools")
    yield from _tools(tools)
    messages = example.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "missing_messages_list", '"messages" must be a list with at least one message'
        return
    open_calls: set[str] = set()
    for number, message in enumerate(messages, 1):
        if not isinstance(message, dict):
            yield "data_type", f"message {number} is not an object"
            continue
        where = f"message {number}"
        yield from _message(message, where)
        calls = message.get("tool_calls")
        if message.get("role") == "tool":
            if (answered := str(message.get("tool_call_id"))) not in open_calls:
                yield "tool_without_call", f"{where} answers no tool call before it"
            open_calls.discard(answered)
        elif open_calls:
            yield "call_without_answer", f"{where} stands where the answer of a tool call is due"
            open_calls = set()
        if isinstance(calls, list):
            open_calls = {
                c.get("id") for c in calls if isinstance(c, dict) and isinstance(c.get("id"), str)
            }
            yield from _calls(calls, where, tools)
    answers = [m for m in messages if isinstance(m, dict) and m.get("role") == "assistant"]
    if not answers:
        yield "example_missing_assistant_message", "at least one message must be from the assistant"
    elif all(m.get("weight") == 0 for m in answers):
        yield "nothing_to_learn", "every assistant message has weight 0"


def _message(message: dict[str, Any], where: str) -> Found:
    role, content = message.get("role"), message.get("content")
    if "role" not in message or ("content" not in message and not message.get("tool_calls")):
        yield "message_missing_key", f"{where} lacks role or content"
    elif role not in ROLES:
        yield "unrecognized_role", f"{where} has an unknown role; known are {', '.join(ROLES)}"
    for key in sorted(set(message) - MESSAGE_KEYS):
        yield "message_unrecognized_key", f"{where} holds the extra key {key[:40]!r}"
    texts = [content] if isinstance(content, str) else [p.get("text") for p in _parts(content)]
    if not (isinstance(content, str) or _parts(content)) and not (
        role == "assistant" and message.get("tool_calls")
    ):
        yield "missing_content", f"{where} has no content"
    for token in SPECIAL_TOKENS:
        if any(isinstance(text, str) and token in text for text in texts):
            yield "invalid_token", f"{where} contains an invalid token: {token}"
    weight = message.get("weight")
    if "weight" in message and (
        role != "assistant" or isinstance(weight, bool) or weight not in (0, 1)
    ):
        yield "invalid_weight", f"{where}: weight must be 0 or 1, on assistant messages only"


def _parts(content: Any) -> list[dict[str, Any]]:
    return (
        content
        if isinstance(content, list) and content and all(isinstance(part, dict) for part in content)
        else []
    )


def _calls(calls: list[Any], where: str, tools: Any) -> Found:
    names = (
        {t["function"].get("name") for t in tools if _is_tool(t)}
        if isinstance(tools, list)
        else set()
    )
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if (
            not isinstance(function, dict)
            or not isinstance(call.get("id"), str)
            or call.get("type") != "function"
        ):
            yield (
                "invalid_tool_call",
                f"{where}: a tool call needs id, type `function` and function",
            )
            continue
        if str(function.get("name")) not in names:
            yield "unknown_tool", f"{where} calls a tool that `tools` does not list"
        try:
            json.loads(function.get("arguments"))
        except (TypeError, ValueError, RecursionError):
            yield "invalid_tool_call", f"{where}: the arguments of a tool call must be JSON text"


def _is_tool(tool: Any) -> bool:
    named = isinstance(tool, dict) and isinstance(tool.get("function"), dict)
    return (
        named and tool.get("type") == "function" and isinstance(tool["function"].get("name"), str)
    )


def _tools(tools: Any) -> Found:
    if tools is not None and not (isinstance(tools, list) and tools and all(map(_is_tool, tools))):
        yield (
            "invalid_tools",
            '"tools" must be a list of {"type": "function", "function": {"name": …}}',
        )
