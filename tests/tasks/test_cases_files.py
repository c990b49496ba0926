"""Files as people bring them: read right, or refused with file, line and remedy."""

import datetime as dt
import json

import pytest

from helpers import tasks
from helpers.records import WorkbookError
from helpers.tasks.new import new_task

TASK = (
    "name: toy\ninstructions: {full: Answer., short: Answer.}\noutput: {text: true}\n"
    "targets: {accuracy: 0.8}\n"
)


@pytest.fixture
def read(tmp_path):
    """A function (file name, its bytes, lines of task.yaml) -> what was loaded."""

    def load(name, content, extra="columns: {input: text, output: label}\n", source="human"):
        folder = tmp_path / "toy"
        folder.mkdir(exist_ok=True)
        (folder / "task.yaml").write_text(TASK + extra)
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return tasks.load_examples(tasks.load_task(str(folder)), source, path=path)

    return load


def pairs(loaded):
    return [(example.user_text, example.answer) for example in loaded.examples]


def csv_of(n, text="row {i}", label="abc"):
    rows = [f"{text.format(i=i)},{label[i % len(label)]}" for i in range(n)]
    return "text,label\n" + "\n".join(rows) + "\n"


# --- CSV ------------------------------------------------------------------------------------------


def test_an_unclosed_quote_costs_its_own_line_alone(read):
    text = csv_of(60).replace("row 30,", '"row 30,')
    with pytest.raises(WorkbookError, match="line 32: a quote is opened and never closed"):
        read("human.csv", text)
    loaded = read("production.csv", text, source="production")
    assert len(loaded.examples) == 59 and [r.example["line"] for r in loaded.unreadable] == [32]


def test_two_stray_quotes_merge_no_rows(read):
    text = csv_of(60).replace("row 30,", '"row 30,').replace("row 38,a", 'row 38",a')
    text = text.replace("row 38,c", 'row 38",c').replace("row 38,b", 'row 38",b')
    loaded = read("production.csv", text, source="production")
    lines = [row.example["line"] for row in loaded.unreadable]
    assert lines[0] == 32 and len(loaded.examples) + len(lines) == 60
    assert all("\n" not in example.user_text for example in loaded.examples)


def test_line_breaks_inside_of_quotes_are_text(read):
    rows = "".join(f'"Hello,\nnumber {i}\nBye, all",{"xy"[i % 2]}\n' for i in range(9))
    loaded = read("human.csv", "text,label\n" + rows)
    assert len(loaded.examples) == 9
    assert loaded.examples[3].user_text == "Hello,\nnumber 3\nBye, all"


def test_backslashes_escape_and_quotes_inside_are_text_where_that_is_the_habit(read):
    text = "text,label\n" + "".join(f'"a \\"{i}, b\\" c",x\n' for i in range(9))
    assert pairs(read("human.csv", text))[4] == ('a "4, b" c', "x")
    text = csv_of(9, '"Ultra" cream {i}')
    assert pairs(read("human.csv", text))[4] == ('"Ultra" cream 4', "b")


def test_excels_first_line_names_the_separator(read):
    text = "sep=;\ntext;label\nfirst, with a comma;a\n"
    loaded = read("human.csv", text)
    assert pairs(loaded) == [("first, with a comma", "a")]
    assert loaded.examples[0].meta["line"] == 3


def test_a_column_that_is_named_twice_and_a_ragged_row_are_named(read):
    with pytest.raises(WorkbookError, match="columns 2 and 3 are both called 'label'"):
        read("human.csv", "text,label,label\na,b,c\n")
    with pytest.raises(WorkbookError, match="line 3: has fewer cells"):
        read("human.csv", "text,label\na,b\nc\n")


@pytest.mark.parametrize(
    ("above", "separator"),
    [("Export,,\n", ","), ("Export\n\n", ","), ("Export\n", ";"), ("Export of May;;\n", ";")],
)
def test_a_title_above_the_names_is_named(read, above, separator):
    text = "text,label,n\na,b,1\nc,d,2\n".replace(",", separator)
    with pytest.raises(WorkbookError, match=r"row 1 holds 1 cells \('Export.* looks like a title"):
        read("human.csv", above + text)
    assert len(read("human.csv", text).examples) == 2


def test_names_that_come_again_are_no_row(read):
    text = csv_of(9)
    for again in (text, text.replace("text,label", "label,text")):
        with pytest.raises(WorkbookError, match="line 11: names the columns again"):
            read("human.csv", text + again)


def test_what_programs_write_into_empty_cells_is_counted_as_an_answer(read):
    read_as = read("human.csv", csv_of(20, label=["a", "nan", "#N/A", "N/A"])).reading.changes
    assert read_as["the answer 'nan', as programs write into empty cells"] == 5
    assert read_as["the answer '#N/A', as programs write into empty cells"] == 5


def test_lines_of_totals_and_broken_letters_are_counted(read):
    rows = csv_of(3) + "Gesamt:,a\nGrÃ¶ÃŸe,b\n"
    changes = read("human.csv", rows).reading.changes
    assert [n for name, n in changes.items() if "total" in name or "encoding" in name] == [1, 1]


@pytest.mark.parametrize("name", ["human.jsonl", "human.json"])
def test_a_key_that_stands_twice_in_a_row_is_named(read, name):
    text = '{"text": "a", "label": "x"}\n{"text": "b", "label": "x", "label": "y"}\n'
    if name.endswith("json"):
        text = "[" + text.strip().replace("\n", ",\n") + "]"
    with pytest.raises(WorkbookError, match="line 2: the key 'label' stands twice"):
        read(name, text)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_an_encoding_is_recognised_or_asked_for(read, encoding):
    text = csv_of(12, "Größe {i} für Übung", ["Rückgabe"])
    assert pairs(read("human.csv", text.encode(encoding)))[5] == ("Größe 5 für Übung", "Rückgabe")


def test_one_broken_byte_is_named_and_another_alphabet_is_asked_for(read):
    broken = csv_of(40, "Größe {i}").encode().replace("Größe 7".encode(), b"Gr\xf6\xdfe 7")
    with pytest.raises(WorkbookError, match="line 9: cell 1, character 3: the byte 0xF6"):
        read("human.csv", broken)
    russian = csv_of(40, "Где мой заказ {i}").encode("cp1251")
    with pytest.raises(WorkbookError, match=r"(?s)may be cp1251 .*`encoding: cp1251`"):
        read("human.csv", russian)
    said = "encoding: cp1251\ncolumns: {input: text, output: label}\n"
    assert pairs(read("human.csv", russian, said))[3][0] == "Где мой заказ 3"


# --- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["human.json", "human.jsonl"])
def test_an_array_of_rows_is_read_with_its_line_numbers(read, name):
    rows = [{"text": f"row {i}", "label": "a"} for i in range(3)]
    loaded = read(name, json.dumps(rows, indent=1))
    assert [example.meta["line"] for example in loaded.examples] == [2, 6, 10]


def test_the_one_list_inside_of_a_json_object_holds_the_rows(read):
    data = {"version": 1, "data": [{"text": f"row {i}", "label": "a"} for i in range(3)]}
    loaded = read("human.json", json.dumps(data, indent=1))
    assert [example.meta["line"] for example in loaded.examples] == [4, 8, 12]


def test_the_list_of_rows_is_found_under_any_key_and_behind_any_text(read):
    rows = [{"text": f"row {i}", "label": "a"} for i in range(3)]
    for text in (
        json.dumps({"данные": rows}),
        json.dumps({"note": "see [1], data", "ids": [1], "data": rows}),
    ):
        assert pairs(read("human.json", text))[2] == ("row 2", "a")


def test_a_line_separator_inside_of_a_text_is_no_new_line(read):
    row = json.dumps({"text": "one\u2028two", "label": "a"}, ensure_ascii=False)
    assert pairs(read("human.jsonl", row + "\n")) == [("one\u2028two", "a")]


FORMS = {
    "alpaca": ({"instruction": "Sort", "input": "b a", "output": "a b"}, "Sort\n\nb a"),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a b"}]},
        "q",
    ),
    "prompt_completion": ({"prompt": "q", "completion": "a b"}, "q"),
    "preference": (
        {
            "prompt": "q",
            "chosen": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a b"}],
            "rejected": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "z"}],
        },
        "q",
    ),
    "kto": ({"prompt": "q", "completion": "a b", "label": True}, "q"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_known_by_what_rows_hold(read, form):
    row, question = FORMS[form]
    loaded = read("human.jsonl", json.dumps(row), "")
    (example,) = loaded.examples
    assert loaded.reading.format == form
    assert (example.user_text, example.answer) == (question, "a b")
    if form == "preference":
        assert example.preference.rejected[0].content == "z"
    if form == "kto":
        assert example.preference.label is True


@pytest.mark.parametrize(
    ("history", "n"),
    [
        ([["p", "r"]], 4),
        ('[["p", "r"]]', 4),
        ([{"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}], 4),
        (None, 2),
        ("nan", 2),
        ([{"user": "p", "bot": "r"}], 0),
        ("of the town", 0),
    ],
)
def test_the_history_of_an_alpaca_row_is_read_or_named(read, history, n):
    row = json.dumps({"instruction": "q", "output": "a", "history": history})
    loaded = read("production.jsonl", row, "", "production")
    assert [len(example.messages) for example in loaded.examples] == [n] * (n > 0)
    assert all("`history` is neither" in str(row.issues) for row in loaded.unreadable)


def test_a_mapping_goes_before_every_form(read):
    row = {"prompt": "q", "completion": "of the model", "corrected": "of a person"}
    said = "columns: {input: prompt, output: corrected}\n"
    loaded = read("human.jsonl", json.dumps(row), said)
    assert pairs(loaded) == [("q", "of a person")]
    assert ("completion", "not used") in [(c.name, c.use) for c in loaded.reading.columns]


def test_a_column_of_verdicts_is_asked_for(read):
    text = "prompt,completion,verdict\n" + "".join(
        f"q{i},a{i},{['good', 'bad'][i % 2]}\n" for i in range(8)
    )
    with pytest.raises(WorkbookError, match=r"columns: \{label: verdict\}.*\{label: null\}"):
        read("human.csv", text, "")
    loaded = read("human.csv", text, "columns: {label: verdict}\n")
    assert [e.preference.label for e in loaded.examples[:2]] == [True, False]


def test_a_verdict_that_turns_bad_late_is_asked_for_beside_labels_too(read):
    rows = [{"text": f"t{i}", "label": "a", "answer": "accept"} for i in range(250)]
    rows += [{"text": "t", "label": "a", "answer": "reject"}, {"text": "u", "answer": "ignore"}]
    text = "\n".join(map(json.dumps, rows))
    with pytest.raises(WorkbookError, match=r"columns: \{label: answer\}"):
        read("human.jsonl", text)
    assert len(read("human.jsonl", "\n".join(text.split("\n")[:250])).examples) == 250


ASKED = [{"role": "user", "content": "q"}]
SAID = {"role": "assistant", "content": "a b"}


@pytest.mark.parametrize(
    ("row", "extra", "system"),
    [
        ({"input": {"messages": ASKED, "model": "m"}, "output": SAID}, "", None),
        ({"system": [{"type": "text", "text": "s"}], "messages": [*ASKED, SAID]}, "", "s"),
        ({"system": "s", "conversations": [*ASKED, SAID]}, "", "s"),
        (
            {"a": {"b": ["q"]}, "c": [{"d": "a b"}]},
            "columns: {input: a.b.0, output: c.0.d}\n",
            None,
        ),
    ],
)
def test_what_logs_of_requests_hold_is_a_chat(read, row, extra, system):
    other = json.dumps(row).replace('"s"', '"other"')  # so that the systems differ
    loaded = read("human.jsonl", json.dumps(row) + "\n" + other, extra)
    example = loaded.examples[0]
    assert (example.user_text, example.answer) == ("q", "a b")
    first = example.messages[0]
    assert (first.content if first.role == "system" else None) == system
    if "input" in row:
        assert loaded.reading.changes["`model` beside a request's messages is not used"] == 2


def test_an_object_of_paths_is_read_by_them(read):
    row = {"text": "q", "answer": {"label": "x", "score": 0}}
    said = "columns: {input: text, output: {kind: answer.label, score: answer.score}}\n"
    assert pairs(read("human.jsonl", json.dumps(row), said)) == [("q", '{"kind":"x","score":0}')]


def test_empty_cells_and_braces_of_a_composed_input_are_what_they_are(read):
    said = 'columns: {input: [a, b], template: "{a}: {b} {c}", output: label}\n'
    rows = [{"a": "{b}", "b": None, "label": "x"}, {"a": 0, "b": "t", "label": "x"}]
    loaded = read("human.jsonl", "\n".join(map(json.dumps, rows)), said)
    assert [text for text, _ in pairs(loaded)] == ["{b}:  {c}", "0: t {c}"]
    empty = json.dumps({"a": None, "b": "", "label": "x"})
    with pytest.raises(WorkbookError, match=r"line 1: neither .* filled input"):
        read("human.jsonl", empty, said)


def test_a_template_is_filled_from_one_column_too_and_a_number_may_be_a_name(read):
    said = 'columns: {input: text, template: "Sort: {text}", output: 5, id: 6}\n'
    loaded = read("human.csv", "text,5,6\nq,a,i1\n", said)
    assert pairs(loaded) == [("Sort: q", "a")] and loaded.examples[0].id == "i1"


def test_a_column_of_the_input_that_no_row_has_is_said(read):
    loaded = read(
        "human.csv", "text,label\nq,a\n", "columns: {input: [text, nope], output: label}\n"
    )
    assert loaded.reading.changes["columns.input: `nope` is in none of the first rows"] == 1


@pytest.mark.parametrize("encoding", ["hex", "rot13", "undefined", "idna", "latin-77"])
def test_an_encoding_that_reads_no_text_is_named(read, encoding):
    with pytest.raises(WorkbookError, match=f"task.yaml: encoding '{encoding}' is not known"):
        read("human.csv", csv_of(3), f"encoding: {encoding}\n")


@pytest.mark.parametrize(
    ("answers", "option"),
    [(["1,234", "7"], r'"\."'), (["so 1,5", "1.234"], '","'), (["1,5", "2,75"], '","')],
)
def test_how_numbers_are_written_is_asked_where_they_are_scored(read, answers, option):
    rows = [{"messages": [*ASKED, {"role": "assistant", "content": text}]} for text in answers]
    text = "\n".join(map(json.dumps, rows))
    scored = "accuracy_from: scorer\nscorer: numeric\n"
    with pytest.raises(WorkbookError, match=rf"`columns: \{{decimal: {option}\}}`"):
        read("human.jsonl", text, scored)
    assert read("human.jsonl", text, scored + 'columns: {decimal: ","}\n').examples
    english = text.replace("7", "3.25").replace("1,5", "1.5").replace("2,75", "05.11.2025")
    read("human.jsonl", english, scored)


def test_what_a_chat_row_holds_stays(read):
    chat = [
        {"role": "user", "content": [{"type": "text", "text": "q", "cache_control": {"a": 1}}]},
        {"role": "assistant", "content": "a wrong one", "weight": 0},
        {"role": "user", "content": [{"type": "input_text", "text": "again"}]},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nright", "weight": 1},
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    row = {"messages": chat, "tools": [tool], "priority": 3, "conversation_id": 0}
    loaded = read("human.jsonl", json.dumps(row), "")
    (example,) = loaded.examples
    assert [m.weight for m in example.messages] == [None, 0, None, 1]
    assert (example.answer, example.messages[-1].reasoning) == ("right", "hm")
    assert example.tools == [tool] and example.meta["fields"] == {"priority": 3}
    assert example.group == "conversation:0" and example.user_text == "q\nagain"
    assert "`cache_control` of a content part is not used" in loaded.reading.changes


def test_an_image_is_refused_by_name(read):
    chat = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    with pytest.raises(WorkbookError, match=r"line 1: messages\.0: content: a part .*'image_url'"):
        read("human.jsonl", json.dumps({"messages": chat}), "")


@pytest.mark.parametrize("spell", [json.dumps, repr])
def test_a_cell_may_spell_a_chat(read, spell):
    chat = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "it's a"}]
    cell = spell(chat).replace('"', '""')
    assert pairs(read("human.csv", f'id,messages\n1,"{cell}"\n', "")) == [("q", "it's a")]


def test_a_system_message_that_differs_is_part_of_the_question(read):
    def row(plan, text):
        turns = [("system", plan), ("user", text), ("assistant", "a")]
        return json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]})

    varied = read("human.jsonl", row("gold", "q") + "\n" + row("basic", "q"), "")
    assert len({example.id for example in varied.examples}) == 2
    task = tasks.load_task("support_triage")
    systems = {tasks.render(task, example)[0].content for example in varied.examples}
    assert {system.removeprefix(task.instructions_full).strip() for system in systems} == {
        "gold",
        "basic",
    }
    same = read("human.jsonl", row("be kind", "q1") + "\n" + row("be kind", "q2"), "")
    assert [m.role for m in same.examples[0].messages] == ["user", "assistant"]
    change = "one system message in all rows: task.yaml's instructions replace it"
    assert same.reading.changes[change] == 2


def test_structures_are_json_and_never_pythons_spelling(read):
    row = {"text": {"subject": "a", "vip": False}, "label": {"queue": "x", "reply": None}}
    assert pairs(read("human.jsonl", json.dumps(row))) == [
        ('{"subject":"a","vip":false}', '{"queue":"x","reply":null}')
    ]


# --- tables ---------------------------------------------------------------------------------------


def test_a_parquet_files_days_decimals_and_integers_with_gaps(read, tmp_path):
    import decimal

    import pandas as pd

    frame = pd.DataFrame(
        {
            "text": ["a", "b", "c"],
            "day": [dt.date(2026, 1, 2)] * 3,
            "sum": [decimal.Decimal("10.50"), decimal.Decimal("1e-7"), decimal.Decimal("10.50")],
            "code": [7, None, 8],
        }
    )
    frame.to_parquet(tmp_path / "x.parquet")
    said = "columns: {input: text, output: {day: day, sum: sum, code: code}}\n"
    loaded = read("human.parquet", (tmp_path / "x.parquet").read_bytes(), said)
    assert [json.loads(example.answer) for example in loaded.examples] == [
        {"day": "2026-01-02", "sum": 10.5, "code": 7},
        {"day": "2026-01-02", "sum": 1e-7},
        {"day": "2026-01-02", "sum": 10.5, "code": 8},
    ]


def test_excel_codes_blank_rows_titles_and_formulas(read, tmp_path):
    openpyxl = pytest.importorskip("openpyxl")

    def sheet(rows, number_format=""):
        book = openpyxl.Workbook()
        for row in rows:
            book.active.append(row)
        for cell in book.active["B"] if number_format else ():
            cell.number_format = number_format
        book.save(tmp_path / "x.xlsx")
        return (tmp_path / "x.xlsx").read_bytes()

    coded = sheet([["text", "label"], ["a", 7], [None, None], ["b", 42]], "000")
    loaded = read("human.xlsx", coded)
    assert pairs(loaded) == [("a", "007"), ("b", "042")]
    assert [example.meta["line"] for example in loaded.examples] == [2, 4]
    assert loaded.reading.form == "Excel, the first visible sheet, Sheet"
    with pytest.raises(WorkbookError, match=r"row 1 .* looks like a title"):
        read("human.xlsx", sheet([["Export"], ["text", "label"], ["a", "b"]]))
    with pytest.raises(WorkbookError, match="'label' holds formulas without their results"):
        read("human.xlsx", sheet([["text", "label"], ["a", "=1+1"], ["b", "=1+2"]]))


# --- ids and reserved names -----------------------------------------------------------------------


def test_ids_that_are_none_merge_nothing(read):
    rows = "".join(f"agent-{i % 3},text {i},a\n" for i in range(30))
    loaded = read("human.csv", "id,text,label\n" + rows)
    assert len({example.id for example in loaded.examples}) == 30
    merged = "rows whose id other rows have too: an id by content is used"
    assert loaded.reading.changes[merged] == 30
    assert loaded.examples[0].meta["user_id"] == "agent-0"


def test_ordinary_columns_of_our_names_are_asked_for(read):
    rows = "".join(f"text {i},a,{['north', 'south'][i % 2]}\n" for i in range(60))
    with pytest.raises(WorkbookError, match=r"`group` has 2 values in 60 rows.*\{group: null\}"):
        read("human.csv", "text,label,group\n" + rows)
    said = "columns: {input: text, output: label, group: null}\n"
    loaded = read("human.csv", "text,label,group\n" + rows, said)
    assert len({example.group for example in loaded.examples}) == 60
    rows = [f"text {i},a,{i % 3},up" for i in range(200)]  # unreadable rows' groups do not count
    rows += [f"text {i},a,{i},what" for i in range(200, 300)]
    columns = "text,label,group,feedback_score\n"
    with pytest.raises(WorkbookError, match=r"`group` has 3 values in 200 rows"):
        read("production.csv", columns + "\n".join(rows), source="production")
    counted = csv_of(6).replace("label\n", "label,messages\n").replace(",a\n", ",a,3\n")
    counted = counted.replace(",b\n", ",b,4\n").replace(",c\n", ",c,5\n")
    assert len(read("human.csv", counted).examples) == 6
    parts = "text,label,split\nx,a,train\ny,a,val\nz,a,Test\n"
    assert [e.part for e in read("human.csv", parts).examples] == ["train", "validation", "test"]
    with pytest.raises(WorkbookError, match=r"line 4: column `split`.*\{split: null\}"):
        read("human.csv", parts.replace("Test", "north"))


def test_no_in_yaml_is_a_text_as_labels_have_to_be(tmp_path):
    text = TASK.replace("{text: true}", "{schema: {properties: {c: {enum: [NO, no, 007, 1:30]}}}}")
    (tmp_path / "task.yaml").write_text(text)
    task = tasks.load_task(str(tmp_path))
    assert task.schema["properties"]["c"]["enum"] == ["NO", "no", "007", "1:30"]


# --- workbook new ---------------------------------------------------------------------------------


def made(tmp_path, name, text, *columns):
    (tmp_path / name).write_text(text)
    lines = new_task(tmp_path / "t", tmp_path / name, *columns)
    return tasks.load_task(str(tmp_path / "t")), "\n".join(lines)


def test_new_knows_forty_labels_and_their_other_spellings(tmp_path):
    rows = "".join(f"text {i},intent {i % 40:02}\n" for i in range(240))
    rows += "one more,Intent 03\n" * 5
    task, said = made(tmp_path, "d.csv", "text,intent\n" + rows)
    assert len(task.schema["properties"]["intent"]["enum"]) == 41
    assert "'intent 03', 'Intent 03' look like one label" in said


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a; b; c", "c;b;a"),
        ("❤️", "❤"),
        ("\u200fעברית", "עברית"),
        ("not-ok", "not_OK"),
        ("Аccount", "Account"),  # the first letter is a Cyrillic one
        ("Q&amp;A", "Q&A"),
        ("Billing.", "Billing"),
    ],
)
def test_labels_that_only_look_alike_are_named(one, other):
    assert tasks.spellings([one, one, other, "c", "-1", "1"]) == [[one, other]]


def test_new_infers_from_all_rows_also_the_empty_ones(tmp_path):
    rows = [
        {"input": f"t{i}", "output": {} if i % 3 else {"who": f"p{i}", "n": i}} for i in range(9)
    ]
    task, _ = made(tmp_path, "d.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert task.schema["required"] == []
    assert task.schema["properties"]["n"] == {"type": "integer"}


def test_new_composes_an_input_of_two_columns_and_says_how(tmp_path):
    text = "subject,body,reply\n" + "".join(f"s{i},b{i},answer {i}\n" for i in range(4))
    task, said = made(tmp_path, "d.csv", text, "subject,body", "reply")
    assert "columns.template" in said
    assert tasks.load_examples(task).examples[1].user_text == "s1\n\nb1"


def test_new_takes_over_the_system_message_that_all_rows_share(tmp_path):
    turns = [("system", "You sort mail."), ("user", "q"), ("assistant", "a")]
    row = json.dumps({"messages": [{"role": r, "content": c} for r, c in turns]})
    task, _ = made(tmp_path, "d.jsonl", row + "\n" + row + "\n")
    assert task.instructions_full == "You sort mail."


def test_new_leaves_nothing_behind_when_it_refuses(tmp_path):
    (tmp_path / "d.csv").write_text(csv_of(9).replace("row 5", '"row 5'))
    with pytest.raises(WorkbookError, match=r"d.csv, line 7"):
        new_task(tmp_path / "t", tmp_path / "d.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["d.csv"]
    (tmp_path / "d.csv").write_text(csv_of(9))
    new_task(tmp_path / "t", tmp_path / "d.csv")


def test_the_list_of_rows_is_found_by_its_key_whatever_stands_before_it(read):
    rows = '[\n{"text": "a", "label": "x"},\n{"text": "b", "label": "y"}\n]'
    note = json.dumps({"note": "[" * 100_000, "old": {"rows": json.loads(rows)}})[:-1]
    loaded = read("human.json", f'{note},\n"more" : 1,\n"rows" :\n{rows}}}')
    assert pairs(loaded) == [("a", "x"), ("b", "y")]
    assert [example.meta["line"] for example in loaded.examples] == [5, 6]


@pytest.mark.parametrize("system", ["SAP", 5, None])
def test_a_system_column_is_counted_mapped_or_none_of_ours(read, system):
    rows = [{"messages": [*ASKED, SAID], "system": system, "crm": f"c{i}"} for i in range(2)]
    text = "\n".join(map(json.dumps, rows))
    note = "`system` beside the turns is their system message, unless they have one"
    assert read("human.jsonl", text, "").reading.changes.get(note, 0) == 2 * (system is not None)
    none = read("human.jsonl", text, "columns: {system: null}\n")
    assert {example.messages[0].role for example in none.examples} == {"user"}
    assert ("null", "system") in {(c.name, c.use) for c in none.reading.columns}
    mapped = read("human.jsonl", text, "columns: {system: crm}\n")
    assert [example.messages[0].content for example in mapped.examples] == ["c0", "c1"]


def test_a_role_that_is_no_text_is_an_error_of_its_row(read):
    row = json.dumps({"messages": [{"role": ["user"], "content": "q"}]})
    assert len(read("production.jsonl", row, "", "production").unreadable) == 1


@pytest.mark.parametrize("space", ["\u00a0", "\u3000", "\ufeff", " \ufeff\u00a0"])
def test_names_of_columns_have_no_spaces_around_them(read, space):
    text = f"{space}text,label{space}\na,b\n"
    assert pairs(read("human.csv", text)) == [("a", "b")]


def test_what_is_no_title_is_read(read):
    chat = json.dumps([*ASKED, SAID]).replace('"', '""')
    assert pairs(read("human.csv", f',messages\n0,"{chat}"\n', "")) == [("q", "a b")]
    text = "text\n" + "".join(f"row {i}\n" for i in range(8)) + "one, two\n"
    loaded = read("production.csv", text, "columns: {input: text}\n", "production")
    assert len(loaded.examples) == 8 and len(loaded.unreadable) == 1


def test_bytes_that_are_no_text_and_keys_that_come_twice_are_named(read, tmp_path):
    import pyarrow as pa
    from pyarrow import parquet

    def saved(**columns):
        parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
        return (tmp_path / "x.parquet").read_bytes()

    said = "columns: {input: text}\n"
    table = saved(text=["Größe".encode("cp1252"), "Größe".encode()], icon=[b"\xff", b"\xfe"])
    loaded = read("production.parquet", table, said, "production")
    assert [e.user_text for e in loaded.examples] == ["Größe"]
    assert "text: bytes that are not UTF-8" in loaded.unreadable[0].issues[0].evidence
    twice = pa.array([[("k", 1), ("k", 2)]], type=pa.map_(pa.string(), pa.int64()))
    with pytest.raises(WorkbookError, match="holds a key twice"):
        read("human.parquet", saved(text=["a"], m=twice), said)


@pytest.mark.parametrize(("role", "n"), [("manager", 0), ("assistant", 1)])
def test_an_answer_with_a_role_is_a_turn_only_where_the_role_is_known(read, role, n):
    row = json.dumps({"text": "q", "label": {"role": role, "content": "x"}})
    loaded = read("human.jsonl", row)
    assert pairs(loaded) == [("q", "x" if n else f'{{"role":"{role}","content":"x"}}')]
    assert loaded.reading.changes.get("a message in a column is read as what it says", 0) == n


@pytest.mark.parametrize("text", ["AMANHÃ… sim", "MAÇÃ«x»", "IRMÃ\u00a0x", "GrÃ¶ße"])
def test_portuguese_capitals_are_no_broken_encoding(read, text):
    loaded = read("human.csv", f"text,label\n{text},a\n")
    assert any("wrong encoding" in change for change in loaded.reading.changes) == ("¶" in text)


def test_two_labels_in_another_order_or_alphabet_are_two():
    for one, other in (("DE,FR", "FR,DE"), ("рот", "pot")):
        assert tasks.spellings([one, other]) == []


def test_names_of_columns_may_stand_below_many_broken_lines(read):
    text = '"x"y\n' * 30 + csv_of(5)
    loaded = read("production.csv", text, source="production")
    assert len(loaded.examples) == 5 and len(loaded.unreadable) == 30
