"""Running a rung over examples: ask (or remember), score, write answers/<rung>.jsonl, add up.

p50 and p95 are of single requests in which nothing waits for anything else: of the first rows (their order is that of
a hash, so they are a sample), asked one by one after a full-length warm-up that is not counted.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from helpers import models, store, tasks
from helpers.evaluate import rungs, scorers, statistics
from helpers.models import Answer, Model, plain, prices
from helpers.records import Estimate, EvalResults, Message, Record, TrainingExample, WorkbookError
from helpers.tasks import Task, hash_order

CHUNK = 32  # answers asked for between two writes of the cache: what a kill can cost
MOST_AT_ONCE = 8  # requests side by side at an endpoint
RATE_RETRIES, RATE_PAUSE = (
    5,
    0.5,
)  # times a request is asked again after 429; seconds, doubled each time
CACHE_VERSION = "answers-1"  # raise it when the meaning of a stored answer changes
Say = Callable[[str], Any]

log = logging.getLogger(__name__)


class RungResult(Record):
    """What one way of asking one model scored on one part; `answers` is the file every score can be recomputed from."""

    name: str
    model: str
    part: str
    n: int
    results: EvalResults
    tokens_per_request: float  # mean of prompt and answer together
    answers: str


def choose_rows(
    examples: Sequence[TrainingExample], part: str, limit: int = 0
) -> list[TrainingExample]:
    """The verified examples of a part, or the first `limit` of them by sha256(id): more rows later keep these."""
    rows = [e for e in examples if e.part == part and e.quality == "verified"]
    rows.sort(key=lambda e: hash_order(e.id))
    return rows[:limit] if limit else rows


def run_rungs(
    model: Model,
    names: Sequence[str],
    examples: Sequence[TrainingExample],
    task: Task,
    run: store.Run,
    **settings: Any,
) -> list[RungResult]:
    """`run_rung` for each rung that can be asked here; the others are named and left out."""
    missing = rungs.available(names, task, settings.get("train", ()))
    for name in filter(missing.get, names):
        settings.get("say", log.info)(f"{name}: left out, {missing[name]}")
    return [
        run_rung(model, name, examples, task, run, **settings)
        for name in names
        if not missing[name]
    ]


def run_rung(
    model: Model,
    name: str,
    examples: Sequence[TrainingExample],
    task: Task,
    run: store.Run,
    *,
    train: Sequence[TrainingExample] = (),
    few_shot_k: int = 3,
    rag_k: int = 1,
    style: str = "short",
    label: str = "",
    max_new_tokens: int = 40,
    latency_rows: int = 12,
    max_cost_usd: float = 0.0,
    asking: Mapping[str, Any] | None = None,
    say: Say = log.info,
) -> RungResult:
    """Ask one rung about every example, score the answers, write them down and add them up (under `label`, if given)."""
    started = time.monotonic()
    models.check_may_send(task, model)
    if task.schema is not None and hasattr(model, "with_schema"):
        model = model.with_schema(task.schema)  # every rung alike, the tuned one too
    ways = {"few_shot_k": few_shot_k, "rag_k": rag_k} | dict(
        asking or {}
    )  # what a search chose goes first
    prompts = rungs.build_prompts(name, task, examples, train, style=style, **ways)
    say(f"{name}: asking {model.name} about {len(examples)} rows")
    alone = latency_rows + 1 if latency_rows else 0
    answers = ask(model, prompts, max_new_tokens, alone, task, run, max_cost_usd)
    if model.provider == "api":
        latencies = [a.latency_ms for a in answers[1:alone] if a.finish != "error"]
    else:
        latencies = (
            model.latency_probe(prompts[:alone], max_new_tokens)[1:] if prompts[:alone] else []
        )
    part = (examples[0].part if examples else None) or "validation"
    # the prompt rungs' answers on the test part get a name of their own, so that 01's stay
    name = label or name
    stem = f"test_{name}" if part == "test" and name != "fine_tuned" else name
    rows = [_row(task, e, a) for e, a in zip(examples, answers, strict=True)]
    with store.lock():
        store.write_jsonl(run.path(f"answers/{stem}.jsonl"), rows)
    results = _add_up(rows, latencies, _costs(task, model, answers, latencies))
    say(
        f"{name}: accuracy {results.accuracy}, format {results.format_compliance}, {time.monotonic() - started:.0f} s"
    )
    return RungResult(
        name=name,
        model=model.name,
        part=part,
        n=len(rows),
        results=results,
        tokens_per_request=round(
            statistics.mean([a.tokens_in + a.tokens_out for a in answers]).value, 2
        ),
        answers=f"answers/{stem}.jsonl",
    )


def read_answers(run: store.Run, rung: RungResult) -> list[dict[str, Any]]:
    """The rows behind a rung's scores."""
    return store.read_jsonl(run.path(rung.answers))


def export_samples(
    run: store.Run,
    task: Task,
    examples: Sequence[TrainingExample],
    answers: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Path:
    """private/samples.jsonl: one Inspect sample a row (id, input as chat messages, target), every rung's answer beside it.

    inspect_ai reads it without a mapping (`json_dataset("samples.jsonl")`), and it is plain JSON lines for everything else.
    """
    said = {
        name: {row["id"]: {k: row[k] for k in ("answer", "scores")} for row in rows}
        for name, rows in answers.items()
    }
    samples = (
        {
            "id": example.id,
            "input": plain(tasks.render(task, example)),
            "target": example.answer,
            "metadata": {
                "group": example.group,
                "answers": {name: rows[example.id] for name, rows in said.items()},
            },
        }
        for example in examples
    )
    return store.write_jsonl(run.private / "samples.jsonl", samples)


def ask(
    model: Model,
    prompts: Sequence[list[Message]],
    max_new_tokens: int,
    alone: int,
    task: Task,
    run: store.Run,
    usd: float,
) -> list[Answer]:
    """Answers in order; what this model was asked before in the same way is remembered, the rest asked in chunks.

    An endpoint gets the first `alone` prompts one by one, since that is how its latency is timed; a local model is
    timed by asking again, which costs nothing.
    """
    api = (
        model.provider == "api"
    )  # what answers behind a name can change, so its answers are good for one run
    decided_by = [model.fingerprint, max_new_tokens, "greedy", CACHE_VERSION, run.id if api else ""]
    keys = [store.fingerprint([*decided_by, plain(prompt)]) for prompt in prompts]
    path = store.home() / "cache" / "answers" / f"{store.fingerprint(model.fingerprint)[:24]}.jsonl"
    known, failed = _remembered(path), {}
    new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in known}
    _check_budget(model, list(new.values()), max_new_tokens, task, run, usd)
    single = [key for key in dict.fromkeys(keys[:alone]) if api and key in new]
    rest = sorted(
        new.keys() - set(single), key=lambda k: (sum(len(m.content or "") for m in new[k]), k)
    )
    local = [rest[i : i + CHUNK] for i in range(0, len(rest), CHUNK)]
    requests = ask_endpoint(model, new, single, rest, max_new_tokens) if api else (
        zip(chunk, model.answer([new[key] for key in chunk], max_new_tokens), strict=True) for chunk in local
    )  # fmt: skip
    for given in map(dict, requests):
        failed |= {key: answer for key, answer in given.items() if answer.finish == "error"}
        _remember(path, {key: answer for key, answer in given.items() if key not in failed})
        _note_spending(model, given.values(), task, run)
        known |= given
        log.info("%s: %d of %d answers", model.name, len(known.keys() & new.keys()), len(new))
    if failed and len(failed) == len(set(keys)):
        raise WorkbookError(
            f"{model.name} answered none of {len(keys)} requests: {failed[keys[0]].error}", 5
        )
    return [known[key] for key in keys]


def ask_endpoint(
    model: Model,
    prompts: Mapping[str, list[Message]],
    single: Sequence[str],
    rest: Sequence[str],
    max_new_tokens: int,
) -> Iterator[dict[str, Answer]]:
    """{key: answer} as each one comes, so that a kill costs no more than the requests that were on their way.

    `single` first, one at a time; then as many side by side as the endpoint bears: a refusal for its rate (429) halves
    that number, waits and asks again; every answer raises it by one, up to MOST_AT_ONCE.
    """

    def one(key: str) -> dict[str, Answer]:
        return {key: model.answer([prompts[key]], max_new_tokens)[0]}

    yield from map(one, single)
    waiting, width, refused = deque(rest), MOST_AT_ONCE if single else 1, Counter[str]()
    with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
        running: set[Future] = set()
        try:
            while waiting or running:
                while waiting and len(running) < width:
                    running.add(pool.submit(one, waiting.popleft()))
                done, running = wait(running, return_when=FIRST_COMPLETED)
                pause = 0.0
                for [(key, answer)] in (future.result().items() for future in done):
                    if (
                        (answer.error or "").startswith("429")
                        and "quota" not in answer.error
                        and refused[key] < RATE_RETRIES
                    ):
                        width, refused[key] = max(1, width // 2), refused[key] + 1
                        waiting.append(key)
                        pause = max(pause, RATE_PAUSE * 2 ** refused[key])
                    else:
                        width = min(MOST_AT_ONCE, width + 1)
                        yield {key: answer}
                time.sleep(pause)  # after what came beside the refusal has been kept
        finally:
            for future in running:
                future.cancel()


def _remembered(path: Path) -> dict[str, Answer]:
    """Answers of one model by the fingerprint of their question; a line that a kill has torn is only lost work."""
    known = {}
    for line in (
        path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    ):
        with contextlib.suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            known[row["key"]] = Answer(**row["answer"])
    return known


def _remember(path: Path, answers: dict[str, Answer]) -> None:
    """Append in one write; the empty line before the first one ends whatever a kill has torn."""
    lines = [store.dumps({"key": key, "answer": answer}) for key, answer in answers.items()]
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # answers are example text
    with open(path, "ab", buffering=0) as file:
        file.write("\n".join(["", *lines, ""]).encode("utf-8", "replace"))


def _spent(run: store.Run) -> float:
    """USD that paid endpoints have cost this run so far: one line per answer, so that a kill loses none."""
    path = run.path("spent.jsonl")
    return sum(row["usd"] for row in store.read_jsonl(path)) if path.exists() else 0.0


def _note_spending(model: Model, answers: Iterable[Answer], task: Task, run: store.Run) -> None:
    costs = (
        []
        if model.is_loopback
        else [prices.request_cost(task, model, answer, 0.0) for answer in answers]
    )
    if any(costs):
        with open(run.path("spent.jsonl"), "a", encoding="utf-8") as file:
            file.write(
                store.dumps({"model": model.name, "usd": sum(cost or 0.0 for cost in costs)}) + "\n"
            )


def _check_budget(
    model: Model,
    prompts: Sequence[list[Message]],
    max_new_tokens: int,
    task: Task,
    run: store.Run,
    budget: float,
) -> None:
    """Refuse to start what could cost more than what is left of the run's limit: paid endpoints only."""
    if model.is_loopback or not prompts:
        return
    price = prices.token_price(task, model.name)
    if price is None:
        raise WorkbookError(
            f"task.yaml: prices.models has no entry for {model.name}; add it to bound what is spent"
        )
    spent = _spent(run)
    worst = sum(prices.token_cost(price, model.count_tokens(p), max_new_tokens) for p in prompts)
    if spent + worst > budget:
        asked = f"asking {model.name} {len(prompts)} times may cost {spent + worst:.4f} USD in all"
        raise WorkbookError(
            f"{asked}, more than max_cost_usd={budget:g}; raise it or ask fewer rows"
        )


def _costs(
    task: Task, model: Model, answers: Sequence[Answer], latencies: Sequence[float]
) -> list[float]:
    """USD per request: by the token where the model has a token price, else by the second of a request asked alone."""
    timed = [(answers[0], ms / 1000) for ms in latencies]
    if prices.token_price(task, model.name) is not None:
        timed = [(answer, 0.0) for answer in answers if answer.finish != "error"]
    costs = [prices.request_cost(task, model, answer, seconds) for answer, seconds in timed]
    return [usd for usd in costs if usd is not None]


def _row(task: Task, example: TrainingExample, answer: Answer) -> dict[str, Any]:
    scores, format_reason = scorers.score_answer(task, example, answer.text, answer.finish)
    row = {
        "id": example.id,
        "group": example.group,
        "answer": answer.text.encode("utf-8", "replace").decode(),
        "scores": scores | {"failed": float(answer.finish == "error")},
        "format_reason": format_reason,
        "latency_ms": round(answer.latency_ms, 1),
        "tokens_in": answer.tokens_in,
        "tokens_out": answer.tokens_out,
    }
    return row | ({"error": store.redact(answer.error)[:200]} if answer.error else {})


def _add_up(
    rows: Sequence[dict[str, Any]], latencies: Sequence[float], costs: Sequence[float]
) -> EvalResults:
    """EvalResults of scored rows; without a scorer (judge, human) accuracy is an estimate of 0 rows."""
    groups, names = [row["group"] for row in rows], rows[0]["scores"] if rows else ()
    scores = {
        name: statistics.score([row["scores"][name] for row in rows], groups) for name in names
    }
    nothing = Estimate(value=0.0, low=0.0, high=1.0, n=0)
    return EvalResults(
        accuracy=scores.pop("accuracy", nothing),
        format_compliance=scores.pop("format_compliance", nothing),
        latency_p50=statistics.quantile(latencies, 0.50),
        latency_p95=statistics.quantile(latencies, 0.95),
        cost_per_request=statistics.mean(costs),
        quality_scores=scores,
    )
