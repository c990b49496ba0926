"""The practice API as the command that a person types, and the script that its guide shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from helpers import store
from helpers.models import practice

COMMAND = [
    sys.executable,
    "-c",
    "import sys; from helpers.cli import main; sys.exit(main())",
    "practice-api",
]


def start(tmp_path, *options: str) -> tuple[subprocess.Popen, str]:
    state = ["--port", "0", "--state", str(tmp_path / "state")]
    process = subprocess.Popen(
        [*COMMAND, *state, *options], cwd=store.PROJECT, stdout=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().split()[-1]


def test_the_script_of_the_guide_runs_without_any_helper(tmp_path):
    text = (store.PROJECT / "docs" / "practice-api.md").read_text()
    script = re.search(r"```python\n(.*?)```", text, re.S)[1]
    assert "helpers" not in script
    process, url = start(tmp_path, "--mode", "spec", "--speed", "50")
    try:
        env = os.environ | {
            "PRACTICE_URL": url,
            "PRACTICE_MODEL": "tiny",
            "HTTP_PROXY": "http://127.0.0.1:9",
        }
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=300,
        )
    finally:
        process.send_signal(signal.SIGTERM)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert lines[0].endswith("validating_files") and any("practice API" in line for line in lines)
    assert (
        re.search(r"Step 12/12", done.stdout)
        and len([line for line in lines if re.match(r"\d+ ft:", line)]) == 3
    )
    assert re.search(r"^ft:practice-tiny:practice:codes:\w+ answers ", lines[-1])
    assert process.wait(20) == 0
    assert not (tmp_path / "state/server.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [(["--host", "0.0.0.0"], "--anywhere"), (["--scenario", "x"], "known are ok")],
)
def test_wrong_options_end_with_2_and_say_what_to_do(tmp_path, options, words):
    done = subprocess.run(
        [*COMMAND, "--port", "0", *options],
        cwd=store.PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


PARENT = """
import time
from helpers.models import practice
print(practice.resolve_base_url("practice"), flush=True)
time.sleep(300)
"""


def test_a_home_has_one_server_which_ends_with_its_parent_however_that_ends(monkeypatch):
    assert practice.resolve_base_url("http://127.0.0.1:1/v1") == "http://127.0.0.1:1/v1"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=store.PROJECT, stdout=subprocess.PIPE, text=True
    )
    url = parent.stdout.readline().strip()
    assert practice.resolve_base_url("practice") == url, (
        "the server that another notebook started is shared"
    )
    pid = store.read_json(store.home() / "practice/server.json")["pid"]
    parent.kill()
    assert gone(pid), "the server outlived its parent"


@pytest.mark.slow
def test_workbook_run_ends_with_the_code_of_the_scenario_and_leaves_no_process(tmp_path):
    env = os.environ | {
        "WORKBOOK_HOME": str(tmp_path / "home"),
        "WORKBOOK_API_KEY": "sk-test-" + "x" * 30,
    }
    ends = {
        ("model_suffix=not_available_403",): 5,
        ("model_suffix=stuck_validating", "job_deadline_minutes=0.05"): 124,
    }
    for settings, code in ends.items():
        command = [
            *COMMAND[:-1],
            "run",
            "practice",
            "--run-id",
            "a",
            "--only",
            "02,03b",
            "-p",
            "base_model=tiny",
        ]
        command += [word for setting in settings for word in ("-p", setting)]
        done = subprocess.run(
            command, cwd=store.PROJECT, env=env, capture_output=True, text=True, timeout=580
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    state = tmp_path / "home" / "practice"
    assert (
        len(list((state / "jobs").glob("*/job.json"))) == 1
        and len(list((state / "files").glob("*.bin"))) == 2
    )
    written = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert not [text for text in [*written, done.stdout, done.stderr] if "x" * 30 in text], (
        "the key is nowhere"
    )
    left = (
        store.read_json(state / "server.json")["pid"] if (state / "server.json").exists() else None
    )
    assert left is None or gone(left), "the server ended with its kernel"
