"""Line 13: the practice API under odd, large and slow requests."""

from __future__ import annotations

import json
import os
import random
import resource
import socket
import threading
from urllib.parse import urlsplit

import pytest

from helpers.practice.endpoints import Settings
from helpers.practice.server import serve
from helpers.practice.storage import Clock

FUZZ = int(os.environ.get("WORKBOOK_FUZZ", "500"))  # requests; 10,000 take some minutes
PATHS = ["/", "/v1/files", "/v1/fine_tuning/jobs", "/v1/chat/completions", "/v1/models", "/v1/x"]
PATHS += ["/v1/batches", "/v1/batches/x", "/v1/batches?limit=-1"]
PATHS += ["/v1/models/..%2f..%2fetc", "/v1/files/%00", "/v1/files?limit=-1&after=x", "/v1//", "/é"]
PATHS += ["/v1/fine_tuning/jobs?metadata[a]=b&limit=99999999999", "/v1/fine_tuning/jobs/x/events"]
ODD = [None, 0, -1, 1e308, True, "", "x", "ok", "practice-tiny", [], [1], {}, {"a": {}}, "\ud800"]
FIELDS = ("model", "training_file", "suffix", "seed", "metadata", "method", "hyperparameters")
FIELDS += ("messages", "n", "stream", "max_tokens", "max_completion_tokens", "validation_file")
FIELDS += ("input_file_id", "endpoint", "completion_window")


@pytest.fixture
def server(tmp_path):
    with serve(tmp_path / "state", 0, Settings("spec", "tiny"), Clock(500.0)) as running:
        yield running


def connect(server):
    parts = urlsplit(server.url)
    return socket.create_connection((parts.hostname, parts.port), timeout=300)


def reply(connection) -> bytes:
    """One whole reply, or what came before the connection was closed."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            return data
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
    while len(body) < length:
        body += connection.recv(65536)
    return data if len(body) == length else head


def ask(server, head: str, body: bytes = b"", key: str = "sk-practice", host: str = "") -> bytes:
    with connect(server) as connection:
        host = host or urlsplit(server.url).netloc
        lines = f"{head}\r\nhost: {host}\r\n"
        if key:
            lines += f"authorization: Bearer {key}\r\n"
        connection.sendall(f"{lines}\r\n".encode("latin-1", "replace") + body)
        return reply(connection)


def status(data: bytes) -> int:
    return int(data.split(b" ")[1]) if data else 0


@pytest.mark.parametrize("length", ["-1", "+5", "0x10", "1e9", "", "5, 5", "9" * 40, "99999999999"])
def test_line_13_an_odd_content_length_takes_no_memory(server, length):
    data = ask(server, f"POST /v1/files HTTP/1.1\r\ncontent-length: {length}", b"x" * 1000)
    assert status(data) in (400, 413)


def test_line_13_the_key_comes_before_the_body(server):
    head = "POST /v1/files HTTP/1.1\r\ncontent-length: 400000000"
    assert status(ask(server, head, key="")) == 401, "not a byte of the body was sent"
    assert status(ask(server, head, key="sk-proj-" + "a1" * 20)) == 401


def test_line_13_a_chunked_body_that_is_too_large_is_told_so_and_many_at_once_to_come_again(
    server, monkeypatch
):
    monkeypatch.setattr("helpers.practice.server.MOST_BYTES", 2**20)
    head = "POST /v1/files HTTP/1.1\r\ntransfer-encoding: chunked"
    piece = b"80000\r\n" + b"x" * 2**19 + b"\r\n"
    assert status(ask(server, head, piece * 2 + b"1\r\nx\r\n")) == 413
    server.unanswered += 2**20  # others are uploading
    assert status(ask(server, head, piece)) == 503
    server.unanswered -= 2**20


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80", " "])
def test_line_13_another_hosts_name_is_refused(server, host):
    for path in ("/", "/v1/models"):
        assert status(ask(server, f"GET {path} HTTP/1.1", host=host)) == 421
    assert status(ask(server, "GET / HTTP/1.1", host="localhost:1234")) == 200


def test_line_13_300_slow_clients_are_few_threads_and_the_301st_is_served(server):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    threads = threading.active_count()
    slow = []
    for number in range(300):
        connection = connect(server)
        connection.sendall(b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n"[: 10 + number % 20])
        slow.append(connection)
    for connection in slow[:100]:
        body = b"\r\nauthorization: Bearer sk-practice\r\ncontent-length: 1000000\r\n\r\n{"
        connection.sendall(body)
    assert status(ask(server, "GET /v1/models HTTP/1.1")) == 200
    assert threading.active_count() < threads + 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 * 1024
    for connection in slow:
        connection.close()


def test_line_13_the_published_description_names_every_route(server):
    head, _, body = ask(server, "GET /openapi.json HTTP/1.1", key="").partition(b"\r\n\r\n")
    assert status(head) == 200
    paths = json.loads(body)["paths"]
    routes = {(method, pattern) for method, pattern, _ in server.practice.routes()}
    found = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    assert found == {(m, f"/v1{p.replace('([^/]+)', '{id}')}") for m, p in routes}
    assert all(path.startswith("/v1/") for path in paths)


def odd_request(draw: random.Random) -> tuple[str, bytes]:
    method = draw.choice(["GET", "POST", "POST", "POST", "DELETE", "PUT", "OPTIONS", "G\tT"])
    path = draw.choice(PATHS)
    fields = draw.sample(FIELDS, draw.randint(0, 6))
    value = {name: draw.choice(ODD) for name in fields}
    if draw.random() < 0.4:
        value |= {"model": "practice-tiny", "messages": [{"role": "user", "content": "x"}]}
        value |= {"max_tokens": 1} | {draw.choice(FIELDS): draw.choice(ODD)}
    body = json.dumps(value).encode()
    if draw.random() < 0.2:
        body = draw.choice([b"", b"[" * 50_000, b"\xff\xfe", b"--b\r\n", b"9" * 5000, body[:-1]])
    kind = draw.choice(["application/json", "multipart/form-data; boundary=b", "", "multipart/x"])
    if kind.startswith("multipart") and draw.random() < 0.5:
        name = draw.choice(["file", "purpose", "\xe9", ""])
        body = (
            f'--b\r\ncontent-disposition: form-data; name="{name}"; filename="a"\r\n\r\n'.encode()
        )
        body += draw.choice([b"{}", b"\xff", b"1\n{", b""]) + b"\r\n--b--\r\n"
    head = f"{method} {path} HTTP/1.1\r\ncontent-length: {len(body)}\r\ncontent-type: {kind}"
    return head, body


def test_line_13_no_odd_request_is_a_fault_of_the_server(server, tmp_path):
    draw = random.Random(13)
    chat = {"model": "practice-tiny", "messages": [{"role": "user", "content": "x"}]}
    body = json.dumps(chat | {"max_tokens": 1}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: {len(body)}"
    assert status(ask(server, head, body)) == 200, "this loads the model, which takes a while"
    for _ in range(FUZZ):
        head, body = odd_request(draw)
        code = status(ask(server, head, body))
        assert 200 <= code < 500, (code, head, body[:300])
    assert {path.name for path in tmp_path.iterdir()} <= {"state", "home"}
