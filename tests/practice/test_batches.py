"""Offline batches: the wire format by the real SDK, and our own asking through every end of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest
from practice_toys import client_of, jsonl

from helpers import store
from helpers.evaluate.session import Session
from helpers.models import ApiModel, batches
from helpers.records import Budget, WorkbookError
from helpers.run.engine import LONGEST_LINE

sys.path.append(str(Path(__file__).parents[1] / "evaluate"))
from evaluate_toys import ask_rung, asking, toy_rows, toy_task

URL = "/v1/chat/completions"
PRICES = {"models": {"practice-tiny": {"input": 10.0, "output": 20.0, "batch_input": 5.0}}}
PRICES["models"]["practice-tiny"]["batch_output"] = 10.0
CHILD = """
import sys
from pathlib import Path
sys.path[:0] = {folders!r}
from test_batches import offline_rung
offline_rung(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(batches, "PAUSES", (0.05,))


def request_rows(n: int, **body) -> list[dict]:
    chat = {"model": "practice-tiny", "max_tokens": 3, **body}
    rows = []
    for i in range(n):
        turns = [{"role": "user", "content": f"hub {i} offline"}]
        body = chat | {"messages": turns}
        rows.append({"custom_id": f"r{i}", "method": "POST", "url": URL, "body": body})
    return rows


def create(client: openai.OpenAI, rows: list[dict], **options):
    file = client.files.create(file=("in.jsonl", jsonl(rows)), purpose="batch")
    options = {"endpoint": URL, "completion_window": "24h"} | options
    return client.batches.create(input_file_id=file.id, **options)


def until_ended(client: openai.OpenAI, batch_id: str):
    until = time.monotonic() + 200
    while time.monotonic() < until:
        batch = client.batches.retrieve(batch_id)
        if batch.status in batches.ENDED:
            return batch
        time.sleep(0.05)
    raise AssertionError(f"{batch_id} is still {batch.status}")


def lines_of(client: openai.OpenAI, file_id: str | None) -> list[dict]:
    if not file_id:
        return []
    return [json.loads(line) for line in client.files.content(file_id).read().splitlines()]


@pytest.mark.parametrize("mode", ["spec", "live"])
def test_the_sdk_uploads_creates_polls_and_reads_both_files(start, mode):
    client = client_of(start(mode), mode)
    rows = request_rows(6)
    rows[2]["body"]["model"] = "nobody"
    batch = create(client, rows, metadata={"run": "a"})
    assert batch.status == "validating" and batch.metadata == {"run": "a"}
    ended = until_ended(client, batch.id)
    counts = ended.request_counts
    assert (ended.status, counts.total, counts.completed, counts.failed) == ("completed", 6, 5, 1)
    good = lines_of(client, ended.output_file_id)
    assert sorted(line["custom_id"] for line in good) == ["r0", "r1", "r3", "r4", "r5"]
    assert all(line["response"]["body"]["usage"]["completion_tokens"] for line in good)
    (bad,) = lines_of(client, ended.error_file_id)
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("r2", 404)
    assert [entry.id for entry in client.batches.list()] == [batch.id]
    live = client.chat.completions.create(**rows[0]["body"]).choices[0].message.content
    assert (
        live
        == next(line for line in good if line["custom_id"] == "r0")["response"]["body"]["choices"][
            0
        ]["message"]["content"]
    ), "a batch answers as a single request does"


def test_a_broken_input_file_fails_the_batch_and_each_line_is_named(start):
    client = client_of(start())
    rows = [*request_rows(2), *request_rows(1), {"custom_id": "x"}]
    rows[1]["url"] = "/v1/embeddings"
    ended = until_ended(client, create(client, rows).id)
    assert (ended.status, ended.output_file_id) == ("failed", None)
    problems = [(error.line, error.code) for error in ended.errors.data]
    names = ["mismatched_url", "duplicate_custom_id", "invalid_json_line"]
    assert problems == list(zip((2, 3, 4), names, strict=True))
    for changes in ({"endpoint": "/v1/embeddings"}, {"completion_window": "1h"}):
        with pytest.raises(openai.BadRequestError):
            create(client, request_rows(1), **changes)
    with pytest.raises(openai.BadRequestError, match="batch file"):
        client.batches.create(
            input_file_id="file-none", endpoint=URL, completion_window="24h", metadata=None
        )


def test_a_restarted_server_answers_the_batches_that_were_open(start, tmp_path):
    server = start(speed=0.5)
    batch = create(client_of(server), request_rows(3))
    server.__exit__()
    server = start()
    assert until_ended(client_of(server), batch.id).status == "completed"


def offline_rung(url: str, folder: Path, limit_usd: float = 1.0, say=print, rows: int = 12):
    """One rung, asked offline; the budget and the run are those of `folder`'s name."""
    model, run = ApiModel("practice-tiny", url), store.open_run("offline")
    task = toy_task(folder, prices=PRICES)
    session = Session(task, run, Budget(run, limit_usd), latency_rows=1, say=say, offline=True)
    from helpers import evaluate

    how = asking("prompt", model, max_new_tokens=3)
    return evaluate.ask_rung(how, toy_rows(rows), session), run


def at(server) -> tuple[int, int]:
    """(batches, input files) at the provider."""
    files = [file for file in server.practice.storage.files.values() if file["purpose"] == "batch"]
    return len(list(server.practice.storage.folder.glob("batches/*.json"))), len(files)


def test_a_rung_asked_offline_says_what_a_live_one_says_at_the_price_of_batches(start, tmp_path):
    server, said = start(), []
    result, run = offline_rung(server.url, tmp_path, say=said.append)
    spent = Budget(run, 1.0)
    assert at(server) == (1, 1) and spent.reserved == 0.0
    sentence = next(text for text in said if "are in batch" in text)
    assert "10 rows" in sentence and "UTC" in sentence and "same run_id" in sentence
    rows = store.read_jsonl(run.path(result.answers))
    alone, others = rows[:2], rows[2:]
    at_once = sum(10 * row["tokens_in"] + 20 * row["tokens_out"] for row in alone)
    later = sum(5 * row["tokens_in"] + 10 * row["tokens_out"] for row in others)
    assert spent.spent == pytest.approx((at_once + later) / 1e6)
    model = ApiModel("practice-tiny", server.url)
    live = store.open_run("live")
    again = ask_rung(
        model, "prompt", toy_rows(12), toy_task(tmp_path, prices=PRICES), live, latency_rows=1,
        limit_usd=1.0, max_new_tokens=3,
    )  # fmt: skip
    assert [row["answer"] for row in store.read_jsonl(live.path(again.answers))] == [
        row["answer"] for row in rows
    ]
    offline_rung(server.url, tmp_path)
    assert at(server) == (1, 1), "answers are remembered: no second batch"


@pytest.mark.parametrize(("scenario", "lost"), [("batch_rows_fail", 3), ("batch_expired", 5)])
def test_rows_that_failed_or_expired_are_counted_named_and_cost_nothing(
    start, tmp_path, scenario, lost
):
    server, said = start("live", scenario), []
    result, run = offline_rung(server.url, tmp_path, say=said.append)
    rows = store.read_jsonl(run.path(result.answers))
    failed = [row for row in rows if row.get("error")]
    assert (result.n, len(failed)) == (12, lost)
    sentence = next(text for text in said if "have no answer" in text)
    assert f"{lost} of 12" in sentence and all(row["id"] in sentence for row in failed[:3])
    reason = next(text for text in said if "of them" in text)
    assert ("batch_expired" if scenario == "batch_expired" else "500") in reason
    lines = [line for text in said for line in text.splitlines()]
    assert max(map(len, lines)) <= LONGEST_LINE, "else it would not be seen headless"
    assert result.results.quality_scores["failed"].value == pytest.approx(lost / 12)
    paid = [row for row in rows if not row.get("error")]
    assert 0 < Budget(run, 1.0).spent < sum(60 * row["tokens_in"] for row in paid) / 1e6
    server.practice.batches._scenario = "ok"
    result, _ = offline_rung(server.url, tmp_path)
    assert result.results.quality_scores["failed"].value == 0 and at(server) == (2, 2)


@pytest.mark.parametrize("scenario", ["batch_refused", "quota"])
def test_a_refused_batch_is_exit_5_with_the_provider_s_words_and_no_money(
    start, tmp_path, scenario
):
    server = start("live", scenario)
    with pytest.raises(WorkbookError, match=r"token limit|quota") as caught:
        offline_rung(server.url, tmp_path)
    budget = Budget(store.open_run("offline"), 1.0)
    assert caught.value.exit_code == 5
    assert budget.reserved == 0.0 or scenario == "quota"  # where nobody knows: it stays reserved


def test_a_create_whose_answer_came_too_late_is_found_again(start, tmp_path, monkeypatch):
    server = start("live", "slow_create", speed=60.0)
    slow = openai.OpenAI(base_url=server.url, api_key="sk-practice", timeout=0.6)
    monkeypatch.setattr(batches, "openai_client", lambda base_url: slow)
    result, _ = offline_rung(server.url, tmp_path)
    assert result.n == 12 and at(server)[0] == 1


def test_money_is_set_aside_before_anything_is_sent(start, tmp_path):
    server = start()
    with pytest.raises(WorkbookError, match="max_cost_usd"):
        offline_rung(server.url, tmp_path, limit_usd=0.0005)
    assert at(server) == (0, 0)
    result, _ = offline_rung(server.url, tmp_path)
    assert result.n == 12 and at(server) == (1, 1)


def test_an_overdue_batch_ends_the_waiting_with_124(start, tmp_path, monkeypatch):
    server = start("spec", "batch_stuck")
    monkeypatch.setattr(batches, "OVERDUE", -200_000.0)
    with pytest.raises(WorkbookError, match="time is over") as caught:
        offline_rung(server.url, tmp_path)
    assert caught.value.exit_code == 124


@pytest.mark.parametrize("point", [0.05, 0.5])
def test_a_killed_run_comes_back_to_the_same_batch(start, tmp_path, point):
    server = start("spec", "batch_stuck", speed=20.0)
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    command = [sys.executable, "-c", CHILD.format(folders=folders), server.url, str(tmp_path)]
    child = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(store.PROJECT)}, start_new_session=True
    )
    until = time.monotonic() + 120
    notes = store.home() / "runs/offline/batches"
    while not list(notes.glob("*.json")) and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(point)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    server.practice.batches._scenario = "ok"
    for batch in server.practice.batches._batches.values():
        server.practice.batches._begin(batch)
    result, run = offline_rung(server.url, tmp_path)
    assert result.n == 12 and at(server)[0] == 1
    # a request that was on its way when the run was killed stays reserved, a batch does not
    ledger = [json.loads(line) for line in run.path("budget.jsonl").read_text().split("\n") if line]
    of_batches = {row["key"]: row.get("spent") for row in ledger if row["key"].startswith("batch:")}
    assert len(of_batches) == 1 and all(of_batches.values())
