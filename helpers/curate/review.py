"""From unverified to verified: what a person is asked to decide, and how the next run applies it.

review.csv asks (one row per example: keep, fix or drop); accept.csv takes rejected rows back (id,
reason). Both are read from the task's folder and from the dataset versions of the task, the task's
folder having the last word.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from helpers import store, tasks
from helpers.curate.personal import masked_text
from helpers.curate.stages import Question, Stage
from helpers.records import Issue, Manifest, Message, TrainingExample, WorkbookError, read_calls

COLUMNS = (
    "id",
    "source",
    "input",
    "output",
    "why",
    "decision",
    "corrected_output",
    "reviewer",
    "content",  # of the row that was judged: another row with its id is not meant
)
DECISIONS = ("keep", "fix", "drop")
ASK = 20  # rows asked for each reason, conflicts and names apart


class Decisions(NamedTuple):
    """What people decided: id -> row of review.csv, and id -> why a rejected row is taken back."""

    reviewed: dict[str, dict[str, str]]
    accepted: dict[str, str]
    rejected: dict[str, set[str]]  # id -> sha256 of the rows that were rejected under it

    def about(self, examples: Iterable[TrainingExample]) -> tuple[Decisions, list[str]]:
        """The decisions about these very rows, and a warning for those about other content."""
        decided = self.reviewed.keys() | self.accepted.keys()
        of_id = {e.id: e for e in (examples if decided else ()) if e.id in decided}
        reviewed = {
            row_id: row
            for row_id, row in self.reviewed.items()
            if row_id not in of_id or _is_about(row, of_id[row_id])
        }
        accepted = dict(self.accepted)
        for row_id in self.accepted.keys() & of_id.keys() & self.rejected.keys():
            sha256 = of_id[row_id].meta.get("sha256")
            if sha256 and sha256 not in self.rejected[row_id]:
                del accepted[row_id]
        changed = len(self.reviewed) - len(reviewed) + len(self.accepted) - len(accepted)
        warning = (
            f"{changed} decisions are not applied: the row with that id holds something else now;"
            " decide again"
        )
        return Decisions(reviewed, accepted, self.rejected), [warning] if changed else []

    def without_rows(self, examples: Iterable[TrainingExample]) -> list[str]:
        """A warning when decisions name rows that no source holds."""
        missing = self.reviewed.keys() | self.accepted.keys()
        missing -= {e.id for e in (examples if missing else ()) if e.id in missing}
        if not missing:
            return []
        return [
            f"review.csv or accept.csv names {len(missing)} rows that no source holds (any more)"
        ]


def read_decisions(task: tasks.Task) -> Decisions:
    """All decisions about a task's rows; a row without a decision still waits and says nothing."""
    manifests = [
        Manifest.parse(store.read_json(path), str(path))
        for path in store.home().glob(f"datasets/{task.name}-*/{Manifest.FILE}")
    ]
    manifests.sort(key=lambda manifest: (manifest.created_at, manifest.version))
    versions = [store.home() / "datasets" / manifest.version for manifest in manifests]
    decisions = Decisions({}, {}, {})
    known_as = partial(tasks.pseudonymous, allow=task.allow.values(), key="user_id")  # as rows are
    for folder in [*versions, task.folder]:
        for row_id, row in _reviews(folder / "review.csv").items():
            decisions.reviewed[known_as(row_id)] = row
        for row_id, reason in _acceptances(folder / "accept.csv").items():
            decisions.accepted[known_as(row_id)] = reason
    for folder in versions if decisions.accepted else ():
        for row in store.read_jsonl(folder / "rejected.jsonl"):
            row_id, sha256 = known_as(row["example"]["id"]), row["example"].get("sha256")
            if row_id in decisions.accepted and sha256:
                decisions.rejected.setdefault(row_id, set()).add(sha256)
    return decisions


def _is_about(row: dict[str, str], example: TrainingExample) -> bool:
    """Whether a row of review.csv was written about what the example holds."""
    if row.get("content"):
        return row["content"] == tasks.content_id(example.messages)
    if not row.get("input") or "[" in row["input"]:  # written by hand, or masked by older rules
        return True
    return row["input"] == masked_text(example.user_text)


def _reviews(path: Path) -> dict[str, dict[str, str]]:
    reviews = {}
    for line, row in _table(path, ("id", "decision")):
        decision = row["decision"].strip().lower()
        if not decision:
            continue
        if decision not in DECISIONS:
            raise WorkbookError(
                f"{path}, line {line}: decision {decision[:20]!r}; write {', '.join(DECISIONS)}, or"
                " nothing"
            )
        if decision == "fix" and not row.get("corrected_output", "").strip():
            raise WorkbookError(
                f"{path}, line {line}: `fix` needs the right answer under corrected_output"
            )
        reviews[row["id"]] = row | {"decision": decision}
    return reviews


def _acceptances(path: Path) -> dict[str, str]:
    reasons = {}
    for line, row in _table(path, ("id", "reason")):
        reason = row["reason"].strip()
        if not reason:
            raise WorkbookError(
                f"{path}, line {line}: say under `reason` why this row may come back"
            )
        reasons[row["id"]] = reason
    return reasons


def _table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, row) of a CSV file with these columns, if it is there; an empty cell is ""."""
    if not path.exists():
        return
    for line, row, _ in tasks.read_rows(path):
        if not isinstance(row, dict):
            raise WorkbookError(f"{path}, line {line}: {row}")
        for name in columns:
            if name not in row:
                raise WorkbookError(
                    f"{path}: the column {name!r} is missing; it needs {', '.join(columns)}"
                )
        yield line, {name: store.from_csv_cell(value or "") for name, value in row.items()}


def apply_decisions(examples: Sequence[TrainingExample], decisions: Decisions) -> Stage:
    """Examples as the reviewers left them: verified, corrected or dropped.

    id, group and part never change. A logged row stays in train when it becomes verified: it may
    have been learnt from already.
    """
    if not decisions.reviewed:
        return Stage(examples)
    stage = Stage.of(examples)
    for example in examples:
        row = decisions.reviewed.get(example.id)
        if row is None:
            stage.kept.append(example)
        elif row["decision"] == "drop":
            issue = Issue(code="low_feedback", evidence="a reviewer decided to drop it")
            stage.reject(example, [issue], "review")
        else:
            stage.kept.append(_reviewed(example, row))
    return stage


def _reviewed(example: TrainingExample, row: dict[str, str]) -> TrainingExample:
    """A row that a person kept or fixed."""
    review = {"decision": row["decision"], "reviewer": row.get("reviewer", "")}
    changes = {"quality": "verified"}
    if example.source != "human":
        changes["part"] = example.part or "train"
    if row["decision"] == "fix":
        review["original"] = masked_text(example.answer)
        corrected = row["corrected_output"].strip()
        content, calls = read_calls(corrected) if example.calls else (corrected, [])
        fixed = {"content": content, "tool_calls": calls or None}
        prompt = example.prompt
        (answer,) = example.messages[len(prompt) :] or [Message(role="assistant")]
        changes["messages"] = [*prompt, answer.model_copy(update=fixed)]
    changes["meta"] = example.meta | {"review": review}
    return example.model_copy(update=changes)


def review_rows(
    questions: Iterable[Question], examples: Iterable[TrainingExample]
) -> list[dict[str, str]]:
    """The rows of review.csv: each of the `examples` that is in question, once, with its reasons.

    What was decided already, or left out after all, is not asked.
    """
    open_rows = {example.id: example for example in examples if "review" not in example.meta}
    reasons = {}
    corrections = {}
    for example, why, correction in questions:
        if example.id in open_rows:
            corrections[example.id] = correction or corrections.get(example.id, "")
            whys = reasons.setdefault(example.id, [])
            if why not in whys:
                whys.append(why)
    rows = []
    for example_id, whys in reasons.items():
        example = open_rows[example_id]
        rows.append(
            {
                "id": example.id,
                "source": example.source,
                "input": masked_text(example.user_text),
                "output": masked_text(example.answer),
                "why": "; ".join(whys),
                "corrected_output": corrections[example_id],
                # as it was read, where it is masked since
                "content": example.meta.get("content") or tasks.content_id(example.messages),
            }
        )
    return rows


def review_csv(rows: Iterable[dict[str, str]]) -> str:
    """review.csv with empty columns for the decision."""
    text = io.StringIO()
    # "\r\n", as a lone "\r" inside of a text is quoted only where it may end a line
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\r\n")
    writer.writeheader()
    for row in rows:  # a spreadsheet computes nothing of it
        writer.writerow({name: store.as_csv_cell(cell) for name, cell in row.items()})
    return text.getvalue()
