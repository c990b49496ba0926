"""Signals, kills and locks, with real processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import processes, store

CHILD = """import json, subprocess, sys
from pathlib import Path
from helpers import processes, store
command = [sys.executable, "-c", "import time; time.sleep(300)"]
child = subprocess.Popen(command, start_new_session=True)
processes.record(store.open_run(run_id).path("children.json"), child.pid)
store.write_text(store.home() / "child.pid", str(child.pid))"""
SLEEP = "import time; time.sleep(300)"


def alive(pid: int) -> bool:
    return processes.process_start_time(pid) is not None


def wait_for(path: Path, seconds: float = 40) -> str:
    until = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < until, f"{path} never came"
        time.sleep(0.05)
    return path.read_text()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_kernel_and_children_and_says_how_to_go_on(
    toys, driver, tmp_path, number, code
):
    toys(nb04=[CHILD, SLEEP])
    process = driver("run", str(tmp_path / "toy.yaml"), "--run-id", "r", "--only", "04")
    child = int(wait_for(store.home() / "child.pid"))
    kernel = json.loads((store.home() / "runs/r/kernel.json").read_text())[0]["pid"]
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code
    assert not alive(child) and not alive(kernel)
    record = store.read_json(store.home() / "runs/r/run.json")
    assert record["status"] == "interrupted" and "--run-id r --only 04" in record["reason"]
    assert "Traceback" not in errors


def test_after_kill_9_the_next_run_ends_what_was_left_and_resumes(toys, driver, tmp_path):
    toys(nb04=[CHILD, SLEEP])
    process = driver("run", str(tmp_path / "toy.yaml"), "--run-id", "r", "--only", "02,04")
    child = int(wait_for(store.home() / "child.pid"))
    process.kill()
    process.wait()
    assert alive(child)
    toys()
    again = driver("run", str(tmp_path / "toy.yaml"), "--run-id", "r", "--only", "02,04", "--json")
    out, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert not alive(child) and "had been killed" in errors
    entries = {e["name"]: (e["status"], e["attempts"]) for e in json.loads(out)["notebooks"]}
    assert entries["02_curate"] == ("reused", 1) and entries["04_evaluate"] == ("finished", 2)


def test_a_process_that_only_shares_the_number_is_left_alone(tmp_path):
    other = subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
    try:
        entry = {"pid": other.pid, "pgid": other.pid, "started": 1}
        (tmp_path / "children.json").write_text(json.dumps([entry]))
        assert processes.end_recorded(tmp_path) == 0
        assert alive(other.pid)
        processes.record(tmp_path / "children.json", other.pid)
        assert processes.end_recorded(tmp_path) == 1
        other.wait(5)
    finally:
        other.kill()


PARENT = """import signal, sys
from helpers import processes, store
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
folder = store.open_run("r").folder
program = processes.Program(
    [sys.executable, "-c", sys.argv[1]],
    processes.child_environment(),
    folder / "program.log",
    folder / "lines.jsonl",
)
sys.exit(processes.run_child(program, folder, lambda line: print(line, flush=True)))"""
WATCHES = """import threading, time
from helpers import processes
threading.Thread(target=processes.end_with_parent, daemon=True).start()
time.sleep(300)"""
WRITES = """import sys, time
from helpers import store
for number in range(3):
    with open(store.home() / "runs/r/lines.jsonl", "a") as file:
        file.write(f'{{"number": {number}}}\\n{{"to')
        file.flush()
        time.sleep(0.3)
        file.write('rn": true}\\n')
print("what it prints")
sys.exit(7)"""


@pytest.fixture
def parent(tmp_path, monkeypatch):
    """Start a process that runs a program to its end."""
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))

    def start(program: str) -> subprocess.Popen:
        command = [sys.executable, "-c", PARENT, program]
        return subprocess.Popen(command, cwd=store.PROJECT, stdout=subprocess.PIPE, text=True)

    return start


def listed(tmp_path: Path) -> dict:
    return json.loads(wait_for(tmp_path / "runs" / "r" / processes.CHILDREN))[0]


def test_a_program_is_run_to_its_end_and_its_whole_lines_are_told(parent, tmp_path):
    process = parent(WRITES)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 7
    lines = [line for number in range(3) for line in (f"{{'number': {number}}}", "{'torn': True}")]
    assert out.splitlines() == lines
    folder = tmp_path / "runs" / "r"
    assert (folder / "program.log").read_text() == "what it prints\n"
    assert not (folder / processes.CHILDREN).exists()


def test_what_a_run_starts_is_on_record_and_the_next_run_ends_it(parent, tmp_path):
    process = parent(SLEEP)
    entry = listed(tmp_path)
    assert set(entry) == {"pid", "pgid", "started"} and entry["pgid"] == entry["pid"] != process.pid
    process.kill()
    process.wait()
    assert alive(entry["pid"]), "this program does not watch its parent"
    folder = tmp_path / "runs" / "r"
    assert processes.end_recorded(folder) == 1
    assert not alive(entry["pid"]) and not (folder / processes.CHILDREN).exists()


def test_a_program_that_watches_its_parent_ends_when_it_is_killed_outright(parent, tmp_path):
    process = parent(WATCHES)
    entry = listed(tmp_path)
    time.sleep(1.0)
    assert alive(entry["pid"])
    process.kill()
    process.wait()
    until = time.monotonic() + 15
    while alive(entry["pid"]):
        assert time.monotonic() < until, "still running"
        time.sleep(0.1)


def test_a_program_is_ended_when_its_parent_is_interrupted(parent, tmp_path):
    process = parent(SLEEP)
    entry = listed(tmp_path)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    assert not alive(entry["pid"]) and not (tmp_path / "runs/r" / processes.CHILDREN).exists()


def test_a_child_imports_this_project_and_gets_no_keys(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    environment = processes.child_environment({"MORE": "1"}, without=("_KEY",))
    assert environment["PYTHONPATH"] == os.pathsep.join([str(store.PROJECT), "/elsewhere"])
    assert environment["MORE"] == "1" and "SOME_API_KEY" not in environment
    assert processes.child_environment()["SOME_API_KEY"] == "secret"


def test_a_held_lock_is_75_in_less_than_a_second(toys, driver, tmp_path):
    with store.lock():
        started = time.monotonic()
        process = driver("run", str(tmp_path / "toy.yaml"))
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 75
        assert time.monotonic() - started < (1 if os.getloadavg()[0] < 2 else 5)
    assert "another run holds" in errors and len(errors.strip().splitlines()) == 1


def test_a_home_that_cannot_be_made_is_2_with_a_remedy(driver, toys, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "toy.yaml" / "below_a_file"))
    process = driver("run", str(tmp_path / "toy.yaml"))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2 and "WORKBOOK_HOME" in errors


def test_a_reader_that_goes_away_does_not_end_the_run(toys, driver, tmp_path):
    process = driver("run", str(tmp_path / "toy.yaml"), "--run-id", "r", "--only", "04")
    process.stderr.close()
    process.stdout.close()
    process.wait(60)
    assert store.read_json(store.home() / "runs/r/run.json")["status"] == "finished"
