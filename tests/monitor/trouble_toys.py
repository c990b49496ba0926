"""What goes wrong with what serves: each function prepares one trouble in the live log."""

from datetime import timedelta

from test_health import EARLIER, GOOD, RECENT, log, rows, serve

from helpers import monitor, store
from helpers.registry import FineTuneLifecycleManager
from helpers.registry.database import open_registry, table
from helpers.registry.versions import row_of, switch


def since(**change):
    """Four quiet weeks, and a week that is like `change`."""

    def prepare(task):
        serve(task)
        log(task, rows(EARLIER) + rows(RECENT, **{"seed": 2} | change))

    return prepare


def errors_at_three_a_day(task):
    serve(task)
    log(task, rows(EARLIER, per_day=3) + rows(RECENT, per_day=3, seed=2, error=1.0))


def bad_first_days(task):
    serve(task)
    log(task, rows(range(5), broken=0.6))


def worse_than_before(task):
    serve(task)
    FineTuneLifecycleManager(task.registry_name).open_version("v2", "r2", "tiny", "d1")
    with open_registry().transaction() as db:
        switch(db, task.registry_name, row_of(db, "v2"), "promote", "test", {})
        since = (store.now() - timedelta(days=3)).isoformat()
        db.execute(table("routes").update().values(since=since))
    log(task, rows(range(3, 40)) + rows(range(3), seed=2, rating=2.0, version="v2"))


def dead_slice(task):
    serve(task)
    other = GOOD.replace("KE", "MU")
    made = rows(EARLIER, per_day=90) + rows(EARLIER, per_day=5, seed=3, answer=other)
    made += rows(RECENT, per_day=90, seed=4)
    log(task, made + rows(RECENT, per_day=5, seed=5, answer=other, rating=1.0))


def doubled(task):
    serve(task)
    made = rows(EARLIER) + rows(RECENT, seed=2)
    log(task, made, "a.jsonl")
    log(task, [row | {"request_id": f"again-{row['request_id']}"} for row in made], "b.jsonl")


def turned_scale(task):
    serve(task)
    turned = rows(RECENT, seed=2, per_day=60)
    for row in turned:
        if row["feedback_score"]:
            row["feedback_score"] = 6 - row["feedback_score"]
    log(task, rows(EARLIER, per_day=60) + turned)


def ratings_in_words(task):
    serve(task)
    other = rows(RECENT, seed=2, per_day=25)
    for row in other:
        row["feedback_score"] = row["feedback_score"] and f"grade {row['feedback_score']}"
    log(task, rows(EARLIER, per_day=25) + other)


def strange_version(task):
    serve(task)
    log(task, rows(range(1), per_day=60, version="model-2026"))


def old_model(task):
    serve(task, trained_at=(store.now() - timedelta(days=100)).isoformat())
    log(task, rows(EARLIER) + rows(RECENT, seed=2))


def by_day(task, made):
    """The log as the gateway writes it: a file a day."""
    days = {}
    for row in made:
        days.setdefault(row["created_at"][:10], []).append(row)
    for day, entries in days.items():
        log(task, entries, f"{day}.jsonl")


def doubled_after_months(task):
    """Two writers since Monday; the months before were counted long ago, and kept."""
    serve(task, days=90)
    made = rows(range(80))
    by_day(task, made)
    read = monitor.read_live(task)
    monitor.publish(task, store.open_run("before"), check_health(task, read), read)
    again = [row | {"request_id": f"again-{row['request_id']}"} for row in made[-5 * 15 :]]
    by_day(task, [*made, *again])


def check_health(task, read):
    return monitor.check_health(task, store.open_run("before"), log=read)


def lines_nobody_can_read(task):
    serve(task)
    log(task, rows(EARLIER) + rows(RECENT, seed=2))
    log(task, [{"ts": 1, "prompt": "p", "completion": "c"}] * 90, "b.jsonl")


def compressed_days(task):
    serve(task)
    by_day(task, rows(EARLIER) + rows(RECENT, seed=2))
    for file in sorted((store.home() / "live" / task.registry_name).glob("*.jsonl"))[-4:-1]:
        file.rename(f"{file}.gz")


def rotated(task):
    serve(task)
    log(task, rows(EARLIER) + rows(RECENT, seed=2), "app.jsonl")
    log(task, rows(range(1), seed=3), "app.jsonl.1")


def clock_of_1970(task):
    serve(task)
    log(task, rows(EARLIER) + rows(RECENT, seed=2) + strangers(180))


def strangers(count):
    """Rows of a machine whose clock nobody set."""
    return [
        row | {"request_id": f"old-{n}", "created_at": f"1970-01-01T00:{n % 60:02}:{n // 60:02}Z"}
        for n, row in enumerate(rows(range(1), per_day=count, seed=9))
    ]


def flood(task):
    serve(task)
    log(task, rows(EARLIER, per_day=6) + rows(RECENT, per_day=80, seed=2))


def nothing_is_logged(task):
    serve(task)
    log(task, [])
