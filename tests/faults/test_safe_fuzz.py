"""Odd rows, task.yaml files and replies of endpoints: no traceback, no hang, no write elsewhere.

N=10000 ROOM=safe python -m pytest tests/faults -q      (or: make faults N=10000 ROOM=safe)
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from fault_points import every_point
from fuzz_inputs import TEXTS, changed, spoilt, table, value

from helpers import models, store, tasks, train
from helpers.models import ApiModel
from helpers.records import Message, WorkbookError
from helpers.run import message_for_person
from helpers.train import jobs, provider

sys.path.append(str(Path(__file__).resolve().parents[1] / "train"))

from test_jobs import config, dataset
from toy_api import ToyApi

SECONDS = 5.0
WRITES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.chmod")
allowed: list[Path] = []  # where something may be written while it is watched
strays: list[str] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if not allowed or event not in WRITES or not isinstance(arguments[0], str | bytes):
        return
    if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        return
    path = Path(os.fsdecode(arguments[0]))
    if not path.is_absolute() and any(type(fd) is int and fd >= 0 for fd in arguments[1:]):
        return  # inside a folder that is open: shutil.rmtree
    path = Path.cwd() / os.path.normpath(path)
    if not any(path.is_relative_to(folder) for folder in [*allowed, Path("/dev")]):
        strays.append(f"{event} {path}")


sys.addaudithook(_watch)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "home"
    allowed.clear()


def problem(work: Callable[[], Any], folder: Path, codes: tuple[int, ...] = (2,)) -> str:
    """What a user would complain about: "" when the work ended well, or in a good refusal."""
    strays.clear()
    allowed[:] = [folder]
    started = time.process_time()
    try:
        work()
    except WorkbookError as error:
        message = message_for_person(error)
        if error.exit_code not in codes or not message or len(message) > 2200:
            return f"exit {error.exit_code}: {message[:300]!r}"
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "helpers" in frame.filename] or frames
        where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
        return f"{type(error).__name__} at {where}: {str(error)[:200]}"
    finally:
        allowed.clear()
    if strays:
        return f"wrote elsewhere: {strays[0]}"
    seconds = time.process_time() - started
    return f"took {seconds:.1f} s" if seconds > SECONDS else ""


# rows

LABELS = ["billing", "delivery", "other"]
ROW = {
    "id": "r1",
    "messages": [
        {"role": "system", "content": "Say which."},
        {"role": "user", "content": "Where is my parcel?"},
        {"role": "assistant", "content": "delivery"},
    ],
    "created_at": "2026-03-01T10:00:00Z",
    "feedback_score": 5,
    "conversation_id": "c1",
    "split": "train",
    "model_version": "v1",
    "weight": 1,
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
}
FLAT = {"question": "Where is it?", "answer": "delivery", "rating": "4", "date": "01/03/2026"}
TASK = {
    "name": "toy",
    "instructions": {"full": "Say which of billing, delivery, other.", "short": "Which?"},
    "output": {
        "schema": {
            "type": "object",
            "required": ["label"],
            "properties": {"label": {"enum": LABELS}, "urgent": {"type": "boolean"}},
        }
    },
    "scored_fields": ["label"],
    "accuracy_from": "fields",
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "allow": {"order": r"ORD-\d+"},
    "targets": {"accuracy": 0.5, "latency_p95": 900},
    "margins": {"accuracy": 0.01},
    "replace": "better",
    "columns": {"input": "question", "output": "answer", "feedback": [1, 5]},
    "volume_per_month": 1000,
    "prices": {"as_of": "2026-11-01", "models": {"m": {"input": 1, "output": 2}}},
    "data_may_leave": False,
    "template_args": {"enable_thinking": False},
    "train_on": "last",
}


def write_rows(draw: random.Random, folder: Path) -> Path:
    """A file of rows, one or some of which are odd."""
    if draw.random() < 0.5:
        rows = [FLAT | {"question": f"{FLAT['question']} {n}"} for n in range(draw.randint(1, 12))]
        path = folder / draw.choice(["human.csv", "human.tsv", "rows.csv"])
        path.write_bytes(table(draw, rows))
        return path
    lines = []
    for _ in range(draw.randint(1, 8)):
        row = draw.choice([ROW, FLAT, {"prompt": "a", "completion": "b"}, {"conversations": []}])
        data = json.dumps(row).encode()
        lines.append(spoilt(draw, data) if draw.random() < 0.6 else data)
    path = folder / draw.choice(["human.jsonl", "production.jsonl", "human.json"])
    data = b"\n".join(lines)
    path.write_bytes(data if draw.random() < 0.8 else b"[" + b",".join(lines) + b"]")
    return path


def read_task(folder: Path) -> None:
    task = tasks.load_task(str(folder))
    for source in ("human", "production"):
        with contextlib.suppress(WorkbookError):
            tasks.load_examples(task, source=source)


def test_odd_rows_are_read_or_refused(home, tmp_path):
    home.mkdir()

    def work(point: int) -> str:
        draw = random.Random(point)
        folder = tmp_path / "home" / "task"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        path = write_rows(draw, folder)
        if draw.random() < 0.4:
            made = home / "made"
            shutil.rmtree(made, ignore_errors=True)
            columns = draw.choice([("question", "answer"), ("", ""), ("prompt", "completion")])
            return problem(lambda: tasks.new_task(made, path, *columns), home)
        columns = {"input": "question", "output": "answer"} if draw.random() < 0.5 else {}
        (folder / "task.yaml").write_text(yaml.safe_dump(TASK | {"columns": columns, "tools": []}))
        task = tasks.load_task(str(folder))
        source = draw.choice(["human", "production"])
        return problem(lambda: tasks.load_examples(task, source=source, path=path), home)

    assert every_point("fuzz_rows", 60, work) == []


# task.yaml


def test_odd_task_files_are_read_or_refused(home, tmp_path):
    folder = home / "task"
    folder.mkdir(parents=True)
    (folder / "human.jsonl").write_text(json.dumps(ROW | {"tools": None}) + "\n")

    def work(point: int) -> str:
        draw = random.Random(point)
        content: Any = TASK
        for _ in range(draw.choice([1, 1, 2, 3])):
            content = changed(draw, content)
        text = yaml.safe_dump(json.loads(json.dumps(content)), allow_unicode=draw.random() < 0.5)
        if draw.random() < 0.25:
            at = draw.randrange(len(text) + 1)
            odd = [
                ":",
                "\t",
                "&a [*a]",
                "!!python/object:x {}",
                "- ",
                "{",
                "*",
                "\x00",
                "? ",
                "---\n",
            ]
            text = text[:at] + draw.choice([*odd, *TEXTS]) + text[at:]
        (folder / "task.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
        return problem(lambda: read_task(folder), home)

    assert every_point("fuzz_task_yaml", 60, work) == []


# replies


REPLY = {
    "id": "c",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "delivery", "tool_calls": None},
        }
    ],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7},
}


class Endpoint(BaseHTTPRequestHandler):
    """Answers by a seed that stands in the question."""

    wbufsize = -1  # head and body in one packet: no wait for an acknowledgement

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        point = int(json.loads(body)["messages"][-1]["content"])
        draw = random.Random(point)
        data = spoilt(draw, json.dumps(REPLY).encode())
        status = draw.choice([200] * 9 + [400, 404, 422, 418, 204, 302])
        self.send_response(status)
        self.send_header("content-type", draw.choice(["application/json", "text/html", ""]))
        self.send_header("x-should-retry", "false")
        self.send_header("content-length", str(len(data) if status != 204 else 0))
        self.end_headers()
        if status != 204:
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None: ...


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def test_odd_answers_of_an_endpoint_are_failed_requests(home):
    home.mkdir()
    with serving(Endpoint) as url:
        model = ApiModel("m", url)
        model._reached = True

        def work(point: int) -> str:
            batch = 1 if os.environ.get("N", "") == "1" else 20
            chats = [
                [Message(role="user", content=str(n))]
                for n in range(point * batch, (point + 1) * batch)
            ]

            def ask() -> None:
                for answer in model.answer(chats, 9):
                    assert answer.finish in ("stop", "length", "error")
                    assert (answer.finish == "error") == bool(answer.error)
                    store.dumps(answer)
                    answer.text.encode()
                    assert answer.tokens_in >= 0 and answer.error == (answer.error or None)

            return problem(ask, home, (5,))

        assert every_point("fuzz_endpoint_replies", 5, work, replies_a_point=20) == []


def test_odd_replies_about_jobs_end_with_5(home, monkeypatch):
    monkeypatch.setattr(jobs, "CREATE_TIMEOUT", 5.0)
    monkeypatch.setattr(provider, "SERVED_WITHIN", 0.05)
    rows = dataset()
    with ToyApi() as toy:

        def work(point: int) -> str:
            draw = random.Random(point)
            toy.files.clear(), toy.jobs.clear(), toy.events.clear()
            toy.polls = 0
            number, at = [0], draw.randrange(14)

            def spoil(data: bytes) -> bytes:
                number[0] += 1
                odd = number[0] == at + 1 or draw.random() < 0.02
                return spoilt(draw, data) if odd else data

            toy.spoil = spoil
            settings = config(toy, run_id=f"r{point}", job_deadline_minutes=0.002)

            def walk() -> None:
                job = train.fine_tune_openai(rows, settings)
                train.monitor_fine_tuning(job.job_id)

            found = problem(walk, home, (5, 124))
            shutil.rmtree(home / "runs" / f"r{point}", ignore_errors=True)
            return found

        assert every_point("fuzz_job_replies", 15, work) == []


def test_the_watch_sees_a_write_elsewhere(home, tmp_path):
    """What the other tests rely on."""
    assert "elsewhere" in problem(lambda: (tmp_path / "x").write_text("x"), home)
    assert problem(lambda: store.write_text(home / "x", "x"), home) == ""
    assert problem(lambda: 1 // 0, home).startswith("ZeroDivisionError")
    assert value(random.Random(1)) == value(random.Random(1)) and models is not None
