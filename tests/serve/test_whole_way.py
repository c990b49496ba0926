"""Promoted, served by a program of its own, asked by the plain SDK, rated, watched, rolled back."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from serve_toys import TASK, client, log_of, task_folder, until
from test_parity import tuned_version

from helpers import monitor, store
from helpers.cli import main
from helpers.tasks import load_task

SCRIPT = """
import sys
import openai

ask = openai.OpenAI(base_url=sys.argv[1], api_key="none", timeout=300).chat.completions.create
turns = [{"role": "user", "content": "Is it open?"}]
plain = ask(model="toy", messages=turns)
pieces = list(ask(model="toy", messages=turns, stream=True))
assert "".join(p.choices[0].delta.content or "" for p in pieces) == plain.choices[0].message.content
assert not [name for name in sys.modules if name.split(".")[0] == "helpers"]
print(plain.id, plain.model, pieces[0].model)
"""


def asked(address: str) -> list[str]:
    """[id, version, version] of two answers to a script that imports nothing of ours."""
    command = [sys.executable, "-I", "-c", SCRIPT, f"{address}/v1"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return run.stdout.split()


def test_a_promoted_version_answers_is_rated_watched_and_rolled_back(home):
    tuned_version("v1", to="production")
    run = store.Run(tuned_version("v2", scale=0.5, to="production").run_id)
    command = [sys.executable, "-m", "helpers.serve", "--port", "0", "--engine", "local"]
    environment = os.environ | {"PYTHONPATH": str(store.PROJECT), "OMP_NUM_THREADS": "1"}
    gateway = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        line = next(text for text in gateway.stderr if "listening at" in text)
        address = re.search(r"http://[\d.:]+", line)[0]
        request_id, *versions = asked(address)
        assert versions == ["v2", "v2"]
        said = {"request_id": request_id, "thumb": "down", "correction": "yes"}
        assert client.post(f"{address}/v1/feedback", json=said).is_success
        assert main(["registry", "rollback", "--task", TASK, "--because", "it answers badly"]) == 0
        until(lambda: client.get(f"{address}/v1/models").json()["data"][1]["id"] == "v1", 120)
        assert asked(address)[1:] == ["v1", "v1"]
    finally:
        gateway.terminate()
        gateway.communicate(timeout=120)
    task = load_task(str(task_folder()))
    log = monitor.read_live(task, "")
    assert (log.requests, log.faults["unreadable_lines"].total(), log.simulated) == (4, 0, False)
    assert [row.feedback_score for row in log_of() if row.request_id == request_id] == [1.0]
    assert not monitor.check_health(task, run, 7, 90, "", log).simulated
