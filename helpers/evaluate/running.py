"""Running a rung over examples: ask (or remember), score, write answers/<rung>.jsonl, add up."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from helpers import models, store
from helpers.evaluate import rungs, scorers, statistics
from helpers.evaluate.cache import AnswerCache
from helpers.models import Answer, Model, prices
from helpers.records import Estimate, EvalResults, Message, Record, TrainingExample, WorkbookError
from helpers.tasks import Task

CHUNK = 32  # answers asked for between two writes of the cache: what a kill can cost
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


def choose_rows(examples: Sequence[TrainingExample], part: str, limit: int = 0) -> list[TrainingExample]:
    """The verified examples of a part, or the first `limit` of them by sha256(id): more rows later keep these."""
    rows = [e for e in examples if e.part == part and e.quality == "verified"]
    rows.sort(key=lambda e: hashlib.sha256(e.id.encode()).hexdigest())
    return rows[:limit] if limit else rows


def run_rungs(
    model: Model, names: Sequence[str], examples: Sequence[TrainingExample], task: Task, run: store.Run, **settings: Any
) -> list[RungResult]:
    """`run_rung` for each rung that can be asked here; the others are named and left out."""
    say: Say = settings.get("say") or log.info
    missing = rungs.available(names, task, settings.get("train", ()))
    for name, reason in missing.items():
        if reason:
            say(f"{name}: left out, {reason}")
    return [run_rung(model, name, examples, task, run, **settings) for name in names if not missing[name]]


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
    max_new_tokens: int = 40,
    latency_rows: int = 8,
    max_cost_usd: float = 0.0,
    say: Say | None = None,
) -> RungResult:
    """Ask one rung about every example, score the answers, write them down and add them up."""
    say, started = say or log.info, time.monotonic()
    models.check_may_send(task, model)
    prompts = rungs.build_prompts(name, task, examples, train, few_shot_k, rag_k, style)
    say(f"{name}: asking {model.name} about {len(examples)} rows")
    answers = ask(model, prompts, max_new_tokens, task, run, max_cost_usd)
    rows = [_row(task, e, a) for e, a in zip(examples, answers, strict=True)]
    latencies = measure_latency(model, prompts, answers, max_new_tokens, latency_rows)
    costs = measure_costs(task, model, answers, latencies)
    part = examples[0].part or "validation" if examples else "validation"
    path = answers_path(run, name, part)
    with store.lock():
        store.write_jsonl(path, rows)
    results = add_up(task, rows, latencies, costs)
    tokens = [row["tokens_in"] + row["tokens_out"] for row in rows]
    say(
        f"{name}: accuracy {results.accuracy}, format {results.format_compliance.value:.3f},"
        f" p95 {results.latency_p95.value:.0f} ms, {time.monotonic() - started:.0f} s"
    )
    return RungResult(
        name=name,
        model=model.name,
        part=part,
        n=len(rows),
        results=results,
        tokens_per_request=round(sum(tokens) / len(tokens), 2) if tokens else 0.0,
        answers=str(path.relative_to(run.folder)),
    )


def answers_path(run: store.Run, name: str, part: str) -> Path:
    """answers/<rung>.jsonl; the prompt rungs' answers on the test part are test_<rung>, so that 01's stay."""
    stem = name if part != "test" or name == "fine_tuned" else f"test_{name}"
    return run.path("answers") / f"{stem}.jsonl"


def read_answers(run: store.Run, rung: RungResult) -> list[dict[str, Any]]:
    """The rows behind a rung's scores."""
    return store.read_jsonl(run.path(rung.answers))


# ---------------------------------------------------------------- asking


def ask(
    model: Model, prompts: Sequence[list[Message]], max_new_tokens: int, task: Task, run: store.Run, budget: float = 0.0
) -> list[Answer]:
    """Answers in order; only prompts that this model has not answered before are asked, in chunks of like length."""
    cache = AnswerCache(model, max_new_tokens, run.id)
    keys = [cache.key(prompt) for prompt in prompts]
    new = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in cache.known}
    _check_budget(model, list(new.values()), max_new_tokens, task, budget)
    waiting = sorted(new, key=lambda k: (sum(len(m.content or "") for m in new[k]), k))
    failed: dict[str, Answer] = {}
    for begin in range(0, len(waiting), CHUNK):
        chunk = waiting[begin : begin + CHUNK]
        given = dict(zip(chunk, model.answer([new[key] for key in chunk], max_new_tokens), strict=True))
        cache.keep(given)
        failed |= {key: answer for key, answer in given.items() if answer.finish == "error"}
        log.info("%s: %d of %d new answers", model.name, min(begin + CHUNK, len(waiting)), len(waiting))
    answers = [failed.get(key) or cache.known[key] for key in keys]
    if answers and len(failed) == len(new) == len(set(keys)):
        raise WorkbookError(f"{model.name} answered none of {len(answers)} requests: {answers[0].error}", 5)
    return answers


def _check_budget(
    model: Model, prompts: Sequence[list[Message]], max_new_tokens: int, task: Task, budget: float
) -> None:
    """Refuse to start what could cost more than the limit: paid endpoints only."""
    if model.is_loopback or not prompts:
        return
    price = prices.token_price(task, model.name)
    if price is None:
        raise WorkbookError(
            f"task.yaml: prices.models has no entry for {model.name}, so max_cost_usd cannot be held; add it"
        )
    worst = sum(prices.token_cost(price, model.count_tokens(p), max_new_tokens) for p in prompts)
    if worst > budget:
        raise WorkbookError(
            f"asking {model.name} {len(prompts)} times may cost {worst:.4f} USD, more than max_cost_usd={budget:g};"
            " raise max_cost_usd or ask fewer rows"
        )


def measure_latency(
    model: Model, prompts: Sequence[list[Message]], answers: Sequence[Answer], max_new_tokens: int, rows: int
) -> list[float]:
    """Milliseconds per single request, in which no request waits for another.

    An endpoint's answers were timed one by one already; a local model answered in batches, so `rows` evenly spaced
    prompts are asked again, each alone.
    """
    if model.provider == "api":
        return [a.latency_ms for a in answers if a.finish != "error"]
    step = max(1, len(prompts) // rows) if rows else 1
    return model.latency_probe(list(prompts[::step][:rows]), max_new_tokens) if rows and prompts else []


def measure_costs(task: Task, model: Model, answers: Sequence[Answer], latencies: Sequence[float]) -> list[float]:
    """USD per request: by the token where the model has a token price, else by the second of a request asked alone."""
    good = [a for a in answers if a.finish != "error"]
    if model.provider == "api" or prices.token_price(task, model.name) is not None:
        costs = [prices.request_cost(task, model, answer) for answer in good]
    else:
        costs = [
            prices.request_cost(task, model, answer, ms / 1000) for answer, ms in zip(good, latencies, strict=False)
        ]
    return [cost.usd for cost in costs if cost.usd is not None]


# ---------------------------------------------------------------- adding up


def _row(task: Task, example: TrainingExample, answer: Answer) -> dict[str, Any]:
    scored = scorers.score_answer(task, example, answer.text, answer.finish)
    row = {
        "id": example.id,
        "group": example.group,
        "answer": answer.text.encode("utf-8", "replace").decode(),
        "scores": scored.scores | {"failed": float(answer.finish == "error")},
        "format_reason": scored.format_reason,
        "latency_ms": round(answer.latency_ms, 1),
        "tokens_in": answer.tokens_in,
        "tokens_out": answer.tokens_out,
    }
    return row | ({"error": store.redact(answer.error)[:200]} if answer.error else {})


def add_up(
    task: Task, rows: Sequence[dict[str, Any]], latencies: Sequence[float], costs: Sequence[float]
) -> EvalResults:
    """EvalResults of scored rows; without a scorer (judge, human) accuracy is an estimate of 0 rows."""
    groups = [row["group"] for row in rows]
    names = list(rows[0]["scores"]) if rows else []
    scores = {name: statistics.proportion([row["scores"][name] for row in rows], groups) for name in names}
    nothing = Estimate(value=0.0, low=0.0, high=1.0, n=0)
    return EvalResults(
        accuracy=scores.pop("accuracy", nothing),
        format_compliance=scores.pop("format_compliance", nothing),
        latency_p50=statistics.quantile(latencies, 0.50),
        latency_p95=statistics.quantile(latencies, 0.95),
        cost_per_request=statistics.mean(costs),
        quality_scores=scores,
    )
