"""What is broken on purpose passes the usual look, and is caught by the instrument named for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from record_toys import evaluation

from helpers import curate, evaluate, learn, monitor, parameters, registry, store, tasks, train
from helpers.evaluate import causes
from helpers.evaluate import judge as judging
from helpers.models import practice
from helpers.records import AnswerRow, Budget, WorkbookError
from helpers.show import train as views

sys.path.insert(0, str(Path(__file__).parents[1] / "registry"))
import registry_toys  # (after the path to it)


@pytest.fixture(scope="module")
def clean_rows(tmp_path_factory):
    """What 02 makes of the shipped task's human rows."""
    patch = pytest.MonkeyPatch()
    patch.setenv("WORKBOOK_HOME", str(tmp_path_factory.mktemp("home")))
    declared = parameters.declared_parameters(store.NOTEBOOKS / "02_curate.ipynb")
    settings = declared | {"base_model": "tiny", "use_production": False}
    curated = curate.curate(curate.DataCollectionConfig.of(settings))
    yield curated
    patch.undo()


@pytest.fixture
def run(tmp_path, monkeypatch) -> store.Run:
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path))
    return store.open_run("broken")


def broken(name, clean_rows, run):
    return learn.break_data(name, clean_rows, run)


def answers(rows, text: str) -> list[AnswerRow]:
    made = []
    for row in rows:
        fields = {"latency_ms": 1.0, "tokens_in": 1, "tokens_out": 1}
        scores = {"accuracy": 1.0}
        made.append(AnswerRow(id=row.id, group=row.group, answer=text, scores=scores, **fields))
    return made


def test_nothing_is_broken_by_default(clean_rows, run):
    assert broken("", clean_rows, run).examples == clean_rows.examples
    assert not run.has(parameters.BROKEN)


@pytest.mark.parametrize("name", ["leak", "shuffled_labels"])
def test_the_checkpoint_of_02_does_not_see_it(name, clean_rows, run):
    curated = broken(name, clean_rows, run)
    dataset = curate.publish_dataset(curated)
    assert "accounted for" in curate.check_dataset(dataset, curated.funnel, 100)
    assert run.has(parameters.BROKEN) and curated.params["break_it"] == name


def test_a_leak_is_counted_by_the_causes_of_04(clean_rows, run):
    def finding(curated):
        test = curated.part("test")
        tuned, base = answers(test, "a"), answers(test, "b")
        return causes.broken_evaluation(tuned, base, curated.part("train"), test)

    assert finding(clean_rows).verdict == "pass"
    found = finding(broken("leak", clean_rows, run))
    leaked = len(clean_rows.part("test")[::3])
    assert found.verdict == "fail" and f"{leaked} test rows in train" in found.evidence


def test_shuffled_labels_are_ranked_by_a_classifier_that_has_not_seen_them(clean_rows, run):
    pytest.importorskip("cleanlab")
    from helpers.extras import doubts

    def suspects(curated) -> int:
        labels = curate.label_functions(curated.task, curated.labels)
        return len(doubts.rank_labels(curated.examples, labels))

    usual = suspects(clean_rows)
    assert suspects(broken("shuffled_labels", clean_rows, run)) > 3 * usual + 20


def test_an_end_that_is_not_learnt_shows_as_no_before_training(clean_rows, run):
    dataset = curate.publish_dataset(clean_rows)
    config = train.LoraTrainingConfig.of({"base_model": "tiny"})
    task = tasks.load_task("support_triage")
    report = train.preflight(dataset, task, config)
    wrong = learn.break_rows("end_token", report)
    assert learn.break_rows("", report) is report
    shown = [views.checks_table(r).to_string() for r in (report, wrong)]
    assert "end of turn is learnt yes" in shown[0] and "end of turn is learnt NO" in shown[1]
    assert [row.trained - 1 for row in report.train] == [row.trained for row in wrong.train]
    assert not any(spans[-1][1] for spans in wrong.samples.values()), "its last token is plain"


def test_an_adapter_that_does_nothing_is_refused_and_answers_as_its_base(tmp_path, run, clean_rows):
    import torch
    from record_toys import trained_model
    from safetensors.torch import save_file

    folder = store.home() / "models" / "v1" / "adapter"
    folder.mkdir(parents=True)
    weights = {"q.lora_A.weight": torch.ones(2, 3), "q.lora_B.weight": torch.ones(3, 2)}
    save_file(weights, folder / "adapter_model.safetensors")
    model = trained_model(adapter="models/v1/adapter")
    learn.break_adapter("", model)
    train.check_adapter(folder)
    learn.break_adapter("no_op_adapter", model)
    with pytest.raises(WorkbookError, match="has no effect"):
        train.check_adapter(folder)
    test = clean_rows.part("test")
    same = answers(test, "{}")
    assert causes.broken_evaluation(same, same, [], test).verdict == "fail"


def test_far_too_long_steps_are_settings_that_can_be_read(run):
    task = tasks.load_task("support_triage")
    config = train.LoraTrainingConfig.of({"base_model": "tiny", "learning_rate": 1e-3})
    assert learn.break_settings("learning_rate", config, run, task).learning_rate == 0.03
    assert learn.break_settings("leak", config, run, task) == config, "02's business"


def test_far_too_long_steps_show_in_the_height_of_the_curve_and_later_as_one_endless_answer(
    clean_rows,
):
    # as measured: the tutorial's model, 107 rows, 73 steps
    train_losses = {4: 3.708, 8: 17.741, 16: 25.085, 24: 10.875, 40: 4.917, 60: 3.708, 68: 3.648}
    looks = {15: 38.125, 30: 5.979, 45: 4.319, 60: 3.804, 73: 3.625}
    lines = [{"step": step, "loss": loss} for step, loss in train_losses.items()]
    lines += [{"step": step, "eval_loss": loss} for step, loss in looks.items()]
    axis = views.loss_figure(lines, 107, 60).axes[0]
    assert axis.get_ylim()[1] > 10 * train_losses[4], "the jump is the first thing that is seen"
    overfit, _ = causes.judge_curve(list(looks.values()), evaluation())
    assert overfit.verdict == "pass"
    rows = [row for row in clean_rows.examples if row.part == "test"]
    endless = answers(rows, '":"' * 60)
    for row in endless:
        row.scores.update(accuracy=0.0, endless=1.0)
    symptom = causes.template_mismatch(rows, endless)
    assert symptom.verdict == "fail" and "loss curve of 03 first" in symptom.evidence


def test_twenty_candidates_that_are_no_better_pass_the_usual_rules_and_not_ours():
    pairs = learn.null_candidates()
    gains = [sum(ours) - sum(theirs) for ours, theirs in pairs]
    estimates = [evaluate.paired_difference(ours, theirs)[0] for ours, theirs in pairs]
    assert sum(gain >= 0 for gain in gains) >= 8, "tuned is not worse"
    assert sum(gain >= 0.05 * 118 for gain in gains) >= 3, "five points more"
    assert sum(estimate.low > 0 for estimate in estimates) == 0
    good = [evaluate.paired_difference(*pair)[0].low > 0 for pair in learn.good_candidates()]
    assert all(good)


def test_a_judge_that_likes_length_is_consistent_and_far_from_people(clean_rows, run):
    task = clean_rows.task
    assert learn.break_judge("", None, run, task) == (task, None)
    judged, judge = learn.break_judge("longer_wins", None, run, task)
    assert judged.accuracy_from == "judge" and run.has(parameters.BROKEN)
    rows = clean_rows.part("test")[:30]
    long = "Thank you for your message. I am happy to look into this for you as soon as I can."
    right = [answers([row], row.answer)[0] for row in rows]
    table = evaluate.blind_table(rows, right, answers(rows, long))
    session = evaluate.Session(judged, run, Budget(run, 0.0))
    keys = [(row.id, judging.sha(row.answer), judging.sha(long)) for row in rows]
    known_right = dict.fromkeys(keys, True)
    known_wrong = {(name, b, a): False for name, a, b in keys}
    rights, alone = judging.ask_judge(judge, table, rows, session, {})
    assert not any(rights[key] for key in known_right), "every right answer lost"
    assert alone.order_consistency.value == 1.0
    assert "not compared with people" in alone.warnings[0]
    _, compared = judging.ask_judge(judge, table, rows, session, known_right | known_wrong)
    assert compared.kappa < judging.TRUSTED and "at kappa -1.00 only" in compared.warnings[0]


@pytest.fixture
def in_production(run, monkeypatch):
    """A version of the shipped task that serves, and its run."""
    monkeypatch.setattr(registry_toys, "TASK", "demo/support_triage")
    manager = registry_toys.candidate("v1")
    manager.promote("v1", "production", because="for the test", force=True)
    return manager


def test_another_file_in_the_adapters_place_stops_gate_and_drill(run, monkeypatch):
    monkeypatch.setattr(registry_toys, "TASK", "demo/support_triage")
    manager = registry_toys.candidate("v1")
    version = manager.get_version("v1")
    its_run = store.open_run(version.run_id)

    def artifact() -> str:
        rules = manager.validate_for_production("v1", "production")
        return next(rule.verdict for rule in rules if rule.name == "artifact")

    task = tasks.load_task("support_triage")
    assert learn.break_version("", version, its_run, task) is version
    assert artifact() == "pass"
    learn.break_registry("exchanged_adapter", its_run, task)
    learn.break_version("exchanged_adapter", version, its_run, task)
    assert artifact() == "fail"
    drill = registry.rehearse("demo/support_triage", "v1")
    assert "was changed" in drill[1]["note"] and drill[1]["serves"] == "nothing"
    forced = manager.promote("v1", "production", because="hurry", force=True)
    assert not forced.promoted


def test_what_serves_is_not_damaged_for_practice(in_production):
    version = in_production.get_version("v1")
    run, task = store.open_run(version.run_id), tasks.load_task("support_triage")
    with pytest.raises(WorkbookError, match="v1 serves"):
        learn.break_version("exchanged_adapter", version, run, task)
    assert registry.rehearse("demo/support_triage", "v1")[0]["serves"] == "v1"


@pytest.fixture
def spare(in_production, monkeypatch):
    """(a run that was evaluated while v1 serves, the task); the home is put back afterwards."""
    monkeypatch.setenv("WORKBOOK_HOME", str(store.home()))  # what a break changes is undone
    manager = registry_toys.candidate("v2")
    version = manager.get_version("v2")
    return store.open_run(version.run_id), tasks.load_task("support_triage")


def test_of_twenty_on_noise_the_luckiest_looks_good_and_the_gate_promotes_none(spare, tmp_path):
    run, task = spare
    learn.break_registry("noise", run, task)
    assert store.home() == run.path("home_noise").resolve()
    manager = registry.FineTuneLifecycleManager(task.registry_name)
    shown = learn.break_version("noise", manager.register(run), run, task)
    candidates = [v for v in manager.list_versions() if "-noise-" in v.id]
    assert len(candidates) == 20 and candidates[0] == shown
    evaluations = [manager.get_evaluation(version.id) for version in candidates]
    gains = [evaluation.comparison["accuracy"].difference for evaluation in evaluations]
    assert gains[0].value > 0.08, "the usual look: it is surely worth it"
    assert sum(gain.value >= 0 for gain in gains) >= 8
    assert all(gain.low <= 0 for gain in gains) and "pass" not in {e.verdict for e in evaluations}
    rules = {rule.name: rule for rule in manager.validate_for_production(shown.id)}
    assert rules["artifact"].verdict == "pass"
    assert rules["evaluation_verdict"].verdict != "pass"
    assert "undecided at this n" in rules["evaluation_verdict"].evidence
    assert not manager.promote(shown.id, "production", because="hurry", force=True).promoted
    os.environ["WORKBOOK_HOME"] = str(tmp_path)
    assert {version.id for version in registry.list_versions()} == {"v1", "v2"}, "a copy broke"


def test_a_torn_registry_is_never_read_and_comes_back_from_its_backup(spare):
    run, task = spare
    home = store.home()
    learn.break_registry("noise", run, task)
    os.environ["WORKBOOK_HOME"] = str(home)  # as a new kernel has it
    learn.break_registry("torn_registry", run, task)  # another break of the same run
    with pytest.raises(WorkbookError, match=r"malformed.*registry restore FILE"):
        registry.FineTuneLifecycleManager(task.registry_name).register(run)
    backup = store.home() / "registry-backup.json"
    (store.home() / "registry.db").rename(store.home() / "torn.db")
    for refused in (registry.list_versions, registry.history, lambda: registry.backup(backup)):
        with pytest.raises(WorkbookError, match="not the registry that this home knows"):
            refused()
    registry.restore(backup)
    learn.break_registry("torn_registry", run, task)  # the notebook, run once more
    manager = registry.FineTuneLifecycleManager(task.registry_name)
    assert manager.register(run).id == "v2" and manager.route().version == "v1"
    assert not manager.promote("v2", "production", because="hurry", force=True).promoted


def test_no_registry_of_a_team_is_broken(spare, monkeypatch):
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", "postgresql://nowhere/none")
    with pytest.raises(WorkbookError, match="unset WORKBOOK_DATABASE_URL"):
        learn.break_registry("torn_registry", *spare)


def health_of(name: str, run: store.Run):
    task = tasks.load_task("support_triage")
    path = learn.break_live(name, "", run, task)
    log = monitor.read_live(task, path)
    assert log.simulated, "a broken copy of the simulation is a simulation"
    return monitor.check_health(task, run, 7, 90, path, log)


def test_a_turned_scale_is_named_as_a_fault_of_the_log_and_trains_nobody(in_production, run):
    assert (
        learn.break_live("", "here.jsonl", run, tasks.load_task("support_triage")) == "here.jsonl"
    )
    health = health_of("turned_scale", run)
    [fallen] = [check for check in health.checks if check.name == "feedback_mean"]
    assert fallen.verdict == "fail", "the usual look: ratings have surely fallen"
    assert "rating_scale" in {cause.name for cause in health.causes}
    assert health.verdict == "watch"


def test_drift_is_named_by_its_words_and_asks_a_person(in_production, run):
    health = health_of("drift", run)
    [cause] = [cause for cause in health.causes if cause.name == "new_topics"]
    assert "scooter" in cause.evidence or "tramway" in cause.evidence
    assert health.verdict == "watch" and "feedback_mean" not in health.reasons


def test_a_job_that_never_ends_is_one_of_the_practice_api_and_has_a_deadline(run):
    task = tasks.load_task("support_triage")
    config = train.OpenAIJobConfig.of({"base_url": "practice", "base_model": "tiny"})
    broken = learn.break_settings("endless_job", config, run, task)
    assert broken.model_suffix == "stuck_validating" and broken.job_deadline_minutes <= 1
    elsewhere = train.OpenAIJobConfig.of({"base_url": "http://127.0.0.1:9/v1", "api_model": "m"})
    with pytest.raises(WorkbookError, match="practice API"):
        learn.break_settings("endless_job", elsewhere, run, task)


def test_a_job_that_never_ends_is_left_at_the_deadline_named_and_found_again(
    run, monkeypatch, capsys, clean_rows
):
    monkeypatch.setenv("WORKBOOK_HEADLESS", "1")
    task, dataset = clean_rows.task, curate.publish_dataset(clean_rows)
    values = {"base_url": "practice", "base_model": "tiny", "run_id": run.id, "poll_seconds": 0.1}
    values |= {"api_model": "practice-tiny", "job_deadline_minutes": 0.01}
    config = learn.break_settings("endless_job", train.OpenAIJobConfig.of(values), run, task)
    try:
        job = train.fine_tune_openai(dataset, config)
        view = views.JobView(job.job_id, train.cancel_fine_tuning)
        with pytest.raises(WorkbookError, match=f"{job.job_id} is still validating_files") as late:
            train.monitor_fine_tuning(job.job_id, view.event, view.look)
        assert late.value.exit_code == 124 and "same run_id" in str(late.value)
        assert f"{job.job_id}: validating_files after" in capsys.readouterr().out
        again = train.fine_tune_openai(dataset, config)
        assert again.reattached and again.job_id == job.job_id, "no second job"
        assert train.cancel_fine_tuning(job.job_id) == "cancelled"
    finally:
        while practice._children:
            practice._children.pop().kill()


def test_unknown_names_and_tasks_of_ones_own_are_refused(run, tmp_path):
    task = tasks.load_task("support_triage")
    config = train.LoraTrainingConfig.of({"base_model": "tiny"})
    with pytest.raises(WorkbookError, match="known are leak, shuffled_labels"):
        learn.break_settings("everything", config, run, task)
    own = task.model_copy(update={"shipped": False})
    with pytest.raises(WorkbookError, match="is your own"):
        learn.break_settings("leak", config, run, own)
    assert not run.has(parameters.BROKEN)


def test_a_broken_run_says_so_in_every_notebook(run, capsys, monkeypatch):
    task = tasks.load_task("support_triage")
    config = train.LoraTrainingConfig.of({"base_model": "tiny"})
    learn.break_settings("learning_rate", config, run, task)
    declared = parameters.declared_parameters(store.NOTEBOOKS / "04_evaluate.ipynb")
    parameters.begin("04_evaluate", declared | {"run_id": "broken", "profile": ""})
    assert "BROKEN ON PURPOSE (learning_rate)" in capsys.readouterr().out
