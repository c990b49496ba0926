"""A team's channel on loopback: an HTTP server that notes every message it gets."""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


class Webhook:
    """An HTTP server on loopback that notes what it gets; answers `status` after `wait` seconds."""

    def __init__(self):
        self.got, self.status, self.wait = [], 200, 0.0
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                time.sleep(hook.wait)
                if hook.status == 200:
                    hook.got.append(json.loads(body))
                self.send_response(hook.status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"json://127.0.0.1:{self.server.server_port}/hook?cto=1&rto=1"

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hook(monkeypatch):
    """The only channel that is configured."""
    pytest.importorskip("apprise", reason="the extra notify is not installed")
    made = Webhook()
    monkeypatch.setenv("WORKBOOK_NOTIFY_URLS", made.url)
    yield made
    made.close()
