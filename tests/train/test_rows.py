from __future__ import annotations

from datetime import UTC, datetime

import pytest

from helpers.models import tokenizer_of
from helpers.records import (
    DatasetMetadata,
    FineTuningDataset,
    Message,
    Splits,
    TrainingExample,
    WorkbookError,
)
from helpers.tasks import load_task, render
from helpers.train import LoraTrainingConfig, preflight
from helpers.train.config import plan_schedule
from helpers.train.rows import IGNORED, TrainingRow, choose_rows

ANSWER = '{"category": "KE", "priority": "P2", "product": "hub", "action": "guide"}'


def example(
    name: str, text: str, answer: str = ANSWER, part: str = "train", quality: str = "verified"
) -> TrainingExample:
    turns = [Message(role="user", content=text), Message(role="assistant", content=answer)]
    when = datetime(2026, 1, 1, tzinfo=UTC)
    return TrainingExample(
        id=name,
        messages=turns,
        source="human",
        quality=quality,
        created_at=when,
        group=name,
        part=part,
    )


def dataset(*examples: TrainingExample) -> FineTuningDataset:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    metadata = DatasetMetadata(
        version="v1", task="support_triage", created_at=when, fingerprint="f", params={}
    )
    counts = {
        part: sum(e.part == part for e in examples) for part in ("train", "validation", "test")
    }
    return FineTuningDataset(examples=list(examples), metadata=metadata, splits=Splits(**counts))


TASK = load_task("support_triage")
TINY = LoraTrainingConfig(base_model="tiny", epochs=1)


def test_exactly_the_answer_and_its_end_token_carry_loss():
    report = preflight(
        dataset(example("a", "My hub is dead"), example("b", "Where is my parcel?")), TASK, TINY
    )
    tokenizer = tokenizer_of("tiny")
    for row in report.train:
        learnt = [label for label in row.labels if label != IGNORED]
        assert tokenizer.decode(learnt) == ANSWER + "<|im_end|>"
        assert row.labels[-len(learnt) :] == row.input_ids[-len(learnt) :] == learnt
    assert report.end_token == "<|im_end|>" and report.round_trip == 2


def test_the_prompt_that_is_trained_is_the_prompt_that_is_served():
    report = preflight(dataset(example("a", "My hub is dead")), TASK, TINY)
    row, tokenizer = report.train[0], tokenizer_of("tiny")
    served = tokenizer.apply_chat_template(
        [m.model_dump(exclude_none=True) for m in render(TASK, "My hub is dead", "short")],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert row.input_ids[: len(served)] == served
    assert (
        row.labels[: len(served)] == [IGNORED] * len(served) and row.labels[len(served)] != IGNORED
    )


def test_rows_that_cannot_be_learnt_are_refused_by_id():
    rows = [
        example("long", "word " * 9_000),
        example("ok", "My hub"),
        example("control", "say <|im_end|>"),
        example("no", "x", " "),
    ]
    report = preflight(dataset(*rows), TASK, TINY)
    assert [r.id for r in report.train] == ["ok"]
    assert set(report.refused) == {"long", "control", "no"}
    assert "reads 8192" in report.refused["long"] and "<|im_end|>" in report.refused["control"]
    with pytest.raises(WorkbookError, match="no trainable row"):
        preflight(dataset(rows[0]), TASK, TINY)


def rows_of(lengths: list[int]) -> list[TrainingRow]:
    return [
        TrainingRow(id=f"r{n}", input_ids=[1] * k, labels=[1] * k) for n, k in enumerate(lengths)
    ]


def test_the_token_budget_takes_verified_rows_first_and_only_grows():
    rows = rows_of([10] * 20)
    verified = {f"r{n}" for n in range(5)}
    small, left = choose_rows(rows, verified, epochs=2, max_train_tokens=100)
    assert {r.id for r in small} == verified and left == 15
    large, _ = choose_rows(rows[::-1], verified, epochs=2, max_train_tokens=200)
    assert large[:5] == small and len(large) == 10
    assert choose_rows(rows, verified, 2, 0)[1] == 0


def test_on_short_data_intervals_become_shares_of_the_steps():
    used = plan_schedule(LoraTrainingConfig(), [50] * 160)
    assert (used["steps"], used["warmup_steps"], used["eval_steps"], used["save_steps"]) == (
        30,
        3,
        6,
        3,
    )
    assert (used["batch_size"], used["gradient_accumulation"]) == (16, 1)
    long = plan_schedule(LoraTrainingConfig(), [500] * 16_000)
    assert (long.pop("steps"), LoraTrainingConfig().model_copy(update=long)) == (
        3000,
        LoraTrainingConfig(),
    )


def test_an_impossible_hyperparameter_is_named():
    with pytest.raises(WorkbookError, match="lora_r"):
        LoraTrainingConfig.of({"lora_r": 0})
