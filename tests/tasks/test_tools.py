"""Tools and calls on their way in: kept, checked against the tools' JSON Schema, never dropped."""

from __future__ import annotations

import json

import pytest

from helpers.records import WorkbookError
from helpers.tasks import load_examples, load_task, render

PRICE = {
    "name": "get_price",
    "parameters": {
        "type": "object",
        "properties": {"symbol": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["symbol"],
    },
}
TOOL = {"type": "function", "function": PRICE}


@pytest.fixture
def loaded(tmp_path):
    """(rows, more of task.yaml) -> the examples of a task folder that holds them."""

    def load(rows, more=""):
        text = "name: chats\ninstructions: {full: Answer.}\noutput: {text: true}\n"
        text += f"targets: {{accuracy: 0.5}}\naccuracy_from: scorer\n{more}\n"
        (tmp_path / "task.yaml").write_text(text, encoding="utf-8")
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "human.jsonl").write_text(lines, encoding="utf-8")
        task = load_task(str(tmp_path))
        return task, load_examples(task).examples

    return load


def row(arguments, name="get_price", **more):
    call = {"id": "c1", "type": "function", "function": {"name": name, "arguments": arguments}}
    turns = [
        {"role": "user", "content": "What does AB cost?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    return {"messages": turns, "tools": [TOOL], **more}


def test_a_rows_tools_are_what_the_model_is_offered(loaded):
    task, (example,) = loaded([row('{"symbol": "AB"}')])
    assert render(task, example)[0].tools == [TOOL] and render(task, "hello")[0].tools is None
    assert (
        example.answer
        == '<tool_call>{"name": "get_price", "arguments": {"symbol": "AB"}}</tool_call>'
    )
    assert render(task, example, answer=True)[-1].tool_calls == example.calls != []


def test_task_yaml_offers_tools_where_a_row_brings_none(loaded):
    tools = f"tools: {json.dumps([PRICE])}"  # a function alone is wrapped
    task, (example,) = loaded([row('{"symbol": "AB"}', tools=None)], tools)
    assert render(task, example)[0].tools == render(task, "hello")[0].tools == [TOOL]


@pytest.mark.parametrize(
    ("spoilt", "reason"),
    [
        (row('{"symbol": 7}'), "get_price: symbol breaks `type`"),
        (row('{"days": 3}'), "the arguments breaks `required`"),
        (row("not json"), "the arguments of get_price are no JSON object"),
        (row("[1]"), "the arguments of get_price are no JSON object"),
        (row("7" * 5000), "the arguments of get_price are no JSON object"),
        (row('{"symbol": "AB"}', name="other"), "other is no tool .*there are: get_price"),
        (row('{"symbol": "AB"}', tools=None), "there are: none; give `tools` in the row"),
        (row('{"symbol": "AB"}', tools=[{"x": 1}]), "tools: tool 1 is not"),
        (row('{"symbol": "AB"}', tools="price"), "`tools` is no list of tools"),
        (row("{}", tools=[PRICE | {"parameters": {"type": 3}}]), "no JSON Schema"),
        (
            row("{}", tools=[PRICE | {"parameters": {"$ref": "http://a"}}]),
            "is no part of this schema",
        ),
    ],
)
def test_a_call_that_cannot_be_carried_out_is_refused_with_file_line_and_reason(
    loaded, spoilt, reason
):
    with pytest.raises(WorkbookError, match=rf"human.jsonl, line 2: .*{reason}"):
        loaded([row('{"symbol": "AB"}'), spoilt])


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ("tools: [{name: f, parameters: {type: 3}}]", "tools"),
        ("train_on: first", "train_on"),
        ("reasoning: maybe", "reasoning"),
    ],
)
def test_a_wrong_word_in_task_yaml_is_named_with_its_line(loaded, more, key):
    with pytest.raises(WorkbookError, match=f"line 6: {key}"):
        loaded([row('{"symbol": "AB"}')], more)


def test_a_fingerprint_changes_with_what_chats_are_told_and_with_nothing_else(loaded):
    plain, _ = loaded([row('{"symbol": "AB"}')])
    again, _ = loaded([row('{"symbol": "AB"}')], "train_on: last\nreasoning: strip")
    assert plain.fingerprint == again.fingerprint
    for more in ("train_on: all", "reasoning: keep", "template_args: {a: 1}"):
        other, _ = loaded([row('{"symbol": "AB"}')], more)
        assert other.fingerprint != plain.fingerprint
