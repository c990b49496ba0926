"""Asking one rung about examples: score the answers, write answers/<rung>.jsonl, add up.

p50 and p95 are of single requests in which nothing waits for anything else: of the first rows
(their order is that of a hash, so they are a sample), asked one by one after a warm-up that is not
counted. What the first one answers counts like any answer. What a run has timed on this machine it
does not time again for another part.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from collections.abc import Sequence

from helpers import models, store, tasks
from helpers.evaluate import scorers, statistics
from helpers.evaluate.answers import ask, model_for, timed_before
from helpers.evaluate.rungs import Chats, build_prompts
from helpers.evaluate.scorers import Examples
from helpers.evaluate.session import Say, Session
from helpers.evaluate.statistics import Numbers
from helpers.models import Answer, Model
from helpers.records import (
    AnswerRow,
    Asking,
    EvalResults,
    RungResult,
    TrainingExample,
    WorkbookError,
)
from helpers.tasks import Task

Rows = Sequence[AnswerRow]
Answers = Sequence[Answer]


def choose_rows(
    task: Task, examples: Examples, part: str, limit: int = 0, say: Say = lambda text: None
) -> list[TrainingExample]:
    """The verified rows of a part, or the first `limit` by their chat's sha256(id).

    More rows keep these. Under `evaluate_on: all` each answer of a chat is a row; `say` hears how
    many, and which are left out: those of weight 0, and gold answers that break the format.
    """
    chats = [e for e in examples if e.part == part and e.quality == "verified"]
    chats.sort(key=lambda example: tasks.hash_order(example.id))
    rows = []
    for chat in chats:
        *earlier, last = tasks.asked_turns(task, chat)
        rows += [e for e in earlier if not scorers.format_reason(e.answer, task.schema)]
        rows.append(last)
    if task.evaluate_on == "all":
        say(f"{part}: {len(rows)} answers of {len(chats)} chats{_turns_left_out(chats, rows)}")
    return rows[:limit] if limit else rows


def _turns_left_out(chats: Examples, rows: Examples) -> str:
    """Which answers within chats are not asked for, and why, as the end of a sentence."""
    asked = {row.id for row in rows}
    left_out = []
    for chat in chats:
        turns = enumerate(chat.messages[:-1], 1)
        answers = [f"{chat.id}#{number}" for number, turn in turns if turn.role == "assistant"]
        left_out += [answer for answer in answers if answer not in asked]
    if not left_out:
        return ", by evaluate_on: all"
    return (
        f", by evaluate_on: all; {len(left_out)} are left out, of weight 0 or not of the task's"
        f" format, such as {', '.join(left_out[:3])}"
    )


def ask_rung(asking: Asking, examples: Examples, session: Session, label: str = "") -> RungResult:
    """Ask one rung about every example; score, write down (as `label`) and add up the answers."""
    started = time.monotonic()
    name = label or asking.rung
    task = session.task
    model = model_for(asking, session)
    prompts = build_prompts(asking, task, examples, session.train)
    session.say(f"{name}: asking {model.name} about {len(examples)} rows")
    alone = _rows_alone(model, asking, session)
    try:
        answers = ask(prompts, asking, session, f"rung {name}", alone)
    except WorkbookError:
        if model.provider != "api":
            _name_refused(model, examples, prompts)
        raise
    rows = [_row(task, e, a) for e, a in zip(examples, answers, strict=True)]
    part = (examples[0].part if examples else None) or "validation"
    path = _answers_file(name, part)
    write_answers(session.run, path, rows)
    latencies = _times(prompts, answers[:alone], asking, session, _add_up(rows))
    results = _add_up(rows, latencies, _costs(task, model, answers, latencies))
    cut = sum(answer.finish == "length" for answer in answers)
    limit = f", {cut} cut off at max_new_tokens={asking.max_new_tokens}" if cut else ""
    accuracy = results.accuracy if results.accuracy.n else "unknown, nobody has rated it yet"
    session.say(
        f"{name}: accuracy {accuracy}, format {results.format_compliance}{limit},"
        f" {time.monotonic() - started:.0f} s"
    )
    _say_failures(name, rows, session)
    tokens = statistics.mean([answer.tokens_in + answer.tokens_out for answer in answers])
    return RungResult(
        name=name,
        model=model.name,
        part=part,
        n=len(rows),
        results=results,
        tokens_per_request=round(tokens.value, 2),
        answers=path,
        asking=asking,
    )


def _name_refused(model: Model, examples: Examples, prompts: Chats) -> None:
    """Say which row a template refuses, where that is what went wrong."""
    for example, prompt in zip(examples, prompts, strict=True):
        try:
            model.count_tokens(prompt)
        except WorkbookError as error:
            raise WorkbookError(f"{example.where}: {error}") from None


def _say_failures(name: str, rows: Rows, session: Session) -> None:
    """How many rows have no answer, why, and which."""
    errors = {row.id: row.error for row in rows if row.error}
    if errors:  # in lines that are short enough to be shown headless
        ids = ", ".join(row_id[:30] for row_id in list(errors)[:3])
        session.say(f"{name}: {len(errors)} of {len(rows)} rows have no answer, such as {ids}")
    for reason, count in Counter(errors.values()).most_common(3):
        session.say(f"{name}: {count} of them: {reason[:100]}")


def _answers_file(name: str, part: str) -> str:
    """Rungs asked about the test part get a name of their own, so that 01's answers stay."""
    stem = re.sub(r"[^\w.@-]", "-", name)
    if part == "test" and name != "fine_tuned":
        stem = f"test_{stem}"
    return f"answers/{stem}.jsonl"


def write_answers(run: store.Run, path: str, rows: Rows) -> None:
    """The rows behind a rung's scores, by which each of them can be computed again."""
    with store.lock():
        store.write_jsonl(run.path(path), [row.model_dump(exclude_none=True) for row in rows])


def read_answers(run: store.Run, rung: RungResult) -> list[AnswerRow]:
    """The rows behind a rung's scores."""
    return [AnswerRow.model_validate(row) for row in store.read_jsonl(run.path(rung.answers))]


def _rows_alone(model: Model, asking: Asking, session: Session) -> int:
    """How many rows are asked alone at once: latency_rows at an endpoint, else one, or none again.

    An endpoint gets one more: the first only opens the connection.
    """
    if model.provider == "api" and session.latency_rows:
        return session.latency_rows + 1
    if timed_before(asking, session):
        return 0
    return min(session.latency_rows, 1)


def _times(
    prompts: Chats, first: Answers, asking: Asking, session: Session, scores: EvalResults
) -> list[float]:
    """Milliseconds of the rows asked alone: the `first`, or more where that decides a ceiling.

    On a local model a row takes many times alone what it takes among others. So only a rung that
    may still meet its other targets is timed on the fewest rows that decide, else on latency_rows.
    """
    if model_for(asking, session).provider == "api":
        return _latencies(first[1:])
    targets = session.task.targets
    at_least = [metric for metric in statistics.AT_LEAST if metric in targets]
    verdicts = [statistics.target_met(m, getattr(scores, m), targets[m]) for m in at_least]
    few = min(statistics.FEW_TIMED, session.latency_rows)
    if len(at_least) == len(targets) or "fail" in verdicts or few < 2:
        return _latencies(first) or timed_before(asking, session)
    for rows in (few, session.latency_rows):
        timed = _latencies(ask(prompts[:rows], asking, session, f"rung {asking.rung}", rows))
        slowest = statistics.quantile(timed, 0.95)
        target = targets.get("latency_p95", math.inf)
        if statistics.target_met("latency_p95", slowest, target) != "undecided":
            break
    return timed


def _latencies(answers: Answers) -> list[float]:
    """Milliseconds of answers to rows asked alone; a log has none."""
    return [a.latency_ms for a in answers if a.finish != "error" and a.latency_ms]


def _costs(task: Task, model: Model, answers: Answers, latencies: Numbers) -> list[float]:
    """USD per request: by the token where the model has a price, else by the second."""
    timed = [(answers[0], milliseconds / 1000) for milliseconds in latencies]
    if models.token_price(task, model.name) is not None:
        timed = [(answer, 0.0) for answer in answers if answer.finish != "error"]
    costs = [models.request_cost(task, model, answer, seconds) for answer, seconds in timed]
    return [usd for usd in costs if usd is not None]


def _row(task: Task, example: TrainingExample, answer: Answer) -> AnswerRow:
    scores, format_reason = scorers.score_answer(task, example, answer.text, answer.finish)
    if answer.finish == "length" and format_reason and task.schema is not None:
        format_reason = f"cut off at the token limit: {format_reason}"
    scores["failed"] = float(answer.finish == "error")
    taken = answer.model_dump(include={"tokens_in", "tokens_out", "confidence"})
    return AnswerRow(
        id=example.id,
        group=example.group,
        answer=answer.text.encode("utf-8", "replace").decode(),
        scores=scores,
        format_reason=format_reason,
        latency_ms=round(answer.latency_ms, 1),
        error=store.redact(answer.error)[:200] if answer.error else None,
        **taken,
    )


def _add_up(rows: Rows, latencies: Numbers = (), costs: Numbers = ()) -> EvalResults:
    """EvalResults of scored rows; accuracy without a scorer is an estimate of 0 rows."""
    groups = [row.group for row in rows]
    scores = {}
    for name in rows[0].scores if rows else ():
        values = [row.scores[name] for row in rows]
        scores[name] = statistics.score(values, groups)
    nothing = statistics.proportion([])
    return EvalResults(
        accuracy=scores.pop("accuracy", nothing),
        format_compliance=scores.pop("format_compliance", nothing),
        latency_p50=statistics.quantile(latencies, 0.50),
        latency_p95=statistics.quantile(latencies, 0.95),
        cost_per_request=statistics.mean(costs),
        quality_scores=scores,
    )
