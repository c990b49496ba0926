"""Notebook 05 asks what is in production through a gateway of its own, which then ends."""

from __future__ import annotations

import sys
import threading

from registry_toys import TASK
from serve_toys import log_of, register, task_folder

from helpers import serve
from helpers.serve import starting


def test_the_question_is_answered_over_http_and_is_no_traffic(engine):
    register("v1", "production")
    shown = serve.ask_production(str(task_folder()), "Hello", engine.url)
    assert shown["answer"] == "v1 Hello"
    assert (shown["version"], shown["route"]) == ("v1", f"{TASK}@1")
    assert log_of() == [] and engine.unloaded == ["v1"]
    assert not [each for each in threading.enumerate() if each.name == "live-log"]


def test_what_is_missing_is_said_and_stops_nothing(engine, monkeypatch):
    register("v1")  # in staging
    skipped = serve.ask_production(str(task_folder()), "Hello", engine.url)["skipped"]
    assert skipped == f"nothing is in production for {TASK} yet"
    monkeypatch.setitem(sys.modules, "helpers.serve.gateway", None)
    assert "[serve]" in serve.ask_production(str(task_folder()), "Hello", engine.url)["skipped"]


def test_a_gateway_that_cannot_begin_is_a_reason_and_no_error(engine, monkeypatch):
    def refuse(*_):
        raise OSError(24, "Too many open files")

    register("v1", "production")
    monkeypatch.setattr(starting, "_server_of", refuse)
    shown = serve.ask_production(str(task_folder()), "Hello", engine.url)
    assert "Too many open files" in shown["skipped"]
