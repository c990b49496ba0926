"""kill -9 in the middle of asking an endpoint, and again: real processes, real HTTP on loopback."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from evaluate_toys import RIGHT, ask_rung, toy_rows, toy_task

from helpers import store
from helpers.evaluate import answers
from helpers.models import Answer
from helpers.records import Budget, WorkbookError

ROWS = 60
PRICE = 0.014  # USD of one answer
CHILD = """
import sys
from pathlib import Path
from evaluate_toys import ask_rung, toy_rows, toy_task
from helpers import store
from helpers.models import ApiModel
model, rows = ApiModel("toy", sys.argv[1]), toy_rows(int(sys.argv[2]))
prices = {"models": {"toy": {"input": 1000.0, "output": 1000.0}}}
task, run = toy_task(Path(sys.argv[3]), prices=prices), store.open_run("killed")
ask_rung(model, "prompt", rows, task, run, latency_rows=0, limit_usd=100.0)
"""


class Endpoint:
    """Answers chats slowly, can be held, and counts the answers that reached somebody."""

    def __init__(self):
        self.answered, self.held, self.inside = Counter(), threading.Event(), 0
        owner, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    owner.inside += 1
                time.sleep(0.02)
                while owner.held.is_set():
                    time.sleep(0.01)
                gone = select.select([self.connection], [], [], 0)[
                    0
                ]  # readable now = the other side hung up
                with lock:
                    owner.inside -= 1
                    owner.answered[body["messages"][-1]["content"]] += not gone
                if not gone:
                    self.reply()

            def reply(self):
                message = {"role": "assistant", "content": RIGHT}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
                reply = {
                    "id": "x",
                    "object": "chat.completion",
                    "created": 1,
                    "model": "toy",
                    "choices": [choice],
                }
                text = json.dumps(reply | {"usage": usage}).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def endpoint():
    found = Endpoint()
    yield found
    found.held.clear()
    found.server.shutdown()
    found.server.server_close()


def start(endpoint, tmp_path):
    here = Path(__file__).parent
    paths = [store.PROJECT, here, here.parent]  # evaluate_toys is here, record_toys one higher
    env = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, endpoint.url, str(ROWS), str(tmp_path)], env=env
    )


def kill_after(child, endpoint, wanted):
    """kill -9 once the endpoint has answered `wanted` requests."""
    deadline = time.monotonic() + 120
    while sum(endpoint.answered.values()) < wanted and time.monotonic() < deadline:
        time.sleep(0.002)
    endpoint.held.set()  # nothing more is answered; what was, has a second to be written down
    time.sleep(1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    time.sleep(0.2)
    endpoint.held.clear()
    while endpoint.inside:
        time.sleep(0.01)


def test_after_a_kill_no_row_is_answered_twice_and_none_is_lost(endpoint, tmp_path):
    for wanted in (10, 30):
        kill_after(start(endpoint, tmp_path), endpoint, wanted)
        assert wanted <= sum(endpoint.answered.values()) < ROWS
    assert start(endpoint, tmp_path).wait(timeout=120) == 0
    assert set(endpoint.answered.values()) == {1} and len(endpoint.answered) == ROWS
    budget = Budget(store.open_run("killed"))
    assert budget.spent == pytest.approx(ROWS * PRICE), "each answer is booked once"
    assert 0 < budget.reserved <= 2 * answers.MOST_AT_ONCE * 0.1, "what was on its way at the kills"
    assert set(budget.by_whom()) == {"rung prompt"}
    lines = store.read_jsonl(store.open_run("killed").path("answers/test_prompt.jsonl"))
    assert [line["id"] for line in lines] == [e.id for e in toy_rows(ROWS)] and all(
        line["answer"] == RIGHT for line in lines
    )


class Limited:
    """An endpoint that bears two requests at a time, and refuses more with 429."""

    provider, is_loopback, name, spec, fingerprint = "api", True, "limited", "limited", "l"

    def __init__(self, bears=2):
        self.bears, self.now, self.most, self.refused, self.lock = bears, 0, 0, 0, threading.Lock()

    def answer(self, chats, max_new_tokens):
        with self.lock:
            self.now += 1
            full, self.most = self.now > self.bears, max(self.most, self.now)
            self.refused += full
        time.sleep(0.01)
        with self.lock:
            self.now -= 1
        said = (
            {"finish": "error", "error": "429 rate_limit_exceeded: slow down"}
            if full
            else {"finish": "stop"}
        )
        return [
            Answer(text="" if full else RIGHT, tokens_in=5, tokens_out=3, latency_ms=10, **said)
        ]


def test_a_refusal_for_the_rate_is_waited_for_and_asked_again(task, run, monkeypatch):
    monkeypatch.setattr(answers, "RATE_PAUSE", 0.001)
    model = Limited()
    rung = ask_rung(model, "prompt", toy_rows(40), task, run, latency_rows=3)
    assert model.refused > 0 and model.most <= answers.MOST_AT_ONCE
    assert rung.results.quality_scores["failed"].value == 0 and rung.results.accuracy.value == 1


def test_an_endpoint_that_refuses_for_good_is_given_up_after_a_few_tries(task, run, monkeypatch):
    monkeypatch.setattr(answers, "RATE_PAUSE", 0.0001)
    model = Limited(bears=0)
    with pytest.raises(WorkbookError, match="answered none") as error:
        ask_rung(model, "prompt", toy_rows(4), task, run, latency_rows=0)
    assert error.value.exit_code == 5 and model.refused == 4 * (1 + answers.RATE_RETRIES)


def test_the_spending_limit_is_of_the_whole_run(tmp_path, run):
    prices = {"models": {"limited": {"input": 1000.0, "output": 1000.0}}}
    task, model = toy_task(tmp_path, data_may_leave=True, prices=prices), Limited(bears=99)
    model.is_loopback, model.count_tokens = False, lambda chat: 5
    limits = {"latency_rows": 0, "max_new_tokens": 3, "limit_usd": 0.05}
    ask_rung(model, "prompt", toy_rows(4), task, run, **limits)
    assert Budget(run).spent == pytest.approx(4 * 0.008) and Budget(run).reserved == 0
    with pytest.raises(WorkbookError, match=r"max_cost_usd=0\.05; raise it to 0\.0640 or more"):
        ask_rung(model, "zero_shot", toy_rows(4), task, run, **limits)


class Gone(Limited):
    """An endpoint that is out of reach at its tenth request, while others are answered."""

    def answer(self, chats, max_new_tokens):
        with self.lock:
            self.most += 1
            if self.most == 10:
                raise WorkbookError("nobody answers there", 5)
        time.sleep(0.02)
        return [Answer(text=RIGHT, tokens_in=5, tokens_out=3, latency_ms=10, finish="stop")]


def test_answers_that_were_on_their_way_when_one_failed_are_kept(tmp_path, run):
    """Of ten answers that were paid for, five were asked, and paid, again."""
    prices = {"models": {"limited": {"input": 1000.0, "output": 1000.0}}}
    task, model = toy_task(tmp_path, prices=prices), Gone()
    model.count_tokens = lambda chat: 5
    limits = {"latency_rows": 0, "max_new_tokens": 3, "limit_usd": 100.0}
    with pytest.raises(WorkbookError, match="nobody answers") as error:
        ask_rung(model, "prompt", toy_rows(40), task, run, **limits)
    assert error.value.exit_code == 5
    ask_rung(model, "prompt", toy_rows(40), task, run, **limits)
    assert model.most == 41 and Budget(run).spent == pytest.approx(40 * 0.008)


@pytest.mark.parametrize("at_once", [1, 20])
def test_as_many_requests_are_side_by_side_as_the_parameter_says(task, run, at_once):
    model = Limited(bears=100)
    ask_rung(model, "prompt", toy_rows(80), task, run, latency_rows=1, at_once=at_once)
    assert model.most <= at_once and (at_once == 1 or model.most > answers.MOST_AT_ONCE)
