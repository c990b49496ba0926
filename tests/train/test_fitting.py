from __future__ import annotations

import http.server
import json
import os
import sys
import threading

import pytest
import torch
from test_launch import rows
from test_rows import TASK

from helpers import models
from helpers.extras import prove
from helpers.records import WorkbookError
from helpers.train import (
    LoraTrainingConfig,
    check_base,
    estimate,
    fitting,
    memory,
    preflight,
    what_fits,
)
from helpers.train.after import as_nf4
from helpers.train.job import TrainingJob
from helpers.train.memory import memory_parts, shape_of
from helpers.train.program import arguments, halved

TINY = LoraTrainingConfig(base_model="tiny", epochs=1)


def test_parameters_counted_from_the_shape_are_those_of_the_model():
    parts = memory_parts(
        shape_of(models.base_path("embedded")), LoraTrainingConfig(), 100, 10, gpu=False
    )
    assert parts["weights"] / 4 == pytest.approx(134.5e6, rel=0.002)
    assert parts["adapter"] / 4 == 921_600  # r 16 on q_proj and v_proj of 30 layers
    assert parts["optimiser"] == 2 * parts["adapter"]


def test_four_bits_and_sharding_shrink_the_weights():
    shape, config = memory.KNOWN["70B"], LoraTrainingConfig()
    full, four = (
        memory_parts(shape, config.model_copy(update={"load_in_4bit": q}), 512, 99, True)
        for q in (False, True)
    )
    assert 0.25 < four["weights"] / full["weights"] < 0.32 and full["weights"] == pytest.approx(
        141e9, rel=0.01
    )
    sharded = memory_parts(
        shape, config.model_copy(update={"sharding": "fsdp", "processes": 8}), 512, 99, True
    )
    assert sharded["weights"] == full["weights"] / 8


def test_the_table_says_what_everyone_knows():
    table = {
        (row["model"], row["method"]): row["fits on"]
        for row in what_fits(LoraTrainingConfig(), 2048)
    }
    assert table["8B", "LoRA"] == "24 GB, 40 GB, 80 GB" and "8 GB" in table["1B", "LoRA"].split(
        ", "
    )
    assert table["70B", "LoRA"] == "none" and table["70B", "QLoRA"] == "80 GB"


def test_the_estimate_counts_memory_before_the_first_training(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    found = estimate(preflight(rows(8), TASK, TINY), TINY, TASK)
    assert found["fits"] == "yes" and set(found["memory_parts_mb"]) >= {
        "weights",
        "adapter",
        "optimiser",
        "activations",
        "logits",
    }
    monkeypatch.setattr(fitting, "gpu_state", lambda: fitting.Gpu(1, 1, []))
    with pytest.raises(WorkbookError, match="does not fit") as error:
        estimate(preflight(rows(8), TASK, TINY), TINY, TASK)
    assert error.value.exit_code == 6


FAKE = """#!/bin/sh
case "$1" in
--query-gpu*) echo "500, 24000" ;;
*) echo "4242, 23000, python" ;;
esac
"""


def test_a_gpu_that_others_hold_is_waited_for_and_then_it_is_75(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text(FAKE)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    said = []
    with pytest.raises(WorkbookError, match="pid 4242 \\(python, 23000 MB\\)") as error:
        fitting.wait_for_gpu(8000, 0.005, said.append)
    assert error.value.exit_code == 75 and "waiting" in said[0]["message"]
    fitting.wait_for_gpu(400, 0)


class Hub(http.server.BaseHTTPRequestHandler):
    """A toy hub: acme/open may be read, acme/gated may not, others are not there."""

    def do_GET(self):
        gated, known = "gated" in self.path, "gated" in self.path or "open" in self.path
        refused = gated and self.path.endswith("auth-check")
        self.send_response(403 if refused else 200 if known else 404)
        if refused or not known:
            self.send_header("X-Error-Code", "GatedRepo" if refused else "RepoNotFound")
        self.end_headers()
        name = "/".join(self.path.split("/")[3:5]).partition("?")[0]
        size = 10**15 if "huge" in self.path else 10**6
        info = {
            "id": name,
            "siblings": [{"rfilename": "model.safetensors", "size": size}],
            "cardData": {"license": "mit"},
        }
        self.wfile.write(json.dumps(info).encode())

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    from huggingface_hub import HfApi, close_session, constants

    close_session()  # it may have been opened with the proxy of another test
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: HfApi(endpoint=address))
    yield address
    server.shutdown()


@pytest.mark.parametrize(
    ("base", "said", "code"),
    [
        ("acme/gated", "lora_8b_open", 2),
        ("acme/missing", "spelling", 2),
        ("acme/open-huge", "free some", 6),
    ],
)
def test_a_base_that_cannot_be_had_is_refused_before_anything_downloads(hub, base, said, code):
    with pytest.raises(WorkbookError, match=said) as error:
        check_base(LoraTrainingConfig(base_model=base))
    assert error.value.exit_code == code


def test_a_base_that_can_be_had_shows_its_licence_and_size(hub):
    found = check_base(LoraTrainingConfig(base_model="acme/open"))
    assert found["licence"] == "mit" and found["download"].startswith("0.0 GB")
    assert check_base(TINY)["download"] == "nothing"


def test_settings_for_gpus_can_be_made_here_though_not_run(tmp_path):
    config = LoraTrainingConfig(load_in_4bit=True, processes=8, sharding="fsdp")
    schedule = {
        "steps": 9,
        "batch_size": 1,
        "gradient_accumulation": 2,
        "warmup_steps": 1,
        "logging_steps": 1,
    }
    job = TrainingJob(
        folder=tmp_path,
        rows=tmp_path / "rows.json",
        base_path="somewhere",
        config=config,
        schedule=schedule | {"eval_steps": 2, "save_steps": 1},
    )
    sharded = arguments(job, True, gpu=True)
    assert (
        sharded.fsdp
        and sharded.fsdp_config["state_dict_type"] == "FULL_STATE_DICT"
        and not sharded.gradient_checkpointing
    )
    assert sharded.optim == "paged_adamw_8bit"
    unsharded = config.model_copy(update={"sharding": "none"})
    alone = arguments(job.model_copy(update={"config": unsharded}), True, gpu=True)
    assert alone.gradient_checkpointing and not alone.fsdp


def test_halving_keeps_the_rows_of_a_step():
    schedule = {"batch_size": 6, "gradient_accumulation": 1}
    assert halved(schedule) == {"batch_size": 3, "gradient_accumulation": 2}
    assert halved(halved(schedule)) == {"batch_size": 1, "gradient_accumulation": 6}
    assert halved({"batch_size": 1, "gradient_accumulation": 6}) is None


def test_qlora_trains_the_embedded_model_on_the_cpu():
    pytest.importorskip("bitsandbytes", reason="the extra `gpu` is not installed")
    finding = prove.prove("nf4 QLoRA", True, "cpu")
    assert finding.verdict == "pass", finding.evidence
    assert finding.evidence.startswith("2 steps on cpu")


def test_without_a_gpu_the_doctor_says_so_with_the_remedy(monkeypatch):
    monkeypatch.setattr(prove, "PROBE", "print(False, None)")
    (finding,) = prove.prove_gpu()
    assert finding.verdict == "fail" and finding.severity == "warning"
    assert "not proven" in finding.evidence and "CPU build" in finding.remedy


def test_qlora_without_its_package_is_refused_before_anything_is_fetched(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(WorkbookError, match=r"pip install -e '\.\[gpu\]'"):
        check_base(LoraTrainingConfig(base_model="someone/some-model", load_in_4bit=True))


@pytest.mark.parametrize("shape", [(576, 64), (37, 65)])
def test_four_bits_are_those_of_bitsandbytes(shape):
    library = pytest.importorskip("bitsandbytes.functional", reason="extra `gpu` not installed")
    for dtype in (torch.float32, torch.bfloat16):
        weights = (torch.randn(shape, generator=torch.Generator().manual_seed(1)) / 20).to(dtype)
        packed = library.quantize_4bit(weights.contiguous(), quant_type="nf4")
        assert torch.equal(as_nf4(weights), library.dequantize_4bit(*packed))


def test_the_race_of_doctor_gpu_runs_against_the_real_trl_on_a_processor_too():
    options = ("--base", "tiny", "--rounds", "1")
    finding = prove.race("LoRA against trl", *options, systems="ours,stock_fp32")
    assert finding.verdict == "pass", finding.evidence
    assert "x the tokens/s of trl SFTTrainer" in finding.evidence and "n = 1" in finding.evidence
    failed = prove.race("LoRA against trl", "--profile", "nobody's")
    assert failed.verdict == "fail" and failed.remedy
