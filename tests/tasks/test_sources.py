"""Every form of a source becomes the same examples; what cannot be read is named by its line."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from helpers import store, tasks
from helpers.records import Issue
from helpers.tasks import examples, reading
from helpers.tasks.textfiles import TwoReadings

TASK = """
name: toy
instructions: {full: "Answer.", short: "Answer."}
output: {text: true}
targets: {accuracy: 0.8}
"""
ROWS = [
    {"id": str(i), "input": f"a question {i}", "output": "yes", "feedback_score": 1 + i % 5}
    for i in range(20)
]


def task_of(folder, columns="{}"):
    folder.mkdir(exist_ok=True)
    (folder / "task.yaml").write_text(TASK + f"columns: {columns}\n")
    return tasks.load_task(str(folder))


def write(path):
    import pandas as pd

    frame = pd.DataFrame(ROWS)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False, sep=";")
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_excel(path, index=False)


def below_four(score, made, guessed):
    return Issue(code="low_feedback", evidence="low") if score is None or score < 4 else None


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet", "xlsx"])
def test_every_kind_of_file_gives_the_same_rows_also_through_a_filter(tmp_path, ending):
    if ending == "xlsx":
        pytest.importorskip("openpyxl")
    task = task_of(tmp_path / "t")
    write(tmp_path / "t" / f"production.{ending}")
    whole = tasks.load_examples(task, "production")
    assert [(e.id, e.user_text, e.answer, e.feedback_score) for e in whole.examples] == [
        (row["id"], row["input"], "yes", row["feedback_score"]) for row in ROWS
    ]
    some = tasks.load_examples(task, "production", lambda rated: below_four)
    assert [e.id for e in some.examples] == [r["id"] for r in ROWS if r["feedback_score"] >= 4]
    assert some.dropped == {"low_feedback": 12} and len(some.sample) == 12
    lines = {e.id: e.meta["line"] for e in [*some.examples, *(e for e, _ in some.sample)]}
    assert lines == {e.id: e.meta["line"] for e in whole.examples}


def test_ids_and_columns_beside_a_chat_name_nobody_and_equal_ones_stay_equal(tmp_path):
    mails = [f"{name}@example.org" for name in ("anna", "bert", "anna")]
    plain = ["c-17", "3f2b8c1e-9d4a-4f6b-8e21-0a1b2c3d4e5f", "20261105-0007", "4155552671"]
    rows = [
        {"input": f"question {n}", "output": "yes", "id": f"{n} {group}", "group": group}
        | {"tax_id": 4111111111111111, "about": {"note": [f"of {group}"], "n": n, "is": n > 1}}
        for n, group in enumerate([*mails, *plain])
    ]
    task = task_of(tmp_path / "t")
    for source in ("human", "production"):
        store.write_jsonl(task.folder / f"{source}.jsonl", rows)
    human, logs = (tasks.load_examples(task, source) for source in ("human", "production"))
    assert "@" not in store.dumps([*human.examples, *logs.examples])
    assert "4111" not in store.dumps([*human.examples])
    groups = [example.group for example in human.examples]
    assert groups == [example.group for example in logs.examples] and len({*groups}) == 6
    assert groups[0] == groups[2] and groups[3:] == [f"conversation:{each}" for each in plain]
    assert [example.id for example in human.examples[3:]] == [row["id"] for row in rows[3:]]
    fields = human.examples[6].meta["fields"]
    assert fields["about"] == rows[6]["about"] and type(fields["about"]["is"]) is bool
    (count,) = (n for said, n in human.reading.changes.items() if "signs stand for" in said)
    assert count == 7  # all have a card's number
    (tmp_path / "t" / "task.yaml").write_text(TASK + "allow: {ours: '[a-z]+@example.org'}\n")
    allowed = tasks.load_examples(tasks.load_task(str(task.folder)), "human").examples
    assert [example.group for example in allowed[:2]] == [f"conversation:{m}" for m in mails[:2]]


def test_a_nested_gateway_log_is_read_by_paths(tmp_path):
    columns = (
        "{input: request.messages, output: response.choices.0.message.content,"
        " feedback_score: user.stars, created_at: at}"
    )
    task = task_of(tmp_path / "t", columns)
    answer = {"role": "assistant", "content": "yes", "refusal": None, "annotations": []}
    row = {
        "at": 1780000000,
        "user": {"stars": 5},
        "request": {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "broken?"}]}]
        },
        "response": {"choices": [{"message": answer}]},
    }
    (tmp_path / "t" / "production.jsonl").write_text(
        json.dumps(row) + "\n" + json.dumps({"request": 3}) + "\n"
    )
    loaded = tasks.load_examples(task, "production")
    (example,) = loaded.examples
    assert [(m.role, m.content) for m in example.messages] == [
        ("user", "broken?"),
        ("assistant", "yes"),
    ]
    assert example.feedback_score == 5 and example.created_at == datetime.fromtimestamp(
        1780000000, UTC
    )
    assert [r.example["line"] for r in loaded.unreadable] == [2]


def test_a_table_may_hold_the_chat_as_json_text(tmp_path):
    task = task_of(tmp_path / "t")
    chat = json.dumps(
        [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    ).replace('"', '""')
    (tmp_path / "t" / "human.csv").write_text(f'messages,id\n"{chat}",1\n')
    (example,) = tasks.load_examples(task).examples
    assert example.answer == "a"


def test_an_endless_line_is_left_unread_and_the_next_one_is_read(tmp_path):
    task = task_of(tmp_path / "t")
    good = json.dumps({"input": "good", "output": "yes"}).encode()
    (tmp_path / "t" / "production.jsonl").write_bytes(
        b'{"input": "' + b"x" * 50 * 2**20 + b'"}\n' + good + b"\n"
    )
    loaded = tasks.load_examples(task, "production")
    assert [e.user_text for e in loaded.examples] == ["good"] and loaded.examples[0].meta[
        "line"
    ] == 2
    assert [(r.example["line"], r.issues[0].evidence) for r in loaded.unreadable] == [
        (1, "longer than 8 MiB")
    ]


HOSTILE = st.one_of(
    st.binary(max_size=60).map(lambda b: b.replace(b"\n", b" ").replace(b"\r", b" ")),
    st.integers(1, 3000).map(lambda n: b"[" * n),
    st.integers(1, 1500).map(
        lambda n: b'{"input": "x", "output": ' + b'{"a":' * n + b"1" + b"}" * n + b"}"
    ),
    st.sampled_from(
        [
            b"\xef\xbb\xbf{}",
            b'{"input": "\\u0000\\ud800"}',
            b"\x00",
            b"{}",
            b'{"messages": "x"}',
            b'{"input": 1e999}',
        ]
    ),
    st.builds(
        lambda t: json.dumps({"input": t, "output": t, "feedback_score": 5}).encode(),
        st.text(max_size=9),
    ),
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(HOSTILE, max_size=6), st.booleans(), st.sampled_from(["jsonl", "csv"]))
def test_every_row_of_a_hostile_log_is_an_example_unreadable_or_dropped(
    tmp_path_factory, lines, filtered, ending
):
    folder = tmp_path_factory.mktemp("hostile")
    task = task_of(folder)
    path = folder / f"production.{ending}"
    path.write_bytes(
        b"\n".join([b"input,output,feedback_score"] * (ending == "csv") + lines) + b"\n"
    )
    make_filter = (lambda rated: below_four) if filtered else None
    try:
        loaded = tasks.load_examples(task, "production", make_filter)
    except TwoReadings as question:  # many bytes of another alphabet are asked about
        assert ending == "csv" and question.key == "encoding"
        assume(False)
    accounted = len(loaded.examples) + len(loaded.unreadable) + sum(loaded.dropped.values())
    assert accounted == len(list(reading.read_rows(path)))
    if ending == "jsonl":
        assert accounted == sum(bool(line.strip()) for line in lines)
    assert all(r.example["file"] == path.name and r.example["line"] >= 1 for r in loaded.unreadable)
    assert len(loaded.sample) == sum(loaded.dropped.values())


def test_the_sample_of_dropped_rows_is_bounded_and_the_same_every_time(tmp_path, monkeypatch):
    monkeypatch.setattr(examples, "SAMPLE", 5)
    task = task_of(tmp_path / "t")
    write(tmp_path / "t" / "production.jsonl")
    one, two = (tasks.load_examples(task, "production", lambda rated: below_four) for _ in range(2))
    assert len(one.sample) == 5 and [e.id for e, _ in one.sample] == [e.id for e, _ in two.sample]


def test_a_broken_table_file_is_one_message(tmp_path):
    task = task_of(tmp_path / "t")
    for ending in ("parquet", "xlsx"):
        (tmp_path / "t" / f"production.{ending}").write_bytes(b"not a table")
        with pytest.raises(tasks.task.WorkbookError, match="cannot be read"):
            tasks.load_examples(task, "production")
        (tmp_path / "t" / f"production.{ending}").unlink()
