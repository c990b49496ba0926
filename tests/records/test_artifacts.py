"""Artifacts are read as records or refused by name: today's, those of 0.1.0, and damaged ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Self

import pytest
import record_toys as toys
from pydantic import model_validator

from helpers import store
from helpers.records import (
    AnswerRow,
    DatasetPointer,
    Decision,
    Environment,
    Estimate,
    Evaluation,
    Health,
    Manifest,
    Promotion,
    Record,
    RunRecord,
    TrainedModel,
    WorkbookError,
    from_parameters,
)

RELEASED = Path(__file__).parents[1] / "released" / "0.1.0"
KINDS = (
    Environment,
    Decision,
    DatasetPointer,
    TrainedModel,
    Evaluation,
    Promotion,
    Health,
    RunRecord,
)
OF_ONE_DAY = (Environment, Promotion, Health)  # nothing that is decided today rests on an old one


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    return store.open_run("r")


@pytest.fixture
def released(run):
    shutil.copytree(RELEASED / "run", run.folder, dirs_exist_ok=True)
    return run


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.FILE)
def test_every_artifact_of_0_1_0_reads_or_is_refused_by_name(released, kind):
    if kind in OF_ONE_DAY:
        with pytest.raises(WorkbookError, match=rf"{kind.FILE}: .*; run {kind.WRITTEN_BY} again"):
            released.load(kind)
        return
    artifact = released.load(kind)
    old = json.loads(released.path(kind.FILE).read_text())
    same = set(old) & set(kind.model_fields)
    kept = json.loads(store.dumps(artifact))
    changed = {name for name in same if kept[name] != old[name]} - {"started_at", "finished_at"}
    assert changed <= {"rungs", "targets", "slices", "economics"}


def test_the_dataset_of_0_1_0_reads():
    manifest = Manifest.parse(store.read_json(RELEASED / "dataset/manifest.json"), "manifest.json")
    assert all(row.adds_up for row in manifest.funnel)
    assert (manifest.splits.train, manifest.splits.test) == (799, 118)


def test_answers_of_0_1_0_read(released):
    rows = store.read_jsonl(released.path("answers/fine_tuned.jsonl"))
    assert len([AnswerRow(**row) for row in rows]) == len(rows) > 0


def test_how_a_headless_run_of_0_1_0_asked_is_told_by_its_own_parameters(released):
    asking = released.load(Decision).asking("few_shot")
    assert (asking.few_shot_k, asking.rag_k, asking.max_new_tokens) == (3, 1, 12)  # smoke says 12
    tuned = released.load(TrainedModel).asking
    assert (tuned.rung, tuned.style, tuned.max_new_tokens) == ("fine_tuned", "short", 12)


@pytest.mark.parametrize("kind", [Decision, TrainedModel, Evaluation], ids=lambda k: k.FILE)
def test_by_hand_0_1_0_did_not_say_how_it_asked_and_is_refused_by_name(released, kind):
    released.path("run.json").unlink()
    with pytest.raises(WorkbookError, match=rf"{kind.FILE}.*by hand.*0\.1\.0"):
        released.load(kind)


def test_words_of_0_1_0_become_findings(released):
    evaluation = released.load(Evaluation)
    assert {finding.verdict for finding in evaluation.targets.values()} <= {
        "pass",
        "fail",
        "undecided",
    }


MADE = {
    Environment: toys.environment,
    Decision: toys.decision,
    TrainedModel: toys.trained_model,
    Evaluation: toys.evaluation,
    Promotion: toys.promotion,
    Health: toys.health,
    RunRecord: toys.run_record,
    DatasetPointer: lambda: DatasetPointer(version="v", fingerprint="f"),
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.FILE)
def test_what_is_saved_is_loaded(run, kind):
    artifact = MADE[kind]()
    run.save(artifact)
    assert run.load(kind) == artifact
    assert json.loads(run.path(kind.FILE).read_text())["schema_version"] == 2


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.FILE)
@pytest.mark.parametrize(
    "damage", ["{}", "[]", "1", '{"a": 1}', '{"schema_version": 2}', "null", "{"]
)
def test_a_damaged_artifact_names_its_file_and_the_notebook_to_run(run, kind, damage):
    store.write_text(run.path(kind.FILE), damage)
    with pytest.raises(WorkbookError) as caught:
        run.load(kind)
    message = str(caught.value)
    assert kind.FILE in message
    assert "again" in message or f"run {kind.WRITTEN_BY} with run_id=" in message


def test_an_artifact_of_a_newer_workbook_is_refused(run):
    store.write_json(run.path("decision.json"), {"schema_version": 99})
    with pytest.raises(WorkbookError, match=r"schema_version 99.*update the workbook"):
        run.load(Decision)


def test_an_unknown_field_is_refused_and_its_value_is_not_quoted(run):
    value = json.loads(store.dumps(toys.promotion())) | {"password": "hunter2 secret"}
    store.write_json(run.path("promotion.json"), value)
    with pytest.raises(WorkbookError, match="password") as caught:
        run.load(Promotion)
    assert "hunter2" not in str(caught.value)


def test_a_missing_artifact_says_which_notebook_writes_it(run):
    with pytest.raises(WorkbookError, match="run 04_evaluate with run_id='r' first"):
        run.load(Evaluation)


def test_one_measurement_is_shown_without_an_interval():
    assert str(Estimate(value=913.0, low=913.0, high=913.0, n=1)) == "913.000 n=1"
    assert str(Estimate(value=1.0, low=0.025, high=1.0, n=1)) == "1.000 [0.025, 1.000] n=1"
    assert str(Estimate(value=3.0, low=3.0, high=3.0, n=9)) == "3.000 [3.000, 3.000] n=9"


class _Whole(Record):
    size: dict[str, int]

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if not self.size:
            raise ValueError("say a size")
        return self


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": {"a": "q"}}, r"^parameter size\.a: .*; got 'q'$"),
        ({"size": {}}, r"^parameter: say a size; got \{'size': \{\}\}$"),
    ],
)
def test_an_odd_parameter_is_named_and_quoted_alone(given, said):
    with pytest.raises(WorkbookError, match=said):
        from_parameters(_Whole, given, ["size"])
