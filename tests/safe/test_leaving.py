"""Lines 5, 15 and 16: what leaves this machine, whose key goes with it, what comes back."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from helpers import models
from helpers.models import ApiModel, openai_client
from helpers.records import Message, WorkbookError
from helpers.tasks import load_task

GOOD = {"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}], "usage": None}
PERSONAL = {
    "CREDIT_CARD": "my card is 4111 1111 1111 1111",
    "EMAIL_ADDRESS": "write to mara.lindqvist@example.com",
    "github_token": "the token is ghp_" + "a1B2" * 9,
    "openai_key": "use\nsk-" + "proj-abcdEFGH1234abcdEFGH1234",
}


class Endpoint(ThreadingHTTPServer):
    """Answers every request with `body`; remembers what came."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = json.dumps(GOOD).encode()
        self.kind = "application/json"
        self.status = 200
        self.bodies, self.keys = [], []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.bodies.append(self.rfile.read(int(self.headers["content-length"])).decode())
        self.server.keys.append(self.headers["authorization"])
        self.send_response(self.server.status)
        if self.server.status == 307:
            self.send_header("location", f"{self.server.url}/elsewhere")
        self.send_header("content-type", self.server.kind)
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *_): ...


@pytest.fixture
def endpoint():
    server = Endpoint()
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def elsewhere(endpoint):
    """A model that counts as being elsewhere, though its address is this machine's."""
    model = ApiModel("m", endpoint.url)
    model.is_loopback = False
    return model


def ask(model, text, **more):
    return model.answer([[Message(role="user", content=text, **more)]], 9)[0]


def task(**changes):
    return load_task("support_triage").model_copy(update={"data_may_leave": True} | changes)


def test_line_05_nobody_elsewhere_is_asked_without_a_tasks_permission(endpoint):
    with pytest.raises(WorkbookError, match="no task has allowed"):
        ask(elsewhere(endpoint), "hello")
    with pytest.raises(WorkbookError, match="data_may_leave"):
        models.check_may_send(task(data_may_leave=False), elsewhere(endpoint))
    assert endpoint.bodies == []


@pytest.mark.parametrize(("kind", "text"), PERSONAL.items())
def test_line_05_personal_data_and_keys_are_held_back_and_named_by_kind(endpoint, kind, text):
    model = elsewhere(endpoint)
    models.check_may_send(task(), model)
    for holder in (model, model.told({"stop": ["END"]})):
        answer = ask(holder, text)
        assert answer.finish == "error" and answer.error == f"held back: {kind}"
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": text}}
    assert ask(model, "x", tool_calls=[call]).finish == "error"
    assert endpoint.bodies == [] and ask(model, "my tap drips").text == "fine"
    with pytest.raises(WorkbookError, match=kind):
        models.check_may_send(task(), model, ["good", text])


def test_line_05_what_the_task_itself_says_or_allows_may_leave(endpoint):
    model = elsewhere(endpoint)
    own = task(instructions_full="Send them to help@kestrel.example.com.")
    models.check_may_send(own, model)
    assert ask(model, "who is help@kestrel.example.com?").finish == "stop"
    assert ask(model, "who is mara@kestrel.example.com?").finish == "error"
    models.check_may_send(task(allow={"ours": r"@kestrel\."}), model)
    assert ask(model, "who is mara@kestrel.example.com?").finish == "stop"


def test_line_05_order_numbers_may_leave_and_phones_may_not(endpoint):
    model = elsewhere(endpoint)
    models.check_may_send(task(), model)
    for text in ("order 4155552671 is late", "where is parcel 0301 2345 679?", "2024-01-02 03:04"):
        assert ask(model, text).text == "fine", text
    for text in (
        *("call 4155552671", "(415) 555-2671", "mobile 07700 900123", "PESEL 44051401359"),
        *("Meine Nummer ist 01711234567", "mi número es 612345678", "Jane Doe, 4155552671"),
        *("For delivery: +49 171 1234567", "order id +14155552671", "About my order. 0171 1234567"),
        *("After delivery: (415) 555-2671", "invoice and 415-555-2671"),
    ):
        assert ask(model, text).error.startswith("held back"), text


def test_line_15_a_key_goes_to_the_host_it_was_given_for(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai")
    assert models.api_key("https://api.openai.com/v1") == "sk-of-openai"
    monkeypatch.setenv("WORKBOOK_API_KEY", "given-for-one")
    monkeypatch.setenv("WORKBOOK_API_HOST", "api.one.example, api.two.example")
    assert models.api_key("https://api.two.example/v1") == "given-for-one"
    for evil in ("https://evil.example/v1", "https://api.one.example.evil.example/v1"):
        with pytest.raises(WorkbookError, match="WORKBOOK_API_HOST="):
            openai_client(evil)
        with pytest.raises(WorkbookError, match="WORKBOOK_API_HOST="):
            openai_client(f"https://api.one.example@{evil.removeprefix('https://')}")


def test_line_15_no_redirect_carries_text_or_key_away(endpoint):
    endpoint.status, endpoint.body = 307, b""
    assert ask(ApiModel("m", endpoint.url), "hello").finish == "error"
    assert len(endpoint.bodies) == 1


ODD = [
    b"",
    b"null",
    b"1",
    b"[]",
    b'"text"',
    b"{}",
    b"{",
    b"\xff\xfe",
    b"<html>",
    b'{"choices": null}',
    b'{"choices": {}}',
    b'{"choices": [null]}',
    b'{"choices": [{}]}',
    b'{"choices": [{"message": null}]}',
    b'{"choices": [{"message": {"content": 5}}]}',
    b'{"choices": [{"message": {"content": ["a"]}}]}',
    b'{"choices": [{"message": {"content": "\\ud800"}}]}',
    b'{"choices": [], "usage": {"prompt_tokens": "many"}}',
    b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": -1}}',
    b'{"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": 1e999}}',
    b'{"choices": [{"message": {"content": "x"}, "finish_reason": 7}]}',
    b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1'
    + b"0" * 5000
    + b"}}",
    b"[" * 100_000,
]


@pytest.mark.parametrize("kind", ["application/json", "text/html"])
@pytest.mark.parametrize("body", ODD, ids=range(len(ODD)))
def test_line_16_an_odd_answer_is_a_failed_request_that_says_what_is_odd(endpoint, body, kind):
    endpoint.body, endpoint.kind = body, kind
    answer = ask(ApiModel("m", endpoint.url), "hello")
    assert answer.finish == "error" and "the endpoint" in answer.error
