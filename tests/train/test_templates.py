"""What is trained is what is served, and reads back as the gold answer: by real chat templates.

The templates are those that trl ships as files; their control tokens join the tiny tokenizer.
"""

from __future__ import annotations

import copy
import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
import trl

from helpers import models
from helpers.practice.training import chats
from helpers.records import Message, TrainingExample, WorkbookError, call_of, read_calls, same_calls
from helpers.tasks import load_task, render
from helpers.train import LoraTrainingConfig, OpenAIJobConfig, preflight
from helpers.train.kernels.loss import supervised_loss
from helpers.train.rows import IGNORED, make_rows, training_file

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
CONTROL = re.compile(r"<\|[\w]+\|?>|<[\w]+\|>|<｜[^｜>]+｜>|<(?:start|end)_of_turn>")
TASK = load_task("support_triage")
PRICE = {
    "type": "function",
    "function": {
        "name": "get_price",
        "description": "the price of a share",
        "parameters": {
            "type": "object",
            "properties": {"symbol": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["symbol"],
        },
    },
}
ASKED = Message(role="user", content="What does it cost?")
THINKING = ("qwen3", "qwen3_5_think", "gemma4_v5", "gptoss")
CALLING = (*THINKING, "qwen2_5", "llama3_1", "llama3_2")
ALL = (*CALLING, "gemma3", "llama3", "phi3")


@pytest.fixture(scope="module")
def base_of(tmp_path_factory):
    """template's name -> a folder with the tiny tokenizer and that chat template."""
    home = tmp_path_factory.mktemp("bases")

    def base(name: str) -> str:
        folder = home / name
        if not folder.exists():
            tokenizer = copy.deepcopy(models.tokenizer_of("tiny"))
            tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
            controls = sorted(set(CONTROL.findall(tokenizer.chat_template)))
            tokenizer.add_special_tokens({"additional_special_tokens": controls})
            tokenizer.save_pretrained(folder)
            (folder / "config.json").write_text("{}", encoding="utf-8")
        return str(folder)

    return base


def said(text: str | None, **fields) -> Message:
    return Message(role="assistant", content=text, **fields)


def call(number: int, **arguments) -> dict:
    function = {"name": "get_price", "arguments": json.dumps(arguments)}
    return {"id": f"call_{number}", "type": "function", "function": function}


def chat(*messages: Message, tools=None) -> TrainingExample:
    return TrainingExample(
        id="r",
        messages=[ASKED, *messages],
        source="human",
        quality="verified",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        group="g",
        part="train",
        tools=tools,
        meta={"file": "human.jsonl", "line": 3},
    )


def rows_of(base: str, example: TrainingExample, **task):
    config = LoraTrainingConfig(base_model=base)
    return make_rows(models.tokenizer_of(base), TASK.model_copy(update=task), example, config)


def learnt(base: str, row) -> str:
    ids = [label for label in row.labels if label != IGNORED]
    return models.tokenizer_of(base).decode(ids)


def reads_back(base: str, example: TrainingExample, row, **task) -> str:
    """The gold answer as it is read from what follows the prompt that is served; its thoughts."""
    changed = TASK.model_copy(update=task)
    tokenizer = models.tokenizer_of(base)
    arguments = models.template_args(changed, base)
    prompt = render(changed, example, "short")
    served = models.render_tokens(tokenizer, prompt, template_args=arguments)
    assert row.input_ids[: len(served)] == served
    rest = row.input_ids[len(served) :]
    text, thoughts = models.read_answer(tokenizer, served, rest, models.tools_of(prompt))
    if example.calls:
        assert same_calls(read_calls(text)[1], example.calls)
        assert read_calls(text)[0] == (example.messages[-1].content or "")
    else:
        assert text == example.answer
    return thoughts


@pytest.mark.parametrize("name", ALL)
def test_an_answer_is_served_as_trained_and_reads_back_as_gold(base_of, name):
    base = base_of(name)
    gold = '{"label": "billing", "n": 2}'
    for example in (chat(said(gold)), chat(said(gold, reasoning="because"))):
        (row,) = rows_of(base, example)
        assert reads_back(base, example, row) == ""
        assert "think" not in learnt(base, row) and "because" not in learnt(base, row)
        controls = models.control_tokens(models.tokenizer_of(base))
        assert row.labels[-1] in controls  # the end of the turn is learnt


@pytest.mark.parametrize("name", THINKING)
def test_thoughts_are_learnt_or_only_shown_as_the_task_says(base_of, name):
    base = base_of(name)
    example = chat(said("Ten euros", reasoning="because so"))
    (row,) = rows_of(base, example, reasoning="train")
    assert reads_back(base, example, row, reasoning="train") == "because so"
    assert "because so" in learnt(base, row) and "Ten euros" in learnt(base, row)
    (row,) = rows_of(base, example, reasoning="keep")
    assert reads_back(base, example, row, reasoning="keep") == "because so"
    assert "because" not in learnt(base, row) and "Ten euros" in learnt(base, row)


@pytest.mark.parametrize("name", CALLING)
def test_calls_are_served_as_trained_and_read_back_with_their_types(base_of, name):
    base = base_of(name)
    example = chat(said(None, tool_calls=[call(1, symbol="7", days=3)]), tools=[PRICE])
    (row,) = rows_of(base, example)
    reads_back(base, example, row)
    assert "get_price" in learnt(base, row)
    result = Message(role="tool", tool_call_id="call_1", content="price 100")
    example = chat(*example.messages[1:], result, said("It costs 100"), tools=[PRICE])
    (row,) = rows_of(base, example)
    reads_back(base, example, row)
    assert "get_price" not in learnt(base, row) and "It costs 100" in learnt(base, row)


@pytest.mark.parametrize("name", CALLING)
def test_parallel_calls_are_all_trained_or_refused_by_name(base_of, name):
    base = base_of(name)
    calls = [call(1, symbol="AB", days=3), call(2, symbol="CD")]
    example = chat(said(None, tool_calls=calls), tools=[PRICE])
    if name in ("gptoss", "llama3_1", "llama3_2"):  # the first alone, or an error of its own
        with pytest.raises(WorkbookError, match=r"row r .human.jsonl, line 3.: the chat template"):
            rows_of(base, example)
    else:
        (row,) = rows_of(base, example)
        reads_back(base, example, row)


@pytest.mark.parametrize("name", ["gemma3", "llama3", "phi3"])
def test_a_template_that_knows_no_tools_is_refused_before_anything_is_trained(base_of, name):
    example = chat(said("No tool is needed"), tools=[PRICE])
    with pytest.raises(WorkbookError, match=r"leaves the tools out.*base_model whose template"):
        rows_of(base_of(name), example)


def test_a_template_that_drops_thoughts_is_refused_where_they_are_to_be_learnt(base_of):
    example = chat(said("Ten", reasoning="because"))
    with pytest.raises(WorkbookError, match=r"leaves thoughts out.*`reasoning: strip`"):
        rows_of(base_of("llama3_1"), example, reasoning="train")


def test_a_template_that_drops_the_answer_itself_trains_nothing(base_of):
    with pytest.raises(WorkbookError, match="leaves out what the"):
        rows_of(base_of("smolvlm"), chat(said("Ten euros")))


def test_a_chat_that_a_template_does_not_take_is_named_with_the_remedy(base_of):
    greeting = chat(said("One")).model_copy(
        update={"messages": [said("Hello!"), ASKED, said("One")]}
    )
    twice = chat(ASKED, said("One"))
    for example in (greeting, twice):
        with pytest.raises(WorkbookError, match=r"row r .human.jsonl, line 3.*alternate.*join"):
            rows_of(base_of("gemma3"), example)


@pytest.mark.parametrize("name", ["qwen2_5", "gemma3", "qwen3"])
def test_every_answer_of_a_chat_but_those_of_weight_0_is_learnt_where_the_task_says_so(
    base_of, name
):
    base = base_of(name)
    example = chat(said("One"), ASKED, said("Bad", weight=0), ASKED, said("Two", weight=1))
    (row,) = rows_of(base, example)
    assert learnt(base, row).startswith("Two") and "One" not in learnt(base, row)
    rows = rows_of(base, example, train_on="all")
    assert len(rows) == (2 if name == "qwen3" else 1)  # its thoughts make prompts differ
    words = "".join(learnt(base, row) for row in rows)
    assert "One" in words and "Two" in words and "Bad" not in words
    for row in rows:  # every answer is learnt behind the prompt that would be served
        first = next(i for i, label in enumerate(row.labels) if label != IGNORED)
        short = example.model_copy(update={"messages": example.messages[:2]})
        whole = short if "One" in learnt(base, row) else example
        assert row.input_ids[:first] == models.render_tokens(
            models.tokenizer_of(base),
            render(TASK, whole, "short"),
            template_args=models.template_args(TASK, base),
        )


def test_the_loss_of_several_answers_in_a_row_is_the_stock_loss():
    task = TASK.model_copy(update={"train_on": "all"})
    examples = [chat(said("One"), ASKED, said(word)) for word in ("Two", "Three or four")]
    config = LoraTrainingConfig(base_model="tiny")
    rows = [make_rows(models.tokenizer_of("tiny"), task, e, config)[0] for e in examples]
    length = max(len(row.input_ids) for row in rows)
    ids = torch.tensor([r.input_ids + [0] * (length - len(r.input_ids)) for r in rows])
    labels = torch.tensor([r.labels + [IGNORED] * (length - len(r.labels)) for r in rows])
    model = models.load_network(models.base_path("tiny"))
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        stock = torch.nn.functional.cross_entropy(
            logits, labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
        )
        for prefix, most in ((False, 0), (True, 0), (True, 40)):
            ours = supervised_loss(model, ids, labels, prefix, most)
            assert float(ours) == pytest.approx(float(stock), rel=1e-4)


def test_preflight_reports_rows_of_one_chat_apart(base_of):
    from test_rows import dataset

    base = base_of("qwen3")
    task = TASK.model_copy(update={"train_on": "all"})
    data = dataset(chat(said("One"), ASKED, said("Two")))
    report = preflight(data, task, LoraTrainingConfig(base_model=base, max_train_tokens=0))
    assert {row.id for row in report.train} == {"r#1", "r#2"} and report.left_out == 0


def uploaded(*examples, **task) -> list[dict]:
    many = [e.model_copy(update={"id": f"r{n}"}) for n, e in enumerate(examples * 10)]
    file = training_file(many, TASK.model_copy(update=task), OpenAIJobConfig())
    return [json.loads(line) for line in file.splitlines()][: len(examples)]


def test_an_uploaded_file_teaches_the_answers_that_a_training_here_would():
    example = chat(said("One"), ASKED, said("Bad", weight=0), ASKED, said("Two", weight=1))
    weights = {}
    for train_on in ("last", "all"):
        (line,) = uploaded(example, train_on=train_on)
        turns = [turn for turn in line["messages"] if turn["role"] == "assistant"]
        weights[train_on] = [turn.get("weight") for turn in turns]
    assert weights == {"last": [0, 0, None], "all": [None, 0, None]}
    (line,) = uploaded(chat(said("One")))
    assert line.keys() == {"messages"} and "weight" not in line["messages"][-1]


def test_an_uploaded_file_holds_tools_calls_and_the_rows_own_system_message():
    system = Message(role="system", content="Customer plan: gold.")
    calls = [call(1, symbol="AB", days=3), call(2, symbol="CD")]
    results = [Message(role="tool", tool_call_id=f"call_{n}", content="100") for n in (1, 2)]
    turns = [said(None, tool_calls=calls), *results, said("Both 100")]
    example = chat(*turns, tools=[PRICE])
    example = example.model_copy(update={"messages": [system, *example.messages]})
    (line,) = uploaded(example)
    assert line["tools"] == [PRICE] and "tools" not in line["messages"][0]
    assert line["messages"][0]["content"].endswith("\n\nCustomer plan: gold.")
    assert [Message(**turn) for turn in line["messages"][2:]] == [
        turns[0].model_copy(update={"weight": 0}),
        *turns[1:],
    ]


def test_thoughts_that_are_to_be_learnt_are_refused_where_no_file_has_room_for_them():
    example = chat(said("Ten", reasoning="because"))
    assert "because" not in json.dumps(uploaded(example))
    with pytest.raises(WorkbookError, match="no file has room for thoughts"):
        uploaded(example, reasoning="train")


def test_the_practice_api_learns_what_a_file_says_and_nothing_of_weight_0():
    example = chat(said("One"), ASKED, said("Bad", weight=0), ASKED, said("Two"))
    for train_on, learnt_words in (("last", ["Two"]), ("all", ["One", "Two"])):
        (line,) = uploaded(example, train_on=train_on)
        conversations = chats(json.dumps(line).encode())
        assert [turns[-1].content for turns in conversations] == learnt_words


def test_call_names_and_arguments_survive_the_text_form():
    example = chat(said("Let me see", tool_calls=[call(1, symbol="a</b>", days=3)]))
    content, calls = read_calls(example.answer)
    assert content == "Let me see"
    assert [call_of(c) for c in calls] == [("get_price", {"symbol": "a</b>", "days": 3})]
