"""`workbook …` as a program: what it prints, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from run_toys import toy_crontab

from helpers import store

HEAVY = {"torch", "transformers", "pandas", "pydantic", "yaml"}


@pytest.fixture
def workbook(tmp_path):
    def call(*arguments: str, **env: str) -> subprocess.CompletedProcess:
        command = [
            sys.executable,
            "-c",
            "import sys; from helpers.cli import main; sys.exit(main())",
            *arguments,
        ]
        full = (
            os.environ
            | {"WORKBOOK_HOME": str(tmp_path / "home"), "PYTHONPATH": str(store.PROJECT)}
            | env
        )
        return subprocess.run(
            command, env=full, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )

    return call


def test_help_imports_nothing_heavy_and_is_quick(workbook):
    look = "import sys; from helpers import cli; cli._parser(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True)
    assert "helpers.cli" in done.stdout.split()
    assert not HEAVY & set(done.stdout.split())
    times = []
    for _ in range(3):
        started = time.monotonic()
        assert workbook("--help").returncode == 0
        times.append(time.monotonic() - started)
    assert min(times) < 0.1 if os.getloadavg()[0] < 1 else min(times) < 0.5


@pytest.mark.parametrize(
    ("arguments", "empty"),
    [(("runs",), []), (("registry", "list"), []), (("registry", "history"), []), (("route",), {})],
)
def test_json_is_exactly_one_value_on_stdout(workbook, arguments, empty):
    done = workbook(*arguments, "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, empty)


def test_doctor_says_what_it_found_and_whether_that_is_enough(workbook):
    done = workbook("doctor", "--json")
    report = json.loads(done.stdout)
    assert done.returncode == (0 if report["ready"] else 2)
    names = {check["name"]: check for check in report["checks"]}
    assert {
        "python",
        "packages",
        "embedded model",
        "disk",
        "memory",
        "cores",
        "gpu",
        "lock",
    } <= set(names)
    fatal = [c for c in names.values() if c["verdict"] == "fail" and c["severity"] == "critical"]
    assert report["ready"] == (not fatal) and all(check["remedy"] for check in fatal)
    assert all(check["evidence"] for check in names.values())
    assert "python" in workbook("doctor").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "nowhere"), "profiles are"),
        (("run", "smoke", "-p", "epochs=abc"), "epochs should be float"),
        (("run", "smoke", "-p", "epoch=1"), "unknown parameter 'epoch'"),
        (("run", "smoke", "--only", "03"), "names 2 notebooks"),
        (("run", "smoke", "-p", "task=/nowhere"), "workbook new"),
        (("registry", "show", "nothing"), "nothing"),
        (("run", "smoke", "--only", ""), "is empty"),
        (("run", "smoke", "--only="), "is empty"),
        (("run", "smoke", "--only", " , "), "is empty"),
        (("serve", "--check", ""), "is empty"),
        (("route", "--end"), "task"),
        (("route", "support_triage", "--promote"), "give --canary VERSION"),
        (("registry", "reevaluate", "nothing", "--max-cost-usd", "2.5"), "nothing"),
    ],
)
def test_a_mistake_is_exit_2_and_one_message(workbook, tmp_path, arguments, said):
    done = workbook(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        said in done.stderr
        and done.stderr.startswith("workbook: ")
        and len(done.stderr.strip().splitlines()) == 1
    )
    assert not (tmp_path / "home" / "runs").exists()


def test_a_closed_pipe_is_no_traceback(tmp_path):
    env = os.environ | {"WORKBOOK_HOME": str(tmp_path), "PYTHONPATH": str(store.PROJECT)}
    command = f"{sys.executable} -c 'from helpers.cli import main; main()' doctor | true"
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_a_schedule_is_installed_listed_watched_and_taken_out(workbook, tmp_path):
    tab = toy_crontab(tmp_path)
    assert workbook("schedule", "retrain", "--cron", "0 3 * * 0", **tab).returncode == 0
    listed = json.loads(workbook("schedule", "--list", "--json", **tab).stdout)
    assert [(row["profile"], row["installed"], row["overdue"]) for row in listed] == [
        ("retrain", True, False)
    ]
    status = workbook("status", "--json", **tab)
    assert (status.returncode, json.loads(status.stdout)["overdue"]) == (0, False)
    assert "retrain" in workbook("status", **tab).stdout
    path = tmp_path / "home/schedules/retrain.json"
    path.write_text(path.read_text().replace("2026-", "2020-").replace("2027-", "2020-"))
    assert workbook("status", **tab).returncode == 1, "it should have run long ago"
    assert json.loads(workbook("schedule", "--remove", "retrain", "--json", **tab).stdout) == []
    assert not (tmp_path / "tab").read_text().strip()
    assert workbook("schedule", **tab).returncode == 2
    both = workbook("schedule", "retrain", "--cron", "0 3 * * 0", "--remove", "retrain", **tab)
    assert both.returncode == 2 and "not allowed with" in both.stderr
    assert "profiles are" in workbook("schedule", "--cron", "0 3 * * 0", **tab).stderr


def test_gc_says_what_would_go_and_learner_writes_notebooks(workbook, tmp_path):
    assert json.loads(workbook("gc", "--keep", "3", "--json").stdout) == {
        "would_delete": [],
        "bytes": 0,
    }
    assert "00_start_here.ipynb" in workbook("learner", str(tmp_path / "mine")).stdout
    assert workbook("learner", str(tmp_path / "mine")).returncode == 2


def test_the_spending_limit_of_a_run_is_a_parameter_like_any_other(driver, toys, tmp_path):
    process = driver(
        *("run", str(tmp_path / "toy.yaml"), "--run-id", "r", "--only", "00"),
        *("--max-cost-usd", "1.5", "--json"),
    )
    out, errors = process.communicate(timeout=60)
    record = json.loads(out)
    assert record["params"]["max_cost_usd"] == 1.5, errors
    assert record["schema_version"] == 2 and record["status"] == "finished"
    assert record == json.loads((store.home() / "runs/r/run.json").read_text())


def test_an_answer_that_is_given_twice_is_refused_by_its_name(workbook, tmp_path):
    done = workbook("new", "mine", "--yes", "--set", "name=a", "--set", "name=b")
    assert done.returncode == 2 and "--set name=" in done.stderr and "twice" in done.stderr
    assert not (tmp_path / "mine").exists()
