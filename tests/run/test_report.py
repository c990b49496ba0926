"""What a run leaves: report, digest, log, heartbeat; and what must stand in none of them."""

from __future__ import annotations

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import record_toys
from run_toys import writing

from helpers import registry, store
from helpers.records import RunRecord, WorkbookError
from helpers.run import ending, flow, report

PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5E"
    "rkJggg=="
)
SHOW = f"""import base64
from IPython.display import Image, display
display(Image(base64.b64decode({PNG!r})))"""


@pytest.fixture
def go(toys, tmp_path: Path):
    def call(**options) -> RunRecord:
        return flow.run(str(tmp_path / "toy.yaml"), **({"run_id": "r", "only": "04"} | options))

    return call


@pytest.fixture
def beats(monkeypatch):
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(
        "WORKBOOK_HEARTBEAT_URL", f"http://127.0.0.1:{server.server_port}/ping/abc?k=1"
    )
    yield seen
    server.shutdown()
    server.server_close()


def test_a_failure_leaves_a_page_and_a_digest_that_say_where_why_and_what_next(
    go, toys, monkeypatch
):
    told = []
    monkeypatch.setattr(registry, "notify", lambda text, event_id: told.append((text, event_id)))
    toys(nb04=["print('half way <b>')", "1 / 0"])
    record = go()
    digest, event = told[0]
    assert event == f"r@{record.started_at.isoformat()}"
    for said in (
        "exit 1",
        "where: 04_evaluate",
        "cell [4]",
        "ZeroDivisionError",
        "likely cause",
        "--run-id r --only 04",
        "half way",
    ):
        assert said in digest, said
    page = store.Run("r").path("report.html").read_text()
    assert (
        "What failed" in page
        and "half way &lt;b&gt;" in page
        and "notebooks/04_evaluate.ipynb" in page
    )
    rows = [json.loads(line) for line in store.Run("r").path("log.jsonl").read_text().splitlines()]
    assert all(set(row) == {"at", "line"} for row in rows) and any(
        "half way" in row["line"] for row in rows
    )


def test_lines_of_the_log_that_were_cut_short_cost_no_other_line_and_no_message():
    run = store.open_run("r")
    torn = ['{"at": "2026-11-29T00:00', '{"at": 1}', "[1]", "7", '"line"', '{"at": {"line": 1}']
    whole = [json.dumps({"line": f"so\u2028{n}"}, ensure_ascii=False) for n in range(2)]
    data = "\n".join([whole[0], *torn, whole[1]]).encode()
    run.path(report.LOG).write_bytes(data[:-30].replace(b"2026", b"\xff") + data[-30:] + b"\n")
    record = record_toys.run_record("r", status="failed", exit_code=1)
    last = report.digest(record).partition("last lines:\n")[2]
    assert last.startswith("so\u20280\n") and last.endswith("\nso\u20281")
    assert all(line in last for line in torn[1:])


def test_a_success_has_its_figures_and_tells_nobody(go, toys, monkeypatch):
    monkeypatch.setattr(registry, "notify", lambda *told: pytest.fail("nobody asked"))
    toys(nb06=[SHOW, writing(record_toys.health())])
    assert go(only="06").exit_code == 0
    page = store.Run("r").path("report.html").read_text()
    assert (
        PNG in page and "What failed" not in page and "http" not in page.replace("http-equiv", "")
    )


def test_a_report_that_cannot_be_made_fails_no_run(go, monkeypatch):
    monkeypatch.setattr(report, "page", lambda *told: 1 / 0)
    assert go().exit_code == 0


def test_the_heartbeat_says_start_and_how_it_ended(go, toys, beats):
    go()
    assert beats == ["/ping/abc/start?k=1", "/ping/abc/0?k=1"]
    toys(nb04=["1 / 0"])
    go()
    assert beats[2:] == ["/ping/abc/start?k=1", "/ping/abc/1?k=1"]
    with pytest.raises(WorkbookError):
        go(overrides=["epochs=abc"])
    assert beats[4:] == ["/ping/abc/start?k=1", "/ping/abc/2?k=1"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "no url", "http://[broken"])
def test_a_heartbeat_that_nobody_hears_costs_no_run(go, monkeypatch, url):
    monkeypatch.setenv("WORKBOOK_HEARTBEAT_URL", url)
    assert go().exit_code == 0


def test_keys_and_addresses_reach_nothing_that_a_run_leaves(go, toys, monkeypatch):
    planted = {"SOME_API_KEY": "very-secret-value", "WORKBOOK_NOTIFY_URLS": "slack://abc/def/ghi"}
    for name, value in planted.items():
        monkeypatch.setenv(name, value)
    texts = [*planted.values(), "ann.lee@example.org", "sk-abcdefghijklmnop1234"]
    told: list[str] = []
    monkeypatch.setattr(registry, "notify", lambda text, event_id: told.append(text))
    said = "' '.join([os.environ['SOME_API_KEY'], os.environ['WORKBOOK_NOTIFY_URLS'],"
    said += " 'ann.lee@' + 'example.org', 'sk-abc' + 'defghijklmnop1234'])"
    toys(nb04=[f"import os\nprint({said})", f"raise ValueError({said})"])
    record = go(tell=told.append)
    assert record.exit_code == 1 and told
    written = [p.read_text() for p in store.home().rglob("*") if p.is_file() and p.suffix != ".db"]
    for text in texts:
        assert not [where for where in [*written, *told] if text in where], text


def test_a_kill_in_the_middle_leaves_no_key_in_the_copy_either(
    go, toys, driver, tmp_path, monkeypatch
):
    monkeypatch.setenv("SOME_API_KEY", "very-secret-value")
    show = "import os\nprint(os.environ['SOME_API_KEY'], flush=True)"
    toys(nb04=[show, "import time; time.sleep(300)"])
    process = driver("run", str(tmp_path / "toy.yaml"), "--run-id", "r", "--only", "04")
    copy = store.Run("r").path("notebooks/04_evaluate.ipynb")
    while not (copy.exists() and "[secret]" in copy.read_text()):
        assert process.poll() is None
    os.kill(process.pid, 9)
    process.communicate()
    assert "very-secret-value" not in copy.read_text() and json.loads(copy.read_text())
    toys()
    assert go().exit_code == 0


def test_causes_are_known_for_every_code():
    codes = [
        value
        for name, value in vars(ending).items()
        if name.isupper() and isinstance(value, int) and value
    ]
    assert set(codes) <= set(report.CAUSE)
