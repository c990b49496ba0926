"""What other tools really export: read as it is meant, or named; nothing else in silence."""

import json

import pytest

from helpers import tasks
from helpers.records import WorkbookError
from helpers.tasks.conventions import judge_scale, moment_of, token_of
from helpers.tasks.new import new_task
from helpers.tasks.values import as_typed, spelled

TASK = (
    "name: toy\ninstructions: {full: Answer., short: Answer.}\noutput: {text: true}\n"
    "targets: {accuracy: 0.8}\n"
)
COLUMNS = "columns: {input: text, output: label}\n"
ASKED = [{"role": "user", "content": "q"}]
SAID = {"role": "assistant", "content": "a b"}


@pytest.fixture
def read(tmp_path):
    """A function (file name, its bytes, lines of task.yaml) -> what was loaded."""

    def load(name, content, extra=COLUMNS):
        usual = TASK.replace("output: {text: true}\n", "") if "schema" in extra else TASK
        (tmp_path / "task.yaml").write_text(usual + extra)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return tasks.load_examples(tasks.load_task(str(tmp_path)), name.split(".")[0])

    return load


def pairs(loaded):
    return [(example.user_text, example.answer) for example in loaded.examples]


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


HOLDERS = {  # ways to hold a chat, and an answer
    "list": (ASKED, [SAID]),
    "turn": (ASKED[0], SAID),
    "request": ({"messages": ASKED, "temperature": 1}, {"choices": [{"message": SAID}]}),
}


@pytest.mark.parametrize(
    "spell", [None, json.dumps, lambda value: json.dumps(value, indent=2), repr]
)
@pytest.mark.parametrize("holder", HOLDERS)
def test_a_chat_is_one_however_a_cell_holds_it(read, holder, spell):
    row = dict(zip(("text", "label"), HOLDERS[holder], strict=True))
    if spell:
        row = {name: spell(value) for name, value in row.items()}
    loaded = read("human.jsonl", lines(row))
    assert pairs(loaded) == [("q", "a b")]
    if holder == "request":
        unused = "`temperature` beside a request's messages is not used"
        assert loaded.reading.changes[unused] == 1


TEXTS = [  # of fields that turns, requests and responses have too
    *('[{"name": "f", "n": 1}]', "[ 1, 2 ]", '{"role": "chef"}', "[x", '[{"from": "Rome"}]'),
    '{"subject": "x", "messages": [{"from": "alice@example.com", "body": "hi"}]}',
    '{"messages": [{"role": "customer", "content": "hi"}]}',
    '{"channel": "mail", "messages": [{"role": "user", "content": "hi"}]}',
    '{"role": "user", "content": "hi"}',
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_holds_no_chat_stays_as_it_is_written(read, text):
    loaded = read("human.jsonl", lines({"text": "q", "label": text}))
    assert pairs(loaded) == [("q", text)] and len(loaded.reading.changes) == 1  # created_at


@pytest.mark.parametrize("field", ["role", "messages"])
def test_an_answer_with_fields_of_these_names_stays_an_object(read, field):
    schema = {"type": "object", "properties": {field: {}, "content": {"type": "string"}}}
    answer = {field: "assistant", "content": "hi"}
    if field == "messages":
        answer = {field: [SAID]}
    row = {"text": "q", "label": answer}
    loaded = read("human.jsonl", lines(row), f"{COLUMNS}output: {json.dumps({'schema': schema})}\n")
    assert json.loads(loaded.examples[0].answer) == answer


def test_a_request_keeps_its_system_and_its_tools_and_says_what_of_a_response_is_not_read(read):
    tool = {"type": "function", "function": {"name": "f", "parameters": {}}}
    request = {"messages": ASKED, "system": "Be kind.", "tools": [tool]}
    said = {"choices": [{"message": SAID}, {"message": SAID}]}
    loaded = read("human.jsonl", lines(*[{"text": request, "label": said}, {"text": "p"}]))
    example = loaded.examples[0]
    assert [m.content for m in example.messages] == ["Be kind.", "q", "a b"]
    assert (example.tools, example.messages[1].tools) == ([tool], None)
    assert loaded.reading.changes["`choices.1` beside a request's messages is not used"] == 1


@pytest.mark.parametrize("key", ["systemInstruction", "system_instruction"])
@pytest.mark.parametrize("wrap", [str, lambda text: {"parts": [{"text": text}]}])
def test_the_parts_of_gemini_are_what_they_are(read, key, wrap):
    parts = [{"text": "hm", "thought": True}, {"text": "so", "thought": True}, {"text": "a b"}]
    row = {
        key: wrap("Be kind."),
        "contents": [{"role": "user", "parts": ["q"]}, {"role": "model", "parts": parts}],
    }
    other = {"contents": row["contents"]}
    answer = read("human.jsonl", lines(row, other), "").examples[0].messages
    assert [m.content for m in answer] == ["Be kind.", "q", "a b"]
    assert answer[-1].reasoning == "hm\nso"
    row["contents"][1]["parts"] = [{"functionCall": {"name": "f"}}]
    with pytest.raises(WorkbookError, match="a part of type 'functionCall' cannot be used"):
        read("human.jsonl", lines(row), "")


@pytest.mark.parametrize(
    "row",
    [
        {
            "contents": [
                {"role": "user", "parts": [{"text": "q"}]},
                {"role": "model", "parts": ["a b"]},
            ]
        },
        {"messages": [{"type": "human", "content": "q"}, {"type": "ai", "content": "a b"}]},
    ],
)
def test_turns_of_other_systems_are_turns(read, row):
    assert pairs(read("human.jsonl", lines(row), "")) == [("q", "a b")]


def test_a_message_of_blocks_is_its_text_also_where_answers_are_objects(tmp_path):
    block = [{"type": "text", "text": "a b"}]
    row = {"body": {"messages": ASKED}, "reply": {"role": "assistant", "content": block}}
    (tmp_path / "d.jsonl").write_text(lines(*[row] * 3))
    new_task(tmp_path / "t", tmp_path / "d.jsonl", "body", "reply")
    loaded = tasks.load_examples(tasks.load_task(str(tmp_path / "t")))
    assert pairs(loaded)[0] == ("q", '{"reply":"a b"}')
    image = {**row, "reply": {"role": "assistant", "content": [{"type": "image"}]}}
    (tmp_path / "e.jsonl").write_text(lines(*[image] * 3))
    with pytest.raises(WorkbookError, match="row 1: reply: content: a part of type 'image' cannot"):
        new_task(tmp_path / "u", tmp_path / "e.jsonl", "body", "reply")


def test_new_knows_a_chat_by_the_path_that_is_set(tmp_path):
    (tmp_path / "d.jsonl").write_text(lines(*[{"body": {"messages": [*ASKED, SAID]}}] * 3))
    interview = tasks.Interview({"columns.messages": "body.messages"})
    new_task(tmp_path / "t", tmp_path / "d.jsonl", interview=interview)
    loaded = tasks.load_examples(tasks.load_task(str(tmp_path / "t")))
    assert (pairs(loaded)[0], loaded.reading.format) == (("q", "a b"), "chat")


@pytest.mark.parametrize("first", ["a", " ", "it's", 'say "A" "B"', "a\\", "'", '" "', "\n"])
@pytest.mark.parametrize("gap", [" ", "\n ", ""])
def test_what_numpy_prints_is_no_list_of_other_texts_and_what_python_prints_is_one(first, gap):
    for values in ([first, " ", "b"], [first.encode(), b"b"], {"sep": first}):
        assert spelled(repr(values)) == values
    for one, two in ((first, "b"), (first.encode(), b"b")):
        assert spelled(f"[{one!r}{gap}{two!r}]") is None


def test_names_again_are_known_behind_a_byte_order_mark_and_in_capitals(read):
    for again in ("\ufefftext,label", " Text ,LABEL"):
        with pytest.raises(WorkbookError, match="line 3: names the columns again"):
            read("human.csv", f"text,label\na,b\n{again}\nc,d\n")


def test_names_again_and_hidden_sheets_of_excel(read, tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.active.sheet_state = "hidden"
    sheet = book.create_sheet("rows")
    for row in (["text", "label"], ["a", "b"], ["Text", "label "], ["c", "d"]):
        sheet.append(row)
    book.save(tmp_path / "x.xlsx")
    with pytest.raises(WorkbookError, match="line 3: names the columns again"):
        read("human.xlsx", (tmp_path / "x.xlsx").read_bytes())
    sheet.delete_rows(3)
    book.save(tmp_path / "x.xlsx")
    form = read("human.xlsx", (tmp_path / "x.xlsx").read_bytes()).reading.form
    assert form == "Excel, the first visible sheet, rows, not Sheet"


def test_separators_at_the_end_of_rows_are_no_cells(read):
    assert pairs(read("human.csv", "text,label\na,b,\nc,d,,\n")) == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize(
    "data",
    [
        {"a": {"text": "x"}, "b": {"text": "y"}},
        {"text": ["x", "y"], "label": ["p", "q"]},
        {"meta": {"by": "us"}, "text": ["x", "y"], "label": ["p", "q"]},
    ],
)
def test_json_that_holds_no_list_of_rows_is_named(read, data):
    with pytest.raises(
        WorkbookError, match="column by column, or its rows have names of their own"
    ):
        read("human.json", json.dumps(data))


@pytest.mark.parametrize(
    "row",
    [{"text": "q", "label": "a"}, {"text": ["q"], "label": {"a": "b"}}, {"text": "q", "x": []}],
)
def test_one_row_alone_is_one(read, row):
    assert len(read("human.json", json.dumps(row)).examples) == 1


@pytest.mark.parametrize("depth", [500, 2000])
def test_what_is_nested_too_deeply_is_named_so(read, depth):
    text = '{"text": "q", "label": ' + "[" * depth + "]" * depth + "}"
    with pytest.raises(WorkbookError, match=r"line 1: .*nested too deeply"):
        read("human.jsonl", text)


def test_a_line_of_merged_cells_above_the_names_is_named(read):
    text = "Ticket,,Result,\ntext,id,label,n\n" + "a,1,b,2\n" * 4
    with pytest.raises(WorkbookError, match=r"row 1 holds 2 cells .* looks like a title"):
        read("human.csv", text)


def test_the_classes_of_a_hugging_face_file_have_their_names(read, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    names = {"names": ["red", "blue"], "_type": "ClassLabel"}
    features = {"tags": [{"_type": "Value"}], "odd": None, "who": {"names": {"_type": "Value"}}}
    features |= {"label": names, "all": {"feature": names, "_type": "Sequence"}, "text": {}}
    features["list"] = [names]
    columns = {"text": ["p", "q", "r"], "label": [1, 0, -1], "all": [[0, 1], [], [1]]}
    columns |= {"list": columns["all"], "who": [{"names": "x"}] * 3}
    columns["number"] = [float("inf"), None, 1.0]
    table = pa.table(columns)
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(table.replace_schema_metadata(metadata), tmp_path / "x.parquet")
    content = (tmp_path / "x.parquet").read_bytes()
    loaded = read("human.parquet", content)
    assert pairs(loaded) == [("p", "blue"), ("q", "red"), ("r", "")]
    assert "with the names of the classes of label" in loaded.reading.form
    assert loaded.examples[2].meta["fields"]["number"] == 1.0
    for column in ("all", "list"):
        several = read("human.parquet", content, COLUMNS.replace("label", column))
        assert pairs(several)[0] == ("p", '["red","blue"]')


def test_a_hidden_file_is_none_of_ours(tmp_path):
    (tmp_path / "task.yaml").write_text(TASK)
    for name in (".csv", "human.csv"):
        (tmp_path / name).write_text("")
    assert tasks.load_task(str(tmp_path)).data_file("human").name == "human.csv"


@pytest.mark.parametrize("name", ["production.ndjson", "PRODUCTION.CSV", "production.jsonl.gz"])
def test_a_file_that_nobody_would_read_is_named_and_others_are_none(tmp_path, name):
    for other in ("production.jsonl.bak", "production.sql", "production.md", "human.d"):
        (tmp_path / other).mkdir()
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / name).write_bytes(b"")
    task = tasks.load_task(str(tmp_path))
    assert task.data_file("human") is None
    with pytest.raises(WorkbookError, match=f"{name} is not read; rename it to production.jsonl"):
        tasks.load_examples(task, "production")
    (tmp_path / "production.csv").write_text("")
    assert task.data_file("production").name == "production.csv"


@pytest.mark.parametrize(
    ("ids", "groups"),
    [
        (["3.0", 3, 3.0, " 3.0 "], 1),
        (["0", 0, 0.0, "1"], 2),
        (["1b4e28ba-2fa1-11d2-883f-0016d3cca427", "{1B4E28BA-2FA1-11D2-883F-0016D3CCA427}"], 1),
        (["NULL", "nan", "N/A", "", None, "-"], 6),
        (["A1", "a1", "1.10", "1.1"], 4),
    ],
)
def test_a_conversation_is_one_however_its_id_is_spelled(read, ids, groups):
    rows = [{"text": f"t{i}", "label": "a", "conversation_id": id_} for i, id_ in enumerate(ids)]
    assert len({example.group for example in read("human.jsonl", lines(*rows)).examples}) == groups


@pytest.mark.parametrize("name", ["NA", "None", "-", "nan"])
def test_a_group_may_be_called_as_programs_call_nothing(read, name):
    rows = [{"text": f"t{i}", "label": "a", "region": name} for i in range(3)]
    rows += [{"text": f"u{i}", "label": "a", "region": empty} for i, empty in enumerate(["", None])]
    loaded = read("human.jsonl", lines(*rows), COLUMNS[:-2] + ", group: region}\n")
    assert len({example.group for example in loaded.examples}) == 3


def test_years_that_cannot_be_are_counted(read):
    times = ["2569-11-05", "1900-01-01", "2025-11-05", "2025/11/05 10:30", "NULL"]
    rows = [{"text": f"t{i}", "label": "a", "created_at": at} for i, at in enumerate(times)]
    loaded = read("human.jsonl", lines(*rows))
    assert loaded.reading.changes["created_at lies before 2000 or in the future"] == 2
    assert loaded.reading.changes["no created_at: the file's date stands for it"] == 1
    assert loaded.examples[3].created_at == moment_of("2025-11-05T10:30:00+00:00")


def test_times_of_other_objects_say_nothing_of_the_rows(read):
    rows = [{"text": f"t{i}", "label": "a", "created_at": "2025-11-05"} for i in range(3)]
    for row, at in zip(rows, ("05/11/2025", "11/05/2025", "13/05/2025"), strict=True):
        row["meta"] = {"created_at": at}
    loaded = read("human.jsonl", lines(*rows))
    assert {example.created_at.month for example in loaded.examples} == {11}
    rows[0]["created_at"] = "06/11/2025"
    with pytest.raises(WorkbookError, match="can be read in two ways: day first"):
        read("human.jsonl", lines(*rows))


@pytest.mark.parametrize("text", ["10/Nov/2026:12:23:50 +0100", "[10/Nov/2026:12:23:50 +0100]"])
def test_the_time_of_a_servers_log_is_one(text):
    assert moment_of(text).isoformat() == "2026-11-10T12:23:50+01:00"


OFFSETS = ("+02:00", " +02:00", "+0200", " +0200", "-05:00", " -0500", "Z", " UTC", " GMT", "")


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("day", ["2025-11-05T", "2025/11/05 ", "05.11.2025 ", "20251105"])
def test_every_spelling_of_a_time_with_an_offset_is_one_instant(day, offset):
    hours = int(offset.strip()[:3]) if "0" in offset else 0
    wanted = f"2025-11-05T{10 - hours:02d}:30:00+00:00"
    clock = "103000" if day[-1] == "5" else "10:30:00"
    for text in (f"{day}{clock}{offset}", f" {day}{clock}{offset} "):
        assert moment_of(text) == moment_of(wanted)


@pytest.mark.parametrize("line", ["targets: {accuracy: .nan}", "margins: {latency_p95: -1}"])
def test_targets_and_margins_are_numbers_that_can_be_kept(tmp_path, line):
    key = line.split(":")[0]
    text = "\n".join(each for each in TASK.splitlines() if not each.startswith(key))
    (tmp_path / "task.yaml").write_text(f"{text}\n{line}\n")
    with pytest.raises(WorkbookError, match=rf"line \d: {key}\."):
        tasks.load_task(str(tmp_path))


def test_a_time_without_any_sign_between_its_numbers_is_no_epoch():
    for text in ("20261106101500", 20261106101500.0, "20261106101500.0", 202611061015):
        assert moment_of(text).isoformat() == "2026-11-06T10:15:00+00:00"
    assert moment_of("202611061015Z") == moment_of("202611061215+02:00") == moment_of(202611061015)


def scale_of(values, setting=None):
    return judge_scale({token_of(v): 10 * values.count(v) for v in values}, setting, "c", "f")


def test_a_scale_may_be_best_at_its_lower_end():
    assert [scale_of([1, 6], [6, 1]).score(n) for n in (1, 6)] == [5, 1]
    for setting in ([1, 1], [1], [1, 2, 3], "good", 5):
        with pytest.raises(WorkbookError, match=r"columns\.feedback"):
            scale_of([1, 6], setting)
    with pytest.raises(WorkbookError, match=r"columns\.feedback is .*, not happy: 10"):
        scale_of([1, 6], {"sad": 1, "happy": 10})


@pytest.mark.parametrize("value", ["4★", "★★★½", "★ 4.5"])
def test_stars_beside_something_else_are_not_counted(value):
    assert scale_of([value, "★★★"]).unknown == 10


def test_a_scale_that_nobody_used_to_its_end_is_asked_for():
    with pytest.raises(WorkbookError, match=r"\[1, 4\].*\[1, 5\]"):
        scale_of([1, 2, 3, 4])
    for values in ([1, 2, 3.5, 4.5], [1] * 10 + [2] * 10 + [4]):  # nor is the highest its end
        assert scale_of(values).name == "stars"


def test_a_scale_of_a_path_is_judged_by_that_path_alone(read):
    rows = [
        {"text": f"t{i}", "user": {"score": 1 + i % 5}, "doc": {"score": 87.5}} for i in range(9)
    ]
    loaded = read(
        "production.jsonl", lines(*rows), COLUMNS[:-2] + ", feedback_score: user.score}\n"
    )
    assert [example.feedback_score for example in loaded.examples][:5] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("key", ["feedback_score", "verdict"])
def test_what_other_objects_hold_says_nothing_of_a_column(read, key):
    rows = [
        {"text": f"t{i}", "label": "a", key: 1 + i % 5, "of": {key: ("good", "bad", 86)[i % 3]}}
        for i in range(30)
    ]
    loaded = read("production.jsonl", lines(*rows))
    if key == "feedback_score":
        assert [example.feedback_score for example in loaded.examples][:5] == [1, 2, 3, 4, 5]
        uses = {column.use: column.how for column in loaded.reading.columns}
        assert uses[key].endswith("30 of 30 rated")


@pytest.mark.parametrize(
    ("text", "values", "value"),
    [("True", [True, False], True), ("2", [1, 2], 2), ("2", ["1", "2"], "2"), ("x", [1, 2], "x")],
)
def test_a_cell_is_a_value_of_an_enumeration_as_task_yaml_has_it(text, values, value):
    assert as_typed(text, {"enum": values}) == value


def test_what_an_annotator_passed_over_is_asked_about_and_not_learnt(read, tmp_path):
    rows = [
        {"text": f"t{i}", "label": "a", "answer": ["accept", "ignore"][i % 2]} for i in range(4)
    ]
    with pytest.raises(WorkbookError, match=r"columns: \{label: answer\}"):
        read("human.jsonl", lines(*rows))
    loaded = read("human.jsonl", lines(*rows), COLUMNS[:-2] + ", label: answer}\n")
    assert [example.preference.label for example in loaded.examples] == [True, False] * 2
    rows = [{"text": f"t{i}", "accept": ["a"], "answer": "accept"} for i in range(4)]
    (tmp_path / "p.jsonl").write_text(lines(*rows))
    with pytest.raises(WorkbookError, match="say which columns"):
        new_task(tmp_path / "t", tmp_path / "p.jsonl")


def test_tools_without_a_schema_are_named(read):
    tool = {"name": "f", "parameters": {"n": {"type": "str"}}}
    with pytest.raises(WorkbookError, match=r"tool 1: its `parameters` name n and are no JSON"):
        read("human.jsonl", lines({"messages": [*ASKED, SAID], "tools": [tool]}), "")


@pytest.mark.parametrize(
    "schema", [{}, {"description": "none"}, {"title": "f"}, {"required": []}, {"type": "object"}]
)
def test_a_tool_of_no_parameters_is_one(read, schema):
    tool = {"name": "f", "parameters": schema}
    row = {"messages": [*ASKED, SAID], "tools": [tool]}
    assert len(read("human.jsonl", lines(row), "").examples) == 1


def test_new_takes_names_with_commas_and_says_what_is_odd_about_labels(tmp_path):
    said, team = "What happened, in short?", "Team, if known"
    rows = [f'"{said}","{team}"', "Open-Ended Response,Response"]
    rows += [f"text {i},{'ab'[i % 2]}" for i in range(20)]
    (tmp_path / "d.csv").write_text("\n".join(rows))
    told = "\n".join(new_task(tmp_path / "t", tmp_path / "d.csv", said, team))
    assert tasks.load_task(str(tmp_path / "t")).columns["input"] == said
    assert "in one row alone stand 1 of 3 labels: 'Response'" in told
    (tmp_path / "e.csv").write_text("text,label\n" + "".join(f"t{i},x\n" for i in range(9)))
    told = "\n".join(new_task(tmp_path / "u", tmp_path / "e.csv"))
    assert "label: all rows have one label" in told
