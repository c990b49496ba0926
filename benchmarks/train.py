"""Our training against stock TRL on the tutorial's rows, and the embedded model's start.

`python -m benchmarks.train [--json] [--rounds 3] [--steps 1] [--base embedded] [--profile default]`

Each system is a process of its own that trains the same rows with the same effective batch: ours as
`compute: auto` has it here, ours in fp32, stock trl in fp32 and, where the processor has bf16, with
`bf16=True`. They take turns, a block of `steps` optimiser steps each, `rounds` times, after a step
that is not counted; then `rounds` times more beside a process that keeps one core busy. A frozen
product of 1024x576x1536, in the precision of ours, is timed beside every step of ours.

| name | what it says |
|---|---|
| `stock_trl` | our tokens/s over stock trl's, in the faster of its two precisions |
| `stock_trl_busy` | the same with one core kept busy by another process |
| `over_fp32` | our tokens/s over our own in fp32 |
| `native_share` | of the product rate timed beside it, counting what a step cannot avoid |
| `native_bound` | that rate over the same in fp32: `over_fp32`, were a step products alone |
| `peak_memory_share` | our peak memory over stock trl's |

About four minutes on two cores; `--rounds 1 --base tiny` is a quick look. LLaMA-Factory joins when
LLAMAFACTORY_PYTHON names a Python in whose environment it is installed.
"""

from __future__ import annotations

import argparse
import json
import os
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
from helpers.train.launch import SETTINGS

SHAPE = (1024, 576, 1536)
PROFILES = {"default": {}, "tutorial": None}  # None: what params/tutorial.yaml says


OURS, STOCK = ("ours", "ours_fp32"), ("stock_fp32", "stock_bf16")
BUSY = "while True: pass"


def systems() -> list[str]:
    """What can be compared here."""
    return [*OURS, *STOCK] if models.resolve_compute("auto") == "bf16" else ["ours", "stock_fp32"]


def make_job(
    folder: Path, base: str, profile: str, steps: int, four_bit: bool = False
) -> TrainingJob:
    """The job of notebook 03a for the shipped task's verified train rows, without validation."""
    from helpers import tasks
    from helpers.parameters import load_profile
    from helpers.train import LoraTrainingConfig, plan_schedule
    from helpers.train.rows import make_rows

    task = tasks.load_task("support_triage")
    parameters = PROFILES[profile]
    if parameters is None:
        parameters = load_profile(profile).values
    chosen = {"base_model": base, "load_in_4bit": four_bit}
    config = LoraTrainingConfig.of(parameters | chosen)
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


def matmul_rate(compute: str, rows: int = SHAPE[0], repeats: int = 12) -> float:
    """FLOP/s of the reference product, now: the mean of a few, as a step is a mean too."""
    import torch

    dtype = torch.bfloat16 if compute == "bf16" else torch.float32
    x = torch.randn(rows, SHAPE[1], dtype=dtype)
    layer = models.FrozenLayer(torch.nn.Linear(SHAPE[1], SHAPE[2], bias=False, dtype=dtype))
    with torch.no_grad():
        layer.times(x)
        begun = time.perf_counter()
        for _ in range(repeats):
            layer.times(x)
    return repeats * 2 * rows * SHAPE[1] * SHAPE[2] / (time.perf_counter() - begun)


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

    from helpers.train.__main__ import NOT_NEEDED

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print; the answers stay alone on the pipe
    if threads := os.environ.get("BENCHMARK_THREADS"):
        torch.set_num_threads(int(threads))
    if system in OURS:
        if not job.config.load_in_4bit:  # as the training program does
            left_out = dict.fromkeys(("bitsandbytes", *NOT_NEEDED))
            sys.modules.update(left_out)  # type: ignore[arg-type]
        compute = "fp32" if system.endswith("fp32") else models.resolve_compute("auto")
        job = job.model_copy(update={"config": job.config.model_copy(update={"compute": compute})})
        trainer = our_trainer(job)
    else:
        trainer = stock_trainer(job, bf16=system.endswith("bf16"))
    from helpers.train.program import peak_memory  # after what is left out

    block: dict[str, Any] = {}

    def begin() -> None:
        if not sys.stdin.readline():
            os._exit(0)
        block.update(
            seconds=0.0, flops=0.0, rates=[], bounds=[], tokens=int(trainer._total_train_tokens)
        )

    class Blocks(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 0 or (state.global_step - 1) % steps == 0:
                begin()
            block["begun"] = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            block["seconds"] += time.perf_counter() - block["begun"]
            if system == "ours":
                rates = [matmul_rate(compute) for compute in (job.config.compute, "fp32")]
                block["rates"].append(rates[0])
                block["bounds"].append(rates[0] / rates[1])
            if (state.global_step - 1) % steps == 0:
                answer = {
                    "tokens": int(trainer._total_train_tokens) - block["tokens"],
                    "seconds": block["seconds"],
                }
                answer |= {
                    "flops": block["flops"],
                    "matmul": median(block["rates"] or [0.0]),
                    "bound": median(block["bounds"] or [0.0]),
                }
                answer["memory"] = peak_memory()
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


def stock_trainer(job: TrainingJob, bf16: bool = False) -> Any:
    """SFTTrainer as it comes but for `bf16`: its own loss, checkpointing and batches.

    The rows and settings are the same.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    from helpers.models import load_tokenizer
    from helpers.train.program import load_base

    # in 4 bits as QLoRA has it; else in fp32, which bf16=True computes with in bf16
    compute = "bf16" if bf16 and job.config.load_in_4bit else "fp32"
    config = job.config.model_copy(update={"compute": compute})
    set_seed(config.seed)
    return SFTTrainer(
        model=load_base(job.base_path, config),
        args=SFTConfig(
            output_dir=str(job.folder / "stock"),
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
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


Blocks = dict[str, list[dict[str, Any]]]  # system -> what it answered, block by block


def compare(folder: Path, args: argparse.Namespace) -> tuple[Blocks, Blocks]:
    """The blocks of all systems, taking turns: on the machine as it is, and with one core busy."""
    steps = 1 + 2 * args.rounds * args.steps
    job = make_job(folder, args.base, args.profile, steps, args.load_in_4bit)
    store.write_json(folder / "job.json", job)
    env = {**os.environ, **models.offline_env(args.base), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "benchmarks.train", "--steps", str(args.steps), "--child"]
    children = {}
    for system in args.systems.split(",") if args.systems else systems():
        own = SETTINGS if system in OURS else {}  # as the training program sets them
        children[system] = subprocess.Popen(
            [*command, system, str(folder / "job.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**own, **env},
        )
    try:
        one_round(children, "warm-up", backwards=False)
        quiet = many_rounds(children, args.rounds, "round")
        if args.quiet_only:
            return quiet, {}
        other = subprocess.Popen([sys.executable, "-c", BUSY])
        try:
            busy = many_rounds(children, args.rounds, "one core busy, round")
        finally:
            other.kill()
            other.wait()
    finally:
        for child in children.values():
            child.kill()
            child.wait()
    return quiet, busy


def many_rounds(children: dict[str, Any], rounds: int, name: str) -> Blocks:
    """So many rounds; who begins alternates."""
    blocks: Blocks = {system: [] for system in children}
    for number in range(rounds):
        answers = one_round(children, f"{name} {number + 1}", backwards=number % 2 == 1)
        for system, block in answers.items():
            blocks[system].append(block)
    return blocks


def one_round(children: dict[str, Any], name: str, backwards: bool) -> dict[str, dict[str, Any]]:
    """One block of every system, one after the other."""
    answers = {}
    for system in list(children)[:: -1 if backwards else 1]:
        child = children[system]
        child.stdin.write("go\n")
        child.stdin.flush()
        line = child.stdout.readline()
        if not line:
            raise SystemExit(f"{system} ended with code {child.wait()}")
        answers[system] = json.loads(line)
        rate = answers[system]["tokens"] / answers[system]["seconds"]
        say(f"{name}: {system} {rate:.1f} tokens/s")
    return answers


def speeds_of(blocks: Blocks) -> dict[str, list[float]]:
    """System -> tokens/s of each round; `stock_trl` is the faster of its two precisions."""
    speeds = {}
    for system, own in blocks.items():
        speeds[system] = [block["tokens"] / block["seconds"] for block in own]
    best = max((system for system in STOCK if system in speeds), key=lambda s: median(speeds[s]))
    speeds["stock_trl"] = speeds[best]
    return speeds


def over(speeds: dict[str, list[float]], system: str) -> list[float]:
    """Our speed over a system's, round by round."""
    return [ours / other for ours, other in zip(speeds["ours"], speeds[system], strict=True)]


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
        blocks, busy = compare(folder, args)
        peer_python = os.environ.get("LLAMAFACTORY_PYTHON", "")
        peer = llama_factory(folder, args, peer_python) if peer_python else None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    speeds = speeds_of(blocks)
    trl = "trl SFTTrainer, in the faster of fp32 and bf16=True"
    ratios = {"stock_trl": (over(speeds, "stock_trl"), trl)}
    if busy:
        ratios["stock_trl_busy"] = (over(speeds_of(busy), "stock_trl"), f"{trl}, one core busy")
    if "ours_fp32" in speeds:
        ratios["over_fp32"] = (over(speeds, "ours_fp32"), "our own fp32 path")
    result: dict[str, dict[str, Any]] = {}
    for name, (values, other) in ratios.items():
        result[name] = entry("ratio", values, "x tokens/s", "higher", peer=other)
    if "over_fp32" not in result:
        say("over_fp32: skipped, ours_fp32 was not among the systems, or auto is fp32 here")
    shares = [block["flops"] / block["seconds"] / block["matmul"] for block in blocks["ours"]]
    product = f"the {models.resolve_compute('auto')} product {'x'.join(map(str, SHAPE))} beside it"
    result["native_share"] = entry("ratio", shares, "of the rate", "higher", peer=product)
    bounds = [block["bound"] for block in blocks["ours"]]
    result["native_bound"] = entry("ratio", bounds, "x", "higher", peer=f"{product}, in fp32")
    memory = {system: own[-1]["memory"] for system, own in blocks.items()}
    least = min(memory[system] for system in STOCK if system in memory)
    result["peak_memory_share"] = entry("ratio", [memory["ours"] / least], "x", "lower", peer=trl)
    result["peak_memory"] = entry("size", [memory["ours"] / 2**20], "MiB", "lower")
    for system in blocks:
        result[f"tokens_per_second_{system}"] = entry(
            "rate", speeds[system], "tokens/s", "higher", peer="" if system == "ours" else system
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


def processor() -> str:
    """Its model name, and which of the instructions that matter here it has."""
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        pairs = [line.split(":", 1) for line in file if ":" in line]
    lines = {name.strip(): value.strip() for name, value in pairs}
    flags = lines.get("flags", "").split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{lines.get('model name', 'unknown processor')} ({', '.join(known)})"


def say(line: str) -> None:
    """Progress, apart from the result."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument(
        "--starts", type=int, default=0, help="how often the embedded model's start is timed"
    )
    parser.add_argument("--base", default="embedded")
    parser.add_argument("--load-in-4bit", action="store_true", help="QLoRA on both sides")
    parser.add_argument("--systems", default="", help="ours and some of the others, by commas")
    parser.add_argument("--quiet-only", action="store_true", help="not beside a busy core")
    parser.add_argument("--profile", default="default", choices=sorted(PROFILES))
    parser.add_argument("--child", nargs=2, metavar=("SYSTEM", "JOB"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        work(args.child[0], TrainingJob(**store.read_json(Path(args.child[1]))), args.steps)
        return
    say(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    result = measure(args)
    for name, line in result.items():
        interval = f"[{line['low']:.3g}, {line['high']:.3g}]"
        say(f"{name:28} {line['value']:10.3g} {interval} {line['unit']}  n={line['n']}")
    if args.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
