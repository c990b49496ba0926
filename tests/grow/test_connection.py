"""Requests to an endpoint: kept connections, the waits that it asks for, each row asked once."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from served_toy import serving

from helpers import store
from helpers.models import ApiModel, connection
from helpers.models.connection import read_refusal, seconds_to_wait
from helpers.records import Budget, Message, WorkbookError

sys.path.insert(0, str(store.PROJECT / "tests" / "evaluate"))
from evaluate_toys import RIGHT, ask_rung, toy_rows, toy_task

CHAT = [Message(role="user", content="Where is it?")]


class Toy(ThreadingHTTPServer):
    """Answers every chat; refuses the first requests with what `refusals` holds."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.refusals, self.times, self.ports, self.logins = [], [], set(), []
        self.questions, self.lock = Counter(), threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.times.append(time.monotonic())
            self.server.ports.add(self.client_address[1])
            login = self.headers.get("Proxy-Authorization")
            self.server.logins += [login] if login else []
            refusal = self.server.refusals.pop(0) if self.server.refusals else None
            if refusal is None:
                self.server.questions[body["messages"][-1]["content"]] += 1
        if refusal is not None:
            return self.reply(429, {"error": {"message": "slow down", "code": "rate"}}, refusal)
        message = {"role": "assistant", "content": RIGHT}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        return self.reply(200, {"choices": [choice], "usage": usage}, {})

    def reply(self, status, value, headers):
        data = json.dumps(value).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def toy():
    with serving(Toy()) as server:
        yield server


def test_a_connection_is_kept_from_one_request_to_the_next(toy):
    model = ApiModel("toy", toy.url)
    assert all(model.answer([CHAT], 5)[0].text == RIGHT for _ in range(20))
    assert len(toy.ports) == 1


def test_an_endpoint_is_left_alone_for_as_long_as_it_says(toy):
    toy.refusals = [{"retry-after-ms": "400"}]
    assert ApiModel("toy", toy.url).answer([CHAT], 5)[0].finish == "stop"
    assert len(toy.times) == 2 and toy.times[1] - toy.times[0] >= 0.4


def test_who_wants_to_be_left_alone_for_an_hour_is_not_asked_again(toy):
    toy.refusals = [{"retry-after": "3600"}]
    [answer] = ApiModel("toy", toy.url).answer([CHAT], 5)
    assert answer.error == "429 rate: slow down" and len(toy.times) == 1


def test_the_wait_is_read_in_every_form():
    later = store.now().replace(year=store.now().year + 1)
    assert seconds_to_wait({"retry-after": "2"}) == 2.0
    assert seconds_to_wait({"retry-after-ms": "250", "retry-after": "9"}) == 0.25
    assert seconds_to_wait({"retry-after": format_datetime(later)}) > 1000
    for odd in ({}, {"retry-after": "soon"}, {"retry-after": "-3"}, {"retry-after-ms": ""}):
        assert seconds_to_wait(odd) == 0.0


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"error": {"message": "no", "code": "c", "param": null}}', "no", "c"),
        (b'{"error": "no"}', "no", ""),
        (b'[{"error": {"message": "no", "code": 400}}]', "no", "400"),
        (b'{"detail": "no"}', "{'detail': 'no'}", ""),
        (b"<html>no</html>", "<html>no</html>", ""),
        (b"[1]", "[1]", ""),
        (b"[" * 100_000, "[" * 100_000, ""),
    ],
)
def test_a_refusal_is_read_in_every_form(body, message, code):
    refusal = read_refusal(500, body)
    assert (refusal.status, refusal.message, refusal.code) == (500, message, code)


def test_a_key_that_is_none_is_refused_without_being_shown(toy, monkeypatch):
    monkeypatch.setenv("WORKBOOK_API_KEY", "half\nof a key")
    with pytest.raises(WorkbookError, match="a sign that no key has") as error:
        ApiModel("toy", toy.url).answer([CHAT], 5)
    assert "half" not in str(error.value)


def test_other_hosts_are_asked_through_the_environment_s_proxy(toy, monkeypatch):
    monkeypatch.setattr(connection, "PAUSE", 0.001)
    proxy = toy.url.removesuffix("/v1").replace("//", "//us%40er:pa%20ss@")
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    address = ("http://127.0.0.2:9/v1", "sk-x", 5)
    body = {"messages": [{"content": "half of a pair: \ud800"}]}
    assert json.loads(connection.Connection(*address, True).post("/chat", body))["choices"]
    assert toy.logins == ["Basic dXNAZXI6cGEgc3M="]
    monkeypatch.setenv("no_proxy", "127.0.0.2")
    with pytest.raises(connection.Refused, match="no connection"):
        connection.Connection(*address, True).post("/chat", body)
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", "socks5://127.0.0.1:1")
    with pytest.raises(WorkbookError, match="no http proxy"):
        connection.Connection(*address, True)
    assert len(toy.times) == 1


def test_many_at_once_with_refusals_between_ask_and_book_each_row_once(toy, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    toy.refusals = [None] * 40 + [{"retry-after-ms": "20"}, None] * 10
    prices = {"models": {"toy": {"input": 1000.0, "output": 1000.0}}}
    task, run, rows = toy_task(tmp_path, prices=prices), store.open_run("many"), toy_rows(300)
    limits = {"latency_rows": 0, "at_once": 32, "limit_usd": 1000.0}
    rung = ask_rung(ApiModel("toy", toy.url), "prompt", rows, task, run, **limits)
    assert set(toy.questions.values()) == {1} and len(toy.questions) == 300
    assert rung.results.accuracy.value == 1 and len(toy.ports) <= 33
    budget = Budget(run, 1000.0)
    assert budget.spent == pytest.approx(300 * 0.014) and budget.reserved == 0
    assert budget.reserved == pytest.approx(0.0)
