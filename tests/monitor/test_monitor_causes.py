"""What a change is put down to: faults of the log are named, and never ask for a retrain."""

from collections import Counter
from datetime import date, timedelta

import pytest
from test_health import BROKEN, EARLIER, GOOD, NEW, RECENT, check, health, log, rows, serve
from trouble_toys import (
    bad_first_days,
    by_day,
    dead_slice,
    flood,
    ratings_in_words,
    turned_scale,
    worse_than_before,
)

from helpers import monitor, registry, store, tasks
from helpers.monitor.causes import _rating_scale
from helpers.monitor.checks import Served
from helpers.records import Finding
from helpers.registry.database import open_registry
from helpers.registry.versions import update


@pytest.fixture
def task():
    return tasks.load_task("support_triage")


def causes(result):
    return {cause.name: cause for cause in result.causes}


def test_a_rating_scale_that_was_turned_round_is_named_and_asks_for_no_retrain(task):
    turned_scale(task)
    result = health(task)
    assert (result.verdict, result.reasons) == ("watch", ["feedback_mean"])
    assert "turned round" in causes(result)["rating_scale"].evidence
    assert "turn the scale back" in check(result, "feedback_mean").remedy


def test_a_turned_scale_is_named_where_few_rate_in_a_week(task):
    serve(task, days=120)
    turned = rows(range(21), seed=2, per_day=8, rated=0.3)
    for row in turned:
        row["feedback_score"] = row["feedback_score"] and 6 - row["feedback_score"]
    log(task, rows(range(21, 120), per_day=8, rated=0.3) + turned)
    result = health(task)
    assert (result.verdict, "rating_scale" in causes(result)) == ("watch", True)


def test_ratings_that_nobody_can_read_are_named(task):
    ratings_in_words(task)
    result = health(task)
    assert result.verdict == "watch"
    assert "are none on the scale" in causes(result)["unread_ratings"].evidence


def test_a_doubled_log_counts_each_request_once_and_is_named(task):
    serve(task)
    made = rows(EARLIER) + rows(RECENT, seed=2)
    log(task, made, "a.jsonl")
    log(task, [row | {"request_id": f"again-{row['request_id']}"} for row in made], "b.jsonl")
    result = health(task)
    assert (result.verdict, result.reasons) == ("watch", ["logged_twice"])
    assert monitor.read_live(task).requests == len(made)
    assert f"{len(made)} rows repeat" in causes(result)["logged_twice"].evidence


def test_a_logger_that_writes_another_versions_name_is_named(task):
    serve(task)
    log(task, rows(range(1), per_day=60, version="model-2026", rating=3.5))
    result = health(task)
    assert result.verdict == "watch"
    evidence = causes(result)["unknown_version"].evidence
    assert "'model-2026' (60 requests), which nobody registered" in evidence
    assert "write version 'v1'" in check(result, "volume").remedy


def test_ratings_that_come_in_lines_of_their_own_count_and_name_the_worst_whatever_their_file(task):
    serve(task)
    made = rows(EARLIER, per_day=60) + rows(RECENT, seed=2, per_day=60, rating=2.5)
    log(task, made)
    expected = health(task)
    said = []
    for row in made:
        score = row.pop("feedback_score")
        if score:
            said.append({"request_id": row["request_id"], "at": row["created_at"], "thumb": None})
            said[-1]["feedback_score"] = score
    log(task, made)
    for name in ("a-feedback.jsonl", "z-feedback.jsonl"):  # read before, and after
        log(task, said, name)
        result = health(task)
        assert result.reasons == expected.reasons == ["feedback_mean"]
        assert check(result, "feedback_mean") == check(expected, "feedback_mean")
        assert causes(result)["worst_rated"] == causes(expected)["worst_rated"]
        (store.home() / "live" / task.registry_name / name).unlink()


def test_ratings_in_a_file_without_a_day_count_for_every_day_whatever_its_name(task):
    serve(task)
    made = rows(range(40), per_day=5)
    said = [
        {"request_id": row["request_id"], "at": row["created_at"], "feedback_score": 4}
        for row in made
    ]
    by_day(task, [row | {"feedback_score": None} for row in made])
    for name in ("0-feedback.jsonl", "feedback.jsonl"):
        log(task, said, name)
        counted = monitor.read_live(task)
        ratings = [day["feedback_mean"].total() for day in counted.of(["v1"]).values()]
        assert (sum(ratings), counted.requests) == (len(made), len(made))
        (store.home() / "live" / task.registry_name / name).unlink()


GARBAGE = [{"ts": n, "prompt": "p"} for n in range(40)]
BEGAN = {
    "unreadable_lines": lambda week: week + GARBAGE,
    "logged_twice": lambda week: week + [row | {"request_id": row["answer"]} for row in week[-40:]],
    "unread_ratings": lambda week: [row | {"feedback_score": "grade 2"} for row in week],
}


@pytest.mark.parametrize("fault", BEGAN)
@pytest.mark.parametrize("days", [30, 300])
def test_what_began_this_week_is_told_however_long_the_log_is(task, fault, days):
    serve(task, days=days)
    log(task, rows(range(7, days)) + BEGAN[fault](rows(RECENT, seed=2)))
    assert fault in causes(health(task))


def test_a_version_that_was_replaced_and_still_answers_is_named(task):
    worse_than_before(task)
    log(task, rows(range(40)) + rows(range(3), seed=2, version="v2", per_day=3))
    result = health(task)
    assert "'v1' (" in causes(result)["unknown_version"].evidence
    assert "workbook route" in str([check.remedy for check in result.checks])


@pytest.mark.parametrize("again", [0.02, 0.15, 0.9])
@pytest.mark.parametrize("in_days", [False, True])
def test_requests_whose_ids_begin_again_are_all_counted(task, again, in_days):
    serve(task)
    made = rows(range(30))
    for number, row in enumerate(made):
        row["request_id"] = f"{number % int(len(made) * (1 - again) + 1)}"
        row["messages"] = [{"role": "user", "content": f"question {number}"}]
    if in_days:
        by_day(task, made)
    else:
        log(task, made)
    assert monitor.read_live(task).requests == len(made)


def test_topics_are_looked_for_in_all_rows_of_ids_that_begin_again(task):
    serve(task)
    made = rows(EARLIER) + rows(RECENT, seed=2, words=NEW)
    for number, row in enumerate(made):
        row["request_id"] = f"{number % (len(made) - 60)}"
    made[-1]["conversation_id"] = made[-2]["conversation_id"] = "one"
    log(task, made)
    assert check(health(task), "topics").estimate.n == 7 * 15 - 1


def test_a_slice_that_task_yaml_and_we_know_counts_once(task):
    serve(task)
    task = task.model_copy(update={"slices": ["language"]})
    question = [{"role": "user", "content": "the hub and you have not that this time"}]
    log(task, rows(RECENT, rated=1.0, messages=question, language="en"))
    whole = sum((each["feedback_mean"] for each in days_of(task)), Counter())
    part = sum((each["feedback_mean, language = en"] for each in days_of(task)), Counter())
    assert whole == part


def days_of(task):
    return monitor.read_live(task).of(["v1"]).values()


def test_requests_of_one_id_and_one_moment_are_all_counted(task):
    serve(task)
    made = rows(range(1), per_day=9)
    for number, row in enumerate(made):
        row |= {"request_id": "0", "created_at": "2026-11-01T10:00:00.5"}
        row["messages"] = [{"role": "user", "content": f"question {number}"}]
    log(task, made)
    assert monitor.read_live(task).requests == len(made)


def test_what_nobody_can_read_counts_on_the_log_s_own_days(task):
    serve(task)
    log(task, [{"ts": 1}] * 90 + rows(range(20, 34), per_day=200) + [{"ts": 1}])
    read = monitor.read_live(task)
    ages = [(store.now().date() - day).days for day in read.faults["unreadable_lines"]]
    assert min(ages) > 10 and read.faults["unreadable_lines"].total() == 91
    assert not {"unreadable_lines"} & {*causes(health(task))}  # 3%, and one line is none


@pytest.mark.parametrize("share", [0.4, 0.5, 0.6])
def test_thumbs_near_one_half_that_fall_are_not_turned_round(share):
    days = {date(2026, 9, 1) + timedelta(days=i): share for i in range(40)}
    days |= {date(2026, 10, 11) + timedelta(days=i): max(0.33, 1 - share) for i in range(40)}
    numbers = {
        day: {"feedback_mean": Counter({1.0: round(100 * up), 0.0: round(100 - 100 * up)})}
        for day, up in days.items()
    }
    fell = Finding(name="feedback_mean", verdict="fail", evidence="")
    assert _rating_scale(Served(numbers, max(days), 7), [fell]) is None


@pytest.mark.parametrize("tells", [{"conversation_id": 1}, {"latency_ms": 1}])
@pytest.mark.parametrize("moment", ["2026-11-01", "2026-11-01T10:00", "2026-11-01 10:00:07+01:00"])
def test_two_alike_requests_of_a_clock_without_parts_of_a_second_are_two(task, moment, tells):
    serve(task)
    row = rows(range(1), per_day=1)[0] | {"created_at": moment}
    row.pop("latency_ms")
    several = [row | {name: n} for n in range(1, 9) for name in tells]
    log(task, [row | {"request_id": str(n)} for n, row in enumerate([*several, *several])])
    read = monitor.read_live(task)
    assert (read.requests, read.faults["logged_twice"].total()) == (8, 8)


@pytest.mark.parametrize("ahead", [1, 40])
def test_rows_of_the_future_count_nowhere_and_are_named(task, ahead):
    serve(task, days=0)
    made = rows(range(1), per_day=50)
    for number, row in enumerate(made):
        row["created_at"] = (store.now() + timedelta(days=ahead, seconds=number)).isoformat()
    log(task, made)
    result = health(task)
    assert check(result, "volume").estimate.n == 0
    assert "50 requests say" in causes(result)["wrong_clock"].evidence


def test_every_fault_of_a_log_is_told_with_what_shows_it(task):
    serve(task)
    made = rows(EARLIER) + rows(RECENT, per_day=1, seed=2)
    by_day(task, made)
    log(task, [{"ts": 1, "prompt": "p", "completion": "c"}] * 90, "b.jsonl")
    log(task, [], "app.jsonl.1")
    volume = check(health(task), "volume")
    assert "90 lines of the log" in volume.evidence and "app.jsonl.1" in volume.evidence
    assert "logs check" in volume.remedy and "unpack them" in volume.remedy


def test_a_flood_is_explained_by_no_file_that_was_passed_over(task):
    flood(task)
    log(task, [], "app.jsonl.1")
    result = health(task)
    assert set(result.reasons) == {"volume", "passed_over"}
    assert "unpack" not in check(result, "volume").remedy


def test_files_that_count_or_are_hidden_are_not_passed_over(task):
    serve(task)
    folder = store.home() / "live" / task.registry_name
    (folder / "old.jsonl").mkdir(parents=True)  # a folder, and what a Mac leaves beside a file
    (folder / f"._{store.now().date()}.jsonl").write_bytes(b"\x00\x05\x16\x07" * 90)
    first = f"{(store.now() - timedelta(days=34)).date()}"
    by_day(task, rows(range(30)))
    log(task, rows([34]), f"{first}.host-a.jsonl")
    publish(task)
    (folder / f"{first}.host-a.jsonl").rename(folder / f"{first}.host-a.jsonl.gz")
    log(task, rows(range(1)), ".ipynb_checkpoints/2026-checkpoint.jsonl")
    read = monitor.read_live(task)
    assert (read.passed_over, read.faults) == ([], {})
    log(task, rows(range(1)), "old/2026.jsonl")
    assert monitor.read_live(task).passed_over == ["2026.jsonl"]


def test_a_first_version_has_no_predecessor_whatever_its_rows_are_called(task):
    serve(task)
    log(task, rows(RECENT, seed=2, per_day=50, rating=2.0) + rows(EARLIER, version="-"))
    names = {each.name for each in health(task).checks}
    assert "feedback_mean_against_predecessor" not in names


def test_nothing_to_keep_makes_no_file(task):
    serve(task)
    log(task, rows(RECENT))
    publish(task)
    assert not (store.home() / "monitor" / "demo.support_triage.jsonl").exists()


def test_one_slice_that_fell_alone_is_told_as_this_slice(task):
    dead_slice(task)
    result = health(task)
    assert result.verdict == "retrain"
    assert "feedback_mean, category = MU" in result.reasons
    assert "the whole is as it was" in causes(result)["one_slice"].evidence


def test_new_terms_come_with_rows_and_personal_data_is_masked(task):
    serve(task)
    asked = [*NEW, "jane.doe@example.org"]
    log(task, rows(EARLIER, words=NEW[:1] * 8) + rows(RECENT, seed=2, words=asked, broken=0.5))
    result = health(task)
    everything = result.model_dump_json()
    assert "jane.doe" not in everything
    assert BROKEN in causes(result)["broken_formats"].evidence
    assert "not one JSON object" in causes(result)["broken_formats"].evidence


def test_words_that_training_never_saw_are_named(task):
    serve(task)
    log(task, rows(EARLIER) + rows(RECENT, seed=2, words=NEW))
    evidence = causes(health(task))["new_topics"].evidence
    assert sum(f"'{word}' in" in evidence for word in NEW) == 5


def test_a_version_that_is_bad_from_its_first_day_is_sent_back(task):
    bad_first_days(task)
    result = health(task)
    assert result.reasons == ["format_compliance_against_evaluation"]
    assert check(result, result.reasons[0]).remedy.startswith("roll back")


@pytest.mark.parametrize("name", ["v1", "ft:v1"])
def test_a_version_is_held_against_the_ratings_of_the_one_before(task, name):
    worse_than_before(task)
    with open_registry().transaction() as db:
        update(db, "v1", model_id="ft:v1")
    file = store.home() / "live" / task.registry_name / "2026.jsonl"
    text = file.read_text().replace('"version": "v1"', f'"version": "{name}"')
    store.write_text(file, text)
    result = health(task)
    assert (result.version, result.reasons) == ("v2", ["feedback_mean_against_predecessor"])


def publish(task, **options):
    log = monitor.read_live(task)
    result = health(task, log=log, **options)
    monitor.publish(task, store.open_run("dev"), result, log)
    return result


def test_an_alarm_goes_on_after_the_window_is_well_again_until_it_is_resolved(task):
    serve(task)
    log(task, rows(EARLIER, per_day=25) + rows(RECENT, per_day=25, seed=2, rating=2.0))
    assert publish(task).verdict == "retrain"
    log(task, rows(EARLIER, per_day=25) + rows(RECENT, per_day=25, seed=3))
    for _ in range(2):
        assert "feedback_mean" in publish(task).reasons
    (alarm,) = registry.list_alarms(task.registry_name, state="open")
    assert alarm.name == "feedback_mean"
    registry.close_alarm(alarm.id, "resolved", "the strike of May is over")
    assert publish(task).verdict == "ok"


def is_resolved(task, monkeypatch, *names):
    """The alarms of a look are resolved, and a day passes."""
    assert {*publish(task).reasons} == {*names}
    for alarm in registry.list_alarms(task.registry_name, state="open"):
        registry.close_alarm(alarm.id, "resolved", "it will stay so")
    tomorrow = store.now() + timedelta(days=1)
    monkeypatch.setattr(store, "now", lambda: tomorrow)


@pytest.mark.parametrize(
    ("change", "name"), [({"rating": 2.0}, "feedback_mean"), ({"per_day": 8}, "volume")]
)
def test_what_was_resolved_is_a_new_beginning_also_for_slices_and_the_volume(
    task, monkeypatch, change, name
):
    serve(task)
    made = []
    for seed, answer in ((1, GOOD), (5, GOOD.replace("KE", "MU"))):
        made += rows(EARLIER, per_day=60, seed=seed, answer=answer)
        made += rows(RECENT, **{"per_day": 60, "seed": seed + 1, "answer": answer} | change)
    log(task, made)
    is_resolved(task, monkeypatch, name)
    assert publish(task).verdict == "ok"


def test_a_promise_that_was_resolved_begins_anew_and_is_kept_from_then_on(task, monkeypatch):
    bad_first_days(task)
    name = "format_compliance_against_evaluation"
    is_resolved(task, monkeypatch, name)
    bad = rows(range(1, 6), broken=0.6)
    log(task, bad + rows(range(1), seed=8))
    assert publish(task).verdict == "ok"
    log(task, bad + rows(range(1), seed=8, broken=0.6, per_day=40))
    assert publish(task).reasons == [name]


def test_an_acknowledged_fall_asks_for_no_retrain_though_it_goes_on(task):
    serve(task)
    log(task, rows(EARLIER, per_day=25) + rows(RECENT, per_day=25, seed=2, rating=2.0))
    assert publish(task).verdict == "retrain"
    (alarm,) = registry.list_alarms(task.registry_name, state="open")
    registry.close_alarm(alarm.id, "acknowledged", "a strike; it will pass")
    result = publish(task)
    assert (result.verdict, result.reasons) == ("watch", ["feedback_mean"])


def test_an_acknowledged_warning_silences_no_retrain(task):
    turned_scale(task)
    assert publish(task).verdict == "watch"
    (alarm,) = registry.list_alarms(task.registry_name, state="open")
    registry.close_alarm(alarm.id, "acknowledged", "the scale is turned back tonight")
    log(task, rows(EARLIER, per_day=60) + rows(RECENT, seed=2, per_day=60, rating=2.5))
    assert publish(task).verdict == "retrain"
    (alarm,) = registry.list_alarms(task.registry_name, state="open")
    assert alarm.severity == "critical"


@pytest.mark.parametrize("caller", ["app", "a\u2028b"])
def test_days_that_are_over_are_kept_and_their_files_may_go(task, caller):
    serve(task)
    folder = store.home() / "live" / task.registry_name
    for day in range(40):
        name = f"{(store.now() - timedelta(days=day)).date()}.jsonl"
        made = [row for row in rows([day], caller=caller) if row["created_at"][:10] == name[:10]]
        store.write_jsonl(folder / name, made)
    before = monitor.read_live(task)
    publish(task)
    file = store.home() / "monitor" / "demo.support_triage.jsonl"
    kept = file.read_bytes()
    assert kept.count(b'"file"') == 25
    for path in sorted(folder.glob("*.jsonl"))[:20]:
        path.unlink()
    again = monitor.read_live(task)
    assert (again.days, again.requests) == (before.days, before.requests)
    file.write_bytes(kept + b'\n{"file": "2020\xe2')  # a kill came within a letter
    assert monitor.read_live(task).requests == before.requests
