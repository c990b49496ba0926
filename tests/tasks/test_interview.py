"""The questions of `workbook new`: asked of a person, answered by flags, or guessed and said."""

import os
import pty
import subprocess
import sys

import pytest

from helpers import tasks
from helpers.records import WorkbookError
from helpers.tasks.new import new_task

HEADER = "note,message,queue,priority,customer,opened,stars,fold"


@pytest.fixture
def source(tmp_path):
    """Columns of every kind, none of which decides by its name what the answer is."""
    lines = [HEADER]
    for n in range(60):
        row = (n, f"a long text number {n}", ("billing", "login")[n % 2], n % 3 + 1, f"c{n // 3}")
        more = (f"{n % 9 + 1}/5/2026", n % 5 + 1, ("train", "dev", "test")[n % 3])
        lines.append(",".join(map(str, (*row, *more))))
    path = tmp_path / "tickets.csv"
    path.write_text("\n".join(lines))
    return path


def person(*replies):
    """A person who says these replies, one a question; what was asked is kept in `asked`."""
    left = iter(replies)

    def ask(prompt):
        ask.asked.append(prompt)
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    ask.asked = []
    return ask


def made(tmp_path, source, **interview):
    lines = new_task(tmp_path / "t", source, interview=tasks.Interview(**interview))
    return tasks.load_task(str(tmp_path / "t")), lines


def test_a_column_with_gaps_is_no_guess_and_named(tmp_path):
    rows = [f"a long text number {n},{'ab'[n % 2]},{('x', '', 'y')[n % 3]}" for n in range(30)]
    (tmp_path / "d.csv").write_text("\n".join(["wording,sort,short", *rows]))
    task, lines = made(tmp_path, tmp_path / "d.csv", takes_guesses=True)
    assert task.columns["output"] == {"sort": "sort"}
    assert "short is no guess for the answer: 20 of 30 rows have one" in lines


def test_a_person_is_asked_for_what_the_file_leaves_open_and_again_after_a_slip(tmp_path, source):
    columns = ("", "nope", "queue,priority", "lab")
    ask = person(*columns, "90%", "1k", "", "maybe", "y", "mask", "none", "", "", "", "day")
    task, lines = made(tmp_path, source, ask=ask)
    assert "no column 'nope'" in ask.asked[2] and ask.asked[0].endswith("[message] ")
    assert task.columns == {
        "input": "message",
        "output": {"queue": "queue", "priority": "priority"},
        "feedback_score": "stars",
        "created_at": "opened",
        "split": "fold",
        "dates": "day_first",
    }
    assert task.schema["properties"]["priority"] == {"enum": ["1", "2", "3"]}
    assert task.targets["accuracy"] == 0.9 and task.data_may_leave and task.personal == "mask"
    assert "not used: customer, note" in lines
    first = tasks.load_examples(task).examples[1]
    assert (first.created_at.month, first.part, first.feedback_score) == (5, "validation", 2.0)


def test_yes_takes_every_guess_and_says_it_but_none_between_two_readings(tmp_path, source):
    task, lines = made(tmp_path, source, takes_guesses=True)
    guesses = [line.rpartition("--set ")[2] for line in lines if line.startswith("guessed")]
    assert guesses[:2] == ["columns.input=message", "columns.output=queue"]
    assert {"columns.group=customer", "columns.split=fold", "targets.accuracy=0.8"} <= {*guesses}
    assert task.columns["group"] == "customer" and "dates" not in task.columns
    assert any("or with --set columns.dates=…" in line for line in lines)


def test_without_a_person_what_is_open_is_refused_by_the_flag_or_named(tmp_path, source):
    with pytest.raises(WorkbookError, match="--input COL --output COL"):
        made(tmp_path, source)
    given = {"columns.output": "priority", "kind.priority": "number", "columns.dates": "day_first"}
    task, lines = made(tmp_path, source, given=given)
    assert task.schema["properties"] == {"priority": {"type": "integer"}}
    assert "group" not in task.columns
    assert any("--set columns.group=customer" in line for line in lines)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("kind.colour", "labels", "--set kind.colour: .*of answers .*priority"),
        ("columns.grup", "customer", "t/task.yaml, line .*: 'grup' is no column of ours"),
        ("targets.accuracy", "[", "no YAML value"),
        ("kind.priority", "colour", "none of labels, text, number"),
        ("measure", "banana", "--set measure: .*chrf, numeric, exact"),
        ("volume_per_month", "1k", "volume_per_month: '1k': Input should be a valid integer"),
        ("name.x", "1", "no lines of its own"),
        ("encoding", "5", "t/task.yaml, line .*: encoding: Input should be a valid string"),
        ("columns.system", "[a]", "t/task.yaml, line .*: columns: system: .*valid string"),
    ],
)
def test_an_answer_that_fits_no_question_is_refused_and_nothing_is_written(
    tmp_path, source, key, value, problem
):
    given = {"columns.output": "priority", key: value}
    with pytest.raises(WorkbookError, match=problem):
        made(tmp_path, source, given=given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tickets.csv"]


def test_numbers_with_a_mark_are_read_with_it_or_the_flag_is_named(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("text;price\n" + "".join(f"word {n};{n % 7 + 1},5{n:02}\n" for n in range(40)))
    with pytest.raises(WorkbookError, match=r'--set columns.decimal=","'):
        made(tmp_path, path, given={"kind.price": "number"}, takes_guesses=True)
    said = new_task(tmp_path / "s", path, interview=tasks.Interview(takes_guesses=True))
    assert any("To decide" in line and 'decimal: ","' in line for line in said)
    given = {"columns.decimal": '","'}
    task, lines = made(tmp_path, path, given=given, takes_guesses=True)
    assert task.schema["properties"] == {"price": {"type": "number"}}
    assert '{"price":4.503}' in [each.answer for each in tasks.load_examples(task).examples]
    assert "83,648" not in "".join(lines)
    path.write_text(path.read_text() + "word;1.220,82 €\n")
    with pytest.raises(WorkbookError, match=r"kind.price=number: '1.220,82 €' is no number"):
        new_task(tmp_path / "u", path, interview=tasks.Interview({"kind.price": "number"} | given))


def test_two_answers_to_one_question_are_refused(tmp_path, source):
    interview = tasks.Interview({"columns.output": "queue"})
    with pytest.raises(WorkbookError, match=r"--output priority and --set columns.output=queue"):
        new_task(tmp_path / "t", source, output_column="priority", interview=interview)


def test_a_column_that_no_row_has_is_said(tmp_path, source):
    given = {"columns.output": "queue", "columns.group": "custmer", "columns.dates": "day_first"}
    _, lines = made(tmp_path, source, given=given)
    assert "columns.group: `custmer` is in none of the first rows (60)" in lines


def test_leaving_the_interview_writes_nothing(tmp_path, source):
    with pytest.raises(EOFError):
        made(tmp_path, source, ask=person(""))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tickets.csv"]


def test_another_alphabet_is_asked_for_and_read(tmp_path):
    path = tmp_path / "d.csv"
    path.write_bytes(
        b"text,label\n"
        + "".join(f"Где мой {i},{'аб'[i % 2]}\n" for i in range(40)).encode("cp1251")
    )
    task, _ = made(tmp_path, path, given={"encoding": "cp1251"})
    assert tasks.load_examples(task).examples[3].user_text == "Где мой 3"


def test_what_the_logs_alone_leave_open_is_asked_and_written_too(tmp_path):
    rows = [f"q{n},{'ab'[n % 2]},0{n % 9 + 1}/05/2026" for n in range(20)]
    (tmp_path / "l.csv").write_text("\n".join(["text,label,created_at", *rows]))
    rows = [row.rpartition(",")[0] for row in rows]
    (tmp_path / "d.csv").write_text("\n".join(["text,label", *rows]))
    interview = tasks.Interview(ask=lambda prompt: "day" if "day first" in prompt else "")
    folder = tmp_path / "t"
    lines = new_task(
        folder, tmp_path / "d.csv", "text", "label", tmp_path / "l.csv", interview=interview
    )
    assert "production: feedback: no ratings; 0 of 20 rated" in lines
    assert tasks.load_task(str(folder)).columns["dates"] == "day_first"


def test_on_a_terminal_the_command_asks(tmp_path, source):
    main, side = pty.openpty()
    command = [sys.executable, "-c", "from helpers.cli import main; main()"]
    command += [
        "new",
        str(tmp_path / "t"),
        "--from",
        str(source),
        "--set",
        "columns.dates=day_first",
    ]
    child = subprocess.Popen(command, stdin=side, stdout=side, stderr=side, close_fds=True)
    os.close(side)
    os.write(main, b"\n" * 20)
    said = b""
    try:
        while piece := os.read(main, 4096):
            said += piece
    except OSError:  # the child has closed its side
        pass
    assert child.wait(timeout=120) == 0
    assert b"[message]" in said and b"Which share of the answers has to be right" in said
    assert tasks.load_task(str(tmp_path / "t")).columns["group"] == "customer"
