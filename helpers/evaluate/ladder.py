"""The whole ladder: what runs today, every technique on each model, the search for prompts."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from helpers import models, store
from helpers.evaluate import rungs
from helpers.evaluate.classical import CLASSICAL
from helpers.evaluate.limits import room_for_thoughts
from helpers.evaluate.running import ask_rung
from helpers.evaluate.session import LOG, Session
from helpers.models import Model
from helpers.records import Asking, RungResult, TrainingExample
from helpers.tasks import Task


def ways_to_ask(
    names: Sequence[str], basis: Asking, task: Task, model: Model, rung_models: Sequence[str] = ()
) -> list[Asking]:
    """What runs today, every rung with the given model, then with each of `rung_models`.

    A rung model is a local folder or hub id, or `NAME at BASE_URL`; its rungs are named rung@model.
    What task.yaml calls the incumbent is always asked.
    """
    limit = basis.max_new_tokens + room_for_thoughts(task)
    asked = {"response_format": task.schema, "tools": task.tools, "max_new_tokens": limit}
    asked["compute"] = models.resolve_compute(basis.compute)
    basis = basis.model_copy(update=asked)
    own = [name for name in names if name not in ("incumbent", CLASSICAL)]
    ways = []
    if "incumbent" in names or task.incumbent:
        ways.append(way_of_today(task, basis, model.spec))
    if CLASSICAL in names:
        ways.append(basis.for_rung(CLASSICAL, CLASSICAL))
    ways += [basis.for_rung(name, model.spec) for name in own]
    for spec in rung_models:
        ways += [basis.for_rung(f"{name}@{label(spec)}", spec) for name in own]
    told = []
    for way in ways:
        template_args = models.template_args(task, way.model)
        told.append(way.model_copy(update={"template_args": template_args}))
    return told


def way_of_today(task: Task, basis: Asking, base: str) -> Asking:
    """What runs today, as task.yaml says: its log, its own model, or its prompt with the base."""
    today = task.incumbent
    if today.get("answers"):
        spec = f"{LOG}{today['answers']}"
    elif today.get("model") and today.get("base_url"):
        spec = f"{today['model']} at {today['base_url']}"
    else:
        spec = today.get("model") or base
    asking = basis.for_rung("incumbent", spec)
    return asking.model_copy(update={"wording": str(today.get("instructions", ""))})


def label(spec: str) -> str:
    """How a rung model is called in names of rungs and files."""
    name = spec.partition(" at ")[0].rstrip("/").rpartition("/")[2]
    return re.sub(r"[^\w.-]", "-", name)


def ask_ladder(
    ways: Sequence[Asking], rows: Sequence[TrainingExample], session: Session
) -> list[RungResult]:
    """`ask_rung` for each way that can be asked here; the others are named and left out."""
    reasons = rungs.available([way.rung for way in ways], session.task, session.train)
    for rung, reason in reasons.items():
        if reason:
            session.say(f"{rung}: left out, {reason}")
    return [ask_rung(way, rows, session) for way in ways if not reasons[way.rung]]


def search_prompts(
    ways: Sequence[Asking], rows: Sequence[TrainingExample], session: Session, budget: int
) -> list[Asking]:
    """The ways as they score best on validation, after asking about all `rows` `budget` times.

    One change at a time, kept for all rungs when it is more accurate, or as accurate and better
    formed. Scores of what was chosen are optimistic for having been chosen; 04 measures it again on
    the test part.
    """
    session = replace(session, latency_rows=0)
    own = _searchable(ways, session) if rows and budget else {}
    changes = list(_changes(session.task, own))
    most = min(budget, len(changes) + len({rung for rung, _ in changes}))
    scores: dict[str, tuple[float, float]] = {}
    if most > 0:
        session.say(f"searching prompts on validation: at most {most} times {len(rows)} rows")

    def score(asking: Asking) -> tuple[float, float]:
        key = store.fingerprint(asking)
        if key not in scores:
            started = time.monotonic()
            results = ask_rung(asking, rows, session).results
            if not scores:
                minutes = (time.monotonic() - started) * (most - 1) / 60
                session.say(f"the rest of the search takes about {minutes:.0f} min at most")
            scores[key] = (results.accuracy.value, results.format_compliance.value)
        return scores[key]

    best: dict[str, Any] = {}
    for rung, change in changes:
        if len(scores) >= budget:
            break
        before = own[rung].model_copy(update=best)
        if score(before.model_copy(update=change)) > score(before):
            best |= change
    # what runs today stays as it is
    return [w if w.rung_kind == "incumbent" else w.model_copy(update=best) for w in ways]


def _searchable(ways: Sequence[Asking], session: Session) -> dict[str, Asking]:
    """The rungs whose prompts can be searched, by name; none where nobody has rated an answer."""
    if session.task.accuracy_from in ("judge", "human"):
        session.say("prompts are not searched: nobody has rated what they would be told apart by")
        return {}
    reasons = rungs.available([way.rung for way in ways], session.task, session.train)
    return {way.rung: way for way in ways if way.rung in rungs.LADDER and not reasons[way.rung]}


def _changes(task: Task, ways: dict[str, Asking]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(rung, what to change): wordings of task.yaml first, then examples, then retrieval."""
    if "prompt" in ways:
        for wording in task.wordings:
            yield "prompt", {"wording": wording}
    if "few_shot" in ways:
        if ways["few_shot"].few_shot_pick == "fixed":
            yield "few_shot", {"few_shot_pick": "nearest"}
        yield "few_shot", {"few_shot_k": ways["few_shot"].few_shot_k + 2}
        yield "few_shot", {"few_shot_k": 1}
    if "rag" in ways:
        yield "rag", {"rag_shots": 3}
        yield "rag", {"rag_k": ways["rag"].rag_k + 1}
        yield "rag", {"rag_dense": 0.5}
