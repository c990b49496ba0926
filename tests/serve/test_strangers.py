"""What programs that nobody here wrote send, and what engines that nobody here runs answer."""

from __future__ import annotations

import json
import socket

import pytest
import yaml
from registry_toys import TASK
from serve_toys import (
    INSTRUCTIONS,
    chat_body,
    client,
    gateway,
    log_of,
    publish_dataset,
    register,
    task_folder,
    until,
)

from helpers import evaluate, registry, store
from helpers.records import WorkbookError
from helpers.serve import start_trial
from helpers.serve.engines import Month
from helpers.serve.served import open_version
from helpers.serve.trials import judge
from helpers.serve.upstream import Server, load
from helpers.tasks import load_task


def ask(address, text="Hello", **more):
    return client.post(f"{address}/v1/chat/completions", json=chat_body(text, **more))


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (429, "slow down", 429),
        (400, "request (5000 tokens) exceeds the available context size", 400),
        (400, "no such option in this context", 502),
    ],
)
def test_a_status_of_the_engine_is_told_whatever_headers_it_has(served, status, said, expected):
    address, _, engine = served
    engine.fails["v1"] = (status, said, {"retry-after": "30"})
    reply = ask(address)
    assert reply.status_code == expected and reply.headers["x-workbook-version"] == "v1"
    assert ("retry-after" in reply.headers) == (expected == 429)
    until(lambda: [row.request_id for row in log_of()] == [reply.headers["x-request-id"]])


def test_what_another_model_answered_is_never_stamped_as_ours(served):
    address, _, engine = served
    for name, expected in (("base", 502), ("v1", 200), ("an alias nobody lists", 200)):
        engine.said_model = name
        assert ask(address).status_code == expected


def test_names_of_the_same_weights_may_answer_for_each_other(served):
    _, made, engine = served
    server = Server(engine.url)
    listed = server.models()

    def others_of(**rows):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(server, "models", lambda: listed | rows)
            return load(server, made.lanes[TASK].current.served).others

    weights = {"root": "/w", "parent": None}
    adapter = {"root": "/w", "parent": "base"}
    assert others_of(v1=weights, alias=weights, tuned=adapter) == {"base", "tuned"}
    assert others_of(v1={}, other={}) == {"base", "other"}  # as routers list them


def test_an_adapter_that_the_engine_forgot_is_loaded_again(served):
    address, _, engine = served
    with gateway(engine.url) as (other, _):
        assert ask(other).status_code == 200
        engine.loaded.clear()  # it was killed, and began anew
        assert {ask(each).status_code for each in (address, other)} == {200}
        engine.loaded.clear()
        assert ask(other).status_code == 200  # which now believes it is its own
    assert "v1" not in engine.loaded
    assert ask(address).json()["choices"][0]["message"]["content"] == "v1 Hello"
    until(lambda: [row.status for row in log_of()] == ["ok"] * 5)


def test_an_engine_that_is_slow_is_not_asked_a_second_time(engine):
    engine.gate.clear()
    answer = Server(engine.url, timeout=0.3).ask("POST", f"{engine.url}/chat/completions", {})
    engine.gate.set()
    assert answer == (0, b"no connection (ReadTimeoutError)") and len(engine.asked) == 1


def test_a_connection_that_was_closed_on_the_other_side_is_no_failure(engine):
    server = Server(engine.url)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("urllib3.connection.HTTPConnection.getresponse", once(ConnectionResetError))
        assert "base" in server.models()


def once(error):
    """`getresponse`, which fails the first time."""
    from urllib3.connection import HTTPConnection

    real, errors = HTTPConnection.getresponse, [error()]

    def getresponse(connection):
        if errors:
            raise errors.pop()
        return real(connection)

    return getresponse


def test_of_two_limits_the_shorter_one_counts_and_what_says_nothing_is_refused(served):
    address, _, engine = served
    for limits in ((3, 2), (2, 3)):
        ask(address, max_tokens=limits[0], max_completion_tokens=limits[1])
        assert engine.asked[-1]["max_tokens"] == 2
    silent = [{"role": "user"}, {"role": "user", "content": []}, {"role": "tool", "content": None}]
    silent.append({"role": "assistant", "refusal": "no"})
    for turn in silent:
        turns = [turn, {"role": "user", "content": "x"}]
        assert ask(address, messages=turns).json()["error"]["param"] == "messages.0"
    assert ask(address, top_logprobs=3).status_code == 400
    request_id = ask(address).headers["x-request-id"]
    for words in ({"score": True}, {"score": "nan"}, {"correction": " \n"}, {"comment": ""}):
        body = {"request_id": request_id, **words}
        assert client.post(f"{address}/v1/feedback", json=body).status_code == 400
    for words in ({"score": "4"}, {"thumb": "up", "correction": ""}):  # as forms send them
        body = {"request_id": request_id, **words}
        assert client.post(f"{address}/v1/feedback", json=body).status_code == 200
    until(lambda: log_of()[-1].feedback_score == 5)
    assert "correction" not in "".join(p.read_text() for p in store.home().glob("live/*/*"))


def test_long_ids_of_conversations_stay_apart(served):
    address, _, _ = served
    names = ["0", "-0", " ", "会話", "x" * 300 + "a", "x" * 300 + "b"]
    for name in names:
        ask(address, metadata={"conversation_id": name})
    until(lambda: len({row.conversation_id for row in log_of()}) == len(names))


def test_a_body_that_breaks_off_fills_no_log_with_tracebacks(served, caplog):
    address, _, _ = served
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-length: 99\r\n"
        connection.sendall(f"{head}content-type: application/json\r\n\r\n{{".encode())
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{head}content-type: application/json\r\n\r\n{{".encode())
    for _ in range(3):
        assert ask(address).status_code == 200
    assert "Traceback" not in caplog.text and "Exception" not in caplog.text


def test_a_fault_of_a_loader_ends_no_trial_and_its_word_does(served, monkeypatch):
    monkeypatch.setattr("helpers.serve.lanes.AGAIN", 0.1)
    address, made, _ = served
    register("v2")

    faults = [RuntimeError("the chat of somebody"), MemoryError(), OSError(24, "Too many files")]

    def break_down(served):
        raise faults.pop(0) if len(faults) > 1 else faults[0]

    monkeypatch.setattr(made, "engine", break_down)
    reply = ask(address, model="v2")
    assert reply.status_code == 409 and "RuntimeError" in reply.text and "chat" not in reply.text
    start_trial("canary", "v2", load_task(str(task_folder())), 0.5, 100)
    until(lambda: len(faults) == 1 and "v2" in made.lanes[TASK]._failed_at)
    assert registry.serving()[TASK].trial is not None
    faults.append(WorkbookError("its files are others"))
    until(lambda: registry.serving()[TASK].trial is None)
    assert ask(address).json()["model"] == "v1"


def test_another_version_under_the_same_generation_is_followed(served):
    import sqlalchemy

    from helpers.registry.database import open_registry

    address, made, _ = served
    register("v2", "production")
    until(lambda: made.lanes[TASK].generation == 2)
    with open_registry().transaction() as db:  # as a registry that was restored may say
        db.execute(sqlalchemy.text("UPDATE routes SET version = 'v1'"))
    until(lambda: ask(address).json()["model"] == "v1")


def test_a_rating_of_a_later_day_counts_in_the_trial(two_days):
    trial, first, second = two_days
    judge(trial)
    assert registry.serving()[TASK].trial is None, "surely harmful, by ratings of the day after"
    assert first.exists() and second.exists()


@pytest.fixture
def two_days(home):
    """A canary whose ratings all came after midnight."""
    from datetime import timedelta

    from helpers.records import LateFeedback, LiveRow
    from helpers.serve.livelog import append, folder_of

    register("v1", "production")
    register("v2")
    trial = start_trial("canary", "v2", load_task(str(task_folder())), 0.5, 10_000)
    start = trial.started_at
    rows, ratings = [], []
    for n in range(400):
        version, arm = ("v1", "production") if n % 2 else ("v2", "canary")
        row = LiveRow(
            request_id=f"r{n}",
            created_at=start + timedelta(seconds=n / 100),
            version=version,
            arm=arm,
        )
        rows.append(row.model_dump_json())
        score = 5 if n % 2 else 1
        late = LateFeedback(request_id=row.request_id, at=start, feedback_score=score)
        ratings.append(late.model_dump_json())
    paths = [folder_of(TASK) / f"{start + timedelta(days=n):%Y-%m-%d}.jsonl" for n in range(2)]
    append(paths[0], "".join(f"{line}\n" for line in rows))
    append(paths[1], "".join(f"{line}\n" for line in ratings))
    return trial, *paths


@pytest.mark.parametrize("place", [0, 1])
def test_system_messages_are_taken_where_the_rows_of_training_brought_them(home, engine, place):
    manager = register("v1", "production")
    run = store.Run(manager.get_version("v1").run_id)
    publish_dataset(run)
    path = store.home() / "datasets" / "d1" / "validation.jsonl"
    rows = list(store.read_jsonl(path))
    for n, row in enumerate(rows):
        row["messages"].insert(place, {"role": "system", "content": f"customer {n}"})
    store.write_jsonl(path, rows)
    served = open_version(manager.get_version("v1"), {})
    for example in served.validation_rows(0):
        [measured] = evaluate.build_prompts(served.asking, served.task, [example])
        assert served.chat(example.prompt) == measured
    system = {"role": "system", "content": "customer 7"}
    with gateway(engine.url) as (address, _):
        turns = [{"role": "system", "content": INSTRUCTIONS}, system]
        ask(address, messages=[*turns, {"role": "user", "content": "Hello"}])
    sent = engine.asked[-1]["messages"]
    assert [turn["content"] for turn in sent] == [f"{INSTRUCTIONS}\n\ncustomer 7", "Hello"]
    assert json.dumps(sent).count(INSTRUCTIONS) == 1


def test_what_gateways_log_outlives_their_pods_and_is_where_06_looks():
    def mounts(pod, path="/data/live"):
        [container] = pod["spec"]["containers"]
        return [mount for mount in container["volumeMounts"] if mount["mountPath"] == path]

    text = (store.PROJECT / "deploy" / "kubernetes.yaml").read_text()
    kinds = {each["kind"]: each["spec"] for each in yaml.safe_load_all(text)}
    gateways = kinds["Deployment"]["template"]
    retrain = kinds["CronJob"]["jobTemplate"]["spec"]["template"]
    assert mounts(gateways) == mounts(retrain) != []
    [ledger] = mounts(gateways, f"/data/{Month('toy').path('').relative_to(store.home()).parts[0]}")
    assert ledger["name"] == mounts(gateways)[0]["name"], "a month's limit is one for all pods"
    [volume] = [v for v in gateways["spec"]["volumes"] if v["name"] == mounts(gateways)[0]["name"]]
    assert volume in retrain["spec"]["volumes"] and "persistentVolumeClaim" in volume


def test_a_task_without_validation_rows_is_told(home):
    manager = register("v1", "production")
    publish_dataset(store.Run(manager.get_version("v1").run_id), rows=0)
    served = open_version(manager.get_version("v1"), {})
    assert not served.takes_system
    with pytest.raises(WorkbookError, match="no verified validation row"):
        served.validation_rows(5)
