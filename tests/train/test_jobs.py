from __future__ import annotations

from datetime import UTC, datetime, timedelta

import httpx
import openai
import pytest
from record_toys import decision, rung
from toy_api import ToyApi

from helpers import store, tasks
from helpers.models import Provider, providers
from helpers.records import (
    Budget,
    DatasetMetadata,
    FineTuningDataset,
    Message,
    Splits,
    TrainedModel,
    TrainingExample,
    WorkbookError,
)
from helpers.train import (
    FineTuningJob,
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


ANSWER = '{"category": "KE", "priority": "P2", "product": "hub", "action": "guide"}'


def dataset(rows: int = 14, text: str = "the hub is offline") -> FineTuningDataset:
    answer = Message(role="assistant", content=ANSWER)
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


def task_with_prices(folder, **changes: str) -> str:
    """A folder with the shipped task.yaml, in which prices are named; `changes` come after."""
    text = (tasks.load_task("support_triage").folder / "task.yaml").read_text()
    prices = "gpt-4o-mini: {train: 3.0, input: 1, output: 1}, 'ft:a': {input: 1000, output: 0}"
    text = text.replace("models: {}", f"models: {{{prices}}}")
    for before, after in changes.items():
        text = text.replace(before, after)
    folder.mkdir()
    (folder / "task.yaml").write_text(text)
    return str(folder)


def test_a_job_is_created_followed_and_published(home):
    with ToyApi() as toy:
        job = fine_tune_openai(dataset(), config(toy))
        assert store.Run("dev").load(FineTuningJob) == job and job.job_id
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
    assert model.version == job.version and store.Run("dev").load(TrainedModel) == model
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
    monkeypatch.setenv("WORKBOOK_API_HOST", "example.invalid")
    away = OpenAIJobConfig(base_url="https://example.invalid/v1", api_model="gpt-4o-mini")
    with pytest.raises(WorkbookError, match="data_may_leave"):
        fine_tune_openai(dataset(), away)
    may_leave = {"data_may_leave: false": "data_may_leave: true"}
    unpriced = task_with_prices(tmp_path / "unpriced", **may_leave, **{"train: 3.0": "odd: 3.0"})
    with pytest.raises(WorkbookError, match="USD per million"):
        fine_tune_openai(dataset(), away.model_copy(update={"task": unpriced}))
    priced = task_with_prices(tmp_path / "priced", **may_leave)
    with pytest.raises(WorkbookError, match="max_cost_usd=0"):
        fine_tune_openai(dataset(), away.model_copy(update={"task": priced}))


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
    extra = (
        '{"trainingType": "GlobalStandard",'
        ' "method": {"supervised": {"hyperparameters": {"learning_rate": 1e-5}}}}'
    )
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
        closing = Provider("host", "OpenAI", store.now().date(), "", newcomers=False)
        monkeypatch.setattr(provider, "provider_of", lambda base_url: closing)
        with pytest.raises(WorkbookError, match="none before") as caught:
            fine_tune_openai(dataset(), config(toy))
        assert caught.value.exit_code == 5 and toy.files == {} and toy.creates == 0


def test_a_provider_that_soon_serves_nothing_is_refused_though_its_endpoint_is_silent(monkeypatch):
    last = store.now().date() + timedelta(days=40)
    closing = Provider("127.0.0.1", "OpenAI", store.now().date(), "", serve_until=last)
    monkeypatch.setattr(providers, "PROVIDERS", (closing,))
    with ToyApi() as toy:
        with pytest.raises(WorkbookError, match=f"retires on {last}.*40 days") as caught:
            fine_tune_openai(dataset(), config(toy))
        assert caught.value.exit_code == 5 and toy.files == {} and toy.creates == 0
        job = fine_tune_openai(dataset(), config(toy, min_served_days=30))
    assert job.served_until == str(last)


def test_a_provider_that_lists_no_jobs_leaves_the_answer_to_create(monkeypatch):
    def lists_none(client, base_url):
        reply = httpx.Response(404, request=httpx.Request("GET", base_url))
        raise openai.NotFoundError("no jobs here", response=reply, body=None)

    monkeypatch.setattr(provider, "_check_rules", lists_none)
    with ToyApi() as toy:
        assert fine_tune_openai(dataset(), config(toy)).served_until == ""


def with_checkpoints(toy: ToyApi, **changes) -> TrainedModel:
    """A model of three checkpoints, of which the final one answers worst."""
    model = monitor_fine_tuning(fine_tune_openai(dataset(28), config(toy, **changes)).job_id)
    right = {"ft:a": 2, "ft:a:ckpt-step-8": 3, "ft:a:ckpt-step-4": 3}
    steps = {"ft:a": 12, "ft:a:ckpt-step-8": 8, "ft:a:ckpt-step-4": 4}
    numbers = ("(0)", "(7)", "(14)", "(21)")
    for name, count in right.items():
        toy.answers[name] = dict.fromkeys(numbers[:count], ANSWER)
    checkpoints = [{"model": name, "step": step} for name, step in steps.items()]
    details = {"checkpoints": checkpoints}
    return model.model_copy(update={"model_id": "ft:a", "details": details})


def test_the_checkpoint_with_the_best_own_score_is_taken_and_ties_go_to_the_later():
    with ToyApi() as toy:
        model = with_checkpoints(toy, max_new_tokens=77)
        assert choose_checkpoint(model, dataset(28), config(toy)).model_id == "ft:a"
        assert toy.chats == []
        chosen = choose_checkpoint(model, dataset(28), config(toy, checkpoint_rows=4))
    assert chosen.model_id == "ft:a:ckpt-step-8"
    assert store.Run("dev").load(TrainedModel) == chosen
    assert [c["accuracy"] for c in chosen.details["checkpoints"]] == [0.5, 0.75, 0.75]
    assert {chat["max_tokens"] for chat in toy.chats} == {77}, "as the model itself will be asked"
    assert all("json_schema" in chat["response_format"] for chat in toy.chats)
    assert Budget(store.Run("dev")).by_whom() == {}, "an endpoint on this machine costs nothing"


def test_what_asking_checkpoints_costs_counts_against_the_runs_limit(tmp_path):
    task = task_with_prices(tmp_path / "task")
    with ToyApi() as toy:
        changes = {"task": task, "max_cost_usd": 5.0}
        model = with_checkpoints(toy, **changes)
        paid = config(toy, checkpoint_rows=4, **changes)
        chosen = choose_checkpoint(model, dataset(28), paid)
        ledger = Budget(store.Run("dev"))
        job = ledger.by_whom()["job"]
        assert chosen.model_id == "ft:a:ckpt-step-8" and job == model.cost_usd
        assert ledger.spent - job == pytest.approx(12 * 100 * 1000 / 1e6)
        asked = len(toy.chats)
        with pytest.raises(WorkbookError, match=r"max_cost_usd=1\.2"):
            choose_checkpoint(model, dataset(42), paid.model_copy(update={"max_cost_usd": 1.2}))
        assert len(toy.chats) == asked


def test_a_tuned_model_is_asked_as_01_asked_the_best_rung():
    asking = rung("few_shot").asking.model_copy(update={"max_new_tokens": 123, "stop": ["##"]})
    with ToyApi() as toy:
        undecided = monitor_fine_tuning(fine_tune_openai(dataset(), config(toy)).job_id).asking
        best = rung("few_shot", asking=asking)
        store.Run("dev").save(decision(rungs=[rung("zero_shot"), best], best_rung="few_shot"))
        job = fine_tune_openai(dataset(), config(toy, max_new_tokens=9, prompt_style="full"))
        decided = monitor_fine_tuning(job.job_id).asking
    assert (undecided.max_new_tokens, undecided.style, undecided.stop) == (64, "short", [])
    assert undecided.response_format == tasks.load_task("support_triage").schema
    assert (decided.max_new_tokens, decided.style, decided.stop) == (123, "full", ["##"])
    assert (decided.rung, decided.model) == ("fine_tuned", job.version)


def test_how_long_answers_may_get_is_no_reason_for_another_job():
    with ToyApi() as toy:
        first = fine_tune_openai(dataset(), config(toy))
        again = fine_tune_openai(dataset(), config(toy, max_new_tokens=99))
        assert again.job_id == first.job_id and toy.creates == 1
        assert monitor_fine_tuning(again.job_id).asking.max_new_tokens == 99


def paid(toy: ToyApi, tmp_path, limit: float = 1.0) -> OpenAIJobConfig:
    if not (tmp_path / "task").exists():
        task_with_prices(tmp_path / "task")
    return config(toy, task=str(tmp_path / "task"), max_cost_usd=limit)


def test_what_a_job_may_cost_is_reserved_first_and_what_it_cost_is_settled(tmp_path):
    with ToyApi() as toy:
        job = fine_tune_openai(dataset(), paid(toy, tmp_path))
        ledger = Budget(store.Run("dev"), 1.0)
        assert 0 < job.most_usd == ledger.reserved and ledger.spent == 0
        model = monitor_fine_tuning(job.job_id)
    assert model.cost_usd == ledger.spent == 1234 * 3.0 / 1e6 and ledger.reserved == 0
    assert ledger.by_whom() == {"job": model.cost_usd}


def test_a_killed_run_reserves_for_its_job_once(tmp_path):
    with ToyApi() as toy:
        job = fine_tune_openai(dataset(), paid(toy, tmp_path))
        ledger = Budget(store.Run("dev"), 1.0)
        for lost in ({"job_id": ""}, {"job_id": "", "status": "creating"}, {"job_id": ""}):
            job.save(**lost)
            job = fine_tune_openai(dataset(), paid(toy, tmp_path))
            assert ledger.reserved == job.most_usd and toy.creates == 1
        monitor_fine_tuning(job.job_id)
        fine_tune_openai(dataset(), paid(toy, tmp_path))
        assert monitor_fine_tuning(job.job_id).cost_usd == ledger.spent and ledger.reserved == 0


@pytest.mark.parametrize("scenario", ["forbidden", "broken", "failed"])
def test_a_job_that_came_to_nothing_costs_nothing(tmp_path, scenario):
    with ToyApi(scenario) as toy, pytest.raises(WorkbookError):
        monitor_fine_tuning(fine_tune_openai(dataset(), paid(toy, tmp_path)).job_id)
    ledger = Budget(store.Run("dev"), 1.0)
    assert (ledger.spent, ledger.reserved) == (0.0, 0.0)


def test_a_job_beyond_the_limit_sends_nothing_and_goes_on_when_the_limit_is_raised(tmp_path):
    with ToyApi("no_listing") as toy:
        with pytest.raises(WorkbookError, match=r"max_cost_usd=0\.0001") as caught:
            fine_tune_openai(dataset(), paid(toy, tmp_path, limit=0.0001))
        assert caught.value.exit_code == 2 and toy.files == {} and toy.creates == 0
        assert Budget(store.Run("dev")).reserved == 0
        assert fine_tune_openai(dataset(), paid(toy, tmp_path)).job_id and toy.creates == 1
