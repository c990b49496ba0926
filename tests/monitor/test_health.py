"""Health from made-up logs: what asks for a retrain, what for a look, and what says nothing."""

import json
import random
from collections import Counter
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone

import pandas
import pytest

from helpers import monitor, store, tasks
from helpers.monitor import watched
from helpers.monitor.checks import Served, volume_check
from helpers.records import Estimate, EvalResults, Finding, Health, LiveRow, WorkbookError
from helpers.registry import FineTuneLifecycleManager
from helpers.registry.database import open_registry, table
from helpers.registry.versions import row_of, switch, update
from helpers.show import monitor as views
from helpers.tasks import LogReader

GOOD = '{"category":"KE","priority":"P2","product":"cam","action":"swap"}'
BROKEN = "Sure! I think this is category KE."
HUMAN = tasks.load_task("support_triage").folder / "human.jsonl"
QUESTIONS = [row["messages"][-2]["content"] for row in store.read_jsonl(HUMAN)]


@pytest.fixture
def task():
    return tasks.load_task("support_triage")


def results(format_low=0.95):
    one = Estimate(value=0.98, low=format_low, high=1.0, n=110)
    names = ("accuracy", "latency_p50", "latency_p95", "cost_per_request")
    return EvalResults(
        format_compliance=one,
        **{name: Estimate(value=0.5, low=0.4, high=0.6, n=110) for name in names},
    )


def serve(task, trained_at=None, days=40):
    """Put a version into production, straight through the switch: the gate is tested elsewhere."""
    manager = FineTuneLifecycleManager(task.registry_name)
    manager.open_version("v1", "r1", "tiny", "d1")
    with open_registry().transaction() as db:
        update(
            db,
            "v1",
            eval_results=results().model_dump(),
            trained_at=trained_at or store.now().isoformat(),
        )
        switch(db, task.registry_name, row_of(db, "v1"), "promote", "test", {})
        since = (store.now() - timedelta(days=days)).isoformat()
        db.execute(table("routes").update().values(since=since))
    return "v1"


def rows(
    days,
    per_day=15,
    rating=4.5,
    broken=0.01,
    rated=0.4,
    latency=500.0,
    error=0.0,
    words=(),
    seed=1,
    **more,
):
    """Traffic of `days` (a range of days before now), oldest first."""
    chance = random.Random(seed)
    made = []
    for day in sorted(days, reverse=True):
        for k in range(per_day):
            score = (
                min(5, max(1, round(chance.gauss(rating, 0.8))))
                if chance.random() < rated
                else None
            )
            question = " ".join(chance.sample(words, 8)) if words else chance.choice(QUESTIONS)
            row = {
                "request_id": f"{seed}-{day}-{k}",
                "created_at": (store.now() - timedelta(days=day, minutes=k + 1)).isoformat(),
                "messages": [{"role": "user", "content": question}],
                "answer": BROKEN if chance.random() < broken else GOOD,
                "latency_ms": latency * chance.uniform(0.5, 1.5),
                "status": "error" if chance.random() < error else "ok",
                "feedback_score": score,
                "version": "v1",
            }
            made.append(row | more)
    return made


def log(task, made, name="2026.jsonl"):
    store.write_jsonl(store.home() / "live" / task.registry_name / name, made)


RECENT, EARLIER = range(0, 7), range(7, 35)


def health(task, **options):
    return monitor.check_health(task, store.open_run("dev"), **options)


def check(result, name):
    return next(c for c in result.checks if c.name == name)


NEW = ["sauna", "glacier", "violin", "tractor", "papaya", "walrus", "kayak", "oboe", "llama"]
CASES = [
    ("nothing changed", {}, "ok", set()),
    ("ratings fell", {"rating": 2.5}, "retrain", {"feedback_mean"}),
    ("the format broke", {"broken": 0.4}, "retrain", {"format_compliance"}),
    ("errors rose", {"error": 0.4}, "watch", {"error_rate"}),
    ("replies got slow", {"latency": 20000.0}, "watch", {"latency_p95"}),
    ("traffic collapsed", {"per_day": 2}, "watch", {"volume"}),
    ("fewer people rate", {"rated": 0.05}, "watch", {"feedback_rate"}),
    (
        "answers got longer",
        {"answer": GOOD[:-1] + ', "note": "' + "so " * 40 + '"}'},
        "retrain",
        {"answer_length", "format_compliance"},
    ),
    ("other things are asked", {"words": NEW}, "watch", {"new_words", "topics"}),
]


@pytest.mark.parametrize(
    ("change", "verdict", "names"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_only_quality_that_surely_fell_asks_for_a_retrain(task, change, verdict, names):
    serve(task)
    log(task, rows(EARLIER) + rows(RECENT, **{"seed": 2} | change))
    result = health(task)
    assert (result.verdict, set(result.reasons)) == (verdict, names)
    assert not result.simulated
    assert result.version == "v1"


def test_a_model_that_got_old_asks_for_a_look(task):
    serve(task, trained_at=(store.now() - timedelta(days=100)).isoformat())
    log(task, rows(EARLIER) + rows(RECENT, seed=2))
    assert health(task).reasons == ["model_age"]
    assert health(task, max_age_days=200).verdict == "ok"


def test_without_a_version_in_production_the_verdict_is_watch_whatever_the_checks_say(task):
    log(task, rows(EARLIER) + rows(RECENT, seed=2, rating=1.5))
    result = health(task)
    assert (result.verdict, result.reasons) == ("watch", ["no_production_version", "feedback_mean"])


@pytest.mark.parametrize("lines", [[], [0]], ids=["an empty log", "one row"])
def test_almost_no_traffic_is_no_reason_to_retrain(task, lines):
    serve(task)
    made = rows(RECENT, seed=2)
    log(task, [made[i] for i in lines])
    result = health(task)
    assert (result.verdict, result.reasons) == ("watch", ["volume"])
    assert check(result, "volume").estimate.n == len(lines)
    store.open_run("dev").save(result)  # valid JSON: no NaN, no infinity
    assert store.open_run("dev").load(Health) == result


def test_a_version_that_was_promoted_today_need_not_have_been_asked_yet(task):
    serve(task, days=0)
    log(task, [])
    assert health(task).verdict == "ok"


def test_no_log_at_all_is_reported_not_raised(task, tmp_path):
    folder = tmp_path / "task"
    folder.mkdir()
    (folder / "task.yaml").write_text(
        "name: mine\ninstructions: {full: Do it.}\ntargets: {accuracy: 0.5}\n"
    )
    result = health(tasks.load_task(str(folder)))
    assert (result.verdict, result.reasons) == ("watch", ["no_production_version"])


def test_no_feedback_at_all_is_a_supported_case(task):
    serve(task)
    log(task, rows(EARLIER, rated=0.0) + rows(RECENT, seed=2, rated=0.0))
    result = health(task)
    assert result.verdict == "ok"
    assert check(result, "feedback_mean").estimate is None
    log(task, rows(EARLIER, rated=0.0) + rows(RECENT, seed=2, rated=0.0, broken=0.5))
    assert health(task).verdict == "retrain"  # the format needs nobody's opinion


def test_rows_of_other_versions_say_nothing_about_this_one(task):
    serve(task)
    FineTuneLifecycleManager(task.registry_name).open_version("v0", "r0", "tiny", "d1")
    log(
        task,
        rows(EARLIER)
        + rows(RECENT, seed=2)
        + rows(RECENT, seed=3, rating=1.0, broken=0.9, version="v0"),
    )
    assert health(task).verdict == "ok"


def test_the_shipped_log_says_that_it_is_a_simulation(task):
    result = health(task)
    assert result.simulated
    assert "feedback_mean" in result.reasons  # a fall in the third week was put into it
    table = views.checks_table(result)
    assert "SIMULATED" in table.caption
    assert table.data["verdict"].iloc[0] == "retrain"
    figure = views.daily_quality(monitor.daily(monitor.read_live(task)), result)
    assert "SIMULATED" in figure.axes[0].get_title(loc="left")


def test_unreadable_lines_are_counted_and_doubled_requests_count_once(task):
    made = rows(RECENT)
    folder = store.home() / "live" / task.registry_name
    lines = [json.dumps(row) for row in made + made[:5]]
    store.write_text(
        folder / "a.jsonl", "\n".join([*lines, "{torn", "[]", '{"created_at": "yesterday"}']) + "\n"
    )
    read = monitor.read_live(task)
    assert (read.requests, read.faults["unreadable_lines"].total()) == (len(made), 3)


def test_a_live_path_that_is_not_there_is_named(task):
    with pytest.raises(WorkbookError, match="does not exist"):
        monitor.read_live(task, "/nowhere/live.jsonl")
    with pytest.raises(WorkbookError, match="window_days"):
        health(task, window_days=0)


def test_parquet_in_a_live_log_is_refused_and_the_remedy_gives_the_same_days(task):
    made = rows(range(2), per_day=5)
    log(task, made)
    expected = monitor.read_live(task).days
    folder = store.home() / "live" / task.registry_name
    frame = pandas.DataFrame(made)
    frame["created_at"] = pandas.to_datetime(frame["created_at"])
    part = folder / "date=2026-11-01" / "part-0.parquet"
    part.parent.mkdir()
    frame.to_parquet(part)
    for live_path in ("", str(folder)):
        with pytest.raises(WorkbookError, match="JSON Lines, a file a day, and no Parquet"):
            monitor.read_live(task, live_path)
    text = pandas.read_parquet(part).to_json(
        orient="records", lines=True, date_format="iso", date_unit="us"
    )
    part.unlink()
    store.write_text(folder / "2026.jsonl", text)
    assert monitor.read_live(task).days == expected


def test_days_carry_n_and_intervals(task):
    log(task, rows(range(3)))
    days = monitor.daily(monitor.read_live(task))
    assert sum(day.n for day in days) == 45
    assert all(
        day.format_compliance.low <= day.format_compliance.value <= day.format_compliance.high
        for day in days
    )


WORDS_OF_CHECKS = {"ok": None, "watch": "warning", "retrain": "critical"}


def made(name, p, word="watch"):
    severity = WORDS_OF_CHECKS[word]
    return Finding(name=name, verdict="fail" if severity else "pass", severity=severity, p=p)


@pytest.mark.parametrize(
    ("words", "serving", "expected"),
    [
        (["ok", "ok"], True, "ok"),
        (["ok", "watch"], True, "watch"),
        (["watch", "retrain"], True, "retrain"),
        (["ok", "retrain"], False, "watch"),
        ([], True, "ok"),
    ],
)
def test_the_worst_check_decides(words, serving, expected):
    checks = [made(f"c{i}", None, word) for i, word in enumerate(words)]
    assert monitor.judge(checks, serving)[0] == expected


def test_empty_answers_and_refusals_are_watched(task):
    serve(task)
    refused = rows(RECENT, seed=2, broken=0.0)
    for number, row in enumerate(refused):
        if number % 4 == 0:
            row["answer"] = ("I'm sorry, but I can't help with that.", "", "Es tut mir leid.")[
                number % 3
            ]
    log(task, rows(EARLIER) + refused)
    result = health(task)
    assert "refusal_rate" in result.reasons
    assert check(result, "refusal_rate").estimate.value == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("latest", [3, 10])
@pytest.mark.parametrize("seed", [1, 2])
def test_ratings_that_come_days_later_are_waited_for(task, latest, seed):
    serve(task, days=60)
    chance = random.Random(seed)
    made = rows(range(60), per_day=30, rated=0.3, seed=seed)
    said = []
    for row in made:
        score = row.pop("feedback_score")
        moment = datetime.fromisoformat(row["created_at"])
        at = moment + timedelta(days=chance.uniform(0, latest))
        if score and at < store.now():
            said.append({"request_id": row["request_id"], "at": f"{at}", "feedback_score": score})
    log(task, made + said)
    assert check(health(task), "feedback_rate").verdict == "pass"
    week = f"{store.now() - timedelta(days=latest + 7):%Y-%m-%d}"
    silent = {row["request_id"] for row in made if row["created_at"] > week}
    log(task, made + [line for line in said if line["request_id"] not in silent])
    assert check(health(task), "feedback_rate").verdict == "fail"


@pytest.mark.parametrize(
    ("change", "name"), [({"status": "broken"}, "error_rate"), ({"answer": " "}, "empty_rate")]
)
@pytest.mark.parametrize("days", [1, 20])
def test_what_most_requests_suffer_is_told_from_the_first_day(task, change, name, days):
    serve(task, days=days)
    log(task, rows(range(days), **change))
    assert name in health(task).reasons


@pytest.mark.parametrize(
    ("text", "is_refusal"),
    [
        ("I’m sorry, but I can’t assist with that.", True),
        ("I won’t be able to say.", True),
        ("Het spijt me, dat weet ik niet.", True),
        ("Przykro mi, ale nie mogę w tym pomóc.", True),
        ("Извините, но я не могу помочь.", True),
        ("申し訳ありませんが、お答えできません。", True),
        ("抱歉，我无法协助。", True),
        ("Ik kan u daar helaas niet bij helpen.", True),
        ("Dabei kann ich nicht helfen; ich kann Ihnen das leider nicht sagen.", True),
        ("You can’t cancel after Monday.", False),
        ("Ik kan je daarmee helpen! Dat is niet duur.", False),
        ("Ich kann Ihnen das zeigen, nicht nur sagen.", False),
        ("Jag kan hjälpa dig, det är inte svårt.", False),
        ("Je peux vous aider, ne vous inquiétez pas.", False),
        ("Puedo ayudarle; no se preocupe.", False),
        ("Posso aiutarla, non si preoccupi.", False),
        ("Posso ajudar, não se preocupe.", False),
        ("Mogę pomóc, to nie problem.", False),
        ("Yardımcı olabilirim, sorun değil.", False),
        ("Могу помочь, не волнуйтесь.", False),
        ("はい、できます。", False),
        ("我可以帮助您。", False),
        ("네, 할 수 있습니다.", False),
        ("It’s on its way.", False),
    ],
)
def test_a_refusal_is_known_in_many_languages_and_with_any_apostrophe(text, is_refusal):
    assert bool(watched.REFUSAL.search(text)) == is_refusal


@pytest.mark.parametrize("text", ["I'm sorry to hear that.", "申し訳ございません。明日届きます。"])
def test_a_bot_that_was_always_polite_is_not_on_watch(task, text):
    serve(task)
    log(task, rows(range(20), answer=text))
    assert not {"refusal_rate", "empty_rate"} & {*health(task).reasons}


@pytest.mark.parametrize("a_week", [5, 10, 20])
def test_few_requests_a_week_are_no_collapse_and_a_long_silence_is(a_week):
    last = date(2026, 9, 21)
    alarms = 0
    for seed in range(20):
        chance = random.Random(seed)
        days = [last - timedelta(days=i) for i in range(300)]
        counts = Counter(day for _ in range(a_week * 43) for day in [chance.choice(days)])
        numbers = {day: {"error_rate": Counter({0.0: n})} for day, n in counts.items()}
        looks = [Served(numbers, day, 7, since=days[-1]) for day in days[:250:7]]
        looks = [replace(look, days=until(numbers, look.last)) for look in looks]
        alarms += any(volume_check(look).verdict == "fail" for look in looks)
        silent = replace(looks[0], days=until(numbers, days[150 // a_week]))
        assert volume_check(silent).verdict == "fail"
    assert alarms <= 1  # of 20 quiet years


@pytest.mark.parametrize("weekdays", [range(5), range(7), (0,)])
def test_a_day_that_is_not_over_and_days_without_work_are_no_silence(weekdays):
    last = date(2026, 9, 21)
    days = [last - timedelta(days=i) for i in range(120)]
    busy = {day for day in days if day.weekday() in weekdays}
    numbers = {day: {"error_rate": Counter({0.0: 60})} for day in busy}
    for today in days[:14]:
        before = {day: each for day, each in numbers.items() if day < today}  # nothing yet today
        for window in (1, 7):
            for since in (days[-1], today, today - timedelta(days=1)):  # a rollback, or none
                served = Served(before, today, window, since=since)
                assert volume_check(served).verdict == "pass"
    gone = {day: each for day, each in numbers.items() if day < days[10]}
    assert volume_check(Served(gone, last, 7, since=days[-1])).verdict == "fail"


def until(numbers, last):
    return {day: each for day, each in numbers.items() if day <= last}


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Hello, the hub is not working and I have tried this twice", "en"),
        ("Mein Hub geht nicht und ich habe es mit dem Handy probiert", "de"),
        ("les caméras ne marchent pas pour nous", "fr"),
        ("hub blinks red", ""),
        ("", ""),
    ],
)
def test_a_language_is_told_where_its_commonest_words_decide_it(text, language):
    assert watched.language_of(watched.words_of(text)) == language


def test_quality_is_watched_within_the_fields_that_the_task_names(task):
    serve(task)
    task = task.model_copy(update={"slices": ["country"]})
    made = rows(EARLIER, per_day=60)
    made += rows(EARLIER, per_day=8, seed=3, country="NO")
    made += rows(RECENT, per_day=60, seed=4)
    made += rows(RECENT, per_day=8, seed=5, country="NO", rating=1.5)
    log(task, made)
    evidence = {cause.name: cause.evidence for cause in health(task).causes}
    assert "feedback_mean, country = NO" in evidence["one_slice"]


@pytest.mark.parametrize(
    "made",
    [
        rows(RECENT, per_day=1, words=["zebra"] * 8),
        rows(RECENT, per_day=60, words=["zebra"] * 8),
        rows(RECENT, per_day=60, words=NEW * 2, conversation_id="one customer"),
    ],
    ids=["seven alike requests", "one test again and again", "one long conversation"],
)
def test_few_different_conversations_show_no_new_topic(task, made):
    serve(task)
    log(task, made)
    topics = check(health(task), "topics")
    assert topics.verdict == "undecided"
    assert "1 different conversations, 30 are needed" in topics.evidence


def test_every_check_says_how_many_rows_stand_behind_it_or_that_they_are_too_few(task):
    serve(task)
    log(task, rows(EARLIER) + rows(RECENT, seed=2, words=NEW, broken=0.4))
    for one in health(task).checks:
        too_little = one.verdict == "undecided"
        assert too_little or one.estimate or "different conversations" in one.evidence, one
    assert check(health(task), "topics").estimate.n > 30
    log(task, rows(range(2), per_day=20))
    young = check(health(task), "format_compliance")
    assert (young.verdict, young.estimate.n) == ("undecided", 40)
    assert "too little" in views.checks_table(health(task)).data["verdict"].tolist()


ODD = [
    {},
    {"status": "completed"},
    {"status": "500"},
    {"latency_ms": -1},
    {"latency_ms": None, "feedback_score": None},
    {"feedback_score": 9},
    {"feedback_score": None, "thumb": "up"},
    {"created_at": 1764374400},
    {"answer": {"category": "KE"}},
    {"answer": None},
    {"messages": None},
    {"messages": "text"},
    {"request_id": 7},
    {"request_id": None},
    {"fields": {"country": "NO"}},
    {"arm": "elsewhere"},
    {"caller": 'he said "thumb" and "messages"'},
]


def test_lines_of_our_own_form_are_read_in_a_shorter_way_to_the_same_rows(task):
    usual = rows(range(1), per_day=1)[0] | {"feedback_score": 4}
    made = [json.dumps(usual | {"request_id": str(k)} | more) for k, more in enumerate(ODD)]
    made += ['{"request_id": "a", "at": "2026-01-01T00:00:00Z", "thumb": "down"}', "{torn", "[]"]
    made.append('{"request_id": "a", "created_at": "2026-01-01T00:00:00Z", "feedback_score": 2}')
    file = store.home() / "live" / task.registry_name / "log.jsonl"
    store.write_text(file, "\n".join(made))
    short, long = LogReader(task, [file]), LogReader(task, [file])
    assert short._is_own
    long._is_own = False
    for line in made:
        entry = long(line.encode())
        assert short(line.encode()) == entry, line
        fields = short.fields(line.encode())
        if isinstance(entry, LiveRow):
            fields = LiveRow.model_validate(fields)
        assert fields == entry, line
    assert short.problems.total() == 2 * long.problems.total()  # each was read twice


def vars_of(entry):
    return vars(entry) if isinstance(entry, LiveRow) else entry


def odd_days():
    """Files of six days with everything that makes counting hard."""
    names = iter(range(10_000))
    days = []
    for back in range(20, 14, -1):
        made = rows(range(back, back + 1), seed=back, rated=0.5)
        made += [made[0], made[1] | {"request_id": "again"}]  # doubled, under the same id and not
        made.append(made[2] | {"answer": BROKEN, "feedback_score": 1})  # replaces a line
        made += [made[3] | {"request_id": f"odd{next(names)}"} | change for change in ODD]
        made.append(made[4] | {"request_id": f"shadow{back}", "arm": "shadow"})
        other = made[5] | {"request_id": f"old{back}", "version": "v0", "caller": "app"}
        moment = store.now() - timedelta(days=back)
        zone = timezone(timedelta(hours=-9))  # the day before, or the same one
        made.append(other | {"created_at": moment.replace(hour=3).astimezone(zone).isoformat()})
        made.append(other | {"request_id": f"n{back}", "created_at": f"{moment:%Y-%m-%dT%H:%M}"})
        late = {"at": store.now().isoformat(), "feedback_score": 2, "correction": "No."}
        told = [late | {"request_id": f"{back + 1}-{back + 1}-3"}]  # about the day before
        told.append({"request_id": f"{back}-{back}-7", "at": "2026-01-01T00:00:00Z", "thumb": "up"})
        lines = [json.dumps(row) for row in made + told]
        torn = lines[6][: len(lines[6]) // 2]
        days.append((moment.date(), [*lines, torn, "", "[]", '"text"', *lines[:2]]))
    return days


def test_a_log_is_counted_in_the_shorter_way_as_in_the_longer_one(task, monkeypatch):
    serve(task)
    folder = store.home() / "live" / task.registry_name
    for day, lines in odd_days():
        store.write_text(folder / f"{day}.jsonl", "\n".join(lines) + "\n")
    short = monitor.read_live(task)
    assert short.reader._is_own and short.faults["logged_twice"].total() > 18
    monkeypatch.setattr(LogReader, "fields", lambda self, line: vars_of(self(line)))
    long = monitor.read_live(task)
    assert short.faults["unreadable_lines"].total() > 12
    for name in ("days", "requests", "faults", "newest"):
        assert getattr(short, name) == getattr(long, name), name
    ratings = Counter()
    for numbers in short.of(short.days).values():
        ratings += numbers["feedback_mean"]
    expected = Counter()
    for stars in stars_of(odd_days()):
        expected[(stars - 1) / 4] += 1
    assert ratings == expected


def stars_of(days):
    """The ratings that count, by the rules of docs/artifacts.md, told plainly."""
    counted = {}
    twins = set()
    for number, line in enumerate(line for _, lines in days for line in lines):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if not isinstance(row, dict) or row.get("arm", "production") != "production":
            continue
        name = str(row.get("request_id") or f"line {number}")
        stars = {"up": 5}.get(row.get("thumb"), row.get("feedback_score"))
        if "created_at" not in row:
            if name in counted:
                counted[name] = stars
            continue
        moment = tasks.moment_of(row["created_at"])
        twin = (moment, str(row["answer"] or ""), str(row["messages"]))
        if twin not in twins:
            twins.add(twin)
            counted[name] = stars
    return [stars for stars in counted.values() if stars is not None and 1 <= stars <= 5]


def test_a_version_that_came_back_is_held_to_its_own_days_alone():
    last = date(2026, 9, 21)
    days = {
        last - timedelta(days=i): {"error_rate": Counter({0.0: 30})}
        for i in range(60)
        if not 2 <= i < 16  # two weeks another version served, and a rollback ended them
    }
    back = volume_check(Served(days, last, 7, since=last - timedelta(days=2)))
    assert (back.verdict, back.estimate.n) == ("pass", 60)
    assert "in 2 days" in back.evidence
    assert volume_check(Served(days, last, 7)).verdict == "fail"  # it never went away
