"""`workbook new` writes a folder that loads at once."""

import json

import pytest

from helpers import tasks
from helpers.records import WorkbookError
from helpers.tasks.infer import infer_output
from helpers.tasks.new import new_task


def test_a_folder_made_from_a_csv_loads_and_has_the_labels_as_enumeration(tmp_path):
    rows = ["text;label"] + [
        f'"message, number {i}";{{"kind": "{"ab"[i % 2]}"}}' for i in range(20)
    ]
    (tmp_path / "d.csv").write_text(
        "\n".join(rows).replace('{"kind": "', '"{""kind"": ""').replace('"}', '""}"')
    )
    said = new_task(tmp_path / "My Task", tmp_path / "d.csv", "text", "label")
    task = tasks.load_task(str(tmp_path / "My Task"))
    assert task.name == "my_task" and task.schema["properties"]["kind"] == {"enum": ["a", "b"]}
    assert len(tasks.load_examples(task).examples) == 20 and rendered(said) == 5


def rendered(lines):
    return sum("  user: " in line for line in lines)


def test_an_empty_folder_loads_and_is_never_overwritten(tmp_path):
    new_task(tmp_path / "t")
    assert len(tasks.load_examples(tasks.load_task(str(tmp_path / "t"))).examples) == 1
    with pytest.raises(WorkbookError, match="exists already"):
        new_task(tmp_path / "t")


def test_outputs_that_are_not_all_objects_are_a_text_task():
    assert infer_output([{"a": 1}, "plain"]) == {"text": True}


def test_optional_keys_are_not_required_and_mixed_types_are_listed():
    schema = infer_output([{"a": 1, "b": "x"}, {"a": None}])["schema"]
    assert schema["required"] == ["a"] and schema["properties"]["a"] == {
        "type": ["integer", "null"]
    }


def test_a_missing_column_names_the_ones_that_are_there(tmp_path):
    (tmp_path / "d.jsonl").write_text(json.dumps({"q": "x", "r": "y"}) + "\n")
    with pytest.raises(WorkbookError, match="no column 'text'; it has q, r"):
        new_task(tmp_path / "t", tmp_path / "d.jsonl", "text", "r")


PLAIN = "".join(f'"Größe {i}; zurück";{"abc"[i % 3]};\n;;\n' for i in range(12))
NESTED = "".join(
    f'"first line\nand {i}"\t"{{""kind"": ""{"xy"[i % 2]}"", ""n"": {i}}}"\n' for i in range(9)
)
PROSE = "".join(f'r{i},"hello, number {i}",we answer {i} in words\n' for i in range(8))
UGLY = {
    # Windows-1252, semicolons, plain labels, rows of empty cells, spaces around the header's names
    "semicolons": (" Text ; Label ;note\n" + PLAIN).encode("cp1252"),
    # a byte order mark, tabs, JSON answers, line breaks inside cells
    "tabs": ("\ufeffquestion\tanswer\n" + NESTED).encode(),
    # commas, free text answers, a comma in quotes, an empty answer
    "text": ("id,message,reply\n" + PROSE + "r9,hi,\n").encode(),
}


@pytest.mark.parametrize(
    ("name", "keys"), [("semicolons", ["label"]), ("tabs", ["kind", "n"]), ("text", None)]
)
def test_three_ugly_csvs_become_tasks_with_mapped_columns_and_five_rendered_rows(
    tmp_path, name, keys
):
    (tmp_path / "d.csv").write_bytes(UGLY[name])
    said = new_task(tmp_path / "t", tmp_path / "d.csv", logs=tmp_path / "d.csv")
    task = tasks.load_task(str(tmp_path / "t"))
    assert (list(task.schema["properties"]) if task.schema else None) == keys and rendered(
        said
    ) == 5
    rows = tasks.load_examples(task).examples
    assert (
        len(rows) == {"semicolons": 12, "tabs": 9, "text": 9}[name]
        and tasks.load_examples(task, "production").examples
    )
    if name == "semicolons":
        assert task.schema["properties"]["label"] == {"enum": ["a", "b", "c"]}
        assert rows[0].user_text == "Größe 0; zurück" and json.loads(rows[0].answer) == {
            "label": "a"
        }


def test_several_output_columns_become_one_object(tmp_path):
    rows = "".join(f"m{i},{'ab'[i % 2]},{['hi', 'lo'][i % 2]}\n" for i in range(8))
    (tmp_path / "d.csv").write_text("text,kind,urgency\n" + rows)
    new_task(tmp_path / "t", tmp_path / "d.csv", "text", "kind,urgency")
    task = tasks.load_task(str(tmp_path / "t"))
    assert task.scored_fields == ["kind", "urgency"]
    assert json.loads(tasks.load_examples(task).examples[1].answer) == {
        "kind": "b",
        "urgency": "lo",
    }


def test_columns_of_numbers_and_truths_are_typed_and_the_prompt_names_what_each_may_be(tmp_path):
    lines = ["text,queue,urgent,minutes,code"]
    for n in range(30):
        queue = ("billing", '"other, rest"', "login")[n % 3]
        lines.append(f"word {n},{queue},{'TRUE' if n % 2 else 'false'},{n * 1.5},{n:03}")
    source = tmp_path / "t.csv"
    source.write_text("\n".join(lines))
    new_task(tmp_path / "made", source, "text", "queue,urgent,minutes,code")
    task = tasks.load_task(str(tmp_path / "made"))
    fields = task.schema["properties"]
    assert [fields[name].get("type") for name in ("urgent", "minutes", "code")] == [
        "boolean",
        "number",
        "string",
    ]
    assert 'queue is one of "billing", "login", "other, rest".' in task.instructions_full
    assert "urgent is true or false." in task.instructions_full
    assert "billing" not in task.instructions_short
    answers = {json.loads(e.answer)["minutes"] for e in tasks.load_examples(task).examples}
    assert 1.5 in answers


def test_what_the_first_rows_do_not_show_is_said(tmp_path):
    lines = ["comment,answer,Bewertung,split,messages"]
    for n in range(40):
        answer = "" if n % 4 == 0 else f"we said {n} to it"
        lines.append(f"word {n},{answer},{n % 5 + 1},{'test' if n % 2 else 'train'},{n}")
    (tmp_path / "d.csv").write_text("\n".join(lines))
    said = new_task(tmp_path / "t", tmp_path / "d.csv", "comment", "answer")
    assert "10 of 40 rows have no answer: nothing can be learnt from them" in said
    assert "40 of 40 rows stand in the part that `split` says: 20 train, 20 test" in said
    assert "not used: Bewertung, messages" in said and "  assistant: \n" not in "\n".join(said)
    assert next(line for line in said if "looks like ratings" in line).startswith("`Bewertung`")
    assert rendered(said) == 5 and any("`exact`" in line for line in said)
    loaded = tasks.load_examples(tasks.load_task(str(tmp_path / "t")))
    assert ("messages", "not used") in [(c.name, c.use) for c in loaded.reading.columns]
    assert loaded.examples[7].meta["fields"]["messages"] == "7"


def test_the_measure_of_numbers_and_bad_answers_are_said(tmp_path):
    numbers = "".join(f'word {n},"{n + 10},{n + 100}"\n' for n in range(40))
    (tmp_path / "n.csv").write_text("text,income\n" + numbers)
    said = new_task(tmp_path / "n", tmp_path / "n.csv", output_column="income")
    assert any("To decide" in line and "10,100" in line for line in said)
    (tmp_path / "n.csv").write_text("text,income\n" + numbers.replace(",1", "1"))
    said = new_task(tmp_path / "m", tmp_path / "n.csv", output_column="income")
    assert any("scorer: numeric" in line and "83,648 is 83648" in line for line in said)
    rows = [{"prompt": f"p{n}", "completion": f"c{n}", "label": n % 2 == 0} for n in range(8)]
    (tmp_path / "k.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = new_task(tmp_path / "k", tmp_path / "k.jsonl")
    assert "4 of 8 rows are label: false, not learnt" in said


ODD = {  # a row's number -> a row
    "b.jsonl": lambda n: {"chosen": chat(n, "good"), "rejected": chat(n, "bad")},
    "dolly.jsonl": lambda n: {"instruction": f"i {n}", "context": "c", "response": "r"},
    "python.jsonl": lambda n: {"text": f"t {n}", "label": str({"ok": True, "x": None})},
    "lists.jsonl": lambda n: {"text": f"t {n}", "label": str(["a", "b"][: 1 + n % 2])},
    "mixed.jsonl": lambda n: {"text": f"t {n}", "label": (1, "one", 2.5)[n % 3]},
}


def chat(n, answer):
    return [{"role": "user", "content": f"q {n}"}, {"role": "assistant", "content": answer}]


@pytest.mark.parametrize(
    ("name", "question", "answer"),
    [
        ("b.jsonl", "q 3", "good"),
        ("dolly.jsonl", "i 3\n\nc", "r"),
        ("python.jsonl", "t 3", {"ok": True, "x": None}),
        ("lists.jsonl", "t 3", {"label": ["a", "b"]}),
        ("mixed.jsonl", "t 3", {"label": 1}),
    ],
)
def test_answers_of_odd_forms_are_what_they_mean(tmp_path, name, question, answer):
    rows = [ODD[name](n) for n in range(12)]
    (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
    new_task(tmp_path / "t", tmp_path / name)
    task = tasks.load_task(str(tmp_path / "t"))
    row = tasks.load_examples(task).examples[3]
    gold = json.loads(row.answer) if task.schema else row.answer
    assert (row.user_text, gold) == (question, answer)


def test_an_input_that_is_the_same_in_all_rows_is_said(tmp_path):
    rows = [{"prompt": "Be polite.", "ticket": f"t {n}", "completion": f"c {n}"} for n in range(9)]
    (tmp_path / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = new_task(tmp_path / "t", tmp_path / "d.jsonl")
    assert any(line.startswith("8 of 9 rows ask what another row asks") for line in said)


@pytest.mark.parametrize(
    ("name", "text", "columns", "problem"),
    [
        ("d.csv", "text,kind\na,x\n,y\n", ("text", "kind"), "line 3: neither .* filled input"),
        ("d.csv", "text,kind\na,x\n", ("text", "text"), "cannot be the same one"),
        ("d.jsonl", '{"messages": "hello"}\n', ("", ""), "messages is no list of turns"),
        ("d.jsonl", '{"messages": []}\n', ("", ""), "`messages` is no list of turns"),
        ("d.csv", "text,label\na,\nb,\n", ("", ""), "none of the 2 rows has an answer"),
        ("d.json", '{"text": {"0": "a"}, "label": {"0": "b"}}', ("", ""), "column by column"),
        ("d.json", '{"train": [{"a": 1}], "test": [{"a": 1}]}', ("", ""), "several lists of rows"),
    ],
)
def test_what_cannot_become_a_task_says_why(tmp_path, name, text, columns, problem):
    (tmp_path / name).write_text(text)
    with pytest.raises(WorkbookError, match=problem):
        new_task(tmp_path / "t", tmp_path / name, *columns)
