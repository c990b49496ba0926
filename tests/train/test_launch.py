from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from test_rows import ANSWER, TASK, dataset, example

from helpers import models, processes, registry, store
from helpers.records import TrainedModel, WorkbookError
from helpers.train import (
    LoraTrainingConfig,
    __main__,
    estimate,
    fine_tune_lora,
    job,
    launch,
    preflight,
    version_id,
)

FAST = LoraTrainingConfig(base_model="tiny", epochs=4, learning_rate=5e-3, max_train_tokens=0)
MANAGER = "demo/support_triage"


def rows(n: int = 40):
    texts = ["hub dead again", "parcel late", "cannot log in", "heat is off"]
    answers = [
        ANSWER,
        ANSWER.replace("KE", "RA"),
        ANSWER.replace("KE", "VO"),
        ANSWER.replace("hub", "heat"),
    ]
    return dataset(
        *(
            example(
                f"r{k}",
                f"{texts[k % 4]}, order {k}",
                answers[k % 4],
                "validation" if k % 5 == 0 else "train",
            )
            for k in range(n)
        )
    )


def killed(*_):
    raise WorkbookError("out of memory", 6)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(home, model, its lines, statuses) of a training that died once and was tried again."""
    home, lines = tmp_path_factory.mktemp("trained"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBOOK_HOME", str(home))
        patch.setenv("OMP_NUM_THREADS", "1")
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")  # whoever asks the hub fails
        run, manager = store.open_run("one"), registry.FineTuneLifecycleManager(MANAGER)
        opened = [version_id(run.id, TASK, rows(), FAST), run.id, "tiny", "v1"]
        statuses = [manager.open_version(*opened).status]
        with pytest.MonkeyPatch.context() as dying, pytest.raises(WorkbookError):
            dying.setattr(launch, "run_program", killed)
            fine_tune_lora(rows(), FAST, TASK, run)
        statuses.append(manager.open_version(*opened).status)
        model = fine_tune_lora(rows(), FAST, TASK, run, on_line=lines.append)
        statuses.append(manager.record_model(model.version, run.load(TrainedModel)).status)
        yield home, model, lines, statuses


def test_a_trained_adapter_is_published_with_its_evidence(trained):
    home, model, lines, _ = trained
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0] - 1, "LoRA learns"
    assert next(line for line in lines if line.get("event") == "started")["path"] == "prefix"
    folder = home / model.adapter
    assert sorted(p.name for p in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    saved = store.Run("one").load(TrainedModel)
    assert saved == model and saved.fingerprints == models.template_fingerprints("tiny", TASK)
    assert saved.asking.rung == "fine_tuned" and saved.asking.model == model.version
    assert saved.tokens == preflight(rows(), TASK, FAST).tokens and saved.cost_usd > 0
    assert saved.losses["eval"] == min(line["eval_loss"] for line in lines if "eval_loss" in line)
    assert not (home / "runs/one/children.json").exists()
    assert oct((home / "runs/one/private").stat().st_mode)[-3:] == "700"


TELLS = """
import os, runpy, sys
from helpers import store
from helpers.train.launch import SETTINGS
def tell(path):  # the first thing that the program does
    print(*map(os.environ.get, SETTINGS), "torch" in sys.modules, flush=True)
    os._exit(0)
store.read_json = tell
runpy.run_module("helpers.train", run_name="__main__")
"""


def test_torchs_libraries_are_bounded_before_torch_is_there_and_as_the_user_said():
    environment = processes.child_environment({"LRU_CACHE_CAPACITY": "7"}, tuple(launch.SETTINGS))
    command = [sys.executable, "-W", "ignore", "-c", TELLS, "job.json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    values = launch.SETTINGS | {"LRU_CACHE_CAPACITY": "7"}
    assert done.stdout.split() == [*values.values(), "False"], done.stderr


def test_a_run_that_died_goes_on_under_its_run_id(trained):
    assert trained[3] == ["training"] * 3


def test_what_was_trained_already_is_not_trained_again(trained, monkeypatch):
    monkeypatch.setattr(launch, "run_program", killed)
    run = store.open_run("one")
    before = store.sha256_file(run.path("model.json")), run.path("model.json").stat().st_mtime_ns
    assert fine_tune_lora(rows(), FAST, TASK, run) == trained[1]
    after = store.sha256_file(run.path("model.json")), run.path("model.json").stat().st_mtime_ns
    assert after[0] == before[0] and after[1] > before[1], "a run asks for a file that is new"
    with pytest.raises(WorkbookError, match="out of memory"):
        fine_tune_lora(rows(), FAST, TASK, store.open_run("other"))
    longer = fine_tune_lora(rows(), FAST.model_copy(update={"max_new_tokens": 99}), TASK, run)
    assert longer.version == trained[1].version and longer.asking.max_new_tokens == 99
    assert fine_tune_lora(rows(), FAST, TASK, run) == trained[1]


def test_the_forecast_is_unknown_at_first_and_a_measurement_afterwards(
    trained, monkeypatch, tmp_path
):
    report = preflight(rows(8), TASK, FAST)
    known = estimate(report, FAST, TASK)
    assert known["minutes"] > 0 and trained[1].version in known["basis"]
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    assert "unknown" in estimate(report, FAST, TASK)["minutes"]


def repeat(trained, tmp_path, steps: int | None = None, **changes) -> int:
    """Run the program of the trained run once more, in this process; its exit code."""
    again = store.read_json(trained[0] / "runs/one/training/job.json")
    again["schedule"]["steps"] = steps or again["schedule"]["steps"]
    again |= {"folder": str(tmp_path), "config": again["config"] | changes}
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return __main__.main([str(store.write_json(tmp_path / "job.json", again))])
    finally:
        torch.set_num_threads(before)


def test_the_same_seed_gives_the_same_adapter_bytes(trained, tmp_path):
    assert repeat(trained, tmp_path) == 0
    again = store.sha256_file(tmp_path / "adapter/adapter_model.safetensors")
    assert again == store.sha256_file(trained[0] / trained[1].adapter / "adapter_model.safetensors")


def test_a_model_whose_loss_does_not_agree_is_trained_on_the_stock_path(
    trained, tmp_path, monkeypatch
):
    from helpers.train import trainer

    ours = trainer.supervised_loss
    monkeypatch.setattr(trainer, "supervised_loss", lambda *args: 1.01 * ours(*args))
    assert repeat(trained, tmp_path, steps=2) == 0
    details = store.read_json(tmp_path / "result.json")["details"]
    assert details["path"] == "stock" and "head: loss" in details["fallback"]


def test_a_bad_target_module_is_a_readable_error(trained, tmp_path, capsys):
    assert repeat(trained, tmp_path, target_modules=["no_such_proj"]) == 2
    assert "no_such_proj" in capsys.readouterr().err


def test_an_adapter_without_effect_is_refused(tmp_path):
    import torch
    from safetensors.torch import save_file

    save_file(
        {"x.lora_A.weight": torch.ones(2, 2), "x.lora_B.weight": torch.zeros(2, 2)},
        tmp_path / "adapter_model.safetensors",
    )
    with pytest.raises(WorkbookError, match="no effect"):
        launch.check_adapter(tmp_path)


CODES = [(6, WorkbookError, 6), (-9, WorkbookError, 6), (2, WorkbookError, 2), (1, RuntimeError, 1)]


@pytest.mark.parametrize(("code", "kind", "exit_code"), CODES)
def test_exit_codes_of_the_program_become_errors_that_say_what_to_do(
    tmp_path, code, kind, exit_code
):
    (tmp_path / "log").write_text("first\nlast line with sk-abcdefghijklmnopqrstuvwx\n")
    error = launch.failure(code, tmp_path / "log")
    assert isinstance(error, kind) and getattr(error, "exit_code", 1) == exit_code
    assert "last line" in str(error) and "sk-abc" not in str(error)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 6),
        (OSError(28, "No space left on device"), 6),
        (RuntimeError("shape mismatch"), 1),
    ],
)
def test_the_program_says_by_its_exit_code_when_there_is_no_room(error, code):
    assert __main__.exit_code(error) == code


WATCHES = "from helpers import processes; processes.end_with_parent()"
CHILD = f"""
import sys
from helpers import store
from helpers.train import run_program
run = store.open_run("kill")
run.path("training").mkdir()
run_program([sys.executable, "-c", {WATCHES!r}], run, "tiny")
"""


def test_the_program_ends_when_its_parent_is_killed_outright(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", CHILD], cwd=store.PROJECT)
    listed, deadline = tmp_path / "runs/kill/children.json", time.monotonic() + 60
    while not listed.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    entry = json.loads(listed.read_text())[0]
    assert entry["started"] == processes.process_start_time(entry["pid"])
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 15
    while (
        processes.process_start_time(entry["pid"]) == entry["started"]
        and time.monotonic() < deadline
    ):
        time.sleep(0.1)
    assert processes.process_start_time(entry["pid"]) != entry["started"], "still running"


def test_an_unfinished_training_of_other_inputs_is_neither_continued_nor_thrown_away(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    run, report = store.open_run("half"), preflight(rows(), TASK, FAST)
    folder = job.prepare_job(run, FAST, report).folder
    lines = [
        {"event": "started", "seconds": 1},
        *({"step": s, "seconds": s, "loss": 1.0} for s in range(1, 9)),
    ]
    store.write_jsonl(folder / "training.jsonl", lines)
    for step in (3, 6):
        store.write_json(folder / f"checkpoints/checkpoint-{step}/{job.COMPLETE}", {"step": step})
    (folder / "checkpoints/checkpoint-9").mkdir()  # was being written
    other = preflight(rows(36), TASK, FAST)
    for config, seen, named in (
        (FAST.model_copy(update={"learning_rate": 1e-3}), report, "learning_rate"),
        (FAST, other, "data"),
        (FAST.model_copy(update={"batch_size": 8}), report, "rows per step"),
    ):
        with pytest.raises(WorkbookError, match=f"after step 6.*\\({named}\\).*discard_unfinished"):
            job.prepare_job(run, config, seen)
    assert (folder / "checkpoints/checkpoint-6").exists()
    same = FAST.model_copy(update={"batch_size": 2, "gradient_accumulation": 8})
    resumed = job.prepare_job(run, same, report)
    assert resumed.resume.name == "checkpoint-6"
    assert job.TrainingJob(**store.read_json(folder / "job.json")) == resumed
    steps = [line["step"] for line in store.read_jsonl(folder / "training.jsonl")]
    assert steps == [1, 2, 3, 4, 5, 6]
    anew = job.prepare_job(run, FAST.model_copy(update={"discard_unfinished": True}), other)
    assert anew.resume is None and not (folder / "checkpoints").exists()


def test_out_of_memory_halves_the_rows_of_a_pass_and_goes_on(trained, tmp_path, monkeypatch):
    from helpers.train.trainer import WorkbookTrainer

    steps, stock = [], WorkbookTrainer.training_step

    def step(self, model, inputs, *args):
        steps.append(len(inputs["input_ids"]))
        if len(steps) == 2:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory:"
                " you tried to allocate 9 bytes"
            )
        return stock(self, model, inputs, *args)

    monkeypatch.setattr(WorkbookTrainer, "training_step", step)
    assert repeat(trained, tmp_path, steps=2) == 0
    said = next(
        line
        for line in store.read_jsonl(tmp_path / "training.jsonl")
        if line.get("event") == "smaller"
    )
    whole = store.read_json(trained[0] / "runs/one/training/job.json")["schedule"]["batch_size"]
    assert (said["batch_size"], said["gradient_accumulation"]) == (whole // 2, 2)
    assert steps[0] == whole and set(steps[2:]) == {whole // 2}
    assert store.read_json(tmp_path / "result.json")["details"]["steps"] == 2


def test_the_adapter_is_compared_with_what_will_be_served_and_forgetting_is_counted(trained):
    details = trained[1].details
    assert details["agreement"]["merged"]["within"] and set(details["agreement"]) == {
        "merged",
        "4bit",
    }
    general = details["general"]
    assert (
        general["questions"] == 40
        and general["tuned"] - general["base"] == general["gained"] - general["lost"]
    )
    assert details["predicted"]["memory_mb"] > 0 and details["memory_mb"] > 0


def test_training_stops_early_when_validation_gets_no_better(trained, tmp_path, monkeypatch):
    from trl import SFTTrainer

    rising = lambda self, *args, **kwargs: {"eval_loss": float(self.state.global_step)}  # noqa: E731
    monkeypatch.setattr(SFTTrainer, "evaluate", rising, raising=False)
    assert repeat(trained, tmp_path, early_stop_after=1) == 0
    schedule = store.read_json(trained[0] / "runs/one/training/job.json")["schedule"]
    result = store.read_json(tmp_path / "result.json")
    assert result["details"]["steps"] == 2 * schedule["eval_steps"] < schedule["steps"]
    assert result["losses"]["best_step"] == schedule["eval_steps"]
