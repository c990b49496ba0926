"""The last lines of a run: verdict, numbers with intervals, reasons, where to look, what next."""

from __future__ import annotations

from pathlib import Path

import pytest
import record_toys
from run_toys import ARTIFACTS

from helpers import store
from helpers.parameters import NOTEBOOKS
from helpers.records import DatasetPointer, RunRecord
from helpers.run.summary import summary

LONG = "better_than_cheaper_rung: " + "accuracy +0.020 [-0.050, +0.090] n=97 against few_shot; " * 6


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> store.Run:
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    made = store.open_run("r")
    reasons = [f"rule_{k}: line one\nand line two" for k in range(8)] + [LONG]
    held = record_toys.promotion(
        verdict="fail", promoted=False, target="production", version="r-1", reasons=reasons
    )
    for artifact in (*ARTIFACTS, held):
        made.save(artifact)
    store.write_text(made.path("notebooks/04_evaluate.ipynb"), "{}")
    return made


def record(
    run: store.Run, code: int, reason: str, names: tuple[str, ...] = tuple(NOTEBOOKS)
) -> RunRecord:
    return record_toys.run_record(run.id, *names, exit_code=code, reason=reason)


def test_every_reason_of_the_gate_has_a_readable_line_of_its_own(run):
    lines = summary(record(run, 3, "the gate says fail: …")).splitlines()
    assert [line for line in lines if "- rule_" in line] == [
        f"             - rule_{k}: line one and line two" for k in range(8)
    ]
    long = next(line for line in lines if "better_than_cheaper_rung" in line)
    assert len(long) <= 160 and long.endswith(" …")
    assert not [line for line in lines if "the gate says" in line], "its reasons are told once"
    assert [line.split()[0] for line in lines if line[:2].isdigit()] == ["01", "04", "05", "06"]


def test_numbers_come_with_their_intervals(run):
    text = summary(record(run, 0, ""))
    assert (
        "tuned: accuracy 0.500 [0.400, 0.600]" in text and "latency p95 (ms) 120 [100, 150]" in text
    )
    assert "best rung (few_shot): accuracy" in text
    assert "tuned - best rung, accuracy: +0.250 [+0.100, +0.400] (gained 3, lost 1)" in text


def test_it_says_where_to_look_and_what_the_readme_says_next(run):
    shipped = {"params": {"task": "support_triage"}}
    text = summary(record(run, 0, "").model_copy(update=shipped))
    assert str(run.path("notebooks/04_evaluate.ipynb")) in text
    assert 'README, "Your own task"' in text
    assert "## Your own task" in (store.PROJECT / "README.md").read_text()
    run.path("notebooks/04_evaluate.ipynb").unlink()
    stopped = summary(record(run, 0, "01_decide advises prompting", ("01_decide",)))
    assert (
        "advises prompting" in stopped and "04_evaluate" not in stopped and "notebooks" in stopped
    )


@pytest.mark.parametrize(
    ("changes", "next_step"),
    [
        ({"promoted": False}, "`workbook registry show v`"),
        ({"target": "staging"}, "`workbook registry promote v --to production`"),
        ({"target": "production"}, "`workbook serve`"),
    ],
)
def test_after_the_gate_somebodys_own_task_goes_on_with_its_version(run, changes, next_step):
    run.save(record_toys.promotion(**changes))
    own = record(run, 0, "").model_copy(update={"params": {"task": "/tmp/mine"}})
    assert next_step in summary(own).splitlines()[-1]


def test_a_command_is_not_broken_at_its_hyphens(run):
    version = "-".join(["support"] * 30)
    run.save(record_toys.promotion(target="staging", version=version))
    own = record(run, 0, "").model_copy(update={"params": {"task": "/tmp/mine"}})
    assert f" {version}\n" in summary(own)


@pytest.mark.parametrize("done", [("00_start_here",), ("01_decide", "04_evaluate")])
def test_who_brought_a_task_is_not_sent_to_read_how_to_bring_one(run, done):
    own = record(run, 0, "", done).model_copy(update={"params": {"task": "/tmp/mine"}})
    assert "README" not in summary(own)


def test_what_nobody_has_rated_is_rated_before_its_version_is_looked_at(run):
    evaluation = run.load(NOTEBOOKS["04_evaluate"].writes)
    unrated = evaluation.fine_tuned_model.model_copy(
        update={"accuracy": record_toys.estimate(0.0, n=0)}
    )
    run.save(evaluation.model_copy(update={"fine_tuned_model": unrated}))
    own = record(run, 4, "").model_copy(update={"params": {"task": "/tmp/mine"}})
    assert "next         `workbook rate r`" in summary(own)


def test_without_the_gate_04_tells_its_own_reasons(run):
    assert "- it is better" in summary(record(run, 0, "", ("04_evaluate",)))
    assert "- it is better" not in summary(record(run, 3, ""))


def test_the_gates_word_makes_no_password_of_a_versions_id(run):
    """`pass: tut-1a2b3c4d` reads like a password, and would be hidden."""
    run.save(record_toys.promotion(version="tut-1a2b3c4d"))
    text = summary(record(run, 0, "", ("05_registry",)))
    assert "pass, tut-1a2b3c4d put into staging" in text


def test_what_was_dropped_cut_or_limited_stands_in_the_last_ten_lines(run):
    cut = ["485 of 587 rows trained, by max_train_tokens=60000; all would take 9 min more"]
    run.save(record_toys.trained_model(limits=cut))
    run.save(record_toys.decision(limits=["60 of 112 validation rows asked"]))
    funnel = [
        {"stage": "filter", "source": "production", "in": 9, "out": 7, "rejected": {"a": 2}},
        {"stage": "check", "source": "human", "in": 5, "out": 5, "rejected": {}},
        {"stage": "check", "source": "production", "in": 7, "out": 4, "rejected": {"b": 3}},
        {"stage": "filter", "source": "human", "in": 5, "out": 5, "rejected": {}},
    ]
    manifest = record_toys.manifest(funnel=funnel)
    assert manifest.limits == ["9 of 14 rows kept; b 3, a 2"]
    store.write_json(store.home() / "datasets/v1/manifest.json", manifest)
    store.write_text(store.home() / "datasets/v1/review.csv", "id\n")
    run.save(record_toys.evaluation(n_test=2, dataset_version="v1"))
    last = summary(record(run, 0, "")).splitlines()[-10:]
    assert "limits       01 60 of 112 validation rows asked" in last
    assert "             02 9 of 14 rows kept; b 3, a 2" in last
    assert f"             03a {cut[0]}" in last
    assert "             04 2 of 3 test rows asked, by max_test_rows" in last
    run.save(record_toys.decision(limits=[f"limit {n}" for n in range(9)]))
    last = summary(record(run, 0, "")).splitlines()[-10:]
    assert any("more in the notebooks' artifacts" in line for line in last)


def test_the_end_of_02_says_parts_warnings_questions_and_losses(run):
    funnel = [{"stage": "check", "source": "human", "in": 9, "out": 8, "rejected": {"a": 1}}]
    splits = {"train": 2, "validation": 2, "test": 4}
    folder = store.home() / "datasets/v1"
    manifest = record_toys.manifest(funnel=funnel, splits=splits, warnings=["3 human rows are bad"])
    store.write_json(folder / "manifest.json", manifest)
    store.write_text(folder / "review.csv", 'id,why\n1,"two\nlines"\n2,b\n')
    run.save(DatasetPointer(version="v1", fingerprint="f"))
    text = summary(record(run, 0, "", ("02_curate",)))
    assert "02 curate    train 2, validation 2, test 4 rows" in text
    assert "! fewer rows to learn from than to test" in text
    assert "! 3 human rows are bad" in text
    assert f"2 questions wait for you in {folder / 'review.csv'}" in text
    (folder / "review.csv").write_bytes("id;why\r\n1;Grüße\r\n".encode("cp1252"))  # by Excel
    assert "1 questions wait for you" in summary(record(run, 0, "", ("02_curate",)))
    assert f"rows left out, with reasons: {folder / 'rejected.jsonl'}" in text
