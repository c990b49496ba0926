"""A task folder is read strictly, and a row's part never depends on the other rows."""

import json
import random
from pathlib import Path

import pytest

from helpers import tasks
from helpers.records import WorkbookError

RATIOS = {"train": 0.65, "validation": 0.12, "test": 0.23}


def make_task(folder: Path, rows: list[str] | None = None, drop: str = "", extra: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = (
        "name: toy\ninstructions: {full: Answer., short: Go.}\n"
        "output:\n  schema:\n    type: object\n    properties: {a: {type: string}}\n"
        "targets: {accuracy: 0.5}\n" + extra
    )
    (folder / "task.yaml").write_text(
        "\n".join(line for line in text.splitlines() if not (drop and line.startswith(drop)))
    )
    good = json.dumps(
        {
            "messages": [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": '{"a":"b"}'},
            ]
        }
    )
    (folder / "human.jsonl").write_text("\n".join(rows if rows is not None else [good]) + "\n")
    return folder


def test_the_shipped_task_has_enough_verified_rows_in_every_part():
    task = tasks.load_task("support_triage")
    examples = tasks.load_examples(task).examples
    placed = tasks.with_parts(examples, seed=7, ratios=RATIOS)
    count = {part: sum(e.part == part for e in placed) for part in ("train", "validation", "test")}
    assert len(examples) >= 420
    assert 100 <= count["test"] <= 120 and count["validation"] <= 60, count


def test_the_shipped_task_answers_follow_its_own_schema():
    import jsonschema

    task = tasks.load_task("support_triage")
    for example in tasks.load_examples(task).examples:
        jsonschema.validate(json.loads(example.answer), task.schema)


def test_adding_rows_moves_nobody_between_parts():
    groups = [f"g{i}" for i in range(200)]
    groups.append("a lone surrogate \ud800")
    before = {g: tasks.assign_part(g, 7, RATIOS) for g in groups}
    more = groups + [f"new{i}" for i in range(500)]
    random.Random(1).shuffle(more)
    after = {g: tasks.assign_part(g, 7, RATIOS) for g in more}
    assert all(after[g] == part for g, part in before.items())


def test_parts_come_close_to_their_ratios():
    parts = [tasks.assign_part(f"g{i}", 3, RATIOS) for i in range(20_000)]
    for name, share in RATIOS.items():
        assert abs(parts.count(name) / len(parts) - share) < 0.02


def test_ratios_that_do_not_add_up_are_refused():
    with pytest.raises(WorkbookError, match="add up to 1"):
        tasks.assign_part("g", 1, {"train": 0.9, "validation": 0.2, "test": 0.2})


def test_unverified_rows_belong_to_train_whatever_their_group(tmp_path):
    task = tasks.load_task(str(make_task(tmp_path / "t")))
    rows = [
        json.dumps({"prompt": f"question {i}", "completion": "x", "split": "test"})
        for i in range(30)
    ]
    (task.folder / "production.jsonl").write_text("\n".join(rows))
    loaded = tasks.load_examples(task, "production")
    assert len(loaded.examples) == 30
    assert {e.part for e in tasks.with_parts(loaded.examples, 7, RATIOS)} == {"train"}


def test_a_broken_human_row_names_file_line_and_remedy(tmp_path):
    good = json.dumps({"prompt": "a", "completion": "b"})
    task = tasks.load_task(str(make_task(tmp_path / "t", rows=[good, '{"prompt": "x", '])))
    with pytest.raises(WorkbookError, match=r"human.jsonl, line 2: not valid JSON.*mend or delete"):
        tasks.load_examples(task)


def test_every_production_row_ends_as_example_or_unreadable(tmp_path):
    task = tasks.load_task(str(make_task(tmp_path / "t")))
    lines = [
        b'{"prompt": "a", "completion": "b"}',
        b"\xff\xfe broken",
        b"[1, 2]",
        b'{"messages": []}',
        b'{"messages": [{"role": "robot", "content": "x"}]}',
        b'{"prompt": "a", "completion": "b", "created_at": "yesterday"}',
        b"[" * 100_000,
        b'{"prompt": "a\\u0000b", "completion": "c", "feedback_score": "thumbs_up"}',
        b'"' + b"x" * (9 * 2**20) + b'"',
        b'{"prompt": "half \\ud83d", "completion": "c"}',
        b'{"prompt": "whole \\ud83d\\ude00", "completion": "c"}',
    ]
    (task.folder / "production.jsonl").write_bytes(b"\n".join(lines))
    loaded = tasks.load_examples(task, "production")
    assert len(loaded.examples) == 3 and len(loaded.unreadable) == len(lines) - 3
    assert loaded.examples[1].feedback_score == 5
    assert sorted(r.example["line"] for r in loaded.unreadable) == [2, 3, 4, 5, 6, 7, 9, 10]


@pytest.mark.parametrize(
    ("drop", "extra", "message"),
    [
        ("targets", "", "targets are missing"),
        ("", "oops: 1\n", "line 8: oops"),
        ("instructions", "'instructions': {full: A, wordings: 5}\n", "line 7: wordings: Input"),
        ("instructions", "'instructions': {full: A, wordings: Hi}\n", "line 7: wordings: Input"),
        ("instructions", "", "instructions"),
        (
            "instructions",
            "'instructions': {full: }\n",
            "line 7: instructions: `full` has to be a text",
        ),
        (
            "instructions",
            "'instructions': {full: [A, B]}\n",
            "line 7: instructions: `full` has to be",
        ),
        (
            "instructions",
            "'instructions': {full: A, shrot: B}\n",
            "holds full, short, wordings, and",
        ),
        ("", "columns: {created_at: [a, b]}\n", "line 8: columns: created_at: .*valid string"),
        ("", "columns: {output: [a, b]}\n", "line 8: columns: output: .* or .*valid dictionary"),
        ("", "columns: {output: {a: null}}\n", "line 8: columns: output: .*valid string"),
        ("", "columns: {dates: dayfirst}\n", "line 8: columns: dates: .*'day_first'"),
        ("", "columns: {feedback: 5}\n", "line 8: columns: feedback: .*valid list"),
        ("", "scored_fields: [zz]\n", "zz"),
        ("", "targets: {accuracy: 0.9}\n", "line 8: 'targets' is already set on line 7"),
        ("", "schema: {type: object}\n", "line 8: schema: is no line of its own"),
        ("", "folder: elsewhere\n", "line 8: folder: is no line of its own"),
        ("", "1: 2\n", "line 8: 1: Keys should be strings"),
        ("", "margins: {acuracy: 0.1}\n", "line 8: margins.acuracy: Input should be 'accuracy'"),
        ("", "allow: {code: '['}\n", "line 8: allow.code: .* regular expression"),
        ("", "  bad: [unclosed\n", "not valid YAML"),
    ],
)
def test_a_bad_task_yaml_names_file_and_remedy(tmp_path, drop, extra, message):
    with pytest.raises(WorkbookError, match="task.yaml.*" + message.replace("[", r"\[")) as caught:
        tasks.load_task(str(make_task(tmp_path / "t", drop=drop, extra=extra)))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("output", "outcome"),
    [
        ("{schema: {properties: {1: {}, a: {}}}}", ["1", "a"]),  # 1 is a key of YAML
        ("{schema: {properties: 5}}", "line 3: schema: this is no JSON Schema"),
        ("{schema: }", "line 3: output: give"),
        ("{text: true, schema: {}}", "line 3: output: give"),
        ("{text: true, shema: {}}", "line 3: output: holds schema, text, and nothing else"),
    ],
)
def test_an_output_is_a_schema_or_a_text_and_its_fields_are_scored(tmp_path, output, outcome):
    text = f"name: toy\ninstructions: {{full: A}}\noutput: {output}\ntargets: {{accuracy: 0.5}}\n"
    (tmp_path / "task.yaml").write_text(text)
    if isinstance(outcome, list):
        assert tasks.load_task(str(tmp_path)).scored_fields == outcome
        return
    with pytest.raises(WorkbookError, match=outcome):
        tasks.load_task(str(tmp_path))


def test_articles_are_read_in_their_encoding_and_whatever_the_case_of_their_names(tmp_path):
    folder = make_task(tmp_path / "t") / "knowledge"
    folder.mkdir()
    for name, encoding in {"a.md": "cp1252", "b.TXT": "utf-16", "c.md": "utf-8-sig"}.items():
        (folder / name).write_bytes("# Größe\nRückgabe".encode(encoding))
    articles = tasks.knowledge(tasks.load_task(str(tmp_path / "t")))
    assert [article.id for article in articles] == ["a", "b", "c"]
    assert {(article.title, article.text) for article in articles} == {
        ("Größe", "# Größe\nRückgabe")
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_survives_its_usual_spellings(tmp_path, encoding, delimiter):
    task = tasks.load_task(
        str(make_task(tmp_path / "t", extra="columns: {input: question, output: reply}\n"))
    )
    (task.folder / "human.jsonl").unlink()
    text = f'question{delimiter}reply\n"Où est, mon café;\tici?"{delimiter}x\n'
    (task.folder / "human.csv").write_bytes(text.encode(encoding))
    (example,) = tasks.load_examples(task).examples
    assert example.user_text == "Où est, mon café;\tici?" and example.answer == "x"


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (4, 4),
        ("5", 5),
        (True, 5),
        ("down", 1),
        ("thumbs_up", 5),
        (0.5, 3),
        (None, None),
        ("", None),
    ],
)
def test_feedback_of_every_kind_becomes_one_to_five(tmp_path, given, wanted):
    task = tasks.load_task(str(make_task(tmp_path / "t")))
    (task.folder / "production.jsonl").write_text(
        json.dumps({"prompt": "a", "completion": "b", "feedback_score": given})
    )
    assert tasks.load_examples(task, "production").examples[0].feedback_score == wanted


def test_a_conversation_is_one_group_and_a_text_is_its_own():
    assert tasks.group_of("a", "c1") == tasks.group_of("b", "c1")
    assert (
        tasks.group_of("Hello  World")
        == tasks.group_of("hello world")
        != tasks.group_of("hello, world")
    )


def test_render_puts_the_tasks_instructions_in_place_of_the_rows_own():
    task = tasks.load_task("support_triage")
    example = tasks.load_examples(task).examples[0]
    chat = tasks.render(task, example, style="short", answer=True)
    assert [m.role for m in chat] == ["system", "user", "assistant"]
    assert chat[0].content == task.instructions_short and chat[-1].content == example.answer
