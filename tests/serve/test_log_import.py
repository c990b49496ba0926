"""Logs that exist already become rows of the live log, each once."""

from __future__ import annotations

import gzip
import json

import pandas
import pytest
from serve_toys import TASK, log_of, register, task_folder

from helpers import tasks
from helpers.cli import main
from helpers.extras.log_import import HINT

CHAT = [{"role": "user", "content": "Hello"}]
LINES = {
    "openai": {
        "id": "a",
        "created_at": 1767225600,
        "request": {"messages": CHAT},
        "response": {"model": "m", "choices": [{"message": {"content": "Hi"}}]},
        "latency_ms": 500,
    },
    "litellm": {
        "id": "a",
        "startTime": 1767225600.0,
        "endTime": 1767225600.5,
        "model": "m",
        "messages": CHAT,
        "response": {"choices": [{"message": {"role": "assistant", "content": "Hi"}}]},
        "status": "success",
    },
    "langfuse": {
        "id": "a",
        "traceId": "t",
        "startTime": "2026-01-01T00:00:00.000Z",
        "endTime": "2026-01-01T00:00:00.500Z",
        "model": "m",
        "input": {"messages": CHAT},
        "output": {"role": "assistant", "content": "Hi"},
        "level": "DEFAULT",
    },
    "langsmith": {
        "id": "a",
        "trace_id": "t",
        "start_time": "2026-01-01T00:00:00",
        "end_time": "2026-01-01T00:00:00.5",
        "inputs": {"messages": [[{"id": ["x", "HumanMessage"], "kwargs": {"content": "Hello"}}]]},
        "outputs": {"generations": [[{"text": "Hi"}]]},
        "extra": {"metadata": {"ls_model_name": "m"}},
        "error": None,
    },
    "otel": {
        "spanId": "a",
        "startTimeUnixNano": "1767225600000000000",
        "endTimeUnixNano": "1767225600500000000",
        "attributes": {
            "gen_ai.response.model": "m",
            "gen_ai.input.messages": json.dumps(
                [{"role": "user", "parts": [{"type": "text", "content": "Hello"}]}]
            ),
            "gen_ai.output.messages": json.dumps(
                [{"role": "assistant", "parts": [{"type": "text", "content": "Hi"}]}]
            ),
        },
    },
}


@pytest.mark.parametrize("form", LINES)
def test_a_request_of_each_product_is_the_same_row_and_stands_once(form, tmp_path, home, capsys):
    path = tmp_path / "export.jsonl"
    path.write_text(json.dumps(LINES[form]) + '\n{"nothing": "of use"}\nnot json\n')
    command = ["logs", "import", str(path), "--format", form, "--task", str(task_folder())]
    for added in (1, 0):
        assert main([*command, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["added"], told["known"], told["unreadable"]) == (added, 1 - added, 2)
        assert "export.jsonl line 2: has no field " in told["faults"][0]
        assert told["faults"][1].startswith("export.jsonl line 3: not valid JSON (")
    [row] = log_of()
    assert (row.messages, row.answer, row.version) == (CHAT, "Hi", "m")
    assert row.created_at.isoformat() == "2026-01-01T00:00:00+00:00"
    assert row.is_ok and abs(row.latency_ms - 500) < 1 and row.text == "masked"


def imported(form, lines, tmp_path, capsys, code=0):
    """What the command told, and what the log holds then."""
    path = tmp_path / "export.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    command = ["logs", "import", str(path), "--format", form, "--task", str(task_folder())]
    assert main([*command, "--json"]) == code
    said = capsys.readouterr()
    return (json.loads(said.out) if code == 0 else said.err), log_of()


@pytest.mark.parametrize(
    ("values", "stars"),
    [
        ([0, 1, 1], [1, 5, 5]),
        ([True, False], [5, 1]),
        (["good", "bad", None], [5, 1, None]),
        ([0.0, 0.5, 0.75], [1, 3, 4]),
        ([5, 2, 4], [5, 2, 4]),
    ],
)
def test_ratings_of_other_products_are_stars_by_the_scale_of_them_all(
    values, stars, tmp_path, home, capsys
):
    lines = []
    for n, value in enumerate(values):
        scores = [{"name": "toxicity", "value": 0.1}, {"name": "user-feedback", "value": value}]
        lines.append(LINES["langfuse"] | {"id": str(n), "scores": scores})
    told, rows = imported("langfuse", lines, tmp_path, capsys)
    assert [row.feedback_score for row in rows] == stars and not told["faults"]
    assert told["scores_not_of_users"] == ["toxicity"]
    assert told["ratings"].startswith(f"{len(stars) - stars.count(None)} added; ")


@pytest.mark.parametrize("scores", [0.9, None, [], [0.9], [{"name": "toxicity", "value": 0}]])
def test_what_judges_say_is_no_rating_whatever_its_form(scores, tmp_path, home, capsys):
    told, [row] = imported("langfuse", [LINES["langfuse"] | {"scores": scores}], tmp_path, capsys)
    assert row.feedback_score is None and not told["faults"] and "no ratings" in told["ratings"]


def test_what_users_said_last_counts_at_its_own_time_and_comments_are_masked(
    tmp_path, home, capsys
):
    said = {"name": "user_rating", "value": 2, "timestamp": "2026-01-04T00:00:00Z"}
    lines = [LINES["langfuse"] | {"id": "b", "scores": [{"name": "rating", "value": 5}]}]
    for scores in ([], [said, said | {"value": 4, "timestamp": "2026-01-02T00:00:00Z"}]):
        imported("langfuse", [*lines, LINES["langfuse"] | {"scores": scores}], tmp_path, capsys)
    [file] = (home / "live").rglob("*.jsonl")
    late = json.loads(file.read_text().splitlines()[-1])
    assert (late["feedback_score"], late["at"]) == (2, "2026-01-04T00:00:00Z")
    odd = {"scores": [said | {"value": "ask ann@example.org"}]}
    told, _ = imported("langfuse", [*lines, LINES["langfuse"] | odd], tmp_path, capsys)
    assert "has a rating that is none (ask" in str(told["faults"]) and "ann@" not in str(told)


@pytest.mark.parametrize("setting", [None, [6, 1], [0, 1], [1, 5], {"good": 5, "bad": 1}])
@pytest.mark.parametrize("values", [[0, 1, 1], ["good", "bad"], [1, 5, 2]])
def test_what_was_imported_means_the_same_to_06_whatever_the_setting(
    setting, values, tmp_path, home, capsys, monkeypatch
):
    task = tasks.load_task(str(task_folder()))
    columns = {"feedback": setting} if setting else {}
    task = task.model_copy(update={"columns": columns})
    monkeypatch.setattr(tasks, "load_task", lambda _: task)
    scores = [[{"name": "rating", "value": value}] for value in values]
    lines = [LINES["langfuse"] | {"id": f"{n}", "scores": each} for n, each in enumerate(scores)]
    _, rows = imported("langfuse", lines, tmp_path, capsys)
    written = [row.feedback_score for row in rows]
    files = [*(home / "live").rglob("*.jsonl")]
    assert [row.feedback_score for row in tasks.read_log(task, files)] == written


def test_a_rating_that_came_after_the_first_import_is_added_once(tmp_path, home, capsys):
    line = LINES["langfuse"]
    for score in (None, 4, 4, 2):
        rated = line | {"scores": [{"name": "rating", "value": score}, {"name": "x", "value": 5}]}
        other = line | {"id": "b", "scores": [{"name": "rating", "value": 5}]}
        _, rows = imported("langfuse", [rated, other], tmp_path, capsys)
        assert [row.feedback_score for row in rows] == [score, 5]
    [file] = (home / "live").rglob("*.jsonl")
    assert len(file.read_text().splitlines()) == 4


@pytest.mark.parametrize(
    ("form", "change", "reason"),
    [
        ("litellm", {"messages": "{}", "response": "{}"}, "has no chat"),
        ("litellm", {"response": {"text": "redacted-by-litellm"}}, "logged without its texts"),
        ("openai", {"response": None}, "has no answer in response.choices"),
    ],
)
def test_what_was_logged_without_its_texts_is_no_bad_answer(
    form, change, reason, tmp_path, home, capsys
):
    told, rows = imported(form, [LINES[form] | change], tmp_path, capsys, code=2)
    assert reason in told and not rows


CALL = {"request": {"messages": CHAT}, "response": LINES["openai"]["response"]}
FAILED = {"error": {"message": "too many"}}
COLLECTED = {
    "cloudwatch": {"timestamp": 1767225600000, "message": json.dumps(CALL | {"id": "a"})},
    "kafka": {"offset": 1, "value": json.dumps(CALL | {"id": "a", "timestamp": 1767225600})},
    "docker": {"time": "2026-01-01T00:00:00Z", "log": json.dumps(CALL | {"id": "a"}) + "\n"},
    "elastic": {"_id": "a", "_source": CALL | {"@timestamp": "2026-01-01T00:00:00Z"}},
    "helicone": {
        "request_id": "a",
        "request_created_at": "2026-01-01T00:00:00Z",
        "request_body": CALL["request"],
        "response_body": CALL["response"],
        "response_status": 200,
    },
    "azure": {
        "records": [
            {
                "time": "2026-01-01T00:00:00Z",
                "correlationId": "a",
                "properties": {
                    "backendRequestBody": json.dumps(CALL["request"]),
                    "backendResponseBody": json.dumps(CALL["response"]),
                },
            }
        ]
    },
}


@pytest.mark.parametrize("shape", COLLECTED)
def test_what_a_gateway_or_a_collector_puts_around_a_call_is_taken_off(
    shape, tmp_path, home, capsys
):
    told, [row] = imported("openai", [COLLECTED[shape]], tmp_path, capsys)
    assert (row.request_id, row.messages, row.answer, row.version) == ("a", CHAT, "Hi", "m")
    assert row.created_at.isoformat() == "2026-01-01T00:00:00+00:00" and row.is_ok
    assert not told["faults"]


@pytest.mark.parametrize(
    ("form", "change"),
    [
        ("openai", {"response": FAILED}),
        ("openai", {"response": None, "status": 503}),
        ("otel", {"attributes": LINES["otel"]["attributes"] | {"error.type": "timeout"}}),
        ("otel", {"status": {"code": 2, "message": "timeout"}}),
        ("litellm", {"response": None, "status": "failure"}),
        ("langfuse", {"output": None, "level": "ERROR"}),
        ("langsmith", {"outputs": None, "error": "timeout"}),
    ],
)
def test_a_failed_call_is_a_failed_request_and_no_bad_answer(form, change, tmp_path, home, capsys):
    _, [row] = imported(form, [LINES[form] | change], tmp_path, capsys)
    assert not row.is_ok


def otlp(**attributes):
    """One line as OpenTelemetry's collector writes files: spans two levels deep, typed values."""
    pairs = [{"key": key, "value": {"stringValue": value}} for key, value in attributes.items()]
    pairs.append({"key": "gen_ai.usage.input_tokens", "value": {"intValue": "7"}})
    empty = ({}, {"arrayValue": {}}, {"kvlistValue": {}})  # what is empty is left out
    pairs += [{"key": "none"}, *({"key": f"e{n}", "value": each} for n, each in enumerate(empty))]
    span = LINES["otel"] | {"attributes": pairs}
    return {"resourceSpans": [{"scopeSpans": [{"scope": {}, "spans": [span]}]}]}


SHAPES = {
    "otel": otlp(**LINES["otel"]["attributes"]),
    "langsmith": {"runs": [LINES["langsmith"] | {"run_type": "llm"}]},
    "langfuse": {
        "id": "a",
        "trace_id": "t",
        "type": "GENERATION",
        "start_time": "2026-01-01 00:00:00.000000",
        "end_time": "2026-01-01 00:00:00.500000",
        "provided_model_name": "m",
        "usage_details": {"input": 7, "output": 1},
        "input": json.dumps({"messages": CHAT}),
        "output": json.dumps({"role": "assistant", "content": "Hi"}),
    },
    "litellm": LINES["litellm"] | {"call_type": "acompletion"},
}
OTHERS = {
    "otel": otlp(**LINES["otel"]["attributes"], **{"gen_ai.operation.name": "execute_tool"}),
    "langsmith": LINES["langsmith"] | {"id": "b", "run_type": "chain"},
    "langfuse": SHAPES["langfuse"] | {"id": "b", "type": "SPAN"},
    "litellm": LINES["litellm"] | {"id": "b", "call_type": "aembedding"},
}


@pytest.mark.parametrize("form", SHAPES)
def test_exports_as_they_are_nested_are_read_and_what_is_no_request_is_passed_over(
    form, tmp_path, home, capsys
):
    path = tmp_path / "export.jsonl"
    path.write_text(f"{json.dumps(SHAPES[form])}\n{json.dumps(OTHERS[form])}\n")
    command = ["logs", "import", str(path), "--format", form, "--task", str(task_folder())]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    counts = {"added": 1, "known": 0, "others": 1, "different": 0, "unreadable": 0}
    assert told == counts | {
        "faults": [],
        "ratings": "0 added; no ratings; 0 of 0 rated",
        "scores_not_of_users": [],
    }
    [row] = log_of()
    assert (row.messages, row.answer, row.version) == (CHAT, "Hi", "m")
    assert row.created_at.isoformat() == "2026-01-01T00:00:00+00:00"


@pytest.mark.parametrize("attributes", [["x"], [{"value": 1}], [{"key": "a", "value": "b"}]])
def test_attributes_that_are_none_of_otlp_are_named(attributes, tmp_path, home, capsys):
    lines = [LINES["otel"], LINES["otel"] | {"spanId": "b", "attributes": attributes}]
    told, rows = imported("otel", lines, tmp_path, capsys)
    assert len(rows) == told["unreadable"] == 1
    assert "line 2: has no field attributes.gen_ai.input.messages" in told["faults"][0]


@pytest.mark.parametrize("answer", ['{"a": 1}', '["x", "y"]', "[1", "{}", "[" * 3000])
def test_an_answer_that_is_json_itself_stays_as_it_is(answer, tmp_path, home):
    path = tmp_path / "export.jsonl"
    reply = {"choices": [{"message": {"content": answer}}]}
    path.write_text(json.dumps(LINES["litellm"] | {"response": reply}) + "\n")
    command = ["logs", "import", str(path), "--format", "litellm", "--task", str(task_folder())]
    assert main(command) == 0
    assert [row.answer for row in log_of()] == [answer]


CALLED = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
CALL_OF = {"name": "f", "args": {"a": 1}}


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"candidates": [{"content": {"role": "model", "parts": [{"text": "Hi"}]}}]}, "Hi"),
        ({"parts": [{"text": "no", "thought": True}, {"functionCall": CALL_OF}]}, CALLED),
        ({"role": "assistant", "function_call": {"name": "f", "arguments": '{"a": 1}'}}, CALLED),
        ({"role": "ai", "content": "", "tool_calls": [CALL_OF]}, CALLED),
        (
            [{"type": "text", "text": "Hi"}, {"type": "tool_use", "name": "f", "input": {"a": 1}}],
            f"Hi\n{CALLED}",
        ),
        ([{"type": "reasoning"}, {"type": "message", "content": [{"text": "Hi"}]}], "Hi"),
        ({"role": "assistant", "content": ""}, ""),
        ({"role": "assistant", "content": None}, ""),
        ([{"role": "assistant", "parts": [{"type": "text", "content": ""}]}], ""),
        ('[{"role": "assistant", "parts": []}]', ""),
        ({"role": "assistant", "sound": "x"}, None),
        ([{"type": "image_url", "image_url": {"url": "x"}}], None),
    ],
)
def test_an_answer_of_any_form_is_read_or_named(answer, text, tmp_path, home, capsys):
    lines = [LINES["langfuse"] | {"id": "good"}, LINES["langfuse"] | {"output": answer}]
    told, rows = imported("langfuse", lines, tmp_path, capsys)
    assert [row.answer for row in rows[1:]] == ([] if text is None else [text])
    assert ("line 2: has an answer whose text cannot be told" in str(told)) == (text is None)


@pytest.mark.parametrize(
    ("change", "is_ok"),
    [
        ({"status": 200.0}, True),
        ({"status": {"code": 7}, "status_code": 503.0}, False),
        ({"message": {"id": "other", "request": {"messages": []}}, "data": [{"id": "x"}]}, True),
    ],
)
def test_a_request_is_itself_whatever_it_holds_besides(change, is_ok, tmp_path, home, capsys):
    told, [row] = imported("openai", [LINES["openai"] | change], tmp_path, capsys)
    assert (row.request_id, row.messages, row.is_ok) == ("a", CHAT, is_ok) and not told["faults"]


def test_logs_check_says_what_can_be_read(tmp_path, capsys):
    path = tmp_path / "2026-01-01.jsonl"
    line = {"request_id": "a", "created_at": "2026-01-01", "messages": [], "answer": "x"}
    path.write_text(json.dumps(line) + '\n{"to')
    assert main(["logs", "check", str(path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["requests"] == told["unreadable"] == 1
    assert told["faults"] == ["2026-01-01.jsonl line 2 is not JSON", HINT]


def test_logs_check_says_why_lines_cannot_be_read_and_what_the_file_seems_to_be(tmp_path, capsys):
    path = tmp_path / "my.log"
    path.write_text(f"{json.dumps(LINES['litellm'])}\n" * 7)
    assert main(["logs", "check", str(path)]) == 1
    told = capsys.readouterr().out
    assert "my.log line 1 has no field created_at (it has id, startTime," in told
    assert told.count("has no field") == 5 and "and 2 more" in told
    assert "workbook logs import FILE --format" in told
    table = tmp_path / "my.csv"
    table.write_text("time,question,answer\n2026-01-01,a,b\n")
    late = tmp_path / "late.jsonl"
    late.write_text('{"request_id": "a", "at": "2026-01-01", "thumb": "up"}\n[1]\n')
    assert main(["logs", "check", str(table), str(late), "--json"]) == 1
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert "late.jsonl line 1 is about request a, which is not in these files" in faults
    assert any("late.jsonl line 2 has a wrong form" in fault for fault in faults)
    assert "my.csv line 1 is of a CSV table, not JSON" in faults


def test_a_log_with_an_unknown_ending_is_read_by_what_it_holds(tmp_path, home, capsys):
    frame = pandas.DataFrame([LINES["openai"] | {"id": "of-parquet"}])
    frame.to_parquet(tmp_path / "my.bin")
    (tmp_path / "my.log").write_text(json.dumps(LINES["openai"]))
    (tmp_path / "my.out").write_text("id,created,model\nx,2026-01-01,m\n")
    (tmp_path / "my.gz").write_bytes(gzip.compress(b"{}"))
    command = ["logs", "import", "--format", "openai", "--task", str(task_folder()), "--json"]
    counts = []
    for name in ("my.log", "my.bin"):
        assert main([*command, str(tmp_path / name)]) == 0
        counts.append(json.loads(capsys.readouterr().out))
    assert [(row["added"], row["unreadable"]) for row in counts] == [(1, 0), (1, 0)]
    assert main([*command, str(tmp_path / "my.out")]) == 2
    assert "my.out line 2: has no field request.messages or" in capsys.readouterr().err
    for refused in (command, ["logs", "check"]):
        assert main([*refused, str(tmp_path / "my.gz")]) == 2
        assert "compressed; unpack it first" in capsys.readouterr().err


def test_two_requests_under_one_id_are_named_and_counted_apart(tmp_path, home, capsys):
    first, other = ({"request_id": "a1", "created_at": "2026-01-01"} for _ in "ab")
    first |= {"messages": CHAT, "answer": "Hi"}
    other |= {"messages": [{"role": "user", "content": "Hello other"}], "answer": "Hi2"}
    path = tmp_path / "my.jsonl"
    path.write_text("\n".join(map(json.dumps, (first, first, other))))
    command = ["logs", "import", "--format", "openai", "--task", str(task_folder())]
    for added in (1, 0):
        assert main([*command, str(path), "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["added"], told["known"], told["different"]) == (added, 2 - added, 1)
        assert "my.jsonl line 3: has another text under the id a1 than my.jsonl line 1" in str(told)
    assert main(["logs", "check", str(path), "--json"]) == 0  # the later one replaces the first
    told = json.loads(capsys.readouterr().out)
    line = "my.jsonl line 3 has another text under the id a1 than my.jsonl line 1"
    assert (told["requests"], told["replacing"], told["faults"]) == (1, [line], [])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LINES["openai"] | {"response": {"choices": []}}, "line 1: has no answer"),
        (LINES["openai"] | {"request": {"messages": {"messages": []}}}, "line 1: has no chat"),
        (LINES["openai"] | {"latency_ms": -5}, "line 1: has a wrong latency_ms"),
        (None, "my.jsonl is empty"),
    ],
)
def test_a_file_of_which_nothing_can_be_read_is_exit_2_and_why(
    content, reason, tmp_path, home, capsys
):
    path = tmp_path / "my.jsonl"
    path.write_text(json.dumps(content) if content else "")
    command = ["logs", "import", "--format", "openai", "--task", str(task_folder())]
    assert main([*command, str(path)]) == 2
    assert reason in capsys.readouterr().err and not log_of()


def test_logs_check_names_a_latency_below_0_and_an_empty_file(tmp_path, capsys):
    path = tmp_path / "my.jsonl"
    path.write_text('{"request_id": "a", "created_at": "2026-01-01", "latency_ms": -5}\n')
    with open(path, "a") as file:
        file.write('{"request_id": "b", "created_at": "2026-01-01", "messages": []}\n')
    (tmp_path / "none.jsonl").touch()
    assert main(["logs", "check", str(path), str(tmp_path / "none.jsonl")]) == 1
    told = capsys.readouterr().out
    assert "line 2 has no field answer, unless task.yaml maps it" in told
    assert "none.jsonl is empty" in told and "my.jsonl line 1 has a wrong latency_ms" in told


def test_a_trial_is_begun_shown_and_ended_by_the_command_line(home, capsys):
    register("v1", "production")
    register("v2")
    folder = str(task_folder())
    assert main(["route", folder, "--canary", "v2", "--share", "0.2", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["trial"]["version"] == "v2" and told["trial"]["share"] == 0.2
    assert {finding["name"] for finding in told["findings"]} >= {"harm_format_compliance"}
    assert main(["route", folder, "--end", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trial"] is None
    assert main(["route", folder, "--canary", "v2", "--share", "2"]) == 2
    assert main(["route", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[TASK]["version"] == "v1"
