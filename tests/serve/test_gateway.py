"""A promoted version answers real requests, and every answer says which one it was."""

from __future__ import annotations

import asyncio
import math

import openai
import pytest
from registry_toys import TASK
from serve_toys import (
    INSTRUCTIONS,
    TASK_YAML,
    chat_body,
    client,
    gateway,
    log_of,
    register,
    running,
    task_folder,
    until,
)
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from helpers import store
from helpers.records import REPLAY_USER, Asking


def ask(address, text="Hello", **more):
    return client.post(f"{address}/v1/chat/completions", json=chat_body(text, **more), timeout=30)


def test_the_official_client_works_unchanged_plain_and_streamed(served):
    address, _, engine = served
    client = openai.OpenAI(
        base_url=f"{address}/v1", api_key="none", _strict_response_validation=True, max_retries=0
    )
    messages = [{"role": "user", "content": "Hello"}]
    plain = client.chat.completions.create(model=TASK, messages=messages)
    assert plain.choices[0].message.content == "v1 Hello"
    assert (plain.model, plain.system_fingerprint) == ("v1", f"{TASK}@1")
    assert plain.usage.total_tokens == 10
    chunks = list(
        client.chat.completions.create(
            model=TASK, messages=messages, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "v1 Hello" and chunks[-1].usage.total_tokens == 10
    assert {c.model for c in chunks} == {"v1"} and chunks[-2].choices[0].finish_reason == "stop"
    assert {m.id for m in client.models.list()} == {TASK, "v1"}
    assert client.models.retrieve("v1").id == "v1"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("v2")
    # the version's own instructions stand before the user's turns
    assert engine.asked[0]["messages"][0] == {"role": "system", "content": INSTRUCTIONS}
    assert engine.asked[0]["temperature"] == 0


def test_every_answer_is_stamped_and_logged_once(served):
    address, _, _ = served
    replies = [ask(address, f"question {n}") for n in range(5)]
    for reply in replies:
        stamp = {k: v for k, v in reply.headers.items() if k.startswith("x-workbook")}
        assert stamp == {
            "x-workbook-task": TASK,
            "x-workbook-version": "v1",
            "x-workbook-generation": "1",
            "x-workbook-arm": "production",
        }
        assert reply.headers["x-request-id"] == reply.json()["id"]
    until(lambda: len(log_of()) == 5)
    rows = {row.request_id: row for row in log_of()}
    assert set(rows) == {reply.json()["id"] for reply in replies}
    row = rows[replies[0].json()["id"]]
    assert (row.version, row.generation, row.status, row.well_formed) == ("v1", 1, "ok", True)
    assert row.answer == "v1 question 0" and row.latency_ms > 0 and row.tokens_in == 7


def test_a_promotion_and_a_rollback_are_followed_and_the_old_version_leaves(served):
    address, _made, engine = served
    manager = register("v2")
    manager.promote("v2", "production", because="toy", force=True)
    until(lambda: ask(address).json()["model"] == "v2")
    assert ask(address).headers["x-workbook-generation"] == "2"
    until(lambda: engine.unloaded == ["v1"])
    manager.rollback(because="toy")
    until(lambda: ask(address).json()["model"] == "v1")
    assert ask(address).headers["x-workbook-generation"] == "3"
    assert client.get(f"{address}/readyz").json()["ready"]


def test_what_was_asked_before_a_switch_is_still_answered_by_the_old_version(served):
    from concurrent.futures import ThreadPoolExecutor

    address, made, engine = served
    engine.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(ask, address)
        until(lambda: len(engine.asked) == 1)
        register("v2", "production")
        until(lambda: made.lanes[TASK].generation == 2)
        assert not engine.unloaded
        engine.gate.set()
        assert old.result().json()["model"] == "v1"
    until(lambda: engine.unloaded == ["v1"])


def test_a_version_that_cannot_be_loaded_changes_nothing_and_the_team_is_told(served, home):
    address, made, engine = served
    manager = register("v2")
    (home / "models/v2/adapter/adapter_model.safetensors").write_text("other weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("helpers.registry.gate.can_be_forced", lambda rules: True)
        manager.promote("v2", "production", because="toy", force=True)
    until(lambda: made.lanes[TASK].problem)
    assert ask(address).json()["model"] == "v1"
    state = client.get(f"{address}/readyz")
    assert state.status_code == 503 and "sha256" in state.json()["problems"][0]
    assert "v2" not in engine.loaded
    until(lambda: "cannot be served" in (home / "notifications.jsonl").read_text())
    manager.rollback(because="toy")
    until(lambda: client.get(f"{address}/readyz").status_code == 200)


def test_another_system_prompt_is_refused_and_the_versions_own_may_come_along(served):
    address, _, engine = served
    own = {"role": "system", "content": INSTRUCTIONS}
    other = {"role": "system", "content": "You are a pirate."}
    user = {"role": "user", "content": "Hello"}
    body = {"model": TASK, "messages": [other, user]}
    refused = client.post(f"{address}/v1/chat/completions", json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == "system_prompt_not_allowed"
    good = client.post(
        f"{address}/v1/chat/completions", json={"model": TASK, "messages": [own, user]}
    )
    assert good.status_code == 200
    assert engine.asked[-1]["messages"] == [own, user]  # once, not twice


TOOL = {
    "type": "function",
    "function": {
        "name": "book",
        "parameters": {"type": "object", "properties": {"day": {"type": "string"}}},
    },
}


@pytest.mark.parametrize("parsed_by_the_engine", [True, False])
def test_a_version_with_tools_is_told_them_and_its_calls_come_back_as_calls(
    engine, parsed_by_the_engine
):
    asking = Asking(tools=[TOOL], stop=["###"], template_args={"thinking": False})
    register("v1", "production", asking=asking.for_rung("fine_tuned", "v1"))
    call = {"name": "book", "arguments": '{"day": "Monday"}'}
    raw = {"role": "assistant", "content": None, "tool_calls": [{"id": "a", "function": call}]}
    if not parsed_by_the_engine:
        raw = '<tool_call>{"name": "book", "arguments": {"day": "Monday"}}</tool_call>'
    engine.answers = lambda body: raw
    with gateway(engine.url) as (address, _):
        sdk = openai.OpenAI(
            base_url=f"{address}/v1", api_key="x", _strict_response_validation=True, max_retries=0
        )
        turns = [{"role": "user", "content": "Book Monday"}]
        plain = sdk.chat.completions.create(model=TASK, messages=turns, tools=[TOOL])
        said = plain.choices[0].message
        assert said.content is None and plain.choices[0].finish_reason == "tool_calls"
        [answer] = said.tool_calls
        assert answer.function.name == "book" and answer.function.arguments == call["arguments"]
        pieces = list(sdk.chat.completions.create(model=TASK, messages=turns, stream=True))
        deltas = [p.choices[0].delta.tool_calls for p in pieces if p.choices[0].delta.tool_calls]
        assert deltas[0][0].function.name == "book"
        assert pieces[-1].choices[0].finish_reason == "tool_calls"
        result = {"role": "tool", "tool_call_id": answer.id, "content": "done"}
        turns += [said.model_dump(exclude_none=True), result]
        sdk.chat.completions.create(model=TASK, messages=turns)
        other = {"type": "function", "function": {"name": "pay", "parameters": {}}}
        with pytest.raises(openai.BadRequestError, match="calls the tools that it"):
            sdk.chat.completions.create(model=TASK, messages=turns, tools=[other])
    first = engine.asked[0]
    assert first["tools"] == [TOOL] and first["stop"] == ["###"]
    assert first["chat_template_kwargs"] == {"thinking": False}
    assert [turn["role"] for turn in engine.asked[-1]["messages"]][1:] == [
        "user",
        "assistant",
        "tool",
    ]


def test_another_form_of_the_answer_is_refused_and_the_tasks_own_is_none_of_a_text(served):
    address, _, _ = served
    own = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}
    for form in ({"type": "json_object"}, own):
        refused = ask(address, response_format=form)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "response_format_not_allowed"
    assert ask(address, response_format={"type": "text"}).status_code == 200


@pytest.mark.parametrize(("fields", "status"), [(("b", "a"), 200), (("a",), 400)])
def test_a_schema_of_the_same_fields_may_come_along(engine, fields, status):
    register("v1", "production")
    schema = "{type: object, properties: {a: {type: string}, b: {type: string}}}"
    text = TASK_YAML.replace("{text: true}", f"{{schema: {schema}}}").replace("scorer", "fields")
    store.write_text(task_folder() / "task.yaml", text + "scored_fields: [a]\n")
    with gateway(engine.url) as (address, _):
        wanted = {"name": "x", "schema": {"properties": {name: {} for name in fields}}}
        form = {"type": "json_schema", "json_schema": wanted}
        assert ask(address, response_format=form).status_code == status
        assert ask(address, response_format={"type": "json_object"}).status_code == 200


def test_probabilities_are_passed_on_where_the_engine_gives_them(served):
    address, _, engine = served
    reply = ask(address, logprobs=True, top_logprobs=2)
    assert reply.json()["choices"][0]["logprobs"]["content"][0]["logprob"] == -0.5
    assert engine.asked[-1]["top_logprobs"] == 2
    assert "logprobs" not in ask(address).request.content.decode()


def odd_engine(body: bytes, endless: bool = False) -> Starlette:
    """An engine that lists v1 and answers with these bytes, or with no end of them."""

    async def pieces():
        while True:
            yield body
            await asyncio.sleep(0)

    async def chat(request):
        return StreamingResponse(pieces()) if endless else Response(body)

    async def models(request):
        return JSONResponse({"data": [{"id": "v1"}]})

    chat_route = Route("/v1/chat/completions", chat, methods=["POST"])
    return Starlette(routes=[Route("/v1/models", models), chat_route])


def test_an_impossible_token_is_no_fault_of_ours():
    register("v1", "production")
    token = (
        b'{"token": "x", "logprob": -Infinity, "top_logprobs": [{"token": "y", "logprob": NaN}]}'
    )
    body = b'{"choices": [{"message": {"content": "x"}, "logprobs": {"content": [%s]}}]}' % token
    with running(odd_engine(body)) as url, gateway(f"{url}/v1") as (address, _):
        reply = ask(address, logprobs=True, top_logprobs=1)
        first = reply.json()["choices"][0]["logprobs"]["content"][0]
        assert (reply.status_code, first["logprob"]) == (200, -9999.0)


def test_an_answer_without_end_takes_no_memory_and_no_thread_for_long(monkeypatch):
    register("v1", "production")
    monkeypatch.setattr("helpers.models.connection.MOST_BYTES", 2**20)
    engine = odd_engine(b" " * 2**16, endless=True)
    with running(engine) as url, gateway(f"{url}/v1") as (address, made):
        reply = ask(address)
        assert reply.status_code == 502 and "does not end" in reply.json()["error"]["message"]
        until(lambda: made.lanes[TASK].waiting == 0)


def test_how_sure_the_engine_was_is_logged_and_one_that_does_not_tell_answers_all_the_same(served):
    address, _, engine = served
    assert ask(address).json()["choices"][0]["logprobs"] is None, "nobody asked for them"
    until(lambda: log_of() and log_of()[-1].confidence == pytest.approx(math.exp(-0.5)))
    engine.refuses = "logprobs"
    for _ in range(2):
        assert ask(address).status_code == 200
    until(lambda: len(log_of()) == 3)
    assert log_of()[-1].confidence is None
    assert ["logprobs" in body for body in engine.asked] == [True, True, False, False]


def test_what_a_caller_wants_of_probabilities_is_left_out_where_the_engine_refuses_it(served):
    address, _, engine = served
    reply = ask(address, logprobs=True, top_logprobs=20)  # the engine gives five at most
    assert reply.status_code == 200 and reply.json()["choices"][0]["logprobs"] is None
    assert [body.get("top_logprobs") for body in engine.asked] == [20, None]
    assert ask(address).status_code == 200
    until(lambda: len(log_of()) == 2)
    sure = pytest.approx(math.exp(-0.5))
    assert [row.confidence for row in log_of()] == [sure, sure], "one caller's wish changes nothing"
    engine.refuses = "logprobs"
    for _ in range(2):
        assert ask(address, logprobs=True).status_code == 200
    asked = ["logprobs" in body for body in engine.asked[3:]]
    assert asked == [True, True, False, False], "the caller's, ours, and from now on neither"


def test_what_06_asks_again_is_logged_as_a_trial(served):
    address, _, _ = served
    reply = ask(address, model="v1", user=REPLAY_USER)
    assert (reply.status_code, reply.headers["x-workbook-arm"]) == (200, "trial")
    until(lambda: [row.arm for row in log_of()] == ["trial"])


def test_what_does_not_count_is_named_and_a_longer_answer_than_measured_is_not_given(served):
    address, _, engine = served
    reply = ask(address, temperature=0.9, seed=3, max_tokens=100_000)
    assert reply.headers["x-workbook-ignored"] == "temperature,seed"
    assert engine.asked[-1]["max_tokens"] == 40
    ask(address, max_completion_tokens=5)
    assert engine.asked[-1]["max_tokens"] == 5
    others = {"functions": [], "guided_json": {}, "store": None, "x\r\ny": 1, "é": 1}
    reply = ask(address, **others)  # also what is not OpenAI's, by names that a header may hold
    assert reply.headers["x-workbook-ignored"] == "functions,guided_json"


def test_a_version_in_staging_answers_by_its_id_and_counts_as_a_trial(served):
    address, _, _ = served
    register("v2")
    reply = ask(address, model="v2")
    assert reply.json()["model"] == "v2" and reply.headers["x-workbook-arm"] == "trial"
    assert ask(address, model="v1").headers["x-workbook-arm"] == "production"
    assert ask(address, model="v3").status_code == 404
    register("v4", "")
    assert ask(address, model="v4").status_code == 404  # not in staging


def test_too_many_that_wait_are_sent_away_with_the_time_to_come_again(engine):
    from concurrent.futures import ThreadPoolExecutor

    register("v1", "production")
    engine.gate.clear()
    with gateway(engine.url, most_waiting=2) as (address, made), ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(ask, address) for _ in range(2)]
        until(lambda: made.lanes[TASK].waiting == 2)
        refused = ask(address)
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        engine.gate.set()
        assert [w.result().status_code for w in waiting] == [200, 200]
        assert ask(address).status_code == 200


def test_an_engine_that_fails_is_a_failed_request_in_the_log_without_words_of_the_chat(served):
    address, _, engine = served
    engine.fails["v1"] = 500
    reply = ask(address, "a secret word")
    assert reply.status_code == 502 and "secret" not in reply.text
    assert reply.headers["x-workbook-version"] == "v1"
    until(lambda: log_of())
    assert log_of()[0].status == "error" and log_of()[0].well_formed is False


def test_an_answer_that_takes_too_long_is_a_timeout(engine):
    register("v1", "production")
    engine.delay = 1.0
    with gateway(engine.url, timeout=0.1) as (address, _):
        assert ask(address).status_code == 504


@pytest.mark.parametrize("runtime", ["sglang", "none"])
def test_adapters_are_loaded_where_the_server_offers_it(runtime):
    from serve_toys import ToyEngine, running

    register("v1", "production")
    toy = ToyEngine(runtime)
    with running(toy.app) as url, gateway(f"{url}/v1") as (address, _made):
        if runtime == "none":
            assert "loads no adapter" in client.get(f"{address}/readyz").json()["problems"][0]
            assert ask(address).status_code == 404
        else:
            reply = ask(address).json()
            assert reply["model"] == "v1" and list(toy.loaded) == ["v1"]
            assert reply["choices"][0]["message"]["content"] == "v1 Hello", "and not the base"


def test_a_task_whose_instructions_changed_since_training_does_not_serve(served, home):
    address, _made, _ = served
    register("v2")
    folder = home.parent / "toy_task"
    text = (folder / "task.yaml").read_text()
    (folder / "task.yaml").write_text(text.replace(INSTRUCTIONS, "Answer in two words."))
    reply = ask(address, model="v2")
    assert reply.status_code == 409 and "instructions" in reply.json()["error"]["message"]
    assert ask(address).status_code == 200
