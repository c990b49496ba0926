"""Our training against stock TRL on the tutorial's rows, and the embedded model's start.

`python -m benchmarks.train [--json] [--rounds 5] [--steps 6] [--base embedded] [--profile default]`

Each system is a process of its own that trains the same rows with the same effective batch. They
take turns: a block of `steps` optimiser steps each, `rounds` times, after one step that is not
counted. A matrix product of 1024x576x1536 is timed beside every step of ours, in the same process.
About half an hour at full size; `--rounds 1 --steps 1 --base tiny` is a quick look. LLaMA-Factory
joins when LLAMAFACTORY_PYTHON names a Python in whose environment it is installed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from helpers import models, store
from helpers.train.job import TrainingJob
from helpers.train.launch import SPINS

SHAPE = (1024, 576, 1536)
PROFILES = {"default": {}, "tutorial": None}  # None: what params/tutorial.yaml says


def make_job(folder: Path, base: str, profile: str, steps: int) -> TrainingJob:
    """The job of notebook 03a for the shipped task's verified train rows, without validation."""
    from helpers import tasks
    from helpers.parameters import load_profile
    from helpers.train import LoraTrainingConfig, plan_schedule
    from helpers.train.rows import make_rows

    task = tasks.load_task("support_triage")
    parameters = PROFILES[profile]
    if parameters is None:
        parameters = load_profile(profile).values
    config = LoraTrainingConfig.of(parameters | {"base_model": base})
    examples = tasks.with_parts(
        tasks.load_examples(task, source="human").examples,
        config.seed,
        {"train": 0.65, "validation": 0.12, "test": 0.23},
    )
    tokenizer = models.tokenizer_of(base)
    rows = []
    for example in examples:
        made = make_rows(tokenizer, task, example, config)
        if example.part == "train" and not isinstance(made, str):
            rows += made
    schedule = plan_schedule(config, [len(row.input_ids) for row in rows])
    schedule |= {"steps": steps, "save_steps": 10**6, "eval_steps": 10**6}
    train = [row.model_dump(exclude={"id"}) for row in rows]
    return TrainingJob(
        folder=folder,
        rows=store.write_json(folder / "rows.json", {"train": train, "validation": []}),
        base_path=models.base_path(base),
        config=config,
        schedule=schedule,
    )


def matmul_rate(repeats: int = 12) -> float:
    """FLOP/s of the reference product, now: the mean of a few, as a step is a mean too."""
    import torch

    a, b = torch.randn(SHAPE[0], SHAPE[1]), torch.randn(SHAPE[1], SHAPE[2])
    a @ b
    begun = time.perf_counter()
    for _ in range(repeats):
        a @ b
    return repeats * 2 * SHAPE[0] * SHAPE[1] * SHAPE[2] / (time.perf_counter() - begun)


def needed_flops(config: Any, ids: Any, labels: Any, full_tokens: int) -> float:
    """Multiply-adds x 2 that a LoRA step on this batch cannot avoid.

    Two forward and two backward per weight and token. Counted: the shared beginning once, no
    padding, the head and the last layer (but for its keys and values) on supervised positions
    alone. Not counted, though needed: attention scores, norms, the adapter itself. Frozen weights
    need no gradient of their own; the backward pass goes down to the first layer.
    """
    from helpers.train.kernels.loss import shared_prefix
    from helpers.train.rows import IGNORED

    h, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    q, kv = (
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
    )
    keys, rest = 2 * h * kv, 2 * h * q + 3 * h * inner
    prefix, supervised = shared_prefix(ids, labels), int((labels != IGNORED).sum())
    tokens = full_tokens - prefix * (ids.shape[0] - 1)
    block = (layers - 1) * (keys + rest) * tokens + keys * tokens + rest * supervised
    return 4.0 * (block + config.vocab_size * h * supervised)


def work(system: str, job: TrainingJob, steps: int) -> None:
    """The child: train in blocks, each begun by a line on stdin and answered by one on stdout."""
    import torch
    from transformers import TrainerCallback

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print; the answers stay alone on the pipe
    if threads := os.environ.get("BENCHMARK_THREADS"):
        torch.set_num_threads(int(threads))
    trainer = stock_trainer(job) if system == "stock_trl" else our_trainer(job)
    block: dict[str, Any] = {}

    def begin() -> None:
        if not sys.stdin.readline():
            os._exit(0)
        block.update(
            seconds=0.0, cpu=0.0, flops=0.0, rates=[], tokens=int(trainer._total_train_tokens)
        )

    class Blocks(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0 or (state.global_step - 1) % steps == 0:
                begin()
            block["begun"] = time.perf_counter(), time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            block["seconds"] += time.perf_counter() - block["begun"][0]
            block["cpu"] += time.process_time() - block["begun"][1]
            block["rates"].append(matmul_rate())
            if (state.global_step - 1) % steps == 0:
                answer = {
                    "tokens": int(trainer._total_train_tokens) - block["tokens"],
                    "seconds": block["seconds"],
                }
                answer |= {
                    "cpu": block["cpu"],
                    "flops": block["flops"],
                    "matmul": median(block["rates"]),
                }
                answer["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                out.write(json.dumps(answer) + "\n")
                out.flush()

    if system == "ours":
        network, stock = trainer.model.config, trainer._supervised

        def counted(model: Any, inputs: dict[str, Any], path: Any) -> Any:
            block["flops"] += needed_flops(
                network, inputs["input_ids"], inputs["labels"], int(inputs["attention_mask"].sum())
            )
            return stock(model, inputs, path)

        trainer._supervised = counted
    trainer.add_callback(Blocks())
    trainer.train()


def our_trainer(job: TrainingJob) -> Any:
    """As the training program builds it, on the path that it chooses."""
    from helpers.train.program import build_trainer, choose_path

    parts = store.read_json(job.rows)
    trainer = build_trainer(job, parts, lambda **line: None)
    choose_path(trainer, parts["train"])
    return trainer


def stock_trainer(job: TrainingJob) -> Any:
    """SFTTrainer as it comes but for bf16=False: its own loss, checkpointing and batches.

    The rows and settings are the same.
    """
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, set_seed
    from trl import SFTConfig, SFTTrainer

    from helpers.models import load_tokenizer

    config = job.config
    set_seed(config.seed)
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(job.base_path, dtype="float32"),
        args=SFTConfig(
            output_dir=str(job.folder / "stock"),
            bf16=False,
            max_steps=job.schedule["steps"],
            per_device_train_batch_size=config.batch_size,
            gradient_accumulation_steps=config.gradient_accumulation,
            learning_rate=config.learning_rate,
            warmup_steps=job.schedule["warmup_steps"],
            save_strategy="no",
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(store.read_json(job.rows)["train"]),
        processing_class=load_tokenizer(job.base_path),
        peft_config=LoraConfig(
            task_type="CAUSAL_LM",
            r=config.lora_r,
            lora_alpha=config.lora_alpha,
            lora_dropout=config.lora_dropout,
            target_modules=config.target_modules,
        ),
    )


def compare(folder: Path, args: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """system -> its blocks, the two processes taking turns, with the first one alternating."""
    job = make_job(folder, args.base, args.profile, 1 + args.rounds * args.steps)
    store.write_json(folder / "job.json", job)
    env = {**os.environ, **models.offline_env(args.base), "PYTHONWARNINGS": "ignore"}
    own = {"ours": {"GOMP_SPINCOUNT": SPINS}}  # as 03a starts it
    command = [sys.executable, "-m", "benchmarks.train", "--steps", str(args.steps), "--child"]
    children = {
        system: subprocess.Popen(
            [*command, system, str(folder / "job.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env | own.get(system, {}),
        )
        for system in ("ours", "stock_trl")
    }
    blocks: dict[str, list[dict[str, Any]]] = {system: [] for system in children}
    try:
        for number in range(args.rounds + 1):
            for system in list(children)[:: 1 if number % 2 else -1]:
                child = children[system]
                child.stdin.write("go\n")
                child.stdin.flush()
                line = child.stdout.readline()
                if not line:
                    raise SystemExit(f"{system} ended with code {child.wait()}")
                if number:  # the first step warms up
                    block = json.loads(line)
                    blocks[system].append(block)
                    rate = block["tokens"] / block["seconds"]
                    say(f"round {number}: {system} {rate:.1f} tokens/s")
    finally:
        for child in children.values():
            child.kill()
            child.wait()
    return blocks


FIRST = """
import time
from helpers import models
from helpers.models import embedded, local
from helpers.records import Message
import torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM
import gguf, safetensors.numpy, tokenizers
begun = time.perf_counter()
embedded.ensure()
ready = time.perf_counter()
model = models.load_model("embedded")
model.answer([[Message(role="user", content="Hello")]], 1)
print(ready - begun, time.perf_counter() - ready)
"""


def starts(times: int) -> tuple[list[float], list[float]]:
    """Seconds from the packed file to a ready folder; then cached, to a first token.

    The latter from the moment when the imports are done.
    """
    made, cached = [], []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as cache:
            env = {**os.environ, **models.offline_env(), "WORKBOOK_CACHE": cache}
            for number in range(2):
                done = subprocess.run(
                    [sys.executable, "-c", FIRST],
                    env=env,
                    capture_output=True,
                    text=True,
                    check=True,
                )
                first, token = map(float, done.stdout.split()[-2:])
                made.append(first) if number == 0 else cached.append(first + token)
    return made, cached


def llama_factory(folder: Path, args: argparse.Namespace, python: str) -> dict[str, Any]:
    """The same rows in its own environment and form, fp32; its start is not counted."""
    from helpers import tasks

    task = tasks.load_task("support_triage")
    job = TrainingJob(**store.read_json(folder / "job.json"))
    rows = [
        [
            m.model_dump(include={"role", "content"})
            for m in tasks.render(task, e, "short", answer=True)
        ]
        for e in tasks.load_examples(task, source="human").examples
    ]
    store.write_json(folder / "rows_lf.json", [{"messages": chat} for chat in rows])
    tags = {
        "role_tag": "role",
        "content_tag": "content",
        "user_tag": "user",
        "assistant_tag": "assistant",
        "system_tag": "system",
    }
    store.write_json(
        folder / "dataset_info.json",
        {
            "rows": {
                "file_name": "rows_lf.json",
                "formatting": "sharegpt",
                "columns": {"messages": "messages"},
                "tags": tags,
            }
        },
    )
    config = job.config
    settings = {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "template": "chatml",
        "dataset": "rows",
        "model_name_or_path": job.base_path,
        "dataset_dir": str(folder),
        "output_dir": str(folder / "lf"),
        "lora_rank": config.lora_r,
        "lora_alpha": config.lora_alpha,
        "lora_target": ",".join(config.target_modules),
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation,
        "max_steps": args.steps,
        "learning_rate": config.learning_rate,
        "report_to": "none",
        "save_strategy": "no",
        "include_num_input_tokens_seen": "non_padding",  # as ours are counted
        "cutoff_len": 2048,  # more than the longest row
    }
    path = store.write_json(
        folder / "lf.yaml", settings
    )  # JSON is YAML; its reader of .json files fails in 0.9.5
    subprocess.run(
        [python, "-m", "llamafactory.cli", "train", str(path)], check=True, stdout=sys.stderr
    )
    done = store.read_json(folder / "lf/train_results.json")
    return {"tokens": done["num_input_tokens_seen"], "seconds": done["train_runtime"]}


def measure(args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Everything, as the benchmark's JSON."""
    folder = Path(tempfile.mkdtemp())
    try:
        blocks = compare(folder, args)
        peer_python = os.environ.get("LLAMAFACTORY_PYTHON", "")
        peer = llama_factory(folder, args, peer_python) if peer_python else None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    speeds = {system: [b["tokens"] / b["seconds"] for b in own] for system, own in blocks.items()}
    ratios = [a / b for a, b in zip(speeds["ours"], speeds["stock_trl"], strict=True)]
    by_cpu = [
        (a["tokens"] / a["cpu"]) / (b["tokens"] / b["cpu"])
        for a, b in zip(blocks["ours"], blocks["stock_trl"], strict=True)
    ]
    shares = [b["flops"] / b["seconds"] / b["matmul"] for b in blocks["ours"]]
    memory = {system: own[-1]["memory"] for system, own in blocks.items()}
    result: dict[str, dict[str, Any]] = {}
    result["stock_trl"] = entry(
        "ratio", ratios, "x tokens/s", "higher", peer="trl SFTTrainer, bf16=False"
    )
    result["stock_trl_cpu"] = entry(
        "ratio",
        by_cpu,
        "x tokens per CPU second",
        "higher",
        peer="the same, on a machine with other work",
    )
    result["tokens_per_second"] = entry("rate", speeds["ours"], "tokens/s", "higher")
    result["tokens_per_second_stock_trl"] = entry(
        "rate", speeds["stock_trl"], "tokens/s", "higher", peer="trl"
    )
    result["matmul_share"] = entry(
        "ratio",
        shares,
        "of the timed matmul rate",
        "higher",
        peer=f"matmul {'x'.join(map(str, SHAPE))}",
    )
    result["peak_memory"] = entry("size", [memory["ours"] / 2**20], "MiB", "lower")
    result["peak_memory_share"] = entry(
        "ratio", [memory["ours"] / memory["stock_trl"]], "of stock's", "lower", peer="trl"
    )
    if peer:
        rate = peer["tokens"] / peer["seconds"]
        result["llama_factory"] = entry(
            "ratio",
            [s / rate for s in speeds["ours"]],
            "x tokens/s",
            "higher",
            peer="LLaMA-Factory",
        )
    if args.base == "embedded" and args.starts:
        made, cached = starts(args.starts)
        result["embedded_first_use"] = entry("seconds", made, "s", "lower")
        result["embedded_cached_first_token"] = entry("seconds", cached, "s", "lower")
    return result


def entry(kind: str, values: list[float], unit: str, better: str, peer: str = "") -> dict[str, Any]:
    """One line of the table: the median, and the lowest and highest value."""
    line = {
        "kind": kind,
        "value": median(values),
        "low": min(values),
        "high": max(values),
        "n": len(values),
    }
    line |= {"unit": unit, "better": better}
    return line | {"peer": peer} if peer else line


def say(line: str) -> None:
    """Progress, apart from the result."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument(
        "--starts", type=int, default=3, help="how often the embedded model's start is timed"
    )
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--profile", default="default", choices=sorted(PROFILES))
    parser.add_argument("--child", nargs=2, metavar=("SYSTEM", "JOB"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        work(args.child[0], TrainingJob(**store.read_json(Path(args.child[1]))), args.steps)
        return
    result = measure(args)
    for name, line in result.items():
        interval = f"[{line['low']:.3g}, {line['high']:.3g}]"
        say(f"{name:28} {line['value']:10.3g} {interval} {line['unit']}  n={line['n']}")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
