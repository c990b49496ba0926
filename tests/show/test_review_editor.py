"""The editor of review.csv: nothing is lost, nobody's name is wiped, every row can be reached."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from helpers.show import curate as views

COLUMNS = ("id", "source", "input", "output", "why", "decision", "corrected_output", "reviewer")
LONG = '{"category": "billing", "priority": "high", "reason": "the customer was charged twice"}'


@pytest.fixture
def path(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.delenv("WORKBOOK_HEADLESS", raising=False)
    path = tmp_path / "review.csv"
    rows = [
        {"id": f"r{n}", "source": "human", "input": f"text {n}", "output": LONG, "why": "random"}
        for n in range(49)
    ]
    rows[3] |= {"decision": "keep", "reviewer": "Bea"}
    write(path, rows)
    return path


def write(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)


def read(path: Path) -> dict[str, dict[str, str]]:
    return {row["id"]: row for row in csv.DictReader(open(path, newline=""))}


def boxes(editor: views.ReviewEditor, row: int):
    """(decision, answer) of a row on the page."""
    return editor.page.children[row].children[1].children


def test_signing_alone_changes_no_decision_and_no_name(path):
    before = read(path)
    views.ReviewEditor(path, 10).name.value = "Ann"
    assert read(path) == before


def test_a_decision_is_saved_at_once_and_only_with_a_name(path):
    editor = views.ReviewEditor(path, 10)
    boxes(editor, 0)[0].value = "drop"
    assert read(path)["r0"]["decision"] == "" and "NOT saved" in editor.message.value
    editor.name.value = "Ann"
    assert (read(path)["r0"]["decision"], read(path)["r0"]["reviewer"]) == ("drop", "Ann")
    assert read(path)["r3"]["reviewer"] == "Bea" and "2 of 49 decided" in editor.message.value
    again = views.ReviewEditor(path, 10)
    assert boxes(again, 0)[0].value == "drop", "a restarted kernel shows what was saved"


def test_every_row_can_be_reached_and_the_page_says_where_it_is(path):
    editor = views.ReviewEditor(path, 20)
    assert "Rows 1 to 20 of 49" in editor.place.value and editor.back.disabled
    editor.name.value = "Ann"
    editor.turn(20)
    editor.turn(20)
    assert "Rows 41 to 49 of 49" in editor.place.value and editor.further.disabled
    boxes(editor, 8)[0].value = "keep"
    assert read(path)["r48"]["decision"] == "keep"


def test_the_answer_is_shown_whole_with_headings_and_labels(path):
    editor = views.ReviewEditor(path, 10)
    decision, answer = boxes(editor, 0)
    assert answer.value == LONG and answer.rows >= 2
    assert (decision.description, answer.description) == ("decision", "answer")
    assert "Row 1 of 49: random" in editor.page.children[0].children[0].value


def test_a_fix_needs_another_answer(path):
    editor = views.ReviewEditor(path, 10)
    editor.name.value = "Ann"
    decision, answer = boxes(editor, 0)
    decision.value = "fix"
    assert read(path)["r0"]["decision"] == "" and "row 1" in editor.message.value
    answer.value = "better"
    assert read(path)["r0"]["corrected_output"] == "better"


@pytest.mark.parametrize(("encoding", "mark"), [("cp1252", ";"), ("utf-16", "\t")])
def test_what_a_spreadsheet_saved_is_read_and_its_formulas_stay_texts(path, encoding, mark):
    row = {"id": "r1", "source": "human", "input": "Grüße", "output": "'-5", "why": "random"}
    line = {name: "" for name in COLUMNS} | row
    text = mark.join(COLUMNS) + "\r\n" + mark.join(line.values()) + "\r\n"
    path.write_bytes(text.encode(encoding))
    editor = views.ReviewEditor(path, 10)
    editor.name.value = "Ann"
    decision, answer = boxes(editor, 0)
    assert answer.value == "-5" and "Grüße" in editor.page.children[0].children[0].value
    decision.value = "fix"
    answer.value = "-6"
    saved = read(path)["r1"]
    assert (saved["input"], saved["output"], saved["corrected_output"]) == ("Grüße", "'-5", "'-6")


def test_what_another_person_decided_meanwhile_stays(path):
    editor = views.ReviewEditor(path, 10)
    editor.name.value = "Ann"
    other = views.ReviewEditor(path, 10)
    other.name.value = "Bob"
    boxes(other, 5)[0].value = "keep"
    boxes(editor, 0)[0].value = "drop"
    saved = read(path)
    assert (saved["r5"]["decision"], saved["r5"]["reviewer"]) == ("keep", "Bob")
    assert (saved["r0"]["decision"], saved["r0"]["reviewer"]) == ("drop", "Ann")


def test_without_rows_nothing_waits(path):
    write(path, [])
    assert "Nothing waits" in views.review_editor(path).data


def test_markup_in_a_customers_text_is_shown_and_not_interpreted(path):
    rows = list(read(path).values())
    rows[0]["input"] = "<img src=x onerror=alert(1)>"
    write(path, rows)
    page = views.ReviewEditor(path, 10).page.children[0].children[0].value
    assert "<img" not in page and "&lt;img" in page
