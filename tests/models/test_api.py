"""Chat endpoints, against a real server on this machine."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from served_toy import serving

from helpers import models
from helpers.models.api import ApiModel, answer_of, is_loopback, openai_client
from helpers.records import Asking, Message, WorkbookError


class Endpoint(ThreadingHTTPServer):
    """Answers with the user's text in capitals.

    `refuses` are the options it does not know, `fails` its failures.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.refuses: set[str] = set()
        self.words: dict[str, Any] = {}  # of that refusal, in place of OpenAI's
        self.fails: dict[
            str, tuple[int, dict[str, Any]]
        ] = {}  # word in the user's text -> status, error
        self.says: dict[str, Any] = {}  # in place of the capitals
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append(body)
        self.server.keys.append(self.headers["Authorization"])
        text = body["messages"][-1]["content"]
        for name in self.server.refuses & set(body):
            error = {"message": f"Unsupported parameter: {name}", "param": name, "code": "bad"}
            return self.reply(400, {"error": self.server.words or error})
        for word, (status, error) in self.server.fails.items():
            if word in text:
                return self.reply(status, {"error": error})
        usage = {
            "prompt_tokens": 11,
            "completion_tokens": 3,
            "total_tokens": 14,
            "prompt_tokens_details": {"cached_tokens": 5},
        }
        finish = "length" if "long" in text else "stop"
        choice = {
            "index": 0,
            "finish_reason": finish,
            "message": {"role": "assistant", "content": text.upper()} | self.server.says,
        }
        shared = {"id": "c1", "object": "chat.completion", "created": 1, "model": body["model"]}
        return self.reply(200, shared | {"choices": [choice], "usage": usage})

    def reply(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("x-should-retry", "false")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *given: Any) -> None: ...


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with serving(Endpoint()) as server:
        yield server


def chat(text: str) -> list[Message]:
    return [Message(role="system", content="Shout."), Message(role="user", content=text)]


def test_answers_come_in_order_with_usage_and_real_latency(endpoint: Endpoint) -> None:
    model = models.load_model("shouter", base_url=endpoint.url)
    answers = model.answer([chat(f"row {i}") for i in range(20)] + [chat("long")], 9)
    assert [a.text for a in answers] == [f"ROW {i}" for i in range(20)] + ["LONG"]
    assert (answers[0].tokens_in, answers[0].tokens_out, answers[0].tokens_cached) == (11, 3, 5)
    assert answers[0].latency_ms > 0 and answers[-1].finish == "length"
    assert endpoint.seen[0]["temperature"] == 0 and endpoint.seen[0]["max_tokens"] == 9
    assert endpoint.seen[0]["messages"][0] == {"role": "system", "content": "Shout."}
    assert model.provider == "api" and model.is_loopback


def test_many_chats_are_asked_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.load_model("shouter", base_url="http://127.0.0.1:9/v1")
    together = threading.Barrier(2)  # opens when two are on their way at once

    def create(asked: list[Message], limit: int) -> bytes:
        if asked[-1].content != "first":
            together.wait(60)
        choice = {"finish_reason": "stop", "message": {"content": asked[-1].content}}
        return json.dumps({"choices": [choice]}).encode()

    monkeypatch.setattr(model, "_create", create)
    words = ["first", "second", "third"]
    assert [a.text for a in model.answer([chat(word) for word in words], 9)] == words


def test_loopback_needs_no_key_sees_no_foreign_key_and_goes_round_the_proxy(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-company")
    assert ApiModel("m", endpoint.url).answer([chat("hi")], 4)[0].text == "HI"
    assert endpoint.keys == ["Bearer sk-local"]
    monkeypatch.setenv("WORKBOOK_API_KEY", "given-on-purpose")
    assert ApiModel("m", endpoint.url).answer([chat("hi")], 4)[0].finish == "stop"
    assert endpoint.keys[-1] == "Bearer given-on-purpose"


def test_other_endpoints_need_a_key() -> None:
    with pytest.raises(WorkbookError, match="WORKBOOK_API_KEY"):
        openai_client("https://api.example.com/v1")


def test_an_option_that_the_server_does_not_know_is_dropped_for_good(endpoint: Endpoint) -> None:
    endpoint.refuses = {"temperature", "max_tokens"}
    model = ApiModel("m", endpoint.url)
    assert [a.text for a in model.answer([chat("b"), chat("c")], 4)] == ["B", "C"]
    assert len(endpoint.seen) == 4, "two refusals once, not for every row"
    assert (
        endpoint.seen[-1]["max_completion_tokens"] == 4 and "temperature" not in endpoint.seen[-1]
    )


def test_a_failed_request_is_an_error_answer_that_repeats_neither_keys_nor_the_chat(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORKBOOK_API_KEY", "very-secret-value")
    endpoint.fails = {
        "confidential": (500, {"message": "cannot handle 'confidential matter'", "code": "boom"}),
        "other": (500, {"message": "key very-secret-value is tired", "code": None}),
    }
    good, echo, leak = ApiModel("m", endpoint.url).answer(
        [chat("x"), chat("confidential matter"), chat("other")], 4
    )
    assert good.text == "X"
    assert echo.finish == "error" and echo.error == "500 boom"
    assert leak.finish == "error" and leak.error == "500: key [secret] is tired"


def test_a_refusal_at_the_very_first_request_stops_with_exit_5(endpoint: Endpoint) -> None:
    endpoint.fails = {"hi": (401, {"message": "Incorrect API key", "code": "invalid_api_key"})}
    with pytest.raises(WorkbookError, match="invalid_api_key") as refusal:
        ApiModel("m", endpoint.url).answer([chat("hi"), chat("there")], 4)
    assert refusal.value.exit_code == 5 and len(endpoint.seen) == 1
    model = ApiModel("m", endpoint.url)
    assert [a.finish for a in model.answer([chat("there"), chat("hi")], 4)] == ["stop", "error"]


def test_an_endpoint_that_is_not_there_stops_with_exit_5(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.models.connection.PAUSE", 0.01)
    with pytest.raises(WorkbookError, match="no connection") as refusal:
        ApiModel("m", "http://127.0.0.1:9/v1").answer([chat("hi")], 4)
    assert refusal.value.exit_code == 5


def test_only_this_machine_is_loopback() -> None:
    assert all(
        map(is_loopback, ["http://localhost:1/v1", "http://127.3.2.1/v1", "http://[::1]:8/v1"])
    )
    others = [
        "https://api.openai.com/v1",
        "http://10.0.0.2/v1",
        "http://localhost.example.com",
        "http://127.0.0.1.nip.io/v1",
    ]
    assert not any(map(is_loopback, others))
    with pytest.raises(WorkbookError, match="no web address"):
        ApiModel("m", "127.0.0.1:8000")


def test_a_schema_is_sent_along_and_dropped_with_a_word_where_the_endpoint_refuses_it(
    endpoint, caplog
):
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}}
    model = ApiModel("m", endpoint.url)
    constrained = model.with_asking(Asking(response_format=schema))
    constrained.answer([chat("a")], 5)
    assert endpoint.seen[-1]["response_format"]["json_schema"]["schema"] == schema
    assert "response_format" not in str(model.__dict__)
    message = "This model does not support response format `json_schema`"
    endpoint.refuses, endpoint.words = {"response_format"}, {"message": message}
    assert constrained.answer([chat("b")], 5)[0].text == "B"
    assert "does not take response_format" in caplog.text
    asked = len(endpoint.seen)
    model.with_asking(Asking(response_format=schema)).answer([chat("c")], 5)
    assert len(endpoint.seen) == asked + 1 and "response_format" not in endpoint.seen[-1], (
        "it is not tried again"
    )


def test_logged_answers_are_found_by_their_question():
    from helpers.models.logged import LoggedModel

    model = LoggedModel({"a": "1"})
    found = model.answer(
        [
            [Message(role="system", content="s"), Message(role="user", content=q)]
            for q in ("a", "b")
        ],
        5,
    )
    assert [(a.text, a.finish) for a in found] == [("1", "stop"), ("", "error")]


def test_tools_and_what_an_asking_says_reach_the_endpoint_and_calls_and_thoughts_come_back(
    endpoint: Endpoint,
) -> None:
    tool = {"type": "function", "function": {"name": "get_price", "parameters": {}}}
    asking = Asking(stop=["END"], template_args={"enable_thinking": False})
    model = ApiModel("m", endpoint.url).with_asking(asking)
    system = Message(role="system", content="Shout.", tools=[tool])
    model.answer([[system, Message(role="user", content="hi")]], 9)
    body = endpoint.seen[-1]
    assert body["tools"] == [tool] and "tools" not in body["messages"][0]
    assert body["stop"] == ["END"] and body["chat_template_kwargs"] == {"enable_thinking": False}
    function = {"name": "get_price", "arguments": '{"symbol": "AB"}'}
    call = {"id": "c", "type": "function", "function": function}
    endpoint.says = {"content": None, "reasoning_content": "hm", "tool_calls": [call, call]}
    (answer,) = model.answer([[system, Message(role="user", content="hi")]], 9)
    block = '<tool_call>{"name": "get_price", "arguments": {"symbol": "AB"}}</tool_call>'
    assert answer.text == f"{block}\n{block}" and answer.thoughts == "hm"
    endpoint.says = {"content": "<think>\nhm</think>\n\nTen"}
    (answer,) = model.answer([chat("hi")], 9)
    assert (answer.text, answer.thoughts) == ("Ten", "hm")
    assert "tools" not in endpoint.seen[-1]


def test_only_a_tuned_model_is_asked_how_sure_it_was_and_an_endpoint_may_refuse_that(endpoint):
    chat = [[Message(role="user", content="hello")]]
    tuned = Asking().for_rung("fine_tuned", "v1")
    ApiModel("m", endpoint.url).with_asking(Asking().for_rung("prompt", "m")).answer(chat, 9)
    assert "logprobs" not in endpoint.seen[-1]
    model = ApiModel("m", endpoint.url).with_asking(tuned)
    assert model.answer(chat, 9)[0].confidence is None
    assert endpoint.seen[-1]["logprobs"] is True
    endpoint.refuses = {"logprobs"}
    assert model.answer(chat, 9)[0].text == "HELLO"
    assert model.answer(chat, 9)[0].text == "HELLO"
    assert ["logprobs" in body for body in endpoint.seen[2:]] == [True, False, False]


@pytest.mark.parametrize(
    ("logprobs", "confidence"),
    [
        ({"content": [{"logprob": -0.5}, {"logprob": -0.5}]}, math.exp(-1)),
        ({"content": [{"logprob": -9999.0}]}, 0.0),
        ({"content": []}, None),
        ({"content": [{"logprob": 3.0}]}, None),
        ({"content": [{"logprob": "high"}]}, None),
        ({"tokens": [1]}, None),
        ([1], None),
        ("odd", None),
        (None, None),
    ],
)
def test_what_an_endpoint_tells_of_its_tokens_is_read_or_passed_over(logprobs, confidence):
    choice = {"message": {"content": "yes"}, "finish_reason": "stop", "logprobs": logprobs}
    answer = answer_of(json.dumps({"choices": [choice]}), 1.0)
    assert (answer.text, answer.finish) == ("yes", "stop")
    assert answer.confidence == (confidence if confidence is None else pytest.approx(confidence))


def reply(content: Any = "yes", finish: str | None = "stop", **more: Any) -> dict[str, Any]:
    """What OpenAI answers, or another provider in its place."""
    message = {"role": "assistant", "content": content} | more.pop("message", {})
    choice = {"index": 0, "finish_reason": finish, "message": message} | more.pop("choice", {})
    return {"choices": [choice]} | more


THOUGHTS = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}
TEN = {"type": "text", "text": "Ten"}


@pytest.mark.parametrize(
    ("body", "text", "finish"),
    [
        (reply([THOUGHTS, TEN]), "Ten", "stop"),
        (reply([TEN, TEN]), "TenTen", "stop"),
        (reply(None, message={"refusal": "I cannot"}), "I cannot", "stop"),
        (reply("cut", "model_length"), "cut", "length"),
        (reply("cut", "MAX_TOKENS"), "cut", "length"),
        (reply("yes", None), "yes", "stop"),
        (reply("yes", usage={"prompt_tokens": None}), "yes", "stop"),
        (reply("half", "error", choice={"error": {"code": 502}}), "", "error"),
        (reply("", "content_filter: SAFETY"), "", "error"),
        ({"choices": [{"index": 0, "finish_reason": "length"}]}, "", "length"),
        ({"choices": None, "error": {"code": 429, "message": "slow down"}}, "", "error"),
        ({"error": "no"}, "", "error"),
    ],
)
def test_what_other_providers_answer_is_read_as_they_mean_it(body, text, finish):
    answer = answer_of(json.dumps(body), 1.0)
    assert (answer.text, answer.finish) == (text, finish)
    if "429" in json.dumps(body):
        assert answer.error.startswith("429"), "so that it is asked again, later"


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}, (10, 2, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 112}, (10, 102, 0)),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 2,
                "prompt_tokens_details": {"cached_tokens": 900},
            },
            (10, 2, 10),
        ),
    ],
)
def test_no_token_that_costs_money_is_overlooked(usage, counts):
    """xAI and Gemini count what was thought in the total alone."""
    answer = answer_of(json.dumps(reply(usage=usage)), 1.0)
    assert (answer.tokens_in, answer.tokens_out, answer.tokens_cached) == counts


@pytest.mark.parametrize(
    ("base_url", "reason"),
    [
        ("http://[::1", "no web address"),
        ("http://user:pass1word@127.0.0.1:1/v1", "holds a login"),
        ("https://r.openai.azure.com/openai/deployments/x?api-version=1", "follows a `.`"),
    ],
)
def test_an_address_that_would_not_work_or_holds_a_secret_is_refused(base_url, reason):
    with pytest.raises(WorkbookError, match=reason) as refusal:
        ApiModel("m", base_url)
    assert "pass1word" not in str(refusal.value)


def test_an_answer_without_end_is_given_up(endpoint, monkeypatch):
    monkeypatch.setattr("helpers.models.connection.MOST_BYTES", 1000)
    with pytest.raises(WorkbookError, match="does not end"):
        ApiModel("m", endpoint.url).answer([chat("word " * 1000)], 4)
    assert len(endpoint.seen) == 1
