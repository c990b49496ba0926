"""kill -9 at any point of 03b, then run it again: one job, no second upload, the same model.

`N=20 pytest tests/faults/test_practice_kills.py` takes the full number of points and writes
docs/measured/.
"""

from __future__ import annotations

import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import store

N, SEED = int(os.environ.get("N", "2")), 7
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(
        os.environ.get("ROOM", "practice") != "practice", reason="another room was asked for"
    ),
]
PROGRAM = """
import sys
sys.path[:0] = {folders!r}
from test_jobs import dataset
from helpers.models import practice
from helpers.train import OpenAIJobConfig, fine_tune_openai, monitor_fine_tuning
practice.COMMAND += ["--speed", "20"]
config = OpenAIJobConfig(
    base_url="practice", api_model="practice-tiny", n_epochs=2, poll_seconds=0.1
)
monitor_fine_tuning(fine_tune_openai(dataset(16), config).job_id)
"""


def begin(home: Path) -> subprocess.Popen:
    folders = [str(store.PROJECT / "tests" / "train"), str(store.PROJECT / "tests")]
    env = os.environ | {
        "WORKBOOK_HOME": str(home),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(store.PROJECT),
    }
    command = [sys.executable, "-c", PROGRAM.format(folders=folders)]
    return subprocess.Popen(
        command,
        cwd=store.PROJECT,
        env=env,
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(home: Path) -> None:
    process = begin(home)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said[-2000:]


def outcome(home: Path) -> dict:
    """What must be the same after a kill: jobs, uploads, and the adapter to the byte."""
    jobs = list((home / "practice/jobs").glob("*/job.json"))
    files = [store.read_json(path) for path in (home / "practice/files").glob("*.json")]
    model = store.read_json(home / "runs/dev/model.json")
    adapters = sorted(jobs[0].parent.glob("step-*/adapter_model.safetensors"))
    made = store.read_json(jobs[0])["job"]["fine_tuned_model"]
    return {
        "jobs": len(jobs),
        "uploads": sum(file["purpose"] == "fine-tune" for file in files),
        "adapters": [store.sha256_file(path) for path in adapters],
        "the model is the job's": model["model_id"] == made,
        "tokens": model["tokens"],
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[float, dict]:
    home, started = tmp_path_factory.mktemp("undisturbed"), time.monotonic()
    finish(home)
    return time.monotonic() - started, outcome(home)


def test_a_killed_03b_and_its_repetition_make_one_job_and_the_same_model(undisturbed, tmp_path):
    seconds, expected = undisturbed
    assert (expected["jobs"], expected["uploads"], expected["the model is the job's"]) == (
        1,
        2,
        True,
    )
    points, failures = random.Random(SEED), []
    for number in range(N):
        home, at = tmp_path / str(number), points.uniform(0.1, 1.0) * seconds
        process = begin(home)
        time.sleep(at)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        finish(home)
        if (found := outcome(home)) != expected:
            failures.append({"at": round(at, 2), "found": found})
    if "N" in os.environ:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=store.PROJECT,
            capture_output=True,
            text=True,
        )
        machine = f"{os.cpu_count()} cores, {platform.machine()}"
        result = {
            "n": N,
            "failures": len(failures),
            "seed": SEED,
            "commit": commit.stdout.strip(),
            "machine": machine,
        }
        store.write_json(store.PROJECT / "docs/measured/practice_kills.json", result)
    assert not failures, json.dumps(failures, indent=2)
