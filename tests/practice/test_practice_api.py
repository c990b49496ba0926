"""What clients of the practice API may rely on, in both modes: spec (strict) and live (traps)."""

from __future__ import annotations

import ast
import base64
import contextlib
import json
import socket
import time
from urllib.parse import urlsplit

import openai
import pytest
from openai import OpenAI
from practice_toys import chat_rows, client_of, jsonl, until_ended

from helpers import store
from helpers.practice import server as practice_server
from helpers.practice import training, wire
from helpers.practice.endpoints import Settings
from helpers.practice.scenarios import SCENARIOS
from helpers.practice.server import serve
from helpers.records import WorkbookError

MODES = pytest.mark.parametrize("mode", ["spec", "live"])


def upload(client: OpenAI, rows: int = 12) -> str:
    return client.files.create(file=("train.jsonl", jsonl(chat_rows(rows))), purpose="fine-tune").id


def create(client: OpenAI, **options):
    options = {"model": "practice-tiny", "training_file": upload(client), "seed": 1} | options
    return client.fine_tuning.jobs.create(**options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One real training per mode, looked at by many tests."""
    from helpers.practice.storage import Clock

    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        servers = []
        for mode in ("spec", "live"):
            server = serve(tmp_path_factory.mktemp(mode), 0, Settings(mode, "tiny"), Clock(500.0))
            servers.append(server.__enter__())
            client = client_of(server, mode)
            method = {
                "type": "supervised",
                "supervised": {"hyperparameters": {"n_epochs": 4, "learning_rate_multiplier": 2.0}},
            }
            job = create(
                client,
                model="gpt-4.1-mini",
                method=method,
                suffix="My_words",
                metadata={"run": "a"},
                validation_file=upload(client, 3),
            )
            made[mode] = server, client, job
        yield {
            mode: (server, client, first, until_ended(client, first.id))
            for mode, (server, client, first) in made.items()
        }
        for server in servers:
            server.__exit__()


@MODES
def test_a_job_becomes_a_model_that_has_learnt(trained, mode):
    _, client, first, job = trained[mode]
    assert first.status == "validating_files" and first.hyperparameters.n_epochs in (4, "auto")
    assert (job.status, job.model, job.trained_tokens > 0) == (
        "succeeded",
        "gpt-4.1-mini-2025-04-14",
        True,
    )
    assert job.fine_tuned_model.startswith("ft:gpt-4.1-mini-2025-04-14:practice:my-words:")
    chat = {"messages": [{"role": "user", "content": "hub 3 offline"}], "max_tokens": 6}
    tuned = client.chat.completions.create(model=job.fine_tuned_model, **chat)
    base = client.chat.completions.create(model=job.model, **chat)
    assert (
        tuned.choices[0].message.content in ("KE", "RA")
        and tuned.choices[0].finish_reason == "stop"
    )
    assert base.choices[0].message.content not in ("KE", "RA")
    assert tuned.usage.prompt_tokens > 6 and tuned.usage.completion_tokens >= 1


@MODES
def test_events_are_newest_first_in_pages_and_carry_the_real_losses(trained, mode):
    _, client, _, job = trained[mode]
    page = client.fine_tuning.jobs.list_events(job.id, limit=5)
    assert (
        len(page.data) == 5
        and page.has_more
        and page.data[0].message == "The job has successfully completed"
    )
    events = list(client.fine_tuning.jobs.list_events(job.id, limit=5))
    assert len({e.id for e in events}) == len(events) and events[-1].message.startswith(
        "Created fine-tuning job"
    )
    assert any("practice API" in e.message for e in events), "it says what it is"
    losses = [
        e.data["train_loss"]
        for e in reversed(events)
        if e.type == "metrics" and "train_loss" in e.data
    ]
    assert len(losses) == 12 and losses[-1] < losses[0] - 1
    empty = {json.dumps(e.data) for e in events if e.type == "message"}
    assert empty == ({"{}"} if mode == "spec" else {"{}", "null"})


@MODES
def test_the_last_three_epochs_are_kept_as_checkpoints_that_answer(trained, mode):
    _, client, _, job = trained[mode]
    checkpoints = client.fine_tuning.jobs.checkpoints.list(job.id).data
    assert [c.step_number for c in checkpoints] == [12, 9, 6]
    assert checkpoints[0].fine_tuned_model_checkpoint == job.fine_tuned_model
    assert checkpoints[2].fine_tuned_model_checkpoint == f"{job.fine_tuned_model}:ckpt-step-6"
    assert checkpoints[0].metrics.full_valid_loss > 0
    first_page = client.fine_tuning.jobs.checkpoints.list(job.id, limit=2)
    assert first_page.has_more and len(list(first_page)) == 3
    asked = {"messages": [{"role": "user", "content": "hub 2 offline"}], "max_tokens": 4}
    assert client.chat.completions.create(
        model=checkpoints[1].fine_tuned_model_checkpoint, **asked
    ).usage.total_tokens


@MODES
def test_the_result_file_is_csv_and_in_live_mode_base64(trained, mode):
    _, client, _, job = trained[mode]
    data = client.files.content(job.result_files[0]).read()
    text = (base64.b64decode(data) if mode == "live" else data).decode()
    assert text.startswith("step,train_loss") and len(text.splitlines()) == 13
    assert client.files.retrieve(job.result_files[0]).purpose == "fine-tune-results"


def test_live_mode_answers_what_strict_clients_trip_over(trained):
    server, _, first, job = trained["live"]
    assert first.error is not None and first.error.code is None, (
        "error: {} on a healthy job is truthy in the SDK"
    )
    assert "usage_metrics" in job.model_extra
    with pytest.raises(openai.APIResponseValidationError):
        client_of(server, "spec").fine_tuning.jobs.retrieve(job.id)


@MODES
def test_jobs_are_listed_newest_first_and_found_by_metadata(trained, mode):
    _, client, _, job = trained[mode]
    assert [j.id for j in client.fine_tuning.jobs.list(metadata={"run": "a"})] == [job.id]
    assert client.fine_tuning.jobs.list(metadata={"run": "b"}).data == []


@MODES
def test_models_say_until_when_they_are_served(trained, mode):
    _, client, _, job = trained[mode]
    assert job.fine_tuned_model in {m.id for m in client.models.list()}
    assert client.models.retrieve("gpt-4.1-mini").shutdown_date > "2026"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("ft:nobody")
    assert caught.value.code == "model_not_found"


@MODES
def test_files_come_and_go(start, mode):
    client = client_of(start(mode), mode)
    data = jsonl(chat_rows()).replace(b"hub", "hüb".encode())
    assert (
        client.files.content(
            client.files.create(file=("a.jsonl", data), purpose="fine-tune").id
        ).read()
        == data
    )
    (file,) = client.files.list(purpose="fine-tune").data
    assert (file.filename, file.bytes, file.status) == ("a.jsonl", len(data), "processed")
    assert client.files.retrieve(file.id) == file and client.files.delete(file.id).deleted
    assert client.files.list().data == []
    with pytest.raises(openai.BadRequestError, match="Line 2"):
        client.files.create(file=("a.jsonl", b"{}\nno\n"), purpose="fine-tune")
    for gone in (client.files.retrieve, client.files.delete, client.files.content):
        with pytest.raises(openai.NotFoundError):
            gone(file.id)


@MODES
def test_requests_that_make_no_sense_are_refused(start, mode):
    client = client_of(start(mode), mode)
    for wrong, word in (
        ({"model": "gpt-9"}, "not available"),
        ({"training_file": "file-none"}, "No such File"),
        ({"method": {"type": "dpo", "dpo": {}}}, "supervised"),
    ):
        with pytest.raises((openai.BadRequestError, openai.NotFoundError), match=word):
            create(client, **wrong)
    with pytest.raises(openai.NotFoundError) as caught:
        client.fine_tuning.jobs.retrieve("ftjob-none")
    assert caught.value.code == "fine_tune_not_found" and caught.value.request_id
    assert client.fine_tuning.jobs.list().data == []


@MODES
def test_cancel_pause_and_resume(start, mode):
    client = client_of(start(mode, "stuck_validating"), mode)
    job = create(client)
    assert client.fine_tuning.jobs.pause(job.id).status == (
        "queued" if mode == "spec" else "paused"
    )
    assert client.fine_tuning.jobs.resume(job.id).status == "validating_files"
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    with pytest.raises(openai.BadRequestError):
        client.fine_tuning.jobs.cancel(job.id)
    assert client.fine_tuning.jobs.list_events(job.id).data[0].message == "The job was cancelled"


@pytest.mark.parametrize("asked", ["cancel", "pause"])
def test_a_job_that_is_stopped_as_its_training_ends_has_no_model(start, monkeypatch, asked):
    server = start()
    client = client_of(server)

    def train(tuning, parts, on_line):
        getattr(client.fine_tuning.jobs, asked)(tuning.id)
        ended.append(tuning)
        return training.Trained(9, [1])

    ended = []
    monkeypatch.setattr(training, "train", train)
    job = create(client)
    deadline = time.monotonic() + 60
    while not (ended and not server.practice.life._training.locked()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert client.fine_tuning.jobs.retrieve(job.id).fine_tuned_model is None
    assert client.fine_tuning.jobs.checkpoints.list(job.id).data == []
    assert ended[0].status == {"cancel": "cancelled", "pause": "paused"}[asked]


@pytest.mark.parametrize(
    ("scenario", "status", "code"),
    [
        ("not_available_403", 403, "training_not_available"),
        ("daily_429", 429, "daily_rate_limit_exceeded"),
        ("quota", 429, "insufficient_quota"),
        ("expired_model", 400, "model_not_available"),
    ],
)
@MODES
def test_refusals_at_creation(start, mode, scenario, status, code):
    client = client_of(start(mode), mode, max_retries=0)
    with pytest.raises(openai.APIStatusError) as caught:
        create(client, metadata={"scenario": scenario})
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert client.fine_tuning.jobs.list().data == []


@pytest.mark.parametrize(
    ("scenario", "code", "word"),
    [
        ("n_examples", "invalid_n_examples", "at least 10"),
        ("format", "invalid_training_file", "Line 3"),
        ("moderation", "invalid_training_file", "moderation"),
        ("server_error", "server_error", "internal error"),
    ],
)
@MODES
def test_jobs_that_fail_before_training(start, mode, scenario, code, word):
    client = client_of(start(mode), mode)
    job = until_ended(client, create(client, suffix=scenario).id)
    assert (job.status, job.error.code, job.fine_tuned_model) == (
        "failed",
        code,
        None,
    ) and word in job.error.message


@MODES
def test_a_truly_broken_file_is_named_by_its_line(start, mode):
    client = client_of(start(mode), mode)
    rows = chat_rows()
    rows[4]["messages"] = rows[4]["messages"][:1]
    file = client.files.create(file=("a.jsonl", jsonl(rows)), purpose="fine-tune").id
    job = until_ended(client, create(client, training_file=file).id)
    assert "Line 5" in job.error.message and "assistant" in job.error.message
    job = until_ended(client, create(client, training_file=upload(client, 7)).id)
    assert job.error.code == "invalid_n_examples" and "7 example" in job.error.message


def test_a_slow_create_is_received_as_often_as_the_sdk_repeats_it(start):
    client = client_of(start("live", speed=60.0), "live", timeout=0.4, max_retries=1)
    with pytest.raises(openai.APITimeoutError):
        create(client, suffix="slow_create")
    assert len(client.fine_tuning.jobs.list().data) == 2, "the trap: two jobs for one wish"


def test_a_restart_forgets_nothing_and_goes_on(start, tmp_path):
    server = start("spec", "stuck_validating")
    client = client_of(server)
    job = create(client, metadata={"run": "a"})
    events = [e.id for e in client.fine_tuning.jobs.list_events(job.id)]
    server.__exit__()
    again = client_of(start("spec", "stuck_validating"))
    assert again.fine_tuning.jobs.retrieve(job.id) == job
    assert [e.id for e in again.fine_tuning.jobs.list_events(job.id)] == events
    assert again.files.retrieve(job.training_file).filename == "train.jsonl"


def test_one_folder_has_one_server(start, tmp_path, monkeypatch):
    start()
    with pytest.raises(WorkbookError, match="another practice API"):
        from helpers.practice.storage import Storage

        Storage(tmp_path / "state", patience=0.2)


def test_real_keys_are_refused_and_kept_nowhere(start, tmp_path):
    server = start()
    for key in ("sk-proj-" + "a1" * 12, "sk-live-" + "b2" * 4, "sk-" + "c3" * 20):
        with pytest.raises(openai.AuthenticationError, match="practice") as caught:
            client_of(server, api_key=key).models.list()
        assert key not in str(caught.value.body)
        assert not [
            p for p in tmp_path.rglob("*") if p.is_file() and key in p.read_text(errors="replace")
        ]
    assert client_of(server, api_key="sk-local").models.list().data


def test_it_says_what_it_is_and_stays_on_this_machine(start, tmp_path):
    import urllib.request

    server = start("live", "paused")
    about = json.load(urllib.request.urlopen(server.url.removesuffix("/v1") + "/"))
    assert "practice API" in about["about"] and (about["mode"], about["scenario"]) == (
        "live",
        "paused",
    )
    assert set(about["scenarios"]) == set(SCENARIOS)
    with pytest.raises(WorkbookError, match="--anywhere"):
        serve(tmp_path / "other", 0, host="0.0.0.0")


PUBLISHED = wire.document()["paths"]["/v1/files"]["post"]["responses"]
UPLOAD = "POST /v1/files HTTP/1.1\nhost: localhost\nauthorization: x\ncontent-length: "


def raw(server, head: str) -> str:
    """What comes back for a request's head, until the server closes the connection."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall((head.replace("\n", "\r\n") + "\r\n\r\n").encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET / HTTP/1.1\nhost: [::1\nconnection: close", 421),
        ("BREW /v1/models HTTP/1.1\nhost: localhost\nconnection: close", 405),
        (f"{UPLOAD}{2**29 + 1}", 413),
        (f"{UPLOAD}{10**30}", 413),
    ],
)
def test_odd_heads_are_answered_by_one_of_the_published_refusals(start, head, status):
    answer = raw(start(), head)
    assert answer.startswith(f"HTTP/1.1 {status} ") and str(status) in PUBLISHED
    assert status != 413 or "Larger than 512 MB" in answer


def test_connections_beyond_its_share_are_closed_at_once(start, monkeypatch):
    monkeypatch.setattr(practice_server, "MOST_CONNECTIONS", 2)
    server = start()
    address = urlsplit(server.url)
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            there = (address.hostname, address.port)
            stack.enter_context(socket.create_connection(there, timeout=60))
        try:
            answer = raw(server, "GET / HTTP/1.1\nhost: localhost\nconnection: close")
        except ConnectionError:
            answer = ""
        assert answer == ""
    assert client_of(server, max_retries=9).models.list().data, "the others are gone again"


@pytest.mark.parametrize("method", [None, {"type": "supervised", "supervised": None}])
def test_fields_that_are_null_are_as_if_they_were_not_there(method):
    old = {"n_epochs": 4}
    wish = {"model": "m", "training_file": "f", "method": method, "hyperparameters": old}
    chosen = wire.JobRequest.model_validate(wish).chosen
    assert (chosen["n_epochs"], chosen["batch_size"]) == (4, "auto")


def test_a_run_never_imports_the_practice_room():
    """Only the command line does: everything else starts it as a process."""
    for path in (store.PROJECT / "helpers").rglob("*.py"):
        if (
            "practice" not in path.relative_to(store.PROJECT / "helpers").parts
            and path.name != "cli.py"
        ):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not [name for name in names if name.startswith("helpers.practice")], path
