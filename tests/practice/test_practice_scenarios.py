"""Every way in which a provider can fail, met by our own jobs code.

Each has its exit code and remedy, leaves no orphan upload, and one job at most.

The table of all scenarios is printed (`pytest -s -k scenario`).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from practice_toys import client_of

from helpers import store
from helpers.practice import training
from helpers.practice.scenarios import SCENARIOS
from helpers.records import WorkbookError
from helpers.train import (
    OpenAIJobConfig,
    cancel_fine_tuning,
    fine_tune_openai,
    jobs,
    monitor_fine_tuning,
)

sys.path.append(str(Path(__file__).parents[1] / "train"))
from test_jobs import dataset

MODES = pytest.mark.parametrize("mode", ["spec", "live"])
# scenario: exit code, a word of its remedy, jobs at the provider, uploads left there
EXPECTED = {
    "ok": (0, "", 1, 2),
    "not_found_after_success": (0, "", 1, 2),
    "base64_results": (0, "", 1, 2),
    "slow_create": (0, "", 1, 2),
    "n_examples": (5, "add rows", 1, 0),
    "format": (5, "mend or leave out the rows", 1, 0),
    "not_available_403": (5, "03a", 0, 0),
    "daily_429": (5, "tomorrow", 0, 0),
    "quota": (5, "top up", 0, 0),
    "moderation": (5, "mend or leave out the rows", 1, 0),
    "safety": (5, "unsafe", 1, 0),
    "server_error": (5, "run again later", 1, 0),
    "expired_model": (5, "api_model", 0, 0),
    "stuck_validating": (124, "same run_id", 1, 2),
    "paused": (124, "same run_id", 1, 2),
}
table: list[str] = []


def toy_training(tuning, parts, on_line):
    """Steps in no time: only the scenario `ok` trains for real here."""
    for step in (1, 2, 3, 4):
        on_line({"step": step, "steps": 4, "loss": 4 - step / 2})
    on_line({"step": 4, "steps": 4, "eval_loss": 2.5})
    return training.Trained(99, [2, 4])


def config(server, **changes) -> OpenAIJobConfig:
    settings = {
        "base_url": server.url,
        "api_model": "practice-tiny",
        "poll_seconds": 0.05,
        "n_epochs": 2,
    }
    return OpenAIJobConfig(**(settings | changes))


def run(server, **changes) -> tuple[int, str, dict]:
    """(exit code, message, model.json) of a whole 03b."""
    try:
        job = fine_tune_openai(dataset(16), config(server, **changes))
        model = monitor_fine_tuning(job.job_id)
    except WorkbookError as error:
        return error.exit_code, str(error), {}
    return 0, "", model.model_dump()


def left(server) -> tuple[int, int]:
    """(jobs, training files) at the provider."""
    storage = server.practice.storage
    uploads = [file for file in storage.files.values() if file["purpose"] == "fine-tune"]
    return len(storage.jobs), len(uploads)


@MODES
@pytest.mark.parametrize("scenario", EXPECTED)
def test_each_scenario_ends_as_it_should(start, monkeypatch, scenario, mode):
    if (scenario, mode) != ("ok", "live"):
        monkeypatch.setattr(training, "train", toy_training)
    monkeypatch.setattr(jobs, "CREATE_TIMEOUT", 0.6 if scenario == "slow_create" else 30.0)
    server = start(mode, scenario, speed=60.0 if scenario == "slow_create" else 500.0)
    deadline = 0.02 if EXPECTED[scenario][0] == 124 else 5.0
    code, message, model = run(server, job_deadline_minutes=deadline)
    wanted, word, jobs_there, files_there = EXPECTED[scenario]
    found = left(server)
    table.append(
        f"{scenario:<24} {mode:<5} exit {code:<4} jobs {found[0]}  uploads left {found[1]}"
        f"  {message[-90:]}"
    )
    assert (code, found) == (wanted, (jobs_there, files_there)), message
    assert word in message
    if code == 0:
        assert (
            model["model_id"].startswith("ft:practice-tiny:")
            and model["losses"]["train"]
            and model["losses"]["eval"]
        )
        assert client_of(server, mode).models.retrieve(model["model_id"]), (
            "whoever reads model.json can ask it at once"
        )
    if (scenario, mode) == ("ok", "live"):
        asked = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        assert (
            client_of(server, mode)
            .chat.completions.create(model=model["model_id"], **asked)
            .usage.total_tokens
        )


@pytest.mark.parametrize("scenario", ["n_examples", "format"])
def test_what_can_be_known_here_is_found_before_any_upload(start, scenario):
    server = start()
    rows = dataset(10) if scenario == "n_examples" else dataset(16, "say <|im_end|> now")
    with pytest.raises(WorkbookError) as caught:
        fine_tune_openai(rows, config(server))
    assert caught.value.exit_code == 2 and left(server) == (0, 0)
    table.append(
        f"{scenario:<24} local exit {caught.value.exit_code:<4} jobs 0  uploads left 0"
        f"  {str(caught.value)[-90:]}"
    )


def test_a_run_again_after_the_deadline_goes_on_with_the_same_job(start):
    server = start("live", "paused")
    code, said, _ = run(server, job_deadline_minutes=0.02)
    job = store.read_json(store.home() / "runs/dev/job.json")
    job_id = job["job_id"]
    assert code == 124 and "resume it there" in said
    assert jobs.client_of(job["base_url"]).fine_tuning.jobs.resume(job_id).status == "queued"
    job = fine_tune_openai(dataset(16), config(server))
    assert (job.reattached, job.job_id) == (True, job_id)
    cancel_fine_tuning(job_id)
    with pytest.raises(WorkbookError, match="cancelled") as caught:
        monitor_fine_tuning(job_id)
    assert caught.value.exit_code == 5 and left(server) == (1, 0)


def test_zz_every_scenario_has_an_expected_end_and_the_table_is_printed(capsys):
    of_jobs = {name for name in SCENARIOS if not name.startswith("batch_")}  # test_batches.py
    assert EXPECTED.keys() == of_jobs
    assert {line.split()[0] for line in table} <= EXPECTED.keys()
    with capsys.disabled():
        print("\n" + "\n".join(sorted(table)))
