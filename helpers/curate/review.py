"""From unverified to verified: what a person is asked to decide, and how the next run applies what they decided.

review.csv asks (one row per example: keep, fix or drop); accept.csv takes rejected rows back (id, reason). Both are
read from the task's folder and from the dataset versions of the task, the task's folder having the last word.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from helpers import store, tasks
from helpers.curate.checks import Sieved, reject
from helpers.curate.personal import masked_text
from helpers.records import Issue, TrainingExample, WorkbookError

COLUMNS = ("id", "source", "input", "output", "why", "decision", "corrected_output", "reviewer")
DECISIONS = ("keep", "fix", "drop")
ASK = 20  # rows asked for each reason, conflicts apart
MAX_RANKED = 20_000  # rows ranked for label errors and compared by meaning; more are a sample
MEANING, MEANING_ALONE = (
    0.75,
    0.85,
)  # cosine of a rephrased text: with the same numbers, and where there are none
CANDIDATES = 10  # closest texts looked at for each
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
Why = tuple[TrainingExample, str]


class Decisions(NamedTuple):
    """What people decided: id -> row of review.csv, and id -> why a rejected row is taken back."""

    reviewed: dict[str, dict[str, str]]
    accepted: dict[str, str]


def read_decisions(task: tasks.Task) -> Decisions:
    """All decisions about a task's rows; a row without a decision still waits and says nothing."""
    found = Decisions({}, {})
    manifests = sorted(store.home().glob(f"datasets/{task.name}-*/manifest.json"))
    manifests.sort(key=lambda path: store.read_json(path)["created_at"])
    for folder in [*(path.parent for path in manifests), task.folder]:
        for line, row in _table(folder / "review.csv", ("id", "decision")):
            where, decision = f"{folder}/review.csv, line {line}", row["decision"].strip().lower()
            if decision and decision not in DECISIONS:
                raise WorkbookError(
                    f"{where}: decision {decision[:20]!r}; write {', '.join(DECISIONS)}, or nothing"
                )
            if decision == "fix" and not (row.get("corrected_output") or "").strip():
                raise WorkbookError(f"{where}: `fix` needs the right answer under corrected_output")
            if decision:
                found.reviewed[row["id"]] = row | {"decision": decision}
        for line, row in _table(folder / "accept.csv", ("id", "reason")):
            if not row["reason"].strip():
                raise WorkbookError(
                    f"{folder}/accept.csv, line {line}: say under `reason` why this row may come back"
                )
            found.accepted[row["id"]] = row["reason"].strip()
    return found


def _table(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    if not path.exists():
        return
    for line, row, _ in tasks.read_rows(path):
        if not isinstance(row, dict):
            raise WorkbookError(f"{path}, line {line}: {row}")
        if missing := [name for name in needed if name not in row]:
            raise WorkbookError(
                f"{path}: the column {missing[0]!r} is missing; it needs {', '.join(needed)}"
            )
        yield line, {key: value or "" for key, value in row.items()}


def apply_decisions(
    examples: Sequence[TrainingExample], decisions: Decisions
) -> tuple[Sieved, list[str]]:
    """Examples as the reviewers left them: verified, corrected or dropped; id, group and part never change.

    A logged row stays in train when it becomes verified: it may have been learnt from already.
    """
    kept, rejected, counts = [], [], Counter()
    for example in examples:
        row = decisions.reviewed.get(example.id)
        if row is None:
            kept.append(example)
        elif row["decision"] == "drop":
            issue = Issue(code="low_feedback", evidence="a reviewer decided to drop it")
            rejected.append(reject(example, [issue], "review"))
            counts[example.source, issue.code] += 1
        else:
            review = {"decision": row["decision"], "reviewer": row.get("reviewer", "")}
            changes: dict[str, Any] = {
                "quality": "verified",
                "part": example.part or _part_of_log(example),
            }
            if row["decision"] == "fix":
                review["original"] = example.answer
                answer = example.messages[-1].model_copy(
                    update={"content": row["corrected_output"].strip()}
                )
                changes["messages"] = [*example.prompt, answer]
            kept.append(
                example.model_copy(update=changes | {"meta": example.meta | {"review": review}})
            )
    missing = (set(decisions.reviewed) | set(decisions.accepted)) - {e.id for e in examples}
    said = (
        [f"review.csv or accept.csv names {len(missing)} rows that no source holds (any more)"]
        if missing
        else []
    )
    return Sieved(kept, rejected, counts), said


def _part_of_log(example: TrainingExample) -> str | None:
    return None if example.source == "human" else "train"


def review_rows(
    conflicts: Sequence[tuple[TrainingExample, TrainingExample, float]],
    named: Sequence[Why],
    examples: Sequence[TrainingExample],
    labels: dict[str, Callable[[TrainingExample], str]],
) -> list[dict[str, str]]:
    """What a person should decide, each row once with its reasons: conflicts, names, doubtful labels, rated logs, a sample."""
    asked: dict[str, dict[str, str]] = {}
    ids = {e.id for e in examples}
    pairs = (
        (e, f"label_conflict with {o.id} (Jaccard {s:.2f})")
        for a, b, s in conflicts
        for e, o in ((a, b), (b, a))
    )
    drawn = sorted(examples, key=lambda e: tasks.hash_order(f"review:{e.id}"))
    rated = [
        (e, f"rated {e.feedback_score:g}: is it right?")
        for e in drawn
        if e.feedback_score and e.quality != "verified"
    ]
    sample = [(e, "random sample") for e in drawn]
    doubtful = [
        (e, f"{field} may be wrong (quality {s:.2f})") for e, field, s in rank_labels(drawn, labels)
    ]
    for reasons in (
        list(pairs),
        named,
        doubtful[:ASK],
        close_in_meaning(drawn)[:ASK],
        rated[:ASK],
        sample[:ASK],
    ):
        for example, why in reasons:
            if (
                "review" in example.meta or example.id not in ids
            ):  # decided already, or left out after all
                continue
            if example.id not in asked:
                texts = {
                    "input": masked_text(example.user_text),
                    "output": masked_text(example.answer),
                }
                asked[example.id] = {
                    "id": example.id,
                    "source": example.source,
                    **texts,
                    "why": why,
                }
            row = asked[example.id]
            if why not in row["why"].split("; "):
                row["why"] += f"; {why}"
    return list(asked.values())


def rank_labels(
    examples: Sequence[TrainingExample], labels: dict[str, Callable[[TrainingExample], str]]
) -> list[tuple[TrainingExample, str, float]]:
    """(example, field, quality) of probable label errors, worst first: cleanlab on out-of-fold ComplementNB chances.

    Northcutt et al. 2021, "Confident learning". Without the extra `curate`, or with labels too rare to learn: [].
    """
    try:
        from cleanlab.filter import find_label_issues
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        return []
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.model_selection import cross_val_predict
    from sklearn.naive_bayes import ComplementNB

    found = []
    for field, label in labels.items():
        values = [label(e) for e in examples[:MAX_RANKED]]
        often = {value for value, n in Counter(values).items() if n >= 5}
        rows = [e for e, value in zip(examples, values, strict=False) if value in often]
        if len(often) < 2:
            continue
        _, given = np.unique([label(e) for e in rows], return_inverse=True)
        texts = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1).fit_transform(
            [tasks.normalise(e.user_text) or "-" for e in rows]
        )
        chances = cross_val_predict(
            ComplementNB(alpha=0.3), texts, given, cv=5, method="predict_proba"
        )
        quality = get_label_quality_scores(given, chances)
        flagged = np.flatnonzero(find_label_issues(given, chances, n_jobs=1))
        found += [(rows[i], field, float(quality[i])) for i in flagged]
    return sorted(found, key=lambda row: row[2])


def close_in_meaning(examples: Sequence[TrainingExample]) -> list[Why]:
    """Train rows that may say the same as a validation or test row in other words, closest first; [] without wordllama."""
    train = [e for e in examples if e.part == "train"][:MAX_RANKED]
    judged = [e for e in examples if e.part != "train"][: MAX_RANKED // 4]
    try:
        found = sorted(
            rephrased([e.user_text for e in train], [e.user_text for e in judged]),
            key=lambda row: -row[2],
        )
    except WorkbookError:  # the extra `curate` is not installed
        return []
    said = ((train[i], judged[j], cosine) for i, j, cosine in found)
    return [(e, f"may rephrase {o.part} row {o.id} (cosine {cosine:.2f})") for e, o, cosine in said]


def rephrased(texts: Sequence[str], others: Sequence[str]) -> Iterator[tuple[int, int, float]]:
    """(i, j, cosine) of the text j of `others`, but itself, that each text may rephrase.

    Rephrasing keeps the numbers, and the same story with other numbers is another question: so texts with numbers must
    share half of them, and texts without must be closer. Chosen on GSM8K's even test rows (docs/decisions.md).
    """
    import numpy as np

    from helpers.models.embeddings import embed

    if not texts or not others:
        return
    theirs, numbers = embed(others), [set(_NUMBER.findall(text)) for text in others]
    for start in range(0, len(texts), 1000):
        for i, cosines in enumerate(embed(texts[start : start + 1000]) @ theirs.T, start):
            mine = set(_NUMBER.findall(texts[i]))
            for j in np.argsort(-cosines)[:CANDIDATES].tolist():
                both, either = len(mine & numbers[j]), len(mine | numbers[j])
                enough = (
                    both * 2 >= either and cosines[j] >= MEANING
                    if either
                    else cosines[j] >= MEANING_ALONE
                )
                if enough and texts[i] is not others[j]:
                    yield i, j, float(cosines[j])
                    break
