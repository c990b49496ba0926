"""How long an answer may get: from the gold answers, since a limit below them fails right ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

from helpers import store, tasks
from helpers.evaluate.running import Rows, choose_rows, read_answers
from helpers.evaluate.scorers import Examples
from helpers.evaluate.session import Say
from helpers.models import Model
from helpers.records import Asking, Message, RungResult
from helpers.tasks import Task

TALL = 0.995  # the share of the gold answers that surely fit
SLACK = 0.25  # a right answer may be spaced or worded at greater length
LEAST_SLACK = 8  # tokens
THOUGHTS = 512  # tokens on top, where a task lets models think before they answer
MANY_CUT = 0.02  # of a rung's answers, by a limit below the gold answer's length
FEW = 0.005  # of the gold answers: longer ones are an exception


def limit_of(counts: Sequence[int]) -> int:
    """The limit for gold answers of these many tokens: p99.5, and a quarter more; 64 for none."""
    if not counts:
        return 64
    ordered = sorted(counts)
    long = ordered[math.ceil(TALL * len(ordered)) - 1]
    return long + max(LEAST_SLACK, math.ceil(SLACK * long))


def room_for_thoughts(task: Task) -> int:
    """Tokens that thoughts may take besides the answer."""
    return 0 if task.reasoning == "strip" else THOUGHTS


def with_answer_limit(
    task: Task, basis: Asking, examples: Examples, model: Model, say: Say
) -> Asking:
    """The basis with the limit that the gold answers of train and validation need.

    A limit that a profile sets is kept; when gold answers are longer, that is said.
    """
    answers = []
    for example in examples:
        if example.quality == "verified" and example.part != "test":
            answers += [turn.answer for turn in tasks.asked_turns(task, example) if turn.answer]
    # of each answer with the turn around it; endpoints are counted cautiously
    chats = {text: [Message(role="user", content=text)] for text in {"", *answers}}
    tokens = {text: model.count_tokens(chat) for text, chat in chats.items()}
    counts = [max(0, tokens[text] - tokens[""]) for text in answers]
    needed = limit_of(counts)
    if not basis.max_new_tokens:
        say(f"longest answer: {needed} tokens, from {len(answers)} gold answers (max_new_tokens)")
        return basis.model_copy(update={"max_new_tokens": needed})
    longer = sum(count > basis.max_new_tokens for count in counts)
    if longer > FEW * len(counts):
        say(
            f"max_new_tokens={basis.max_new_tokens} is less than {longer} of {len(counts)} gold"
            f" answers take, so right ones are cut; {needed} would do (0 takes that)"
        )
    return basis


def cut_short(examples: Examples, rows: Rows) -> list[str]:
    """Ids of answers that met the limit before they were as long as the gold answer."""
    gold = {example.id: len(example.answer) for example in examples}
    endless = [row for row in rows if row.scores.get("endless")]
    return [row.id for row in endless if len(row.answer) < gold.get(row.id, 0)]


def rows_left_out(task: Task, examples: Examples, part: str, asked: int, by: str) -> list[str]:
    """Which rows of a part were not asked about, and why: by `evaluate_on`, or parameters `by`."""
    limits = []
    rows = choose_rows(task, examples, part, say=limits.append)
    if asked < len(rows):
        what = "answers of chats" if task.evaluate_on == "all" else "rows"
        limits.append(f"{asked} of {len(rows)} {part} {what} asked, by {by}")
    return limits


def cut_answers(rungs: Sequence[RungResult], examples: Examples, run: store.Run) -> list[str]:
    """Which rungs lost answers to their limit, where it is more than a few, or got none at all."""
    limits = []
    for rung in rungs:
        rows = read_answers(run, rung)
        unanswered = sum(bool(row.error) for row in rows)
        if unanswered:
            limits.append(
                f"{rung.name}: {unanswered} of {rung.n} rows have no answer and count as wrong; a"
                " new run asks for them again"
            )
        cut = len(cut_short(examples, rows))
        if cut > MANY_CUT * rung.n:
            limits.append(
                f"{rung.name}: {cut} of {rung.n} answers were cut at max_new_tokens="
                f"{rung.asking.max_new_tokens} before they were as long as the gold answer"
            )
    return limits
