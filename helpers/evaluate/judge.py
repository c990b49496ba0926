"""Where no scorer can tell right from wrong: people, or a judging model, say which of two answers they would send.

Both see answer A and answer B without knowing whose they are, and choose A, B, both or neither. That gives each answer a
right or wrong, so the paired test is the same as everywhere else. `ratings.csv` (in the run's folder or the task's) holds
people's choices by the sha256 of the answers: the same answers never have to be rated again.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from helpers import models, store
from helpers.evaluate import statistics
from helpers.evaluate.running import RungResult, ask, read_answers
from helpers.models import Model, prices
from helpers.records import Estimate, Message, Record, TrainingExample, WorkbookError
from helpers.tasks import Task, hash_order

CHOICES = ("A", "B", "both", "neither")
COLUMNS = ("id", "asked", "A", "B", "a_sha", "b_sha", "choice")
RIGHT = {"A": (True, False), "B": (False, True), "both": (True, True), "neither": (False, False)}
REPEATS = 20  # pairs that the judge sees a second time in the same order
TRUSTED = (
    0.6  # kappa: "substantial" agreement begins here (Landis & Koch, Biometrics 1977, 33:159-174)
)
FAMILIES = re.compile(r"gpt|llama|qwen|mi[sx]tral|gemma|phi|smollm|claude|deepseek|granite", re.I)
CHOICE = re.compile(r"\b(A|B|both|neither)\b")
ASK = """You judge answers to this task:
{task}
{rubric}
Which of the two answers would you send as it is? Reply with one word: A, B, both or neither."""

Rights = dict[tuple[str, str], bool]  # (id, sha of the answer) -> is it right


class Ratings(Record):
    """Who rated the answers, how many, and how far that can be trusted."""

    by: Literal["judge", "human"]
    rated: int
    order_consistency: Estimate  # same choice when A and B change places
    repeat_consistency: Estimate  # same choice when asked again
    kappa: (
        float | None
    )  # agreement with people's ratings beyond chance; None = there are none of these answers
    kappa_rows: int
    cost_usd: float
    warnings: list[str]


def load_judge(name: str, base_url: str) -> Model | None:
    """The judging model of 04's parameters; None when none is named."""
    return models.load_model(name, base_url=base_url) if name else None


def sha(answer: str) -> str:
    """What an answer is known by in ratings.csv."""
    return hashlib.sha256(answer.encode("utf-8", "replace")).hexdigest()[:16]


def blind_table(
    examples: Sequence[TrainingExample], ours: Sequence[Mapping], theirs: Sequence[Mapping]
) -> list[dict[str, str]]:
    """Rows to rate: who is A is decided by a hash, equal answers are left out (they differ by nothing)."""
    said, table = {row["id"]: row["answer"] for row in theirs}, []
    asked = {e.id: e.user_text for e in examples}
    for row in sorted(ours, key=lambda row: hash_order(row["id"])):
        pair = [row["answer"], said[row["id"]]]
        if int(sha(f"{row['id']} {pair[0]}"), 16) % 2:
            pair.reverse()
        shas = {"a_sha": sha(pair[0]), "b_sha": sha(pair[1])}
        table.append(
            {"id": row["id"], "asked": asked[row["id"]], "A": pair[0], "B": pair[1]}
            | shas
            | {"choice": ""}
        )
    return table


def write_ratings(path: Path, table: Sequence[Mapping[str, str]]) -> Path:
    """The table as CSV, atomically: to fill in with any spreadsheet, or by the widget of 04."""
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return store.write_text(path, text.getvalue())


def read_ratings(run: store.Run, task: Task) -> Rights:
    """People's ratings of the run and of the task; a choice that is none of the four is an error with its line."""
    rights: Rights = {}
    for path in (task.folder / "ratings.csv", run.private / "ratings.csv", run.path("ratings.csv")):
        if not path.exists():
            continue
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.DictReader(file), 2):
                choice = (row.get("choice") or "").strip()
                choice = choice.upper() if len(choice) == 1 else choice.lower()
                if choice and choice not in CHOICES:
                    raise WorkbookError(
                        f"{path}, line {number}: choice {choice!r} is none of {', '.join(CHOICES)}"
                    )
                for right, side in zip(RIGHT.get(choice, ()), ("a_sha", "b_sha"), strict=False):
                    rights[row["id"], row[side]] = right
    return rights


def rate_pair(
    rungs: Mapping[str, RungResult],
    names: Sequence[str],
    examples: Sequence[TrainingExample],
    task: Task,
    run: store.Run,
    judge: Model | None,
    max_cost_usd: float = 0.0,
) -> tuple[dict[str, RungResult], Ratings | None]:
    """Accuracy from ratings for the rungs `names`, the first against each other one; others and other tasks pass."""
    if task.accuracy_from not in ("judge", "human"):
        return dict(rungs), None
    rows = {name: read_answers(run, rungs[name]) for name in names}
    table = blind_table(examples, rows[names[0]], rows[names[1]])
    by_people = read_ratings(run, task)
    if not (run.private / "ratings.csv").exists():
        write_ratings(run.private / "blind.csv", table)
    rights, ratings = by_people, _card("human", by_people)
    if task.accuracy_from == "judge" and judge is None:
        rights, ratings = (
            {},
            _card(
                "judge",
                {},
                warnings=["no judge is set (judge_model, judge_base_url): nothing was judged"],
            ),
        )
    elif task.accuracy_from == "judge":
        models.check_may_send(task, judge)
        tables = [
            table,
            *(blind_table(examples, rows[names[0]], rows[other]) for other in names[2:]),
        ]
        rights, ratings = ask_judge(
            judge, tables, examples, task, run, by_people, rungs[names[0]].model, max_cost_usd
        )
    updated = dict(rungs)
    for name in names:
        rated = [_rated(row, rights) for row in rows[name]]
        with store.lock():
            store.write_jsonl(run.path(rungs[name].answers), rated)
        scored = [row for row in rated if "accuracy" in row["scores"]]
        if scored:
            accuracy = statistics.score(
                [r["scores"]["accuracy"] for r in scored], [r["group"] for r in scored]
            )
            results = rungs[name].results.model_copy(update={"accuracy": accuracy})
            updated[name] = rungs[name].model_copy(update={"results": results})
    return updated, ratings


def _rated(row: dict[str, Any], rights: Rights) -> dict[str, Any]:
    right = rights.get((row["id"], sha(row["answer"])))
    return row if right is None else row | {"scores": row["scores"] | {"accuracy": float(right)}}


def _card(by: Literal["judge", "human"], rights: Rights, **more: Any) -> Ratings:
    nothing = statistics.proportion([])
    values = {
        "order_consistency": nothing,
        "repeat_consistency": nothing,
        "kappa": None,
        "kappa_rows": 0,
    }
    return Ratings(
        **{"by": by, "rated": len(rights), "cost_usd": 0.0, "warnings": []} | values | more
    )


def ask_judge(
    judge: Model,
    tables: Sequence[Sequence[Mapping[str, str]]],
    examples: Sequence[TrainingExample],
    task: Task,
    run: store.Run,
    by_people: Rights,
    candidate: str,
    max_cost_usd: float,
) -> tuple[Rights, Ratings]:
    """Each pair in both orders: an answer is right when it is in both. Judged pairs are remembered like all answers."""
    wanted = {e.id: e.answer for e in examples}
    pairs = [row for table in tables for row in table]
    swapped = [row | {"A": row["B"], "B": row["A"]} for row in pairs]
    again = [
        row | {"B": row["B"] + " "} for row in pairs[:REPEATS]
    ]  # the space makes it another question to the cache
    prompts = [_prompt(task, row, wanted[row["id"]]) for row in (*pairs, *swapped, *again)]
    answers = ask(judge, prompts, 8, 0, task, run, max_cost_usd)
    found = [RIGHT.get(match[0]) if (match := CHOICE.search(a.text)) else None for a in answers]
    n, rights, same = len(pairs), {}, []
    for row, one, two in zip(pairs, found[:n], found[n : 2 * n], strict=True):
        if one and two:
            two = two[::-1]
            same.append(float(one == two))
            for side, a, b in zip(("a_sha", "b_sha"), one, two, strict=True):
                rights.setdefault((row["id"], row[side]), a and b)
    repeated = [float(a == b) for a, b in zip(found, found[2 * n :], strict=False) if a and b]
    both = [(right, by_people[key]) for key, right in rights.items() if key in by_people]
    agreement, price = kappa(both), prices.token_price(task, judge.name)
    spent = (
        sum(prices.token_cost(price, a.tokens_in, a.tokens_out, a.tokens_cached) for a in answers)
        if price
        else 0.0
    )
    warnings = (
        [f"the judge gave no choice for {n - len(same)} of {n} pairs"] if len(same) < n else []
    )
    if family(judge.name) and family(judge.name) == family(candidate):
        warnings.append(
            f"judge {judge.name} and candidate {candidate} are of one family: models favour their own kind"
        )
    if agreement is None:
        warnings.append(
            "the judge was not compared with people: rate some rows (ratings.csv) before you trust it"
        )
    elif agreement < TRUSTED:
        warnings.append(
            f"the judge agrees with people at kappa {agreement:.2f} only ({len(both)} ratings)"
        )
    consistency = {
        "order_consistency": statistics.score(same),
        "repeat_consistency": statistics.score(repeated),
    }
    numbers = {"kappa": agreement, "kappa_rows": len(both), "cost_usd": spent, "warnings": warnings}
    return rights, _card("judge", rights, **consistency, **numbers)


def _prompt(task: Task, row: Mapping[str, str], wanted: str) -> list[Message]:
    rubric = (
        f"An answer is right when: {task.rubric}"
        if task.rubric
        else "An answer is right when it does what the task asks."
    )
    shown = [f"Question:\n{row['asked']}"] + ([f"A right answer:\n{wanted}"] if wanted else [])
    shown += [f"Answer A:\n{row['A']}", f"Answer B:\n{row['B']}"]
    system = ASK.format(task=task.instructions_full, rubric=rubric)
    return [
        Message(role="system", content=system),
        Message(role="user", content="\n\n".join(shown)),
    ]


def kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Cohen's kappa (Educ. Psychol. Meas. 1960, 20:37-46): agreement beyond chance; None where it is not defined."""
    n = len(pairs)
    if not n:
        return None
    ours, theirs = sum(a for a, _ in pairs) / n, sum(b for _, b in pairs) / n
    chance = ours * theirs + (1 - ours) * (1 - theirs)
    return None if chance == 1 else (sum(a == b for a, b in pairs) / n - chance) / (1 - chance)


def family(name: str) -> str:
    """The family a model's name tells ("" when it tells none)."""
    known = {"embedded": "smollm", "tiny": "llama"}.get(name)
    return known or (match[0].lower() if (match := FAMILIES.search(name)) else "")
