"""The file rules of OpenAI-compatible fine-tuning APIs: files are judged without uploading them.

Rules and wording follow the supervised fine-tuning guide, the API's schema and the messages that
the service is known to answer with; the codes are those of OpenAI's cookbook where it has one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from helpers.records import Record

MIN_EXAMPLES = 10
# Training tokens of one example (gpt-4o family; take the model's own limit where it is known).
MAX_TOKENS = 65_536
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
MESSAGE_KEYS = (
    "role",
    "content",
    "name",
    "weight",
    "tool_calls",
    "tool_call_id",
    "function_call",
    "refusal",
)
EXAMPLE_KEYS = ("messages", "tools", "parallel_tool_calls", "functions")
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|endofprompt|>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|im_sep|>",
)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
Problems = Iterator[tuple[str, str]]  # (code, message) of broken rules


class FileIssue(Record):
    """One broken rule: its line (0: the whole file), its code, and what is wrong (no values)."""

    line: int
    code: str
    message: str


def judge_provider_file(
    lines: Iterable[str | bytes],
    count: Callable[[str], int] | None = None,
    max_tokens: int = MAX_TOKENS,
) -> list[FileIssue]:
    """Every broken rule of a training file's lines, in order; []: it would be taken.

    `count` (text -> tokens) switches the length rule on. The rules are those of supervised
    fine-tuning on chats.
    """
    issues = []
    examples = 0
    for number, line in enumerate(lines, 1):
        data = line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line
        if number == 1 and data.startswith(BYTE_ORDER_MARK):
            data = data.removeprefix(BYTE_ORDER_MARK)
            message = "the file begins with a byte order mark; save it as UTF-8 without one"
            issues.append(FileIssue(line=1, code="byte_order_mark", message=message))
        example = _parsed(data)
        problems = [example]
        if isinstance(example, dict):
            examples += 1
            problems = [*_example_problems(example)]
            length = count(json.dumps(example, ensure_ascii=False)) if count else 0
            if length > max_tokens:
                message = f"about {length} tokens; the limit is {max_tokens}"
                problems.append(("too_many_tokens", message))
        for code, message in problems:
            issues.append(FileIssue(line=number, code=code, message=message))
    if examples < MIN_EXAMPLES:
        message = f"Training file has {examples} example(s), but must have at least {MIN_EXAMPLES}"
        issues.append(FileIssue(line=0, code="invalid_n_examples", message=f"{message} examples"))
    return issues


def _parsed(line: bytes) -> dict[str, Any] | tuple[str, str]:
    """The line's object, or why there is none."""
    try:
        # int refuses NaN and Infinity, which are no JSON, by a ValueError
        value = json.loads(line.decode("utf-8"), parse_constant=int)
    except UnicodeDecodeError as error:
        return "not_utf8", f"byte {error.start} is not UTF-8"
    except RecursionError:
        return "not_json", "nested too deeply"
    except ValueError as error:
        reason = getattr(error, "msg", "NaN and Infinity are not JSON")
        return "not_json", reason if line.strip() else "an empty line"
    return value if isinstance(value, dict) else ("data_type", "a line must be a JSON object")


def _example_problems(example: dict[str, Any]) -> Problems:
    """The rules of one chat."""
    for key in sorted(set(example).difference(EXAMPLE_KEYS)):
        yield "example_unrecognized_key", f"the example holds the extra key {key[:40]!r}"
    tools = example.get("tools")
    are_tools = isinstance(tools, list) and bool(tools) and all(map(_is_tool, tools))
    if tools is not None and not are_tools:
        yield (
            "invalid_tools",
            '"tools" must be a list of {"type": "function", "function": {"name": …}}',
        )
    messages = example.get("messages")
    if not isinstance(messages, list) or not messages:
        yield "missing_messages_list", '"messages" must be a list with at least one message'
        return
    yield from _turn_problems(messages, _tool_names(tools))
    answers = [m for m in messages if isinstance(m, dict) and m.get("role") == "assistant"]
    if not answers:
        yield "example_missing_assistant_message", "at least one message must be from the assistant"
    elif all(answer.get("weight") == 0 for answer in answers):
        yield "nothing_to_learn", "every assistant message has weight 0"


def _turn_problems(messages: list[Any], tool_names: set[str]) -> Problems:
    """The rules of each message, and that every tool call is answered before the chat goes on."""
    open_calls = set()
    for number, message in enumerate(messages, 1):
        place = f"message {number}"
        if not isinstance(message, dict):
            yield "data_type", f"{place} is not an object"
            continue
        yield from _message_problems(message, place)
        if message.get("role") == "tool":
            call_id = str(message.get("tool_call_id"))
            if call_id not in open_calls:
                yield "tool_without_call", f"{place} answers no tool call before it"
            open_calls.discard(call_id)
        elif open_calls:
            yield "call_without_answer", f"{place} stands where the answer of a tool call is due"
            open_calls = set()
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            yield from _call_problems(calls, place, tool_names)
            ids = [call.get("id") for call in calls if isinstance(call, dict)]
            open_calls = {call_id for call_id in ids if isinstance(call_id, str)}


def _message_problems(message: dict[str, Any], place: str) -> Problems:
    role = message.get("role")
    calls = message.get("tool_calls")
    if "role" not in message or ("content" not in message and not calls):
        yield "message_missing_key", f"{place} lacks role or content"
    elif role not in ROLES:
        yield "unrecognized_role", f"{place} has an unknown role; known are {', '.join(ROLES)}"
    for key in sorted(set(message).difference(MESSAGE_KEYS)):
        yield "message_unrecognized_key", f"{place} holds the extra key {key[:40]!r}"
    texts = _texts_of(message.get("content"))
    if texts is None and not (role == "assistant" and calls):
        yield "missing_content", f"{place} has no content"
    whole = "\0".join(texts or ())
    for token in SPECIAL_TOKENS:
        if token in whole:
            yield "invalid_token", f"{place} contains an invalid token: {token}"
    if "weight" in message and not _may_weigh(message):
        yield "invalid_weight", f"{place}: weight must be 0 or 1, on assistant messages only"


def _may_weigh(message: dict[str, Any]) -> bool:
    weight = message["weight"]
    return message.get("role") == "assistant" and weight in (0, 1) and not isinstance(weight, bool)


def _texts_of(content: Any) -> list[str] | None:
    """The texts of a message's content, which is a text or a list of parts; None: it is neither."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list) or not content:
        return None
    if not all(isinstance(part, dict) for part in content):
        return None
    return [part["text"] for part in content if isinstance(part.get("text"), str)]


def _call_problems(calls: list[Any], place: str, tool_names: set[str]) -> Problems:
    for call in calls:
        if not (_is_function(call) and isinstance(call.get("id"), str)):
            yield (
                "invalid_tool_call",
                f"{place}: a tool call needs id, type `function` and function",
            )
            continue
        if str(call["function"].get("name")) not in tool_names:
            yield "unknown_tool", f"{place} calls a tool that `tools` does not list"
        try:
            json.loads(call["function"].get("arguments"))
        except (TypeError, ValueError, RecursionError):
            yield "invalid_tool_call", f"{place}: the arguments of a tool call must be JSON text"


def _is_function(value: Any) -> bool:
    """Whether a tool, or the call of one, is of the form {"type": "function", "function": {…}}."""
    is_object = isinstance(value, dict) and isinstance(value.get("function"), dict)
    return is_object and value.get("type") == "function"


def _is_tool(tool: Any) -> bool:
    return _is_function(tool) and isinstance(tool["function"].get("name"), str)


def _tool_names(tools: Any) -> set[str]:
    listed = tools if isinstance(tools, list) else []
    return {tool["function"]["name"] for tool in listed if _is_tool(tool)}
