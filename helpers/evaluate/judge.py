"""Where no scorer can tell right from wrong: people, or a judging model, compare two answers.

Both see answer A and answer B without knowing whose they are, and choose A, B, both or neither.
That gives each answer a right or wrong, so the paired test is the same as everywhere else. Where
both say the same, one question is left: both, or neither? `ratings.csv` (in the run's folder or the
task's; `ratings-NAME.csv` for further people) holds the choices by the sha256 of the answers: the
same answers never have to be rated again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from helpers import models, store
from helpers.evaluate import statistics
from helpers.evaluate.answers import ask
from helpers.evaluate.running import Rows, read_answers
from helpers.evaluate.session import Session
from helpers.models import Model
from helpers.records import Asking, Message, Ratings, RungResult, TrainingExample, WorkbookError
from helpers.tasks import Task, hash_order

CHOICES = ("A", "B", "both", "neither")
COLUMNS = ("id", "asked", "A", "B", "a_sha", "b_sha", "choice")
TEXTS = ("asked", "A", "B")
SAME = "(the same answer as A: choose both or neither)"
RIGHT = {"A": (True, False), "B": (False, True), "both": (True, True), "neither": (False, False)}
# kappa: "substantial" agreement begins here (Landis & Koch, Biometrics 1977, 33:159-174)
TRUSTED = 0.6
CHOICE = re.compile(r"\b(A|B|both|neither)\b")
ASK = """You judge answers to this task:
{task}
{rubric}
Which of the two answers would you send as it is? Reply with one word: A, B, both or neither."""

Table = list[dict[str, str]]  # rows to rate, with the keys of COLUMNS
Rights = dict[tuple[str, str], bool]  # (id, sha of the answer) -> is it right
Vote = tuple[bool, bool] | None  # is A right, is B right; None: no choice was given


def load_judge(name: str, base_url: str) -> Model | None:
    """The judging model of 04's parameters; None when none is named."""
    return models.load_model(name, base_url=base_url) if name else None


def sha(answer: str) -> str:
    """What an answer is known by in ratings.csv."""
    return hashlib.sha256(answer.encode("utf-8", "replace")).hexdigest()[:16]


def blind_table(examples: Sequence[TrainingExample], ours: Rows, theirs: Rows) -> Table:
    """Rows to rate, in the order of a hash, which also decides who is A.

    Equal answers stand once.
    """
    questions = {example.id: example.user_text for example in examples}
    other = {row.id: row.answer for row in theirs}
    table = []
    for row in sorted(ours, key=lambda row: hash_order(row.id)):
        a, b = row.answer, other[row.id]
        if int(sha(f"{row.id} {row.answer}"), 16) % 2:
            a, b = b, a
        shown = SAME if a == b else b
        line = {"id": row.id, "asked": questions[row.id], "A": a, "B": shown}
        table.append(line | {"a_sha": sha(a), "b_sha": sha(b), "choice": ""})
    return table


def write_ratings(path: Path, table: Sequence[Mapping[str, str]]) -> Path:
    """The table as CSV, atomically: to fill in with any spreadsheet, or by the widget of 04."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in table:
        texts = {name: store.as_csv_cell(row[name]) for name in TEXTS if name in row}
        writer.writerow({**row, **texts})
    return store.write_text(path, text.getvalue())


def read_ratings(run: store.Run, task: Task) -> Rights:
    """People's ratings of the run and of the task: what most of them say, no majority being wrong.

    Another choice than the four is an error.
    """
    votes: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for ratings in by_rater(run, task).values():
        for key, right in ratings.items():
            votes[key].append(right)
    return {key: 2 * sum(rights) > len(rights) for key, rights in votes.items()}


def by_rater(run: store.Run, task: Task) -> dict[str, Rights]:
    """Ratings by the name of their file; of one file, the run's own copy goes first."""
    raters: dict[str, Rights] = {}
    for folder in (task.folder, run.private, run.path("")):
        for path in sorted(folder.glob("ratings*.csv")):
            raters[path.name] = raters.get(path.name, {}) | _read_ratings(path)
    return raters


def _raters_warnings(run: store.Run, task: Task) -> list[str]:
    """What to know where the first two people agree too little; one rates alone: nothing."""
    everybody = list(by_rater(run, task).values())
    if len(everybody) < 2:
        return []
    first, second = everybody[:2]
    pairs = [(right, second[key]) for key, right in first.items() if key in second]
    agreement = kappa(pairs)
    if agreement is None or agreement >= TRUSTED:
        return []
    return [
        f"two people agree at kappa {agreement:.2f} only ({len(pairs)} answers): say in `rubric`"
        " when an answer is right"
    ]


def _read_ratings(path: Path) -> Rights:
    rights: Rights = {}
    with open(path, encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(csv.DictReader(file), 2):
            choice = (row.get("choice") or "").strip()
            choice = choice.upper() if len(choice) == 1 else choice.lower()
            if not choice:
                continue
            if choice not in CHOICES:
                known = ", ".join(CHOICES)
                raise WorkbookError(f"{path}, line {number}: choice {choice!r} is none of {known}")
            a_is_right, b_is_right = RIGHT[choice]
            if row["a_sha"] == row["b_sha"]:
                a_is_right = b_is_right = choice != "neither"
            rights[row["id"], row["a_sha"]] = a_is_right
            rights[row["id"], row["b_sha"]] = b_is_right
    return rights


def rate_pair(
    rungs: Mapping[str, RungResult],
    names: Sequence[str],
    examples: Sequence[TrainingExample],
    session: Session,
    judge: Model | None,
) -> tuple[dict[str, RungResult], Ratings | None]:
    """Accuracy from ratings for the rungs `names`, the first against each other one."""
    task = session.task
    run = session.run
    if task.accuracy_from not in ("judge", "human"):
        return dict(rungs), None
    rows = {name: read_answers(run, rungs[name]) for name in names}
    first, *others = names
    tables = [blind_table(examples, rows[first], rows[other]) for other in others]
    by_people = read_ratings(run, task)
    unrated = _unrated(tables, by_people)
    if unrated:
        write_ratings(run.private / "blind.csv", unrated)
    rights = by_people
    if task.accuracy_from == "human":
        warnings = _raters_warnings(run, task)
        ratings = Ratings(by="human", rated=len(by_people), warnings=warnings)
    elif judge is None:
        rights = {}
        warning = "no judge is set (judge_model, judge_base_url): nothing was judged"
        ratings = Ratings(by="judge", warnings=[warning])
    else:
        pairs = [row for table in tables for row in table]
        rights, ratings = ask_judge(judge, pairs, examples, session, by_people)
    updated = dict(rungs)
    for name in names:
        updated[name] = _with_accuracy(rungs[name], rows[name], rights, run)
    return updated, ratings


def rate_rungs(
    measured: Sequence[RungResult],
    examples: Sequence[TrainingExample],
    session: Session,
    judge: Model | None,
) -> list[RungResult]:
    """01's rungs with the accuracy that people or the judge give them; others as they are.

    What nobody has rated yet stands in private/blind.csv.
    """
    if session.task.accuracy_from not in ("judge", "human") or len(measured) < 2:
        return list(measured)
    asked = min(result.n for result in measured)
    rungs = {result.name: result for result in measured}
    rated, ratings = rate_pair(rungs, list(rungs), examples[:asked], session, judge)
    for warning in ratings.warnings if ratings else ():
        session.say(warning)
    return list(rated.values())


def _unrated(tables: Sequence[Table], by_people: Rights) -> Table:
    """The pairs of all tables that somebody has still to rate, each once."""
    pairs = {}
    for row in (row for table in tables for row in table):
        keys = [(row["id"], row["a_sha"]), (row["id"], row["b_sha"])]
        if any(key not in by_people for key in keys):
            pairs[frozenset(keys)] = row
    return list(pairs.values())


def _with_accuracy(rung: RungResult, rows: Rows, rights: Rights, run: store.Run) -> RungResult:
    """The rung with the accuracy that the ratings give it, which also goes into its answers."""
    rated = []
    for row in rows:
        right = rights.get((row.id, sha(row.answer)))
        scores = {} if right is None else {"accuracy": float(right)}
        rated.append(row.model_copy(update={"scores": row.scores | scores}))
    with store.lock():
        store.write_jsonl(
            run.path(rung.answers), [row.model_dump(exclude_none=True) for row in rated]
        )
    scored = [row for row in rated if "accuracy" in row.scores]
    if not scored:
        return rung
    accuracy = statistics.score(
        [row.scores["accuracy"] for row in scored], [row.group for row in scored]
    )
    results = rung.results.model_copy(update={"accuracy": accuracy})
    return rung.model_copy(update={"results": results})


def ask_judge(
    judge: Model,
    pairs: Sequence[Mapping[str, str]],
    examples: Sequence[TrainingExample],
    session: Session,
    by_people: Rights,
) -> tuple[Rights, Ratings]:
    """Each pair in both orders: an answer is right when it is in both."""
    # a judge sees two answers, also where they are equal
    pairs = [row | {"B": row["A"] if row["B"] == SAME else row["B"]} for row in pairs]
    swapped = [row | {"A": row["B"], "B": row["A"]} for row in pairs]
    gold = {example.id: example.answer for example in examples}
    prompts = []
    for row in (*pairs, *swapped):
        prompts.append(_prompt(session.task, row, gold[row["id"]]))
    asking = Asking(rung="judge", model=judge.spec, max_new_tokens=8)
    session = replace(session, models=session.models | {judge.spec: judge})
    answers = ask(prompts, asking, session, "judge")
    votes = [_vote(answer.text) for answer in answers]
    n = len(pairs)
    rights, same_swapped = _agreed(pairs, votes[:n], votes[n:])
    rated_by_both = [(right, by_people[key]) for key, right in rights.items() if key in by_people]
    agreement = kappa(rated_by_both)
    warnings = [_trust_warning(agreement, len(rated_by_both))]
    if len(same_swapped) < n:
        warnings.append(f"the judge gave no choice for {n - len(same_swapped)} of {n} pairs")
    cost = sum(models.real_cost(session.task, judge, answer, 0.0) for answer in answers)
    return rights, Ratings(
        by="judge",
        rated=len(rights),
        order_consistency=statistics.score(same_swapped),
        kappa=agreement,
        kappa_rows=len(rated_by_both),
        cost_usd=cost,
        warnings=[warning for warning in warnings if warning],
    )


def _agreed(
    pairs: Sequence[Mapping[str, str]], votes: Sequence[Vote], swapped: Sequence[Vote]
) -> tuple[Rights, list[float]]:
    """(which answers are right in both orders, whether the choice was the same in both)."""
    rights: Rights = {}
    same = []
    for row, vote, other in zip(pairs, votes, swapped, strict=True):
        if vote and other:
            b_again, a_again = other
            same.append(float(vote == (a_again, b_again)))
            if row["a_sha"] == row["b_sha"]:
                rights.setdefault((row["id"], row["a_sha"]), any(vote) and any(other))
                continue
            rights.setdefault((row["id"], row["a_sha"]), vote[0] and a_again)
            rights.setdefault((row["id"], row["b_sha"]), vote[1] and b_again)
    return rights, same


def _trust_warning(agreement: float | None, rows: int) -> str:
    if agreement is None:
        return (
            "the judge was not compared with people: rate some rows (ratings.csv) before you trust"
            " it"
        )
    if agreement < TRUSTED:
        return f"the judge agrees with people at kappa {agreement:.2f} only ({rows} ratings)"
    return ""


def _vote(text: str) -> Vote:
    choice = CHOICE.search(text)
    return RIGHT[choice[0]] if choice else None


def _prompt(task: Task, row: Mapping[str, str], gold: str) -> list[Message]:
    rubric = "An answer is right when it does what the task asks."
    if task.rubric:
        rubric = f"An answer is right when: {task.rubric}"
    system = ASK.format(task=task.instructions_full, rubric=rubric)
    blocks = [f"Question:\n{row['asked']}"]
    if gold:
        blocks.append(f"A right answer:\n{gold}")
    blocks += [f"Answer A:\n{row['A']}", f"Answer B:\n{row['B']}"]
    return [
        Message(role="system", content=system),
        Message(role="user", content="\n\n".join(blocks)),
    ]


def kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Cohen's kappa (Educ. Psychol. Meas. 1960, 20:37-46); None where all say one and the same."""
    from sklearn.metrics import cohen_kappa_score

    if len(set(chain(*pairs))) < 2:
        return None
    return float(cohen_kappa_score(*zip(*pairs, strict=True)))
