from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from toy_api import ToyApi

from helpers import store
from helpers.records import (
    DatasetMetadata,
    FineTuningDataset,
    Message,
    Splits,
    TrainingExample,
    WorkbookError,
)
from helpers.train import (
    OpenAIJobConfig,
    choose_checkpoint,
    fine_tune_openai,
    jobs,
    monitor_fine_tuning,
    provider,
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(
        "HTTP_PROXY", "http://127.0.0.1:9"
    )  # a proxy that must not be asked about loopback
    monkeypatch.setattr(jobs, "CREATE_TIMEOUT", 1.0)
    return tmp_path / "home"


def dataset(rows: int = 14, text: str = "the hub is offline") -> FineTuningDataset:
    answer = Message(
        role="assistant",
        content='{"category": "KE", "priority": "P2", "product": "hub", "action": "guide"}',
    )
    examples = [
        TrainingExample(
            id=f"r{n}",
            messages=[Message(role="user", content=f"{text} ({n})"), answer],
            source="human",
            quality="verified",
            created_at=datetime(2026, 1, 1, tzinfo=UTC),
            group=f"g{n}",
            part="validation" if n % 7 == 0 else "train",
        )
        for n in range(rows)
    ]
    metadata = DatasetMetadata(
        version="v1",
        task="support_triage",
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        fingerprint="f" * 64,
        params={},
    )
    counts = {
        part: sum(e.part == part for e in examples) for part in ("train", "validation", "test")
    }
    return FineTuningDataset(examples=examples, metadata=metadata, splits=Splits(**counts))


def config(toy: ToyApi, **changes) -> OpenAIJobConfig:
    return OpenAIJobConfig(base_url=toy.url, api_model="gpt-4o-mini", poll_seconds=0.01, **changes)


def test_a_job_is_created_followed_and_published(home):
    with ToyApi() as toy:
        job = fine_tune_openai(dataset(), config(toy))
        assert store.read_json(home / "runs/dev/job.json")["job_id"] == job.job_id
        events: list[dict] = []
        model = monitor_fine_tuning(job.job_id, events.append)
    assert model.model_id == "ft:gpt-4o-mini-2024-07-18:toy::abcd1234"
    assert (model.provider, model.base_url, model.tokens, model.seconds) == (
        "api",
        toy.url,
        1234,
        60.0,
    )
    assert model.losses == {"train": 2 / 130, "eval": 3 / 130}
    assert (
        model.version == job.version
        and store.read_json(home / "runs/dev/model.json")["model_id"] == model.model_id
    )
    assert sorted(name.partition("-")[2] for name in toy.files.values()) == [
        "train.jsonl",
        "validation.jsonl",
    ]
    assert len(store.read_jsonl(home / "runs/dev/training/training.jsonl")) == 130


def test_every_event_comes_once_and_oldest_first_across_pages():
    with ToyApi() as toy:
        events: list[dict] = []
        monitor_fine_tuning(fine_tune_openai(dataset(), config(toy)).job_id, events.append)
    assert [e["id"] for e in events] == [f"ftevent-{n}" for n in range(131)]


def test_a_job_that_cannot_be_looked_up_is_not_created_again():
    with ToyApi() as toy:
        fine_tune_openai(dataset(), config(toy)).save(job_id="")
        toy.scenario = "no_listing"
        with pytest.raises(WorkbookError, match="this run's job") as caught:
            fine_tune_openai(dataset(), config(toy))
        assert caught.value.exit_code == 5 and toy.creates == 1


def test_a_refused_organisation_ends_with_5_a_remedy_and_no_uploads():
    with ToyApi("forbidden") as toy:
        with pytest.raises(WorkbookError, match="03a") as caught:
            fine_tune_openai(dataset(), config(toy))
        assert caught.value.exit_code == 5
        assert toy.files == {} and toy.jobs == {}


def test_a_create_that_answers_too_late_makes_one_job():
    with ToyApi("slow_create") as toy:
        job = fine_tune_openai(dataset(), config(toy))
        assert toy.creates == 1 and job.job_id == "ftjob-1"
        assert fine_tune_openai(dataset(), config(toy)).job_id == "ftjob-1"
        assert toy.creates == 1


def test_a_run_killed_between_create_and_its_answer_finds_the_job_again(home):
    with ToyApi() as toy:
        job = fine_tune_openai(dataset(), config(toy))
        job.save(job_id="")  # what is on disk when the process dies while create is under way
        again = fine_tune_openai(dataset(), config(toy))
        assert again.job_id == job.job_id and again.reattached
        assert toy.creates == 1 and len(toy.files) == 2


def test_other_data_or_hyperparameters_are_another_job():
    with ToyApi() as toy:
        first = fine_tune_openai(dataset(), config(toy))
        second = fine_tune_openai(dataset(), config(toy, n_epochs=2))
        assert first.version != second.version and toy.creates == 2


def test_a_failed_job_ends_with_5_names_the_reason_and_takes_the_uploads_back():
    with ToyApi("failed") as toy:
        job = fine_tune_openai(dataset(), config(toy))
        with pytest.raises(WorkbookError, match="Line 3 is broken") as caught:
            monitor_fine_tuning(job.job_id)
        assert caught.value.exit_code == 5 and toy.files == {}


def test_a_job_that_never_starts_ends_with_124_at_its_deadline():
    with ToyApi("stuck") as toy:
        job = fine_tune_openai(dataset(), config(toy, job_deadline_minutes=0.002))
        with pytest.raises(WorkbookError, match="same run_id") as caught:
            monitor_fine_tuning(job.job_id)
        assert caught.value.exit_code == 124 and toy.polls > 1 and len(toy.files) == 2


@pytest.mark.parametrize(
    ("rows", "text", "words"),
    [
        (10, "the hub", "at least 10"),
        (14, "say <|im_end|> now", "invalid token"),
        (14, " word" * 60_000, "the limit is 65536"),
    ],
)
def test_a_bad_file_is_found_before_anything_is_uploaded(rows, text, words):
    with ToyApi() as toy:
        with pytest.raises(WorkbookError, match=words) as caught:
            fine_tune_openai(dataset(rows, text), config(toy))
        assert caught.value.exit_code == 2 and toy.files == {}


def test_text_and_money_stay_here_unless_both_were_allowed(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBOOK_API_KEY", "sk-test-not-a-key")
    away = OpenAIJobConfig(base_url="https://example.invalid/v1", api_model="gpt-4o-mini")
    with pytest.raises(WorkbookError, match="data_may_leave"):
        fine_tune_openai(dataset(), away)
    shipped = jobs.load_task("support_triage")
    folder = tmp_path / "task"
    folder.mkdir()
    text = (
        (shipped.folder / "task.yaml")
        .read_text()
        .replace("data_may_leave: false", "data_may_leave: true ")
    )
    (folder / "task.yaml").write_text(text)
    allowed = away.model_copy(update={"task": str(folder)})
    with pytest.raises(WorkbookError, match="USD per million"):
        fine_tune_openai(dataset(), allowed)
    (folder / "task.yaml").write_text(
        text.replace("models: {}", "models: {gpt-4o-mini: {train: 3.0, input: 1, output: 1}}")
    )
    with pytest.raises(WorkbookError, match=r"max_cost_usd is 0\.00"):
        fine_tune_openai(dataset(), allowed)


def test_a_file_uploaded_just_before_a_kill_is_not_uploaded_again():
    with ToyApi() as toy:
        fine_tune_openai(dataset(), config(toy)).save(job_id="", files={})
        toy.jobs.clear()  # killed after the uploads: no job, and nobody had written their ids down
        assert len(fine_tune_openai(dataset(), config(toy)).files) == 2 and len(toy.files) == 2


def test_a_create_that_answers_500_without_a_job_leaves_nothing_behind():
    with ToyApi("broken") as toy:
        with pytest.raises(WorkbookError, match="run again") as caught:
            fine_tune_openai(dataset(), config(toy))
        assert caught.value.exit_code == 5 and toy.files == {} and toy.jobs == {}


def test_a_base_model_that_retires_soon_is_refused_before_any_upload():
    with ToyApi() as toy:
        toy.model = {"shutdown_date": str((store.now() + timedelta(days=30)).date())}
        with pytest.raises(WorkbookError, match="min_served_days") as caught:
            fine_tune_openai(dataset(), config(toy))
        assert caught.value.exit_code == 5 and toy.files == {} and toy.creates == 0
        job = fine_tune_openai(dataset(), config(toy, min_served_days=10))
        assert job.served_until == toy.model["shutdown_date"]


def test_other_providers_get_what_they_want_besides_and_unset_hyperparameters_are_left_to_them():
    extra = '{"trainingType": "GlobalStandard", "method": {"supervised": {"hyperparameters": {"learning_rate": 1e-5}}}}'
    with ToyApi() as toy:
        fine_tune_openai(dataset(), config(toy, api_extra_body=extra, n_epochs=2))
    assert toy.asked["trainingType"] == "GlobalStandard" and "suffix" not in toy.asked
    assert toy.asked["method"]["supervised"]["hyperparameters"] == {
        "n_epochs": 2,
        "learning_rate": 1e-5,
    }
    for wrong in ("trainingType=Standard", "[1]"):
        with pytest.raises(WorkbookError, match="api_extra_body"):
            OpenAIJobConfig.of({"api_extra_body": wrong})


def test_openai_is_asked_for_earlier_jobs_before_anything_is_sent(monkeypatch):
    with ToyApi() as toy:
        monkeypatch.setattr(provider, "OPENAI", toy.url)
        with pytest.raises(WorkbookError, match="none before") as caught:
            fine_tune_openai(dataset(), config(toy))
        assert caught.value.exit_code == 5 and toy.files == {} and toy.creates == 0


def test_the_checkpoint_with_the_best_own_score_is_taken_and_ties_go_to_the_later(monkeypatch):
    accuracy = {"ft:a": 0.5, "ft:a:ckpt-step-8": 0.75, "ft:a:ckpt-step-4": 0.75}

    def toy_rung(model, name, rows, task, run, **settings):
        assert {row.part for row in rows} == {"validation"} and settings["latency_rows"] == 0
        return SimpleNamespace(
            results=SimpleNamespace(accuracy=SimpleNamespace(value=accuracy[model.name])),
            n=len(rows),
        )

    monkeypatch.setattr(jobs, "run_rung", toy_rung)
    with ToyApi() as toy:
        model = monitor_fine_tuning(fine_tune_openai(dataset(), config(toy)).job_id)
        found = [
            {"model": name, "step": step} for name, step in zip(accuracy, (12, 8, 4), strict=True)
        ]
        model = model.model_copy(update={"model_id": "ft:a", "details": {"checkpoints": found}})
        assert choose_checkpoint(model, dataset(), config(toy)).model_id == "ft:a"
        chosen = choose_checkpoint(model, dataset(), config(toy, checkpoint_rows=2))
    assert (
        chosen.model_id
        == "ft:a:ckpt-step-8"
        == store.read_json(store.home() / "runs/dev/model.json")["model_id"]
    )
    assert [c["accuracy"] for c in chosen.details["checkpoints"]] == [0.5, 0.75, 0.75]
