"""Whole runs on toy notebooks."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest
import record_toys
from run_toys import writing

from helpers import store
from helpers.records import RunRecord, WorkbookError
from helpers.run import flow, past_runs
from helpers.run.summary import summary


@pytest.fixture
def go(toys, tmp_path: Path):
    lines: list[str] = []

    def call(**options) -> RunRecord:
        options = {"run_id": "r"} | options
        return flow.run(str(tmp_path / "toy.yaml"), tell=lines.append, **options)

    call.lines = lines
    return call


def statuses(record: RunRecord) -> dict[str, str]:
    return {entry.name[:3].rstrip("_"): entry.status for entry in record.notebooks}


def test_a_run_finishes_and_a_second_one_reuses_everything(go, tmp_path):
    record = go()
    assert (record.status, record.exit_code, record.verdict) == ("finished", 0, "pass")
    assert statuses(record) == dict.fromkeys(
        ["00", "01", "02", "03a", "04", "05", "06"], "finished"
    ) | {"03b": "skipped"}
    assert record == store.Run("r").load(RunRecord)
    assert "run r: finished (exit 0)" in summary(record)
    copy = json.loads((store.home() / "runs/r/notebooks/04_evaluate.ipynb").read_text())
    injected = next(c for c in copy["cells"] if "injected-parameters" in c["metadata"]["tags"])
    assert "seed = 8" in "".join(injected["source"]) and "show_text = False" in "".join(
        injected["source"]
    )
    left = [folder / ".x.json.1f.partial" for folder in (store.Run("r").folder, store.home())]
    for path in left:
        path.write_text("half")
    again = go()
    assert set(statuses(again).values()) == {"reused", "skipped"}
    assert [path.exists() for path in left] == [False, True], "its own; others may be at work"
    part = go(overrides=["epochs=2.0"], only="04")
    assert statuses(part)["04"] == "finished", "a changed parameter runs it again"
    store.Run("r").save(record_toys.trained_model(model_id="other"))
    changed = go()
    assert (statuses(changed)["03a"], statuses(changed)["02"]) == ("finished", "reused"), (
        "its artifact was not the one it wrote"
    )


def test_no_advice_for_training_ends_after_01_with_one_sentence(go, toys):
    toys(artifacts=[record_toys.decision(recommendation="prompting")])
    record = go(only="", overrides=["notebooks=[01_decide, 02_curate]"])
    assert (record.status, record.exit_code) == ("nothing_to_do", 0)
    assert statuses(record)["02"] == "skipped"
    assert "advises prompting" in record.reason
    record = go(from_="01", overrides=["notebooks=[01_decide, 02_curate]"])
    assert record.status == "finished", "--from ignores the stop"


@pytest.mark.parametrize(("verdict", "code"), [("fail", 3), ("inconclusive", 4)])
def test_a_gate_that_does_not_pass_is_the_exit_code_and_06_still_runs(go, toys, verdict, code):
    held = record_toys.promotion(verdict=verdict, promoted=False, reasons=["too small a gain"])
    toys(artifacts=[held])
    record = go(from_="05")
    assert (record.exit_code, record.status) == (code, "finished")
    assert statuses(record)["06"] == "finished"
    assert "too small a gain" in record.reason


def test_the_decision_picks_the_trainer(go, toys):
    toys(artifacts=[record_toys.decision(trainer="openai")])
    found = statuses(go(overrides=["notebooks=[01_decide, 03a_train_lora, 03b_train_openai]"]))
    assert (found["03a"], found["03b"]) == ("skipped", "finished")


RAISE = "from helpers.records import WorkbookError\nraise WorkbookError({!r}, {})"


@pytest.mark.parametrize(
    ("cell", "code", "said"),
    [
        (
            RAISE.format("row 3 of data.jsonl: no answer; mend it", 2),
            2,
            "04_evaluate: row 3 of data.jsonl: no answer; mend it",
        ),
        (RAISE.format("the job failed", 5), 5, "04_evaluate: the job failed"),
        ("raise MemoryError", 6, "out of memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 6, "killed from outside"),
        ("import os; os._exit(3)", 1, "ended by itself (exit code 3)"),
        ("raise OSError(28, 'No space left on device')", 6, "the disk is full"),
        ("1 / 0", 1, "cell [3] failed: ZeroDivisionError"),
        ("raise SystemExit(0)", 1, "ended the notebook early"),
        ("pass", 1, "was not written"),
        (
            "store.write_text(store.open_run(run_id).path('evaluation.json'), '{')",
            1,
            "not valid JSON",
        ),
        (
            "import json\nstore.write_json(store.open_run(run_id).path('evaluation.json'),"
            " {'verdict': 'pass', 'schema_version': 2})",
            1,
            "evaluation.json: base_model: Field required; run 04_evaluate again",
        ),
    ],
)
def test_how_a_notebook_fails_is_told_apart(go, toys, cell, code, said):
    toys(nb04=["from helpers import store\n" + cell, "last = True"])
    record = go(only="04")
    assert (record.exit_code, record.status) == (code, "failed")
    assert said in record.reason and "[exit" not in record.reason


def test_an_old_artifact_is_no_success(go, toys):
    go(only="04")
    toys(nb04=["x = 1"])
    assert "still the one from before" in go(only="04").reason


def test_the_time_limit_ends_a_notebook_and_its_kernel(go, toys):
    toys(nb04=["import time; time.sleep(60)"])
    started = time.monotonic()
    record = go(only="04", overrides=["time_limits={04_evaluate: 0.08}"])
    assert (record.exit_code, record.status) == (124, "failed")
    assert "time_limits" in record.reason and time.monotonic() - started < 25


def test_keys_appear_in_no_output_and_no_message(go, toys, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "very-secret-value")
    toys(
        nb04=[
            "import os; print(os.environ['SOME_API_KEY'])",
            "raise ValueError(os.environ['SOME_API_KEY'])",
        ]
    )
    go(only="04")
    written = [p.read_text() for p in (store.home() / "runs").rglob("*") if p.is_file()]
    assert not any("very-secret-value" in text for text in [*written, *go.lines])
    assert any("[secret]" in line for line in go.lines)


def test_kernels_are_headless_offline_under_our_lock_and_use_this_interpreter(
    go, toys, monkeypatch, tmp_path
):
    foreign = tmp_path / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    (foreign / "kernel.json").write_text(
        '{"argv": ["/bin/false"], "display_name": "x", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    cell = "import os, sys\nfrom helpers import store\nwith store.lock():\n    pass\n"
    cell += "assert store.headless() and os.environ['HF_HUB_OFFLINE'] == '1'\n"
    cell += "print(sys.executable, os.getcwd())"
    toys(nb06=[cell, writing(record_toys.health())])
    assert go(only="06").exit_code == 0
    assert any(sys.executable in line and line.endswith(str(store.NOTEBOOKS)) for line in go.lines)


def test_fifty_widget_cells_do_not_hang(go, toys):
    cell = "with widgets.Output():\n    print('shown')"
    toys(nb06=["import ipywidgets as widgets", *[cell] * 50, writing(record_toys.health())])
    started = time.monotonic()
    assert go(only="06", overrides=["time_limits={06_monitor: 2}"]).exit_code == 0
    assert time.monotonic() - started < 60


def test_a_relative_folder_becomes_absolute_since_kernels_work_elsewhere(go, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    others = "rung_models=[mine, some/model]"
    record = go(only="00", overrides=["task=task", "base_model=mine", others])
    assert record.params["task"] == f"{tmp_path}/task"
    assert record.params["base_model"] == f"{tmp_path}/mine"
    assert record.params["rung_models"] == [f"{tmp_path}/mine", "some/model"]
    shipped = go(only="00", overrides=["task=support_triage"])
    assert shipped.params["task"] == "support_triage"


def test_a_profile_of_any_name_has_runs_with_ids(go, tmp_path):
    odd = (tmp_path / "toy.yaml").rename(tmp_path / "my täsks_2.weekly.yaml")
    record = flow.run(str(odd), only="00")
    assert record.run_id.startswith("my-t-sks_2.weekly-2") and record.exit_code == 0
    assert record.profile == "my täsks_2.weekly"


def test_a_run_json_that_cannot_be_read_is_named_and_left_out(go, caplog):
    go(only="00")
    for name, text in {"torn": '{"run_id": ', "odd": '{"run_id": "odd"}', "no id": "{}"}.items():
        store.write_text(store.home() / "runs" / name / "run.json", text)
    path = store.Run("r").path("run.json")
    store.write_json(path, store.read_json(path) | {"started_at": "2026-11-01T00:00:00"})
    go(only="00", run_id="r2")  # which looks for killed runs
    assert [record.run_id for record in past_runs()] == ["r", "r2"]
    assert all(f"{name}" in caplog.text for name in ("torn/run.json", "odd/run.json", "'no id'"))


def test_bad_settings_write_nothing_at_all(go):
    with pytest.raises(WorkbookError):
        go(overrides=["epochs=abc"])
    with pytest.raises(WorkbookError, match="missing"):
        go(overrides=["task=/nowhere"])
    assert not (store.home() / "runs").exists()
