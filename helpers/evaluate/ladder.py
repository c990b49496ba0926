"""The whole ladder: every technique on the given model, on stronger ones, what runs today, and the search for prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from helpers import models, store, tasks
from helpers.evaluate import rungs
from helpers.evaluate.running import RungResult, run_rung, run_rungs
from helpers.models import Model
from helpers.models.logged import LoggedModel, question
from helpers.records import TrainingExample, WorkbookError
from helpers.tasks import Task


def ask_ladder(
    model: Model,
    names: Sequence[str],
    examples: Sequence[TrainingExample],
    task: Task,
    run: store.Run,
    *,
    rung_models: Sequence[str] = (),
    **settings: Any,
) -> list[RungResult]:
    """Every rung of `names` with the given model, then with each of `rung_models` (named rung@model), cheapest first.

    A rung model is a local folder or hub id, or `NAME at BASE_URL` for an endpoint. `settings` go to `run_rung`.
    """
    results = []
    if "incumbent" in names:
        today = incumbent(task, model)
        results += run_rungs(today or model, ["incumbent"], examples, task, run, **settings)
    own = [name for name in names if name != "incumbent"]
    results += run_rungs(model, own, examples, task, run, **settings)
    for spec in rung_models:
        labelled = [f"{name}@{label(spec)}" for name in own]
        results += run_rungs(rung_model(spec), labelled, examples, task, run, **settings)
    return results


def label(spec: str) -> str:
    """How a rung model is called in names of rungs and files."""
    return "".join(
        c if c.isalnum() or c in "-_." else "-"
        for c in spec.partition(" at ")[0].rstrip("/").rpartition("/")[2]
    )


def rung_model(spec: str) -> Model:
    """The model of one entry of `rung_models`."""
    name, _, base_url = spec.partition(" at ")
    return models.load_model(name.strip(), base_url=base_url.strip())


def model_for(rung: str, base: Model, task: Task, rung_models: Sequence[str]) -> Model:
    """The model that a rung was asked with: the base, unless its name says another one."""
    if rung == "incumbent":
        return incumbent(task, base) or base
    wanted = rung.partition("@")[2]
    if not wanted:
        return base
    for spec in rung_models:
        if label(spec) == wanted:
            return rung_model(spec)
    raise WorkbookError(
        f"rung {rung} was asked with a model that rung_models does not name; give {wanted} there again"
    )


def incumbent(task: Task, base: Model) -> Model | None:
    """What runs today, as task.yaml says under `incumbent`: its log, its own model, or its prompt with the base model."""
    today = task.incumbent
    if path := today.get("answers"):
        rows = [
            tasks.to_example(task, raw, "human", {}, task.folder / path)
            for raw in store.read_jsonl(task.folder / path)
        ]
        return LoggedModel({question(e.messages): e.answer for e in rows}, f"log:{path}")
    name, url = today.get("model", ""), today.get("base_url", "")
    return models.load_model(name, base_url=url) if name else base if today else None


def search_prompts(
    model: Model,
    names: Sequence[str],
    examples: Sequence[TrainingExample],
    task: Task,
    run: store.Run,
    asking: Mapping[str, Any],
    budget: int,
    **settings: Any,
) -> dict[str, Any]:
    """The way of asking that scores best on validation, after asking at most `budget` times about all `examples`.

    One change at a time, kept when it is more accurate, or as accurate and better formed.
    Scores of what was chosen are optimistic for having been chosen; 04 measures it again on the test part.
    """
    best = dict(asking)
    if budget < 1 or not examples:
        return best
    asked: dict[str, tuple[float, float]] = {}

    def score(rung: str, ways: Mapping[str, Any]) -> tuple[float, float]:
        key = store.canonical([rung, dict(ways)])
        if key not in asked:
            result = run_rung(
                model, rung, examples, task, run, asking=ways, **(settings | {"latency_rows": 0})
            ).results
            asked[key] = (result.accuracy.value, result.format_compliance.value)
        return asked[key]

    missing = rungs.available(names, task, settings.get("train", ()))
    for rung, change in _changes(task, best, [name for name in names if not missing[name]]):
        if len(asked) >= budget:
            break
        changed = best | change
        if score(rung, changed) > score(rung, best):
            best = changed
    return best


def _changes(
    task: Task, best: Mapping[str, Any], names: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(rung, what to change): wordings of task.yaml first, then examples, then retrieval."""
    k = int(best.get("few_shot_k", 3))
    if "prompt" in names:
        yield from (("prompt", {"instructions": text}) for text in task.wordings)
    if "few_shot" in names:
        yield from (
            ("few_shot", change)
            for change in ({"few_shot_pick": "nearest"}, {"few_shot_k": k + 2}, {"few_shot_k": 1})
        )
    if "rag" in names:
        changes: list[dict[str, Any]] = [
            {"rag_shots": 3},
            {"rag_k": int(best.get("rag_k", 1)) + 1},
            {"rag_dense": 0.5},
        ]
        yield from (("rag", change) for change in changes)
