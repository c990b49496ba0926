"""A provider's file, read as a task's rows and written again, means the same."""

import json

import pytest

from helpers import tasks
from helpers.train import OpenAIJobConfig
from helpers.train.rows import training_file

TASK = (
    "name: toy\ninstructions: {full: Answer kindly., short: Answer.}\noutput: {text: true}\n"
    "targets: {accuracy: 0.8}\ntrain_on: all\n"
)
TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {}}},
}
CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}


def turn(role, content, **more):
    return {"role": role, "content": content} | more


ROWS = [
    {"messages": [turn("user", "q1"), turn("assistant", "a1")]},
    {"messages": [turn("system", "Plan: gold"), turn("user", "q2"), turn("assistant", "a2")]},
    {"messages": [turn("system", "Plan: basic"), turn("user", "q2"), turn("assistant", "a3")]},
    {
        "messages": [
            turn("user", "q3"),
            turn("assistant", "a wrong one", weight=0),
            turn("user", "again"),
            turn("assistant", "a4"),
        ]
    },
    {
        "messages": [
            turn("user", "where is it?"),
            {"role": "assistant", "tool_calls": [CALL]},
            turn("tool", "here", tool_call_id="c1"),
            turn("assistant", "It is here."),
        ],
        "tools": [TOOL],
    },
    *({"messages": [turn("user", f"more {n}"), turn("assistant", "yes")]} for n in range(5)),
]


def trip(folder, lines):
    """The lines as a task's human rows, and as the file of a hosted job."""
    folder.mkdir()
    (folder / "task.yaml").write_text(TASK)
    (folder / "human.jsonl").write_bytes(lines)
    task = tasks.load_task(str(folder))
    examples = tasks.load_examples(task).examples
    return training_file(examples, task, OpenAIJobConfig(prompt_style="full"))


def meaning(line):
    """What a row says besides the task's instructions, empty keys left out."""
    row = json.loads(line)
    turns = []
    for message in row["messages"]:
        fields = {key: value for key, value in message.items() if value not in (None, "", [])}
        if fields["role"] == "system":
            fields["content"] = fields["content"].removeprefix("Answer kindly.").strip()
        if fields.get("content") or fields.get("tool_calls"):
            turns.append(fields)
    return turns, row.get("tools")


def test_weights_own_system_messages_and_tools_survive_two_trips(tmp_path):
    first = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    second = trip(tmp_path / "one", first)
    assert [meaning(line) for line in second.splitlines()] == [
        meaning(line) for line in first.splitlines()
    ]
    assert trip(tmp_path / "two", second) == second


@pytest.mark.parametrize("order", [1, -1])
def test_the_last_answer_alone_is_learnt_where_the_task_says_so(tmp_path, order):
    lines = [json.dumps(row) + "\n" for row in ROWS][::order]
    first = trip(tmp_path / "one", "".join(lines).encode())
    task = tasks.load_task(str(tmp_path / "one")).model_copy(update={"train_on": "last"})
    examples = tasks.load_examples(task).examples
    rows = map(json.loads, training_file(examples, task, OpenAIJobConfig()).splitlines())
    for row in rows:
        answers = [turn for turn in row["messages"] if turn["role"] == "assistant"]
        assert [answer.get("weight") for answer in answers[:-1]] == [0] * (len(answers) - 1)
        assert answers[-1].get("weight") is None
    assert first.count(b"\n") == len(ROWS)
