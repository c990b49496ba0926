"""What the registry reads of a run's files; one that cannot be read is a reason, not a crash."""

from __future__ import annotations

from typing import TypeVar

from helpers import store
from helpers.records import (
    AnswerRow,
    Artifact,
    DatasetPointer,
    Evaluation,
    FineTunedModelVersion,
    WorkbookError,
)

A = TypeVar("A", bound=Artifact)


def load_or_reason(run: store.Run, kind: type[A]) -> tuple[A | None, str]:
    """An artifact of a run; or None, and why there is none that can be read."""
    if not run.has(kind):
        return None, f"run {run.id} has no {kind.FILE}; run {kind.WRITTEN_BY}"
    try:
        return run.load(kind), ""
    except WorkbookError as error:
        return None, str(error)


def evaluation_of(version_id: str, run: store.Run) -> tuple[Evaluation | None, str]:
    """A version's evaluation; that of another version counts as none."""
    evaluation, reason = load_or_reason(run, Evaluation)
    if evaluation is not None and evaluation.version != version_id:
        return None, f"run {run.id} has no evaluation.json of {version_id}; run 04_evaluate"
    return evaluation, reason


def tuned_answers(run: store.Run) -> dict[str, AnswerRow]:
    """A run's answers of its tuned model about the test rows, by their id."""
    path = run.path("answers/fine_tuned.jsonl")
    rows = store.read_jsonl(path) if path.exists() else []
    return {row["id"]: AnswerRow.model_validate(row) for row in rows}


def digest_of_test_part(version: FineTunedModelVersion, run: store.Run) -> str:
    """sha256 of the test rows that the answers in `run` are about."""
    pointer, _ = load_or_reason(run, DatasetPointer)
    name = pointer.version if pointer else version.dataset_version or "-"
    path = store.home() / "datasets" / name / "test.jsonl"
    return store.sha256_file(path) if path.exists() else str(path)


def reevaluation(run: store.Run, incumbent: FineTunedModelVersion) -> store.Run:
    """Where the answers of `incumbent` about another run's test rows are."""
    return store.Run(f"{run.id[:40]}.{store.fingerprint([run.id, incumbent.id])[:12]}")


def artifact_sha256(relative: str) -> str:
    """sha256 over names and contents of the files of an artifact's folder; "" without files."""
    folder = store.home() / relative
    files = sorted(path for path in folder.rglob("*") if path.is_file()) if relative else []
    contents = [[path.relative_to(folder).as_posix(), store.sha256_file(path)] for path in files]
    return store.fingerprint(contents) if contents else ""
