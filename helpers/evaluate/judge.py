"""Where no scorer can tell right from wrong: people, or a judging model, compare two answers.

Both see answer A and answer B without knowing whose they are, and choose A, B, both or neither.
That gives each answer a right or wrong beside the other one, so the paired test is the same as
everywhere else. Where both say the same, one question is left: both, or neither? `ratings.csv` (in
the run's folder or the task's; `ratings-NAME.csv` for further people) holds the choices by the
sha256 of the answers: the same two answers never have to be rated again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path

from helpers import models, store, tasks
from helpers.evaluate import statistics
from helpers.evaluate.answers import ask
from helpers.evaluate.running import Rows, read_answers, write_answers
from helpers.evaluate.scorers import Examples
from helpers.evaluate.session import Session
from helpers.models import Model
from helpers.records import AnswerRow, Asking, Finding, Message, Ratings, RungResult, WorkbookError
from helpers.tasks import Task, hash_order

COLUMNS = ("id", "asked", "A", "B", "a_sha", "b_sha", "choice")
TEXTS = ("asked", "A", "B")
KNOWN_BY = {"id", "a_sha", "b_sha", "choice"}
SAME = "(the same answer as A: choose both or neither)"
RIGHT = {"a": (True, False), "b": (False, True), "both": (True, True), "neither": (False, False)}
# kappa: "substantial" agreement begins here (Landis & Koch, Biometrics 1977, 33:159-174)
TRUSTED = 0.6
# of the pairs, with the same choice in both orders: GPT-4's own (Zheng et al. 2023, table 2)
CONSISTENT = 0.65
WORD = re.compile(r"\b(both|neither)\b")
LETTER = re.compile(r"(?<![A-Za-z0-9])[AB](?![A-Za-z0-9])")
CLAUSE = re.compile(r"[.;!?\n]|\b(?:because|since|whereas)\b", re.I)
# "Not A", "both are wrong", "a tie": such a clause chooses nothing
DOUBT = re.compile(r"\bnot\b|n't\b|\b(?:wrong|worse|worst|incorrect|bad|tie|tied|draw)\b", re.I)
ASK = """You judge answers to this task:
{task}
An answer is right when: {rubric}
Which of the two answers would you send as it is? Reply with one word: A, B, both or neither."""

RatedPair = tuple[Rows, Rows]  # ours and theirs, as they were rated side by side
Line = Mapping[str, str]  # by the names of COLUMNS
Table = list[dict[str, str]]  # of pairs to rate
Key = tuple[str, str, str]  # id of the row, sha of an answer, sha of the one beside it
Rights = dict[Key, bool]  # is that answer right
Vote = tuple[bool, bool] | None  # is A right, is B right; None: no choice was given


def load_judge(name: str, base_url: str) -> Model | None:
    """The judging model of 04's parameters; None when none is named."""
    return models.load_model(name, base_url=base_url) if name else None


def sha(answer: str) -> str:
    """What an answer is known by in ratings.csv: no number, which a spreadsheet would round."""
    return f"s{hashlib.sha256(answer.encode('utf-8', 'replace')).hexdigest()[:15]}"


def blind_table(examples: Examples, ours: Rows, theirs: Rows) -> Table:
    """Rows to rate, in the order of a hash, which also decides who is A.

    Equal answers stand once.
    """
    questions = {example.id: example.user_text for example in examples}
    other = {row.id: row.answer for row in theirs}
    table = []
    for row in sorted(ours, key=lambda row: hash_order(row.id)):
        a = row.answer
        b = other[row.id]
        if int(sha(f"{row.id} {a}")[1:], 16) % 2:
            a, b = b, a
        line = {"id": row.id, "asked": questions[row.id], "A": a, "B": SAME if a == b else b}
        line |= {"a_sha": sha(a), "b_sha": sha(b), "choice": ""}
        table.append(line)
    return table


def write_ratings(path: Path, table: Sequence[Line]) -> Path:
    """The table as CSV, atomically: to fill in with any spreadsheet, or by the widget of 04."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\r\n")
    writer.writeheader()
    for row in table:
        texts = {name: store.as_csv_cell(row[name]) for name in TEXTS if name in row}
        writer.writerow({**row, **texts})
    return store.write_text(path, text.getvalue())


def read_ratings(run: store.Run, task: Task) -> Rights:
    """People's ratings of the run and of the task: what most of them say, no majority being wrong.

    Another choice than the four is an error.
    """
    votes = defaultdict(list)
    for key, right in chain(*(ratings.items() for ratings in by_rater(run, task))):
        votes[key].append(right)
    return {key: 2 * sum(rights) > len(rights) for key, rights in votes.items()}


def by_rater(run: store.Run, task: Task) -> list[Rights]:
    """Each person's ratings, known by the name of their file; the run's own copy goes first."""
    raters = defaultdict(dict)
    for folder in (task.folder, run.private, run.path("")):
        for path in sorted(folder.glob("ratings*.csv")):
            raters[path.name] |= _read_ratings(path)
    return list(raters.values())


def kappa(first: Rights, second: Rights) -> tuple[float | None, int]:
    """(Cohen's kappa, answers that both rated); None where all say one and the same.

    Educ. Psychol. Meas. 1960, 20:37-46.
    """
    from sklearn.metrics import cohen_kappa_score

    pairs = [(right, second[key]) for key, right in first.items() if key in second]
    if len(set(chain(*pairs))) < 2:
        return None, len(pairs)
    return float(cohen_kappa_score(*zip(*pairs, strict=True))), len(pairs)


def _doubts(who: str, agreement: float | None, n: int) -> list[str]:
    """What to know where two who rated agree too little."""
    if agreement is None or agreement >= TRUSTED:
        return []
    return [
        f"{who} at kappa {agreement:.2f} only ({n} answers): say in `rubric` when an answer is"
        " right"
    ]


def _read_ratings(path: Path) -> Rights:
    """One person's choices, as a spreadsheet has saved them."""
    rights = {}
    for number, row in _own_rows(path) or [each[:2] for each in tasks.read_rows(path)]:
        if isinstance(row, ValueError):
            raise WorkbookError(f"{path}, line {number}: {row}")
        if not row.keys() >= KNOWN_BY:
            raise WorkbookError(f"{path} has to keep blind.csv's columns id, a_sha, b_sha, choice")
        choice = row["choice"].strip()
        if choice and choice.lower() not in RIGHT:
            raise WorkbookError(
                f"{path}, line {number}: choice {choice!r} is none of A, B, both, neither"
            )
        if choice:
            rights |= _said(row, RIGHT[choice.lower()])
    return rights


def _own_rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line, row) where the file is as `write_ratings` writes it; last cells may be left out.

    Its texts may hold lines that look like rows, which the reader of the tasks' tables doubts.
    """
    with suppress(UnicodeDecodeError, csv.Error), open(path, encoding="utf-8-sig", newline="") as f:
        reader = csv.DictReader(f, restval="", strict=True)
        rows = [(reader.line_num, row) for row in reader]
        if set(reader.fieldnames or ()) >= KNOWN_BY and all(None not in row for _, row in rows):
            return rows
    return []


def _keys(row: Line) -> tuple[Key, Key]:
    """By what A and B of a pair are known; one key where both say the same."""
    a_sha, b_sha = (f"s{row[name].removeprefix('s')[:15]}" for name in ("a_sha", "b_sha"))
    return (row["id"], a_sha, b_sha), (row["id"], b_sha, a_sha)


def _said(row: Line, vote: tuple[bool, bool]) -> Rights:
    """What a vote says of A and B; where both say the same, A means both."""
    of_a, of_b = _keys(row)
    if of_a == of_b:
        return {of_a: any(vote)}
    return {of_a: vote[0], of_b: vote[1]}


def rate_pairs(
    rungs: Mapping[str, RungResult], names: Sequence[str], examples: Examples, session: Session
) -> tuple[dict[str, RungResult], dict[str, RatedPair], Ratings | None]:
    """The rung `names[0]` beside each other one: (rungs, the rows of both by the other, ratings).

    Where people or a judge decide, the rows get their accuracy from what was said of the two
    together: an answer that is right beside a poor one may be wrong beside a good one. A rung's own
    accuracy is that of its first pair.
    """
    run = session.run
    first, *others = names
    rows = {name: read_answers(run, rungs[name]) for name in names}
    pairs = {name: (rows[first], rows[name]) for name in others}
    if session.task.accuracy_from not in ("judge", "human"):
        return dict(rungs), pairs, None
    table = [row for pair in pairs.values() for row in blind_table(examples, *pair)]
    rights, ratings = _rate(table, examples, session)
    updated = dict(rungs)
    for name, (ours, theirs) in pairs.items():
        pairs[name] = (_rated(ours, theirs, rights), _rated(theirs, ours, rights))
        updated[name] = _with_accuracy(rungs[name], pairs[name][1], run)
    updated[first] = _with_accuracy(rungs[first], pairs[others[0]][0], run)
    return updated, pairs, ratings


def rate_rungs(
    measured: Sequence[RungResult], examples: Examples, session: Session
) -> list[RungResult]:
    """01's rungs with the accuracy that people or the judge give them; others as they are.

    What nobody has rated yet stands in private/blind.csv.
    """
    if not measured:
        return []
    rungs = {result.name: result for result in measured}
    names = list(rungs)
    if len(names) == 1:
        names *= 2  # one alone is rated beside itself
    rated, _, ratings = rate_pairs(rungs, names, examples, session)
    for warning in ratings.warnings if ratings else ():
        session.say(warning)
    return list(rated.values())


def _rate(table: Table, examples: Examples, session: Session) -> tuple[Rights, Ratings]:
    """What people say of the pairs, or the judge; what nobody has rated goes to blind.csv."""
    by_people = read_ratings(session.run, session.task)
    unrated = {_keys(row)[0]: row for row in table if _keys(row)[0] not in by_people}
    if unrated:
        write_ratings(session.run.private / "blind.csv", list(unrated.values()))
        _say_misnamed(unrated, {row["id"] for row in table}, by_people, session)
    if session.task.accuracy_from == "human":
        rated = {key for row in table for key in _keys(row)} & by_people.keys()
        warnings = []
        first, *others = by_rater(session.run, session.task) or [{}]
        for other in others:
            warnings += _doubts("two people agree", *kappa(first, other))
        return by_people, Ratings(by="human", rated=len(rated), warnings=warnings)
    if session.judge is None:
        warning = "no judge is set (judge_model, judge_base_url): nothing was judged"
        return {}, Ratings(by="judge", warnings=[warning])
    return ask_judge(session.judge, table, examples, session, by_people)


def _say_misnamed(
    unrated: Collection[Key], ids: Collection[str], by_people: Rights, session: Session
) -> None:
    """Name ratings whose id no row has, though their two answers still wait to be rated."""
    waiting = {key[1:] for key in unrated}
    odd = sorted({key[0] for key in by_people if key[1:] in waiting and key[0] not in ids})
    if odd:
        session.say(
            f"ratings of {len(odd)} ids that no row has do not count ({', '.join(odd[:5])}): take"
            " the ids of private/blind.csv, and save as UTF-8"
        )


def _rated(rows: Rows, others: Rows, rights: Rights) -> list[AnswerRow]:
    """The rows, scored by what was said of them beside the others."""
    other = {row.id: row.answer for row in others}
    rated = []
    for row in rows:
        key = (row.id, sha(row.answer), sha(other[row.id]))
        said = {"accuracy": float(rights[key])} if key in rights else {}
        rated.append(row.model_copy(update={"scores": row.scores | said}))
    return rated


def _with_accuracy(rung: RungResult, rated: Rows, run: store.Run) -> RungResult:
    """The rung with the accuracy of its rated rows, which also go into its answers."""
    write_answers(run, rung.answers, rated)
    scored = [row for row in rated if "accuracy" in row.scores]
    if not scored:
        return rung
    values = [row.scores["accuracy"] for row in scored]
    accuracy = statistics.score(values, [row.group for row in scored])
    results = rung.results.model_copy(update={"accuracy": accuracy})
    return rung.model_copy(update={"results": results})


def ask_judge(
    judge: Model, pairs: Table, examples: Examples, session: Session, by_people: Rights
) -> tuple[Rights, Ratings]:
    """Each pair in both orders: an answer is right when it is in both."""
    # a judge sees two answers, also where they are equal
    pairs = [row | {"B": row["A"] if row["B"] == SAME else row["B"]} for row in pairs]
    swapped = [row | {"A": row["B"], "B": row["A"]} for row in pairs]
    gold = {example.id: example.answer for example in examples}
    prompts = [_prompt(session.task, row, gold[row["id"]]) for row in (*pairs, *swapped)]
    asking = Asking(rung="judge", model=judge.spec, max_new_tokens=8)
    session = replace(session, models=session.models | {judge.spec: judge})
    answers = ask(prompts, asking, session, "judge")
    votes = [_vote(answer.text) for answer in answers]
    n = len(pairs)
    rights, same_swapped = _agreed(pairs, votes[:n], votes[n:])
    agreement, in_common = kappa(rights, by_people)
    warnings = _doubts("the judge and people agree", agreement, in_common)
    if not in_common:
        warnings.append(
            "the judge was not compared with people: rate some rows (ratings.csv) before you trust"
            " it"
        )
    if len(same_swapped) < n:
        warnings.append(f"the judge gave no choice for {n - len(same_swapped)} of {n} pairs")
    cost = sum(models.real_cost(session.task, judge, answer, 0.0) for answer in answers)
    return rights, Ratings(
        by="judge",
        rated=len(rights),
        order_consistency=statistics.score(same_swapped),
        kappa=agreement,
        kappa_rows=in_common,
        cost_usd=cost,
        warnings=warnings,
    )


def judge_is_consistent(ratings: Ratings | None) -> list[Finding]:
    """Undecided where the judge takes the other answer once A and B have changed places.

    Such pairs count as wrong for both, so any two models would look alike: no worse.
    """
    if ratings is None or not ratings.order_consistency.n:
        return []
    share = ratings.order_consistency
    return [
        Finding(
            name="judge",
            verdict="pass" if share.value >= CONSISTENT else "undecided",
            evidence=f"the judge chose the same in both orders of A and B: {share},"
            f" at least {CONSISTENT:g} is asked for",
            remedy="take a stronger judge, or have people rate",
        )
    ]


def _agreed(
    pairs: Table, votes: Sequence[Vote], swapped: Sequence[Vote]
) -> tuple[Rights, list[float]]:
    """(which answers are right in both orders, whether the choice was the same in both)."""
    rights = {}
    same = []
    for row, vote, other in zip(pairs, votes, swapped, strict=True):
        if vote and other:
            first = _said(row, vote)
            again = _said(row, other[::-1])
            same.append(float(first == again))
            rights |= {key: first[key] and again[key] for key in first}
    return rights, same


def _vote(text: str) -> Vote:
    """None where it names no choice, A and B without saying which, or only what is wrong."""
    text = text.rpartition("</think>")[2].replace("’", "'")
    bare = re.sub(r"\W", "", text).lower()
    if bare in RIGHT:
        return RIGHT[bare]
    if "<think>" in text:  # it was cut before it had chosen
        return None
    text = ";".join(clause for clause in CLAUSE.split(text) if not DOUBT.search(clause))
    choices = set(WORD.findall(text.lower())) or set(LETTER.findall(text))
    return RIGHT[choices.pop().lower()] if len(choices) == 1 else None


def _prompt(task: Task, row: Line, gold: str) -> list[Message]:
    rubric = task.rubric or "it does what the task asks."
    system = ASK.format(task=task.instructions_full, rubric=rubric)
    blocks = [f"Question:\n{row['asked']}"]
    if gold:
        blocks.append(f"A right answer:\n{gold}")
    blocks += [f"Answer A:\n{row['A']}", f"Answer B:\n{row['B']}"]
    return [
        Message(role="system", content=system),
        Message(role="user", content="\n\n".join(blocks)),
    ]
