"""Generation for evaluation, side by side: ours against lm-eval, transformers and llama.cpp.

    python -m benchmarks.evaluate [--json] [--rows 16] [--rounds 3] [--only NAME,…] [--parity 200]

Same model (the embedded one), same prompts, greedy, at most 40 new tokens. Every round asks each
side once, in an order that alternates; what is compared is the median of the rounds' ratios, peer's
time / our time. Loading and one warm-up call are not counted on any side. Ours computes as
`compute: auto` has it here; transformers and lm-eval in fp32. llama.cpp is asked twice: with the
file as it ships, whose 4-bit weights are about a quarter of what we read for each token, and, as
like for like, with the very weights that we hold, in 16 bits (a GGUF that is written for this).

| name | what it says |
|---|---|
| `over_fp32_short`, `over_fp32_long` | ours over ours in fp32, prompts of 170 and of 680 tokens |
| `native_bound_16`, `_480` | the bf16 product rate over fp32's at so many rows, beside them |
| `hf_batch16_short`, `hf_batch16_long` | over transformers' generate in batches of 16 |
| `lm_eval_short` | over lm-eval's own model class, batch 16 |
| `llama_server_short`, `_long` | over llama.cpp's server with 8 slots, as shipped (4-bit weights) |
| `one_row_ms_per_token` | one prompt at a time, after its first token |
| `one_row_hf` | whole latency of one prompt at a time, over transformers' generate |
| `one_row_llamacpp` | the same over llama.cpp's server as shipped (4-bit weights) |
| `one_row_llamacpp_16` | the same over llama.cpp's server with our 16-bit weights |

lm-eval and llama.cpp run in environments of their own, since their pins clash with ours.
WORKBOOK_LM_EVAL and WORKBOOK_LLAMA_SERVER name a python that has them; `--install` makes one in the
cache (WORKBOOK_PEERS, default ~/.cache/workbook-peers; needs a package index). A peer that is not
there is reported as skipped. About four minutes on two cores without them.

--parity N: our answers to N prompts in fp32 against batch 1 (transformers' own generate). They must
be equal; where one differs, the two tokens' logits at that place are compared, and only a tie
(<= 1e-4) is excused. Ties are counted.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NEW_TOKENS = 40
TIE = 1e-4
PEERS = {  # torch first, or the resolver fetches one with CUDA
    "lm_eval": ["torch==2.13.0", "lm-eval[hf]==0.4.13"],
    "llama_server": ["xllamacpp==2026.10.11549"],
}
Ask = Callable[[], list[list[int]]]


def prompts(kind: str, rows: int) -> list[list[int]]:
    """Token ids: short is ~170 with a common beginning of ~66, long ~680 with one of ~560.

    The long beginning is the handbook.
    """
    from helpers import tasks
    from helpers.models import render_tokens, tokenizer_of

    task = tasks.load_task("support_triage")
    examples = sorted(tasks.load_examples(task).examples, key=lambda e: tasks.hash_order(e.id))
    tokenizer = tokenizer_of("embedded")
    articles = {a.id: a.text for a in tasks.knowledge(task)}
    handbook = "" if kind == "short" else "\n\n".join(list(articles.values())[:8])
    wanted, found = (170 if kind == "short" else 680), []
    shared = (
        task.instructions_full
        if kind == "short"
        else _cut(tokenizer, f"{task.instructions_full}\n\n{handbook}", 555)
    )
    for number, example in enumerate((examples * (rows // len(examples) + 1))[:rows]):
        filler = " ".join(e.user_text for e in examples[number + 1 : number + 9])
        chat = tasks.render(task, example)
        turns = [chat[0].model_copy(update={"content": shared}), *chat[1:]]
        room = wanted - len(render_tokens(tokenizer, turns))
        text = f"{_cut(tokenizer, filler, max(0, room))}\n{example.user_text}"
        found.append(
            render_tokens(tokenizer, [turns[0], turns[1].model_copy(update={"content": text})])
        )
    return found


def _cut(tokenizer: Any, text: str, tokens: int) -> str:
    return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][:tokens])


class Ours:
    """helpers.models.decoding, as every evaluation uses it, and transformers beside it."""

    def __init__(self, name: str = "embedded", compute: str = "auto") -> None:
        from helpers.models import load_model
        from helpers.records import Asking

        self.model = load_model(name).with_asking(Asking(compute=compute))
        self.stop, self.pad = self.model.stop_tokens, self.model.tokenizer.pad_token_id

    @functools.cached_property
    def stock(self) -> Any:
        """The same weights in fp32 in transformers' own modules."""
        import transformers

        path = self.model.path
        return transformers.AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()

    def ask(self, asked: Sequence[list[int]], new: int = NEW_TOKENS) -> list[list[int]]:
        """New tokens of every prompt."""
        from helpers.models import decoding

        rows, _ = decoding.decode(self.model.network, asked, new, self.stop, self.pad)
        return [row.tokens for row in rows]

    def ask_alone(self, asked: Sequence[list[int]], new: int = NEW_TOKENS) -> list[list[int]]:
        """The same, one prompt after the other; what all begin with is kept, as llama.cpp does."""
        from helpers.models import decoding

        begins = decoding.common_prefix(asked)
        asking = (self.model.network, new, self.stop, self.pad)
        rows = [decoding.decode(asking[0], [p], *asking[1:], begins=begins)[0] for p in asked]
        return [row.tokens for (row,) in rows]

    def ms_per_token(self, asked: Sequence[list[int]]) -> float:
        """Of a prompt asked alone, after its first token."""
        first = _timed(lambda: self.ask_alone(asked, 1))
        tokens: list[list[int]] = []
        seconds = _timed(lambda: tokens.extend(self.ask_alone(asked)))
        return 1000 * (seconds - first) / max(1, sum(map(len, tokens)) - len(tokens))

    def transformers(self, asked: Sequence[list[int]], batch: int) -> list[list[int]]:
        """transformers' generate in batches sorted by length: what a careful user would write."""
        from helpers.models import decoding

        found: dict[int, list[int]] = {}
        for rows in decoding.in_batches([len(p) for p in asked], batch, 10**9):
            decoded = decoding.generate_batch(
                self.stock, [asked[i] for i in rows], NEW_TOKENS, self.stop, self.pad
            )
            found |= {i: row.tokens for i, row in zip(rows, decoded, strict=True)}
        return [found[i] for i in range(len(asked))]


class Child:
    """A peer in a process of its own: a JSON line asks for a round, one says its seconds."""

    def __init__(self, command: Sequence[str], env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | env
        )
        self.ready = json.loads(self._line())

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        for line in self.process.stdout:  # libraries print; our lines begin with a mark
            if line.startswith("@@"):
                return line[2:]
        raise RuntimeError(f"the peer ended with {self.process.wait()}; its messages are above")

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait(timeout=20)


def peer_python(peer: str, make: bool) -> str:
    """The python that has this peer: WORKBOOK_<PEER>, else one in the cache; "" is none.

    It is made there when `make`.
    """
    if named := os.environ.get(f"WORKBOOK_{peer.upper()}"):
        return named
    folder = (
        Path(os.environ.get("WORKBOOK_PEERS", Path.home() / ".cache" / "workbook-peers")) / peer
    )
    python = folder / "bin" / "python"
    if make and not (folder / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for pin in PEERS[peer]:
            subprocess.run([str(python), "-m", "pip", "install", "-q", pin], check=True)
        (folder / "ready").touch()
    return str(python) if (folder / "ready").exists() else ""


LM_EVAL_CHILD = """
import json, sys, time
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
lm = HFLM(pretrained=sys.argv[1], dtype="float32", device="cpu", batch_size=int(sys.argv[2]))
print("@@" + json.dumps({"threads": torch.get_num_threads()}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    kwargs = {"until": ["<|im_end|>"], "max_gen_toks": request["new"], "do_sample": False}
    kwargs["temperature"] = 0.0
    texts = enumerate(request["texts"])
    rows = [Instance("generate_until", {}, (text, dict(kwargs)), i) for i, text in texts]
    started = time.perf_counter()
    texts = lm.generate_until(rows, disable_tqdm=True)
    print("@@" + json.dumps({"seconds": time.perf_counter() - started, "texts": texts}), flush=True)
"""


def rounds(ours: Callable[[], Any], peer: Callable[[], float], count: int) -> list[float]:
    """Peer's seconds / our seconds, once a round; who begins alternates."""
    ratios = []
    for number in range(count):
        seconds = {}
        for side in ("ours", "peer") if number % 2 == 0 else ("peer", "ours"):
            seconds[side] = _timed(ours) if side == "ours" else peer()
        ratios.append(seconds["peer"] / seconds["ours"])
        sys.stderr.write(
            f"  round {number + 1}: ours {seconds['ours']:.1f} s, peer {seconds['peer']:.1f} s\n"
        )
    return ratios


def _timed(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def as_ratio(ratios: Sequence[float], rows: int, peer: str) -> dict[str, Any]:
    """One entry of the --json object: the median of the rounds, its smallest and largest."""
    said = {
        "kind": "ratio",
        "value": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
    }
    return said | {"n": len(ratios), "rows": rows, "unit": "x", "better": "higher", "peer": peer}


def parity(ours: Ours, count: int) -> dict[str, Any]:
    """Differences between our answers and batch 1's: all of them, and those that are logit ties."""
    import torch

    asked = [*prompts("short", count - count // 4), *prompts("long", count // 4)]
    batched = ours.ask(asked)
    different = ties = 0
    for prompt, tokens in zip(asked, batched, strict=True):
        alone = ours.transformers([prompt], 1)[0]
        if alone == tokens:
            continue
        different += 1
        same = len(os.path.commonprefix([alone, tokens]))  # noqa: RUF071 (of lists, not of paths)
        with torch.inference_mode():
            logits = ours.stock(torch.tensor([prompt + alone[:same]])).logits[0, -1]
        pair = [float(logits[t[same]]) for t in (alone, tokens) if len(t) > same]
        ties += len(pair) == 2 and abs(pair[0] - pair[1]) <= TIE
    plain = {
        "kind": "count",
        "low": None,
        "high": None,
        "n": count,
        "unit": "prompts",
        "better": "lower",
    }
    return {
        "parity_different": plain | {"value": different},
        "parity_not_a_tie": plain | {"value": different - ties},
    }


LLAMA_SERVER_CHILD = """
import json, sys, time
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_parallel = 8
params.n_ctx = 8192
params.cpuparams.n_threads = int(sys.argv[2])
params.verbosity = 0
# every round asks the same prompts: slots may share a beginning, no earlier round's answers
params.cache_ram_mib = 0
server = xllamacpp.Server(params)
print("@@" + json.dumps({"url": server.listening_address}), flush=True)
sys.stdin.read()
"""


class LlamaServer:
    """llama.cpp's server with 8 slots on a GGUF file, asked over HTTP."""

    def __init__(self, python: str, weights: Path) -> None:
        import torch

        threads = str(torch.get_num_threads())
        self.child = Child([python, "-c", LLAMA_SERVER_CHILD, str(weights), threads], {})

    def _post(self, prompt: list[int]) -> None:
        import urllib.request

        request = {"prompt": prompt, "n_predict": NEW_TOKENS, "temperature": 0}
        body = json.dumps(request | {"cache_prompt": True}).encode()
        url = f"{self.child.ready['url']}/completion"
        where = urllib.request.Request(url, body, {"Content-Type": "application/json"})
        urllib.request.urlopen(where, timeout=600).read()

    def seconds(self, asked: Sequence[list[int]], at_once: int = 8) -> float:
        """How long it takes for these prompts."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(at_once) as pool:
            return _timed(lambda: list(pool.map(self._post, asked)))


def write_16_bits(ours: Ours, folder: str) -> Path:
    """A GGUF of the weights that we hold, as `workbook serve` gives llama.cpp a model."""
    from helpers.extras import gguf

    path = Path(folder) / "f16.gguf"
    gguf.write_gguf(path, ours.model.network, ours.model.tokenizer, "f16", "embedded")
    return path


class LmEval:
    """lm-eval's own model class, in batches of 16."""

    def __init__(self, python: str, path: str, tokenizer: Any) -> None:
        env = {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        self.child = Child([python, "-c", LM_EVAL_CHILD, path, "16"], env)
        self.tokenizer = tokenizer

    def seconds(self, asked: Sequence[list[int]]) -> float:
        """How long it takes for these prompts."""
        texts = [self.tokenizer.decode(prompt) for prompt in asked]
        return self.child.ask({"texts": texts, "new": NEW_TOKENS})["seconds"]


def measure(args: argparse.Namespace, only: Sequence[str]) -> dict[str, Any]:
    """All comparisons that can be made here."""
    from benchmarks.train import matmul_rate

    ours = Ours(args.model)
    short, long = prompts("short", args.rows), prompts("long", args.rows)
    alone = short[: max(2, args.rows // 4)]
    ours.ask(short[:2])
    found: dict[str, Any] = {}
    for name, asked in (("short", short), ("long", long)):
        size = statistics.fmean(map(len, asked))
        entry = {"kind": "size", "value": size, "unit": "tokens", "n": len(asked)}
        found[f"prompt_tokens_{name}"] = entry

    def compare(name: str, peer: str, asked: Any, theirs: Callable[[Any], float]) -> None:
        if name not in only:
            return
        sys.stderr.write(f"{name}\n")
        ask = ours.ask_alone if name.startswith("one_row") else ours.ask
        theirs(asked[:2])
        ratios = rounds(lambda: ask(asked), lambda: theirs(asked), args.rounds)
        found[name] = as_ratio(ratios, len(asked), peer)

    if ours.model.compute == "bf16":
        fp32 = Ours(args.model, "fp32")
        for name, asked in (("over_fp32_short", short), ("over_fp32_long", long)):
            compare(name, "ours in fp32", asked, lambda asked: _timed(lambda: fp32.ask(asked)))
        for rows in (16, 480):
            if f"native_bound_{rows}" in only:
                bounds = [matmul_rate("bf16", rows) / matmul_rate("fp32", rows) for _ in range(9)]
                found[f"native_bound_{rows}"] = as_ratio(bounds, rows, "the same product in fp32")
    else:
        sys.stderr.write("over_fp32: skipped, this processor has no native bf16: auto is fp32\n")
    batches = "transformers generate, fp32, batch"
    in_batches = lambda asked: _timed(lambda: ours.transformers(asked, 16))  # noqa: E731
    compare("hf_batch16_short", f"{batches} 16", short, in_batches)
    compare("hf_batch16_long", f"{batches} 16", long, in_batches)
    if "one_row_ms_per_token" in only:
        times = [ours.ms_per_token(alone) for _ in range(args.rounds)]
        entry = as_ratio(times, len(alone), "")
        found["one_row_ms_per_token"] = entry | {"kind": "seconds", "unit": "ms", "better": "lower"}
    one_by_one = lambda asked: _timed(lambda: ours.transformers(asked, 1))  # noqa: E731
    compare("one_row_hf", f"{batches} 1", alone, one_by_one)
    if "lm_eval_short" in only and (python := peer_python("lm_eval", args.install)):
        lm_eval = LmEval(python, ours.model.path, ours.model.tokenizer)
        compare("lm_eval_short", "lm-eval 0.4.13, fp32, batch 16", short, lm_eval.seconds)
        lm_eval.child.close()
    llama = {name for name in only if "llama" in name}
    if llama and (python := peer_python("llama_server", args.install)):
        from helpers.models import embedded

        server = LlamaServer(python, embedded.gguf_path())
        shipped = "as shipped (4-bit weights)"
        compare(
            "llama_server_short", f"llama.cpp server, 8 slots, {shipped}", short, server.seconds
        )
        compare("llama_server_long", f"llama.cpp server, 8 slots, {shipped}", long, server.seconds)
        at_once = lambda asked: server.seconds(asked, 1)  # noqa: E731
        compare("one_row_llamacpp", f"llama.cpp, one by one, {shipped}", alone, at_once)
        server.child.close()
    if "one_row_llamacpp_16" in llama and python:
        with tempfile.TemporaryDirectory() as folder:
            server = LlamaServer(python, write_16_bits(ours, folder))
            at_once = lambda asked: server.seconds(asked, 1)  # noqa: E731
            peer = "llama.cpp, one by one, our weights in 16 bits"
            compare("one_row_llamacpp_16", peer, alone, at_once)
            server.child.close()
    return found


NAMES = (
    "over_fp32_short",
    "over_fp32_long",
    "native_bound_16",
    "native_bound_480",
    "lm_eval_short",
    "hf_batch16_short",
    "hf_batch16_long",
    "one_row_ms_per_token",
    "one_row_hf",
    "one_row_llamacpp",
    "one_row_llamacpp_16",
    "llama_server_short",
    "llama_server_long",
)


def main() -> None:
    """Measure, print a table, and with --json one object on the last line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default=",".join(NAMES))
    parser.add_argument(
        "--parity", type=int, default=0, help="check this many answers against batch 1"
    )
    parser.add_argument(
        "--model", default="embedded", help="tiny shows in seconds that everything is connected"
    )
    parser.add_argument(
        "--install", action="store_true", help="make environments for the peers that are missing"
    )
    args = parser.parse_args()
    from benchmarks.train import processor
    from helpers.models import offline_env

    os.environ.update(offline_env())
    sys.stderr.write(f"{processor()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    if args.parity:
        found = parity(Ours(args.model, "fp32"), args.parity)
    else:
        only = [name for name in args.only.split(",") if name]
        found = measure(args, only)
        for name in [name for name in only if name not in found]:
            sys.stderr.write(f"{name}: skipped, it cannot be measured here (see above)\n")
    for name, entry in found.items():
        span = f" [{entry['low']:.2f}, {entry['high']:.2f}]" if entry.get("low") is not None else ""
        value = f"{entry['value']:8.2f} {entry['unit']}{span}"
        print(f"{name:24} {value}  n={entry['n']}  {entry.get('peer', '')}")
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
