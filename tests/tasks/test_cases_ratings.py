"""Ratings, times and live logs: a convention is judged over the column, and asked for in doubt."""

import json

import pytest

from helpers import tasks
from helpers.records import LateFeedback, LiveRow, WorkbookError
from helpers.tasks.conventions import day_order, judge_scale, moment_of, token_of

TASK = (
    "name: toy\ninstructions: {full: Answer., short: Answer.}\noutput: {text: true}\n"
    "targets: {accuracy: 0.8}\n"
)


def scores(values, setting=None):
    """Each value by the scale of all of them."""
    counts = {token_of(value): values.count(value) * 10 for value in values}
    scale = judge_scale(counts, setting, "stars", "log.jsonl")
    return [scale.score(value) for value in values]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 0, None], [5, 1, None]),
        ([1.0, 0.0], [5, 1]),
        (["1", "0"], [5, 1]),
        ([1, -1, 0], [5, 1, 3]),
        (["+1", "-1"], [5, 1]),
        ([True, False, None], [5, 1, None]),
        (["👍🏽", "👎"], [5, 1]),
        (["like", "dislike", "n/a"], [5, 1, None]),
        (["5/5", "1/5", "3 of 5"], [5, 1, 3]),
        (["★★★★★", "★☆☆☆☆"], [5, 1]),
        ([1.0, 0.5, 0.25], [5, 3, 2]),
        (["100%", "50%"], [5, 3]),
        ([100, 75, 0], [5, 4, 1]),
        ([10, 1, 5.5], [5, 1, 3]),
        ([0, 10, 5], [1, 5, 3]),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5]),
        ([5, True, 1], [5, 5, 1]),
    ],
)
def test_a_scale_is_judged_over_its_column(values, expected):
    assert scores(values) == expected


@pytest.mark.parametrize("values", [[1, None], [0, 3, 5], [1, 2, 3], [1, 7], [2, 20]])
def test_what_two_scales_fit_is_asked_for_and_one_line_decides(values):
    with pytest.raises(WorkbookError, match=r"two ways.*`columns: \{feedback: \[") as asked:
        scores(values)
    assert asked.value.exit_code == 2 and "log.jsonl: column `stars`" in str(asked.value)
    assert scores([1, None], [0, 1]) == [5, None] and scores([1, None], [1, 5]) == [1, None]


def test_a_few_slips_do_not_change_the_scale_and_are_no_ratings():
    counts = {token_of(value): 100 for value in (1, 2, 3, 4, 5)} | {token_of(55): 2}
    scale = judge_scale(counts, None, "stars", "log.jsonl")
    assert scale.score(4) == 4 and scale.unknown == 2
    with pytest.raises(ValueError, match="stars"):
        scale.score(55)


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-05T10:00:00+00:00",
        "2026-11-05 10:00:00 UTC",
        "2026-11-05T10:00:00Z",
        1793872800,
        1793872800000,
        "1793872800",
        "05.11.2026 10:00",
        "Thu, 05 Nov 2026 10:00:00 GMT",
    ],
)
def test_a_time_is_read_in_every_usual_spelling(value):
    assert moment_of(value).isoformat() == "2026-11-05T10:00:00+00:00"


@pytest.mark.parametrize(
    "zone", ["CET", "GMT+0100 (Central European Standard Time)", "UTC+1", "PM"]
)
def test_a_zone_is_read_or_no_time(zone):
    if "0100" in zone:
        assert moment_of(f"Mon Nov 03 2025 10:00:00 {zone}").isoformat()[-14:] == "10:00:00+01:00"
        return
    for text in (f"Mon Nov 3 10:00:00 {zone} 2025", f"Mon, 3 Nov 2025 10:00:00 {zone}"):
        with pytest.raises(ValueError, match="no time"):
            moment_of(text)


def test_the_order_of_day_and_month_is_what_all_dates_allow_or_asked_for():
    assert day_order(["05/11/2026", "13/11/2026"], None, "at", "f") == "day_first"
    assert day_order(["05/11/2026", "11/13/2026"], None, "at", "f") == "month_first"
    assert moment_of("05/11/2026", "month_first").month == 5
    with pytest.raises(WorkbookError, match=r"\{dates: day_first\}.*\{dates: month_first\}"):
        day_order(["05/11/2026", "06/11/2026"], None, "at", "f")


# --- live logs ------------------------------------------------------------------------------------


def line(number, **changes):
    row = {
        "request_id": f"r{number}",
        "created_at": f"2026-11-05T10:{number % 60:02}:00+00:00",
        "messages": [{"role": "user", "content": f"question {number}"}],
        "answer": f"answer {number}",
        "status": "ok",
    }
    return row | changes


@pytest.fixture
def read(tmp_path):
    (tmp_path / "task.yaml").write_text(TASK)
    task = tasks.load_task(str(tmp_path))

    def rows(lines):
        path = tmp_path / "live.jsonl"
        path.write_text("".join(json.dumps(each) + "\n" for each in lines))
        return list(tasks.read_log(task, [path]))

    return rows


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"status": None}, "is_ok", True),
        ({"status": 200}, "is_ok", True),
        ({"status": "completed"}, "is_ok", True),
        ({"status": 503}, "is_ok", False),
        ({"status": "200 OK"}, "is_ok", True),
        ({"status": "HTTP/1.1 502 Bad Gateway"}, "is_ok", False),
        ({"status": "end_turn"}, "is_ok", True),
        ({"version": None, "conversation_id": None, "tokens_in": None}, "conversation_id", ""),
        ({"answer": {"label": "x"}}, "answer", '{"label":"x"}'),
        ({"created_at": "2026-11-05 10:00:00 UTC"}, "created_at", moment_of(1793872800)),
        ({"feedback_score": "👎"}, "feedback_score", 1),
        ({"feedback_score": True}, "feedback_score", 5),
        ({"latency_ms": -3}, "latency_ms", None),
    ],
)
def test_a_live_row_of_another_system_is_read(read, changes, field, expected):
    (row,) = read([line(1, **changes)])
    assert isinstance(row, LiveRow) and getattr(row, field) == expected


def test_a_log_that_is_a_table_is_named(tmp_path):
    (tmp_path / "task.yaml").write_text(TASK)
    (tmp_path / "log.csv").write_text("request_id,answer\nr,a\n")
    with pytest.raises(WorkbookError, match="is no JSON Lines file"):
        list(tasks.read_log(tasks.load_task(str(tmp_path)), [tmp_path / "log.csv"]))


def test_zeros_and_ones_are_thumbs_also_in_late_feedback(read):
    said = {"request_id": "r1", "at": "2026-11-06T09:00:00Z"}
    lines = [line(1, feedback_score=1), line(2, feedback_score=0), said | {"feedback_score": 0}]
    lines.append(said | {"thumb": "👍"})
    one, two, late, thumb = read(lines)
    assert (one.feedback_score, two.feedback_score, late.score, thumb.score) == (5, 1, 1, 5)
    assert isinstance(late, LateFeedback)


def test_a_log_that_is_bad_from_its_first_day_is_read_and_not_asked_about(read):
    lines = [line(number, feedback_score=1 + number % 3) for number in range(40)]
    assert [row.feedback_score for row in read(lines)] == [1 + number % 3 for number in range(40)]


def test_ratings_inside_of_a_row_are_not_its_own(read):
    inner = [{"role": "user", "content": "x", "feedback_score": 4.5}]
    lines = [line(number, feedback_score=number % 2, messages=inner) for number in range(40)]
    assert {row.feedback_score for row in read(lines)} == {1, 5}


def test_our_own_gateway_writes_stars(read):
    (row,) = read([line(1, feedback_score=1.0, arm="production")])
    assert row.feedback_score == 1


def test_a_trace_id_is_no_request_id_and_pieces_of_an_answer_are_one(read):
    traced = read([line(number, request_id="trace") for number in range(6)])
    assert len({row.request_id for row in traced}) == 6
    pieces = []
    for number in range(4):
        asked = line(number)
        pieces += [asked | {"answer": part} for part in ("one ", "two ", "three")]
    whole = {row.request_id: row.answer for row in read(pieces)}
    assert len(whole) == 4 and set(whole.values()) == {"one two three"}


def test_what_nobody_can_read_is_none_and_never_a_guess(read):
    assert read([line(1, created_at="soon"), [1], line(3)])[:2] == [None, None]


@pytest.mark.parametrize(
    ("columns", "row", "asked"),
    [
        ("{input: [a, b]}", {"a": "x", "b": "y", "answer": "z"}, "x\n\ny"),
        ("{input: a, output: {label: l}}", {"a": "x", "l": "z"}, "x"),
        ("{messages: chat}", {"chat": [{"role": "user", "content": "x"}], "answer": "z"}, "x"),
    ],
)
def test_mapped_columns_that_are_no_single_name_are_read_in_a_live_log(
    tmp_path, columns, row, asked
):
    (tmp_path / "task.yaml").write_text(TASK + f"columns: {columns}\n")
    path = tmp_path / "live.jsonl"
    rows = [{"request_id": "r", "created_at": "2026-11-05T10:00:00Z"} | row]
    path.write_text("\n".join(map(json.dumps, [*rows, {"created_at": "2026-11-05", "x": 1}])))
    one, other = tasks.read_log(tasks.load_task(str(tmp_path)), [path])
    assert other is None and one.messages[-1]["content"] == asked
    assert one.answer in ("z", '{"label":"z"}')
