import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from toy_curate import RATIOS, example, shared

from helpers import curate, store, tasks
from helpers.curate import checks, stages
from helpers.curate import personal as shown
from helpers.records import Message, Preference
from helpers.redaction import find_personal_data, find_secrets, recognisers

PII_FILE = shared("pii_presidio_research") / "synth_dataset_v2.jsonl"
PERSONAL = {
    "EMAIL_ADDRESS": "mara.lindqvist@example.com",
    "PHONE_NUMBER": "+44 7700 900123",
    "IBAN_CODE": "DE89 3704 0044 0532 0130 00",
    "CREDIT_CARD": "4111 1111 1111 1111",
    "NATIONAL_ID": "536-90-4399",
    "IP_ADDRESS": "192.168.13.37",
}
SECRETS = (
    "ghp_" + "FakeFake0" * 4,
    "AKIA" + "4XKQ7ZJ2LMN3PQRT",
    "sk-" + "proj-abcdefghijklmnopqrstuvwx1234567890",
    "-----BEGIN RSA PRIVATE " + "KEY----- MIIEfakefakefake",
    "secret wJalrXUtnFEMI/K7MDENG/" + "bPxRfiCYEXAMPLEKEY",
)


@pytest.mark.parametrize(("kind", "value"), PERSONAL.items())
def test_personal_data_is_named_by_kind_and_place_and_never_by_value(kind, value):
    row = example(f"please answer me at {value} soon", id="r1")
    issues = checks.check_findings(row, "contains_pii", find_personal_data)
    assert kind in [i.evidence.split()[0] for i in issues]
    log = store.dumps(stages.rejection(row, issues, "check").model_dump())
    assert value not in log and "characters 20-" in log


@pytest.mark.parametrize("value", SECRETS)
def test_a_secret_is_rejected_and_its_value_reaches_no_log(value):
    row = example(f"it says {value}", id="r1")
    issues = checks.check_findings(row, "contains_secret", find_secrets)
    assert [i.code for i in issues][:1] == ["contains_secret"]
    log = store.dumps(stages.rejection(row, issues, "check").model_dump())
    assert value not in log and value.split()[-1] not in log


def test_a_merely_suspicious_text_is_kept_and_masked():
    row = example("my api_key=8f14e45fceea167a5a36dedd4bea2543 stopped")
    assert checks.check_findings(row, "contains_secret", find_secrets) == []
    assert "8f14e45" not in shown.masked_text(row.user_text)


def all_findings(text):
    """What every recogniser says, also where its finding is thought impossible."""
    return {
        recognisers.Span(kind, start, end)
        for kind, find in recognisers.RECOGNISERS.items()
        for start, end in find(text)
    }


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="0123456789 .:@-+()abcDE/", max_size=60))
def test_skipping_impossible_recognisers_changes_no_finding(text):
    assert set(find_personal_data(text)) == all_findings(text)


@pytest.mark.skipif(not PII_FILE.exists(), reason="needs the shared PII file")
def test_skipping_changes_no_finding_on_the_pii_file():
    texts = [json.loads(line)["full_text"] for line in PII_FILE.read_text().splitlines()]
    assert all(set(find_personal_data(text)) == all_findings(text) for text in texts)


def test_analysing_an_email_asks_no_network():
    program = """
import socket
def refuse(*a, **k):
    print("NETWORK"); raise OSError("blocked")
socket.getaddrinfo = socket.gethostbyname = socket.socket.connect = refuse
from helpers.redaction import find_personal_data
print([s.kind for s in find_personal_data("write to mara@example.co.uk today")])
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=store.PROJECT,
        timeout=120,
    )
    assert done.stdout.strip() == "['EMAIL_ADDRESS']", done.stdout + done.stderr


def message(role, content="text", **extra):
    return Message(role=role, content=content, **extra)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([message("assistant"), message("user")], "last message"),
        ([message("user")], "last message"),
        ([message("user", " "), message("assistant")], "message 1 (user) is empty"),
        ([message("user"), message("assistant", None)], "message 2 (assistant) is empty"),
        ([message("user"), message("system"), message("assistant")], "behind another"),
        ([message("user"), message("tool"), message("assistant")], "answers no tool call"),
        ([message("user", "broken \ud800"), message("assistant")], "cannot be written"),
    ],
)
def test_a_chat_that_cannot_be_learnt_from_says_what_is_wrong(messages, said):
    issues = checks.check_format(example("x").model_copy(update={"messages": messages}))
    assert any(said in i.evidence for i in issues) and {i.code for i in issues} == {
        "invalid_format"
    }


def test_a_proper_chat_passes_also_with_tools():
    turns = [
        message("system"),
        message("user"),
        message("assistant", None, tool_calls=[{"id": "1"}]),
    ]
    turns += [message("tool", tool_call_id="1"), message("assistant")]
    assert checks.check_format(example("x").model_copy(update={"messages": turns})) == []


def settings_of(max_tokens):
    return curate.DataCollectionConfig(
        base_model="tiny", max_tokens=max_tokens, split_ratios=RATIOS
    )


@pytest.mark.parametrize("token", ["<|im_end|>", "<|endoftext|>", "<|fim_suffix|>", "<file_sep>"])
def test_a_special_token_of_the_base_model_or_of_openai_is_rejected_and_named(token, make_task):
    task = tasks.load_task(str(make_task([])))
    rows = [example(f"please stop {token} here"), example("please stop <im_end> | here")]
    stage = curate.validate_examples(rows, task, settings_of(100))
    assert stage.kept == rows[1:]
    (issue,) = stage.rejected[0].issues
    assert (
        issue.code == "invalid_format"
        and issue.evidence == f"message 1 (user) holds the special token {token}"
    )
    answer = example("x").model_copy(
        update={"messages": [message("user"), message("assistant", f"{{}}{token}")]}
    )
    (issue,) = checks.check_special_tokens(answer, checks.special_tokens("tiny"))
    assert "message 2 (assistant)" in issue.evidence


@pytest.mark.parametrize(
    "answer",
    [
        '{"label": "maybe-4111"}',
        "Sure! {}",
        '{"label": NaN}',
        '["yes"]',
        '{"label":"yes","mail-me@x.org":1}',
        '{"label":"yes","label":"4111"}',
    ],
)
def test_an_answer_that_breaks_the_schema_is_rejected_without_quoting_it(answer, make_task):
    validator = Draft202012Validator(tasks.load_task(str(make_task([]))).schema)
    row = example("x").model_copy(
        update={"messages": [message("user"), message("assistant", answer)]}
    )
    (issue,) = checks.check_answer(row, validator)
    assert (
        issue.code == "invalid_format"
        and "4111" not in issue.evidence
        and "mail-me" not in issue.evidence
    )


def test_lengths_are_judged_by_tokens_and_endless_rows_are_not_tokenised(make_task):
    task = tasks.load_task(str(make_task([])))
    rows = [example("a question of ordinary length"), example("word " * 300), example("x" * 50_000)]
    stage = curate.validate_examples(rows, task, settings_of(100))
    assert [e.user_text for e in stage.kept] == ["a question of ordinary length"]
    assert [r.issues[0].code for r in stage.rejected] == ["invalid_length", "invalid_length"]
    assert (
        "tokens" in stage.rejected[0].issues[0].evidence
        and "over 2000 characters" in stage.rejected[1].issues[0].evidence
    )


def test_every_check_runs_on_every_row(make_task):
    bad = example(f"{PERSONAL['EMAIL_ADDRESS']} {SECRETS[0]}", label="maybe")
    task = tasks.load_task(str(make_task([])))
    (row,) = curate.validate_examples([bad], task, settings_of(9)).rejected
    assert {i.code for i in row.issues} == {
        "invalid_format",
        "invalid_length",
        "contains_pii",
        "contains_secret",
    }


def test_thoughts_and_worse_answers_are_searched_and_masked_like_all_that_a_row_holds(make_task):
    (question, answer), mail = example("a question").messages, PERSONAL["EMAIL_ADDRESS"]
    thought = answer.model_copy(update={"reasoning": f"she is {mail}"})
    worse = Preference(rejected=[answer.model_copy(update={"content": f"ask {mail}"})])
    rows = [
        example("x", id="thought").model_copy(update={"messages": [question, thought]}),
        example("a question", id="worse").model_copy(update={"preference": worse}),
    ]
    folder = make_task([])
    stage = curate.validate_examples(rows, tasks.load_task(str(folder)), settings_of(100))
    said = [row.issues[0].evidence for row in stage.rejected]
    assert [text.partition(",")[0] for text in said] == [
        "EMAIL_ADDRESS in message 2 (assistant)",
        "EMAIL_ADDRESS in message 3 (assistant)",
    ]
    with open(folder / "task.yaml", "a") as file:
        file.write("personal: mask\n")
    stage = curate.validate_examples(rows, tasks.load_task(str(folder)), settings_of(100))
    assert stage.kept[0].messages[1].reasoning == "she is [EMAIL_ADDRESS]"
    assert stage.kept[1].preference.rejected[0].content == "ask [EMAIL_ADDRESS]"
    assert stage.kept[1].messages == rows[1].messages and not stage.rejected


def test_what_a_call_says_counts_as_length(make_task):
    function = {"name": "look", "arguments": json.dumps({"words": "word " * 300})}
    call = message("assistant", None, tool_calls=[{"type": "function", "function": function}])
    row = example("look it up").model_copy(update={"messages": [message("user"), call]})
    task = tasks.load_task(str(make_task([])))
    (lost,) = curate.validate_examples([row], task, settings_of(100)).rejected
    assert [issue.code for issue in lost.issues] == ["invalid_length"]


def test_an_excerpt_is_masked_and_never_the_full_text():
    text = f"call {PERSONAL['PHONE_NUMBER']} or {SECRETS[1]} about the thing we said yesterday"
    short = shown.excerpt(text)
    assert "[PHONE_NUMBER]" in short and "7700" not in short and "AKIA" not in short
    assert len(shown.excerpt("hello there")) < len("hello there")
