"""`workbook run smoke`: the whole life of a model, from nothing to an honest refusal."""

from __future__ import annotations

import json
import sqlite3

import pytest

from helpers import store, tasks

pytestmark = pytest.mark.slow


def test_the_whole_flow_runs_and_the_gate_refuses_a_random_model(smoke):
    place, done = smoke
    assert done.returncode == 3, done.stderr[-3000:]
    record = json.loads(done.stdout)
    assert record == store.read_json(place.home / "runs/a/run.json")
    assert (record["status"], record["verdict"], record["exit_code"]) == ("finished", "fail", 3)
    found = {entry["name"]: entry["status"] for entry in record["notebooks"]}
    assert found.pop("03b_train_openai") == "skipped"
    assert set(found.values()) == {"finished"}
    for name in found:
        assert f"{name} done in" in done.stderr, "a progress line per stage"
    assert "look at" in done.stderr and "tuned - best rung, accuracy" in done.stderr
    assert record["versions"]["packages"]["torch"]


def test_every_artifact_is_there_and_nothing_half_written(smoke):
    place, _ = smoke
    run = place.home / "runs" / "a"
    artifacts = ("environment", "decision", "dataset", "model", "evaluation", "promotion", "health")
    assert all((run / f"{name}.json").exists() for name in artifacts)
    model = store.read_json(run / "model.json")
    assert (place.home / model["adapter"] / "adapter_config.json").exists()
    version = store.read_json(run / "dataset.json")["version"]
    assert (place.home / "datasets" / version / "manifest.json").exists()
    assert not [
        p
        for p in place.home.rglob("*")
        if "partial" in p.name or p.name in ("kernel.json", "children.json")
    ]
    assert sqlite3.connect(place.home / "registry.db").execute(
        "pragma integrity_check"
    ).fetchone() == ("ok",)


def test_nothing_reached_for_the_network_and_the_guard_stood_in_kernel_and_training(smoke):
    place, _ = smoke
    refused = [p.read_text() for p in place.guard.glob("refused-*")]
    assert refused == []
    guarded = "\n".join(p.read_text() for p in place.guard.glob("process-*"))
    assert "ipykernel_launcher" in guarded and "helpers.train" in guarded


def test_the_guard_refuses_what_it_should(place):
    import os
    import subprocess
    import sys

    env = os.environ | {
        "PYTHONPATH": str(store.PROJECT / "tests/e2e/network_guard"),
        "NETWORK_GUARD": str(place.guard),
    }
    for code in (
        "socket.create_connection(('192.0.2.1', 80), 1)",
        "socket.getaddrinfo('example.org', 80)",
    ):
        done = subprocess.run(
            [sys.executable, "-c", f"import socket; {code}"],
            env=env,
            capture_output=True,
            text=True,
        )
        assert "network guard refuses" in done.stderr
    assert len(list(place.guard.glob("refused-*"))) == 2


def test_example_text_is_only_where_it_may_be(smoke):
    place, done = smoke
    rows = tasks.load_examples(tasks.load_task("support_triage")).examples
    texts = [
        json.dumps(row.user_text, ensure_ascii=False)[1:-1]
        for row in rows
        if len(row.user_text) > 40
    ]
    files = [
        p for p in (place.home / "runs").rglob("*") if p.is_file() and "private" not in p.parts
    ]
    for path in files:
        written = path.read_text(encoding="utf-8", errors="replace")
        assert not [text for text in texts if text in written], path
    assert not [text for text in texts if text in done.stdout + done.stderr]
    assert (place.home / "runs/a/private").stat().st_mode & 0o777 == 0o700


def test_the_other_commands_read_what_the_run_left(smoke):
    place, _ = smoke
    versions = json.loads(place.workbook("registry", "list", "--json").stdout)
    assert [(v["task"], v["run_id"], v["status"]) for v in versions] == [
        ("demo/support_triage", "a", "evaluating")
    ]
    assert json.loads(place.workbook("registry", "show", versions[0]["id"], "--json").stdout)
    assert json.loads(place.workbook("route", "--json").stdout) == {}
    assert [r["run_id"] for r in json.loads(place.workbook("runs", "--json").stdout)] == ["a"]
    assert (
        "a" in place.workbook("runs").stdout
        and "evaluating" in place.workbook("registry", "list").stdout
    )


def test_running_it_again_does_nothing_twice(smoke):
    place, _ = smoke
    before = {p: p.stat().st_mtime_ns for p in (place.home / "runs/a").glob("*.json")}
    again = place.workbook("run", "smoke", "--run-id", "a", "--json")
    assert again.returncode == 3, again.stderr[-2000:]
    found = {entry["name"]: entry["status"] for entry in json.loads(again.stdout)["notebooks"]}
    assert set(found.values()) == {"reused", "skipped"}
    changed = {p.name for p, at in before.items() if p.stat().st_mtime_ns != at}
    assert changed == {"run.json"}
    assert len(json.loads(place.workbook("registry", "list", "--json").stdout)) == 1
