"""The file rules of OpenAI-compatible fine-tuning APIs: a whole file is judged without uploading it.

Rules and wording follow the supervised fine-tuning guide, the API's schema and the messages that
the service is known to answer with; the codes are those of OpenAI's cookbook where it has one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from helpers.records import Record

MIN_EXAMPLES = 10
MAX_FILE_BYTES = 512 * 2**20
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


class FileIssue(Record):
    """One broken rule: its line (0: the file as a whole), its code, and what is wrong (no values)."""

    line: int
    code: str
    message: str


class Problem(NamedTuple):
    """A broken rule of one row."""

    code: str
    message: str


class BadLine(ValueError):
    """A line that holds no JSON object."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.problem = Problem(code, message)


def judge_provider_file(
    source: Path | str | Iterable[str | bytes],
    count: Callable[[str], int] | None = None,
    max_tokens: int = MAX_TOKENS,
) -> list[FileIssue]:
    """Every broken rule of a training file (a path, or its lines), in order; []: it would be taken.

    `count` (text -> tokens) switches the length rule on. The rules are those of supervised
    fine-tuning on chats.
    """
    issues: list[FileIssue] = []
    examples = 0
    opened: Any = contextlib.nullcontext(source)
    if isinstance(source, Path | str):
        opened = open(source, "rb")  # noqa: SIM115 (closed by the with below)
        if Path(source).stat().st_size > MAX_FILE_BYTES:
            message = f"larger than {MAX_FILE_BYTES // 2**20} MiB"
            issues.append(FileIssue(line=0, code="file_too_large", message=message))
    with opened as lines:
        for number, line in enumerate(lines, 1):
            problems: list[Problem] = []
            if isinstance(line, str):
                line = line.encode("utf-8", "surrogatepass")
            if number == 1 and line.startswith(BYTE_ORDER_MARK):
                line = line.removeprefix(BYTE_ORDER_MARK)
                message = "the file begins with a byte order mark; save it as UTF-8 without one"
                problems.append(Problem("byte_order_mark", message))
            try:
                example = _parsed(line)
            except BadLine as error:
                problems.append(error.problem)
            else:
                examples += 1
                problems += _example_problems(example)
                problems += _length_problems(example, count, max_tokens)
            for code, message in problems:
                issues.append(FileIssue(line=number, code=code, message=message))
    if examples < MIN_EXAMPLES:
        message = (
            f"Training file has {examples} example(s), but must have at least {MIN_EXAMPLES}"
            " examples"
        )
        issues.append(FileIssue(line=0, code="invalid_n_examples", message=message))
    return issues


def _parsed(line: bytes) -> dict[str, Any]:
    """The object of a line; BadLine says why there is none."""
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise BadLine("not_utf8", f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise BadLine("not_json", "nested too deeply") from None
    except ValueError as error:
        reason = getattr(error, "msg", "NaN and Infinity are not JSON")
        raise BadLine("not_json", reason if line.strip() else "an empty line") from None
    if not isinstance(value, dict):
        raise BadLine("data_type", "a line must be a JSON object")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(name)


def _length_problems(
    example: dict[str, Any], count: Callable[[str], int] | None, max_tokens: int
) -> Iterator[Problem]:
    if count is None:
        return
    length = count(json.dumps(example, ensure_ascii=False))
    if length > max_tokens:
        yield Problem("too_many_tokens", f"about {length} tokens; the limit is {max_tokens}")


def _example_problems(example: dict[str, Any]) -> Iterator[Problem]:
    """The rules of one chat."""
    for key in sorted(set(example).difference(EXAMPLE_KEYS)):
        yield Problem("example_unrecognized_key", f"the example holds the extra key {key[:40]!r}")
    tools = example.get("tools")
    if tools is not None and not _are_tools(tools):
        message = '"tools" must be a list of {"type": "function", "function": {"name": …}}'
        yield Problem("invalid_tools", message)
    messages = example.get("messages")
    if not isinstance(messages, list) or not messages:
        message = '"messages" must be a list with at least one message'
        yield Problem("missing_messages_list", message)
        return
    yield from _turn_problems(messages, _tool_names(tools))
    answers = [m for m in messages if isinstance(m, dict) and m.get("role") == "assistant"]
    if not answers:
        message = "at least one message must be from the assistant"
        yield Problem("example_missing_assistant_message", message)
    elif all(answer.get("weight") == 0 for answer in answers):
        yield Problem("nothing_to_learn", "every assistant message has weight 0")


def _turn_problems(messages: list[Any], tool_names: set[str]) -> Iterator[Problem]:
    """The rules of each message, and that every tool call is answered before the chat goes on."""
    open_calls: set[str] = set()
    for number, message in enumerate(messages, 1):
        place = f"message {number}"
        if not isinstance(message, dict):
            yield Problem("data_type", f"{place} is not an object")
            continue
        yield from _message_problems(message, place)
        if message.get("role") == "tool":
            call_id = str(message.get("tool_call_id"))
            if call_id not in open_calls:
                yield Problem("tool_without_call", f"{place} answers no tool call before it")
            open_calls.discard(call_id)
        elif open_calls:
            open_calls = set()
            what = "stands where the answer of a tool call is due"
            yield Problem("call_without_answer", f"{place} {what}")
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            yield from _call_problems(calls, place, tool_names)
            ids = [call.get("id") for call in calls if isinstance(call, dict)]
            open_calls = {call_id for call_id in ids if isinstance(call_id, str)}


def _message_problems(message: dict[str, Any], place: str) -> Iterator[Problem]:
    role = message.get("role")
    calls = message.get("tool_calls")
    if "role" not in message or ("content" not in message and not calls):
        yield Problem("message_missing_key", f"{place} lacks role or content")
    elif role not in ROLES:
        known = ", ".join(ROLES)
        yield Problem("unrecognized_role", f"{place} has an unknown role; known are {known}")
    for key in sorted(set(message).difference(MESSAGE_KEYS)):
        yield Problem("message_unrecognized_key", f"{place} holds the extra key {key[:40]!r}")
    texts = _texts_of(message.get("content"))
    if texts is None and not (role == "assistant" and calls):
        yield Problem("missing_content", f"{place} has no content")
    for token in SPECIAL_TOKENS:
        if any(token in text for text in texts or ()):
            yield Problem("invalid_token", f"{place} contains an invalid token: {token}")
    if "weight" in message and not _is_weight(message["weight"], role):
        what = "weight must be 0 or 1, on assistant messages only"
        yield Problem("invalid_weight", f"{place}: {what}")


def _texts_of(content: Any) -> list[str] | None:
    """The texts of a message's content, which is a text or a list of parts; None: it is neither."""
    if isinstance(content, str):
        return [content]
    if not isinstance(content, list) or not content:
        return None
    texts = []
    for part in content:
        if not isinstance(part, dict):
            return None
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
    return texts


def _is_weight(weight: Any, role: Any) -> bool:
    return role == "assistant" and not isinstance(weight, bool) and weight in (0, 1)


def _call_problems(calls: list[Any], place: str, tool_names: set[str]) -> Iterator[Problem]:
    for call in calls:
        if not _is_call(call):
            what = "a tool call needs id, type `function` and function"
            yield Problem("invalid_tool_call", f"{place}: {what}")
            continue
        function = call["function"]
        if str(function.get("name")) not in tool_names:
            what = "calls a tool that `tools` does not list"
            yield Problem("unknown_tool", f"{place} {what}")
        try:
            json.loads(function.get("arguments"))
        except (TypeError, ValueError, RecursionError):
            what = "the arguments of a tool call must be JSON text"
            yield Problem("invalid_tool_call", f"{place}: {what}")


def _is_call(call: Any) -> bool:
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        return False
    return isinstance(call.get("id"), str) and call.get("type") == "function"


def _are_tools(tools: Any) -> bool:
    return isinstance(tools, list) and bool(tools) and all(map(_is_tool, tools))


def _is_tool(tool: Any) -> bool:
    if not isinstance(tool, dict) or not isinstance(tool.get("function"), dict):
        return False
    return tool.get("type") == "function" and isinstance(tool["function"].get("name"), str)


def _tool_names(tools: Any) -> set[str]:
    if not isinstance(tools, list):
        return set()
    return {tool["function"]["name"] for tool in tools if _is_tool(tool)}
