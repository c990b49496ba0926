"""Safe by default: this machine alone, with keys elsewhere, and no page of another site."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest
from registry_toys import TASK
from serve_toys import chat_body, client, gateway, log_of, register, until

from helpers.records import WorkbookError
from helpers.serve.__main__ import CleanLines, main
from helpers.serve.served import Served
from helpers.serve.settings import Keys, Settings, checked_keys
from helpers.serve.starting import gateway_of, running

GOOD = "k" * 20


def post(address, body=None, **options):
    return client.post(f"{address}/v1/chat/completions", json=body or chat_body(), **options)


def test_other_machines_are_let_in_only_on_purpose_and_with_keys(monkeypatch):
    with pytest.raises(WorkbookError, match="--anywhere"):
        checked_keys(Settings(host="0.0.0.0"))
    with pytest.raises(WorkbookError, match="WORKBOOK_SERVE_KEYS"):
        checked_keys(Settings(host="0.0.0.0", anywhere=True))
    monkeypatch.setenv("WORKBOOK_SERVE_KEYS", "bob:short")
    with pytest.raises(WorkbookError, match="fewer than 16"):
        checked_keys(Settings())
    monkeypatch.setenv("WORKBOOK_SERVE_KEYS", f"bob:{GOOD}")
    assert checked_keys(Settings(host="0.0.0.0", anywhere=True))


def test_a_key_is_known_by_its_name_alone():
    keys = Keys(f"alice:{GOOD}\nbob:{'b' * 20}, {'c' * 20}, alice:{'n' * 20}")
    assert keys.name_of(f"Bearer {'n' * 20}") == "alice", "an old key and its successor"
    assert keys.name_of(f"Bearer {GOOD}") == "alice"
    assert keys.name_of(f"bearer {'b' * 20}") == "bob"
    assert keys.name_of(f"Bearer {'c' * 20}") == "key 3"
    assert Keys(f" alice : {GOOD} ").name_of(f"Bearer {GOOD}") == "alice"
    for wrong in ("", "Bearer ", f"Basic {GOOD}", f"Bearer {GOOD}x", GOOD):
        assert keys.name_of(wrong) is None
    assert Keys("").name_of("") == ""


def test_without_a_valid_key_nothing_is_answered(engine, monkeypatch):
    monkeypatch.setenv("WORKBOOK_SERVE_KEYS", f"alice:{GOOD}")
    register("v1", "production")
    with gateway(engine.url) as (address, _):
        assert post(address).status_code == 401
        assert post(address, headers={"authorization": "Bearer wrong"}).status_code == 401
        assert client.get(f"{address}/metrics").status_code == 401
        assert client.get(f"{address}/v1/models").status_code == 401
        assert client.get(f"{address}/healthz").status_code == 200
        assert client.get(f"{address}/readyz").json() == {"ready": True}  # to strangers no more
        assert client.get(f"{address}/").status_code == 200
        assert post(address, headers={"authorization": f"Bearer {GOOD}"}).status_code == 200


def test_names_that_are_not_ours_and_pages_of_other_sites_are_refused(served):
    address, _, _ = served
    assert post(address, headers={"host": "evil.example"}).status_code == 400
    for origin in ("http://evil.example", "http://[", "null"):
        assert post(address, headers={"origin": origin}).status_code == 403
    assert post(address, headers={"origin": address}).status_code == 200
    form = client.post(
        f"{address}/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"}
    )
    assert form.status_code == 415
    allowed = client.options(
        f"{address}/v1/chat/completions",
        headers={"origin": "http://evil.example", "access-control-request-method": "POST"},
    )
    assert "access-control-allow-origin" not in allowed.headers


def test_bodies_are_limited_before_they_are_read(engine):
    register("v1", "production")
    with gateway(engine.url, most_bytes=1000, most_turns=3) as (address, _):
        assert post(address, chat_body("x" * 2000)).status_code == 413
        turns = [{"role": "user", "content": "x"}] * 4
        assert post(address, {"model": TASK, "messages": turns}).status_code == 400
        connection = http.client.HTTPConnection(address.removeprefix("http://"))
        chunks = iter([b'{"model": ', b'"toy"}'])
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/chat/completions", chunks, headers, encode_chunked=True)
        assert connection.getresponse().status == 411
        assert post(address).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"model": 1}',
        b'{"model": "toy", "messages": []}',
        b'{"model": "toy", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "toy", "messages": [{"role": "assistant", "content": "x"}]}',
        b'{"model": "toy", "messages": [{"role": "user", "content": "x"}], "n": 2}',
        b'{"model": "toy", "messages": [{"role": "user", "content": "x"}], "max_tokens": 0}',
        b'{"model": "toy", "messages": [{"role": "user", "content": [{"type": "image_url"}]}]}',
        b'{"a":' * 5000,
        b'{"model": "toy", "messages": [{"role": "user", "content": "x"}], "top_p": NaN}',
    ],
)
def test_what_cannot_be_meant_is_a_400_that_does_not_repeat_it(served, body):
    address, _, _ = served
    headers = {"content-type": "application/json"}
    reply = client.post(f"{address}/v1/chat/completions", content=body, headers=headers)
    assert reply.status_code == 400 and reply.json()["error"]["code"]


def test_a_body_that_comes_by_the_drop_is_given_up(served, monkeypatch):
    address, _, _ = served
    monkeypatch.setattr("helpers.serve.gateway.BODY_SECONDS", 0.2)
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
    connection.putrequest("POST", "/v1/chat/completions")
    connection.putheader("content-type", "application/json")
    connection.putheader("content-length", "100")
    connection.endheaders(b"{")
    assert connection.getresponse().status == 408


def test_a_head_that_does_not_end_is_given_up_before_any_key_is_looked_at(served, monkeypatch):
    address, _, engine = served
    there = tuple(address.removeprefix("http://").split(":"))
    monkeypatch.setattr("helpers.serve.guards.HEAD_SECONDS", 0.5)
    with contextlib.ExitStack() as stack:
        slow = []
        for number in range(100):
            connection = stack.enter_context(socket.create_connection(there, timeout=60))
            connection.sendall(b"GET / HTTP/1.1\r\nhost: x"[: number % 23])
            slow.append(connection)
        assert post(address).status_code == 200
        assert [connection.recv(100) for connection in slow] == [b""] * 100, "closed"
        large = stack.enter_context(socket.create_connection(there, timeout=60))
        with pytest.raises(ConnectionError):
            large.sendall(b"GET / HTTP/1.1\r\nx: " + b"x" * 2**26)
        engine.delay = 1.0  # an answer may take longer than a head
        assert post(address).status_code == 200


def all_of(connection):
    """What the other side says until it goes, which it must; a reset is an end, too."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(2**16):
            said += piece
    return said


HEAD = "{} / HTTP/1.1\r\nhost: 127.0.0.1\r\n{}\r\n"
ASK, REFUSED = HEAD.format("GET", "").encode(), HEAD.format("POST", "content-length: 300000\r\n")


@pytest.mark.parametrize(("head", "later"), [(ASK, b"\r\n"), (REFUSED.encode(), b"x")])
def test_who_was_answered_and_asks_nothing_more_is_closed(served, monkeypatch, head, later):
    there = tuple(served[0].removeprefix("http://").split(":"))
    monkeypatch.setattr("helpers.serve.guards.HEAD_SECONDS", 0.5)
    with socket.create_connection(there, timeout=60) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(head)
            connection.recv(100)
            connection.sendall(later)
        all_of(connection)


def test_who_reads_no_answers_is_closed(served, monkeypatch):
    there = tuple(served[0].removeprefix("http://").split(":"))
    monkeypatch.setattr("helpers.serve.guards.HEAD_SECONDS", 0.5)
    with socket.socket() as connection:
        connection.settimeout(60)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((there[0], int(there[1])))
        connection.sendall(ASK * 1500)
        until = time.monotonic() + 60
        with pytest.raises(ConnectionError):
            while time.monotonic() < until:
                connection.sendall(b"\r\n")
                time.sleep(0.1)


def test_the_rest_of_a_refused_body_and_a_slow_answer_close_nothing(served, monkeypatch):
    address, _, engine = served
    there = tuple(address.removeprefix("http://").split(":"))
    with socket.create_connection(there, timeout=60) as connection:
        connection.sendall(REFUSED.encode())
        assert b" 415 " in connection.recv(2**16)
        connection.sendall(b"x" * 300000 + HEAD.format("GET", "connection: close\r\n").encode())
        assert b" 200 " in all_of(connection), "a client reads why, then goes on"
    engine.delay = 1.0
    body = json.dumps(chat_body()).encode()
    fields = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close"
    head = HEAD.format("POST", f"{fields}\r\n").replace(" / ", " /v1/chat/completions ")
    asked = head.encode() + body
    with socket.create_connection(there, timeout=60) as connection:
        connection.sendall(ASK)
        first = connection.recv(2**16)
        monkeypatch.setattr("helpers.serve.guards.HEAD_SECONDS", 0.5)
        connection.sendall(ASK + asked)
        assert (first + all_of(connection)).count(b"HTTP/1.1 200 ") == 3, "one after the other"


def test_the_page_runs_its_own_script_alone(served):
    address, _, _ = served
    reply = client.get(f"{address}/")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "<script>" in reply.text and "http" not in reply.text.replace("http-equiv", "")


def test_a_fault_of_ours_tells_the_log_nothing_of_the_chat(served, monkeypatch, capfd):
    def fail(served, turns):
        raise RuntimeError(f"no template for {turns[0].content}")

    lines = logging.StreamHandler(io.StringIO())
    lines.setFormatter(CleanLines())
    monkeypatch.setattr(Served, "chat", fail)
    monkeypatch.setattr(logging.getLogger(), "handlers", [lines])
    assert post(served[0], chat_body("jane.doe@example.com")).status_code == 500
    until(lambda: "RuntimeError: no template for" in lines.stream.getvalue())
    for said in (lines.stream.getvalue(), capfd.readouterr().err):
        assert "jane.doe" not in said


@pytest.mark.parametrize("name", ["toy", "demo/toy"])
def test_a_task_s_text_is_logged_as_said_by_either_of_its_names(name):
    settings = Settings(log_text_of={name: "none"}, log_text="masked")
    assert settings.text_of("demo/toy") == "none" and settings.text_of("demo/other") == "masked"
    both = Settings(log_text_of={"toy": "full", "demo/toy": "none"})
    assert (both.text_of("toy"), both.text_of("demo/toy")) == ("full", "none")


def test_a_unit_starts_the_gateway_with_the_same_arguments(capsys, home):
    assert main(["--port", "8700", "--as", "systemd", "--log-text", "toy=none"]) == 0
    unit = capsys.readouterr().out
    assert main(["--port", "8700", "--as=systemd", "--log-text", "toy=none"]) == 0
    assert capsys.readouterr().out == unit
    assert '-m helpers.serve "--port" "8700" "--log-text" "toy=none"\n' in unit
    assert f"WORKBOOK_HOME={home}" in unit and "--as" not in unit
    assert main(["--task", "a\nExecStartPre=/bin/evil", "--as", "systemd"]) == 2


def test_a_wrong_setting_is_a_message_and_exit_2(capsys):
    secret = "ftp://me:hunter2horse@x"
    numbers = [["--keep-days", "-1"], ["--most-waiting", "0"], ["--timeout", "nan"]]
    numbers += [["--max-cost-usd", "-1"], ["--port", "70000"], ["--check", "v", "--rows", "0"]]
    for wrong in (*numbers, ["--host", "::"], ["--log-text", "much"], ["--engine", secret]):
        assert main(["--port", "0", *wrong]) == 2
        message = capsys.readouterr().err
        assert message.startswith("workbook: ") and "hunter2" not in message


def test_a_gateway_with_nothing_in_production_says_so_on_the_terminal(home, caplog):
    caplog.set_level("INFO", "helpers.serve.gateway")
    with running(gateway_of(Settings(port=0), Keys("")).app()) as address:
        assert client.get(f"{address}/healthz").status_code == 200
    assert "no task is in production: /v1/… answers 404" in caplog.text


def test_sigterm_answers_what_was_asked_and_writes_the_log(engine, home):
    register("v1", "production")
    command = [sys.executable, "-m", "helpers.serve", "--port", "0", "--engine", engine.url]
    child = subprocess.Popen(
        [*command, "--log-text", "full"], stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    try:
        line = next(text for text in child.stderr if "listening at" in text)
        address = line.split("listening at ")[1].split()[0]
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                client.get(f"{address}/healthz")
                break
            except httpx2.ConnectError:
                time.sleep(0.05)
        engine.delay = 1.0
        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(post, address, timeout=30)
            time.sleep(0.4)
            child.send_signal(signal.SIGTERM)
            assert slow.result().status_code == 200
        assert child.wait(30) in (0, -signal.SIGTERM)  # it ends by the signal that it was sent
    finally:
        child.kill()
    assert [row.request_id for row in log_of()] == [slow.result().json()["id"]]
