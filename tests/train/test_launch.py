from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_rows import ANSWER, TASK, dataset, example

from helpers import models, store
from helpers.records import WorkbookError
from helpers.train import LoraTrainingConfig, estimate, fine_tune_lora, launch, preflight

FAST = LoraTrainingConfig(base_model="tiny", epochs=4, learning_rate=5e-3, max_train_tokens=0)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # whoever asks the hub fails
    return tmp_path / "home"


def rows(n: int = 40):
    texts = ["hub dead again", "parcel late", "cannot log in", "heat is off"]
    answers = [ANSWER, ANSWER.replace("KE", "RA"), ANSWER.replace("KE", "VO"), ANSWER.replace("hub", "heat")]
    return dataset(
        *(
            example(f"r{k}", f"{texts[k % 4]}, order {k}", answers[k % 4], "validation" if k % 5 == 0 else "train")
            for k in range(n)
        )
    )


def test_a_trained_adapter_is_published_with_its_evidence_and_the_same_seed_gives_the_same_bytes(home):
    lines: list[dict] = []
    first = fine_tune_lora(rows(), FAST, TASK, store.open_run("one"), on_line=lines.append)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 1, "LoRA learns"
    assert next(line for line in lines if line.get("event") == "started")["path"] == "prefix"
    folder = home / first.adapter
    manifest = store.read_json(folder / "manifest.json")
    assert manifest["sha256"]["adapter_model.safetensors"] == store.sha256_file(folder / "adapter_model.safetensors")
    saved = store.read_json(home / "runs/one/model.json")
    assert saved["fingerprints"] == models.template_fingerprints("tiny", TASK)
    assert saved["tokens"] == preflight(rows(), TASK, FAST).tokens and saved["cost_usd"] > 0
    assert saved["losses"]["eval"] == min(line["eval_loss"] for line in lines if "eval_loss" in line)
    assert not (home / "runs/one/children.json").exists()
    assert oct((home / "runs/one/private").stat().st_mode)[-3:] == "700"
    second = fine_tune_lora(rows(), FAST, TASK, store.open_run("two"))
    assert second.version != first.version
    assert (
        store.sha256_file(home / second.adapter / "adapter_model.safetensors")
        == manifest["sha256"]["adapter_model.safetensors"]
    )
    assert estimate(preflight(rows(), TASK, FAST), FAST, TASK).basis == "earlier trainings on this machine"


def test_an_adapter_without_effect_is_refused(tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file(
        {"x.lora_A.weight": torch.ones(2, 2), "x.lora_B.weight": torch.zeros(2, 2)},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(WorkbookError, match="no effect"):
        launch.check_adapter(tmp_path)


def test_a_bad_target_module_is_a_readable_error_and_leaves_no_model(home):
    with pytest.raises(WorkbookError, match="no_such_proj"):
        fine_tune_lora(
            rows(8), FAST.model_copy(update={"target_modules": ["no_such_proj"]}), TASK, store.open_run("bad")
        )
    assert not (home / "models").exists() and not (home / "runs/bad/model.json").exists()


CODES = [(6, WorkbookError, 6), (-9, WorkbookError, 6), (2, WorkbookError, 2), (1, RuntimeError, 1)]


@pytest.mark.parametrize(("code", "kind", "exit_code"), CODES)
def test_exit_codes_of_the_program_become_errors_that_say_what_to_do(tmp_path, code, kind, exit_code):
    (tmp_path / "log").write_text("first\nlast line with sk-abcdefghijklmnopqrstuvwx\n")
    error = launch._failure(code, tmp_path / "log")
    assert isinstance(error, kind) and getattr(error, "exit_code", 1) == exit_code
    assert "last line" in str(error) and "sk-abc" not in str(error)


CHILD = """
import sys, pathlib
from helpers import store
from helpers.train import launch
run = store.open_run("kill")
command = [sys.executable, "-c", "import helpers.train.__main__ as m; m._end_with_parent()"]
with launch._child(command, run, {}, None) as child:
    print(child.pid, flush=True)
    child.wait()
"""


def test_the_program_ends_when_its_parent_is_killed_outright(home):
    parent = subprocess.Popen([sys.executable, "-c", CHILD], stdout=subprocess.PIPE, cwd=store.PROJECT, text=True)
    pid = int(parent.stdout.readline())
    entry = json.loads((home / "runs/kill/children.json").read_text())[0]
    assert entry["pid"] == pid and entry["started"] == launch.process_start_time(pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 15
    while launch.process_start_time(pid) == entry["started"] and time.monotonic() < deadline:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z":  # nobody reaps orphans in some containers
            break
        time.sleep(0.1)
    else:
        assert launch.process_start_time(pid) != entry["started"], "still running"
    assert os.getpid() != pid
