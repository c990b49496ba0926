"""Generation for evaluation, side by side: ours against lm-eval, transformers and llama.cpp.

    python -m benchmarks.evaluate [--json] [--rows 32] [--rounds 5] [--only NAME,…] [--parity 200]

Same model (the embedded one, in memory as fp32), same prompts, greedy, at most 40 new tokens. Every
round asks each side once, in an order that alternates; what is compared is the median of the
rounds' ratios, peer's time / our time. Loading and one warm-up call are not counted on any side.

Peers run in environments of their own, since their pins clash with ours: lm-eval's own model class
for `lm_eval_short`, llama.cpp's server as the wheel xllamacpp holds it for `llama_server_*`.
WORKBOOK_LM_EVAL and WORKBOOK_LLAMA_SERVER name a python that has them; else the benchmark makes one
in the cache (WORKBOOK_PEERS, default ~/.cache/workbook-peers; needs a package index). A peer that
is not there is reported as skipped.

--parity N: our answers to N prompts against batch 1 (transformers' own generate). They must be
equal; where one differs, the two tokens' logits at that place are compared, and only a tie
(<= 1e-4) is excused. Ties are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
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
    """helpers.models.decoding, as every evaluation uses it."""

    def __init__(self, name: str = "embedded") -> None:
        from helpers.models import load_model

        self.model = load_model(name)
        self.stop, self.pad = self.model.stop_tokens, self.model.tokenizer.pad_token_id

    def ask(self, asked: Sequence[list[int]]) -> list[list[int]]:
        """New tokens of every prompt."""
        from helpers.models import decoding

        return [
            row.tokens
            for row in decoding.decode(self.model.network, asked, NEW_TOKENS, self.stop, self.pad)[
                0
            ]
        ]

    def transformers(self, asked: Sequence[list[int]], batch: int) -> list[list[int]]:
        """transformers' generate in batches sorted by length: what a careful user would write."""
        from helpers.models import decoding

        found: dict[int, list[int]] = {}
        for rows in decoding.in_batches([len(p) for p in asked], batch, 10**9):
            decoded = decoding.generate_batch(
                self.model.network, [asked[i] for i in rows], NEW_TOKENS, self.stop, self.pad
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
            logits = ours.model.network(torch.tensor([prompt + alone[:same]])).logits[0, -1]
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


def llama_server(python: str, rows: int, count: int, ours: Ours) -> dict[str, Any]:
    """llama.cpp's server with 8 slots on the embedded GGUF, asked over HTTP by as many threads."""
    import urllib.request
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from helpers.models import embedded

    child = Child(
        [python, "-c", LLAMA_SERVER_CHILD, str(embedded.gguf_path()), str(torch.get_num_threads())],
        {},
    )
    url, found = child.ready["url"], {}

    def post(prompt: list[int]) -> None:
        body = json.dumps(
            {"prompt": prompt, "n_predict": NEW_TOKENS, "temperature": 0, "cache_prompt": True}
        ).encode()
        where = urllib.request.Request(
            f"{url}/completion", body, {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(where, timeout=600).read()

    def ask_all(asked: Sequence[list[int]]) -> float:
        with ThreadPoolExecutor(8) as pool:
            return _timed(lambda: list(pool.map(post, asked)))

    try:
        for kind in ("short", "long"):
            asked = prompts(kind, rows)
            ask_all(asked[:2])
            ratios = rounds(
                lambda asked=asked: ours.ask(asked), lambda asked=asked: ask_all(asked), count
            )
            found[f"llama_server_{kind}"] = as_ratio(
                ratios, rows, "llama.cpp server, 8 slots, as shipped (4-bit weights)"
            )
        return found
    finally:
        child.close()


def measure(
    rows: int, count: int, only: Sequence[str], make_peers: bool, name: str = "embedded"
) -> dict[str, Any]:
    """All comparisons that can be made here."""
    from helpers.models import base_path

    ours, found = Ours(name), {}
    short, long = prompts("short", rows), prompts("long", rows)
    ours.ask(short[:2])
    tokenizer = ours.model.tokenizer
    found["prompt_tokens_short"] = {
        "kind": "size",
        "value": statistics.fmean(map(len, short)),
        "unit": "tokens",
        "n": rows,
    }
    found["prompt_tokens_long"] = {
        "kind": "size",
        "value": statistics.fmean(map(len, long)),
        "unit": "tokens",
        "n": rows,
    }
    for case, asked, batch in (
        ("hf_batch16_short", short, 16),
        ("hf_batch16_long", long, 16),
        ("hf_batch1_long", long[: max(4, rows // 4)], 1),
    ):
        if case in only:
            sys.stderr.write(f"{case}\n")

            def theirs(asked: list[list[int]] = asked, batch: int = batch) -> float:
                return _timed(lambda: ours.transformers(asked, batch))

            # batch 1 is asked about fewer rows, so our side is timed on all and divided
            share = len(long) / len(asked) if batch == 1 else 1.0
            mine = (lambda: ours.ask(long)) if batch == 1 else (lambda asked=asked: ours.ask(asked))
            ratios = [r * share for r in rounds(mine, theirs, count)]
            found[case] = as_ratio(ratios, rows, f"transformers generate, batch {batch}")
    if "lm_eval_short" in only and (python := peer_python("lm_eval", make_peers)):
        sys.stderr.write("lm_eval_short\n")
        env = {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        child = Child([python, "-c", LM_EVAL_CHILD, base_path(name), "16"], env)
        try:
            texts = [tokenizer.decode(p) for p in short]
            child.ask({"texts": texts[:2], "new": 4})
            peer = lambda: child.ask({"texts": texts, "new": NEW_TOKENS})["seconds"]  # noqa: E731
            found["lm_eval_short"] = as_ratio(
                rounds(lambda: ours.ask(short), peer, count), rows, "lm-eval 0.4.13, batch 16"
            )
        finally:
            child.close()
    if "llama_server" in only and (python := peer_python("llama_server", make_peers)):
        sys.stderr.write("llama_server\n")
        found |= llama_server(python, rows, count, ours)
    return found


def main() -> None:
    """Measure, print a table, and with --json one object on the last line."""
    names = [
        "lm_eval_short",
        "hf_batch16_short",
        "hf_batch16_long",
        "hf_batch1_long",
        "llama_server",
    ]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(names))
    parser.add_argument(
        "--parity", type=int, default=0, help="check this many answers against batch 1"
    )
    parser.add_argument(
        "--model", default="embedded", help="tiny shows in seconds that everything is connected"
    )
    parser.add_argument(
        "--no-install", action="store_true", help="do not make environments for the peers"
    )
    asked = parser.parse_args()
    from helpers.models import offline_env

    os.environ.update(offline_env())
    if asked.parity:
        found = parity(Ours(asked.model), asked.parity)
    else:
        only = [name for name in asked.only.split(",") if name]
        found = measure(asked.rows, asked.rounds, only, not asked.no_install, asked.model)
        for name in (n for n in only if n not in found and f"{n}_short" not in found):
            sys.stderr.write(f"{name}: skipped, the peer is not installed\n")
    for name, entry in found.items():
        span = f" [{entry['low']:.2f}, {entry['high']:.2f}]" if entry.get("low") is not None else ""
        value = f"{entry['value']:8.2f} {entry['unit']}{span}"
        print(f"{name:24} {value}  n={entry['n']}  {entry.get('peer', '')}")
    if asked.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
