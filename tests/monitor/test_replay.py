"""What serves is asked its own test rows again over HTTP: every night anew, never in silence."""

import hashlib
import json
from collections import Counter
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from filelock import FileLock
from registry_toys import (
    PRICES,
    TASK,
    TASK_YAML,
    candidate,
    evaluation,
    manifest,
    model,
    write_answers,
)
from served_toy import serving

from helpers import monitor, registry, store, tasks
from helpers.monitor.replay import judge_replays, read_replays
from helpers.monitor.service import service_of
from helpers.records import (
    REPLAY_USER,
    Asking,
    Budget,
    DatasetPointer,
    Message,
    Replay,
    TrainingExample,
    WorkbookError,
)
from helpers.registry import FineTuneLifecycleManager

YES, NO = '{"label": "yes"}', '{"label": "no"}'
ROWS = 50  # of the test part


class Endpoint(ThreadingHTTPServer):
    """Says yes, or what `says` makes of the question's number; None: it fails."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked = []
        self.says = lambda number: YES
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(body)
        text = self.server.says(int(body["messages"][-1]["content"].split()[-1]))
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14}
        data = json.dumps({"id": "1", "choices": [choice], "usage": usage}).encode()
        self.send_response(200 if text else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    with serving(Endpoint()) as server:
        yield server


@pytest.fixture
def clock(monkeypatch):
    """Nights that pass when they are told to."""
    start = store.now()
    passed = Counter()
    monkeypatch.setattr(store, "now", lambda: start + timedelta(**passed))
    return passed


def promoted(endpoint, folder, yaml=TASK_YAML):
    """A hosted version whose test rows are all right but for the last ten; its task."""
    (folder / "task.yaml").write_text(yaml)
    rows = []
    for number in range(ROWS):
        turns = [Message(role="user", content=f"question {number}")]
        turns.append(Message(role="assistant", content=YES))
        about = {"source": "human", "quality": "verified", "created_at": store.now()}
        rows.append(
            TrainingExample(
                id=f"row-{number}", messages=turns, group=f"row-{number}", part="test", **about
            )
        )
    data = store.home() / "datasets" / "d1"
    for part in ("train", "validation", "test"):
        store.write_jsonl(data / f"{part}.jsonl", rows if part == "test" else [])
    store.write_json(data / "manifest.json", manifest("d1", ROWS))
    run = store.open_run("run-v1")
    hosted = {"provider": "api", "model_id": "ft:v1", "base_model": "base", "adapter": None}
    how = Asking().for_rung("fine_tuned", "v1")
    prompt = {"system_prompt": hashlib.sha256(b"Yes or no.").hexdigest()}
    run.save(model("v1", base_url=endpoint.url, asking=how, fingerprints=prompt, **hosted))
    run.save(DatasetPointer(version="d1", fingerprint="d1"))
    write_answers(run, right=ROWS, ids=[row.id for row in rows], answer=YES)
    run.save(evaluation("v1"))
    manager = FineTuneLifecycleManager("mine")
    manager.register(run)
    manager.promote("v1", "production", "first", force=True)
    return tasks.load_task(str(folder))


def look(task, rows=20, **options):
    """One night: (what replay said, the health)."""
    run = store.open_run("dev")
    log = monitor.read_live(task)
    said = monitor.replay(task, run, log, rows, **options)
    return said, monitor.check_health(task, run, log=log)


def finding(health, name="replay"):
    return next((check for check in health.checks if check.name == name), None)


def test_each_night_asks_the_next_rows_anew_once_and_finds_them_as_they_were(
    endpoint, clock, tmp_path
):
    task = promoted(endpoint, tmp_path)
    for night in range(3):
        clock["days"] = night
        _, health = look(task)
        assert "already" in look(task)[0]
        assert len(endpoint.asked) == 20 * (night + 1)
    assert {body["model"] for body in endpoint.asked} == {"ft:v1"}
    questions = [body["messages"][-1]["content"] for body in endpoint.asked]
    assert len(set(questions)) == ROWS, "every row comes before one comes again"
    check = finding(health)
    assert (check.verdict, check.estimate.value, check.estimate.n) == ("pass", 1.0, 60)
    assert check.threshold == 1.0


def test_rows_that_are_lost_since_are_named_and_ask_for_a_look_not_for_a_retrain(
    endpoint, clock, tmp_path
):
    task = promoted(endpoint, tmp_path)
    look(task)
    endpoint.says = lambda number: NO if number % 5 == 0 else YES
    verdicts = []
    for night in range(1, 11):
        clock["days"] = night
        _, health = look(task)
        verdicts.append(finding(health).verdict)
    assert verdicts[0] == "pass" and verdicts[-1] == "fail"
    check = finding(health)
    assert check.severity == "warning" and health.verdict == "watch"
    assert "row-5" in check.evidence and "serve --check" in check.remedy
    assert check.estimate.value < check.threshold == 1.0


def test_an_endpoint_that_cannot_be_asked_is_told_and_stops_nothing(endpoint, clock, tmp_path):
    task = promoted(endpoint, tmp_path)
    endpoint.says = lambda number: None
    said, health = look(task)
    assert "answered none" in said or "did not serve" in said
    assert "replay_unasked" in health.reasons and health.verdict == "watch"
    assert finding(health) is None, "no answer is no wrong answer"
    endpoint.says = lambda number: YES
    _, health = look(task)  # the same day: nothing was asked yet
    assert finding(health).verdict == "pass" and "replay_unasked" not in health.reasons


def test_a_night_that_failed_is_told_that_night_and_a_mended_one_counts_from_its_mending(
    endpoint, clock, tmp_path
):
    task = promoted(endpoint, tmp_path)
    endpoint.says = lambda number: None
    assert "replay_unasked" in look(task)[1].reasons
    clock["days"] = 1
    assert "replay_unasked" not in look(task, rows=0)[1].reasons, "it was switched off since"
    endpoint.says = lambda number: NO
    _, health = look(task)
    assert finding(health).verdict == "fail"
    monitor.publish(task, store.open_run("dev"), health, monitor.read_live(task))
    endpoint.says = lambda number: YES
    clock["hours"] = 1
    alarms = {alarm.name: alarm.id for alarm in registry.list_alarms("mine", "v1")}
    registry.close_alarm(alarms["replay"], "resolved", "the engine's template is mended")
    clock["hours"] = 2
    _, health = look(task)
    assert (finding(health).verdict, finding(health).estimate.n) == ("pass", 20)


def test_a_prompt_that_is_not_the_trained_one_is_told_and_nothing_is_asked(endpoint, tmp_path):
    promoted(endpoint, tmp_path)
    (tmp_path / "task.yaml").write_text(TASK_YAML.replace("Yes or no.", "Say it."))
    said, health = look(tasks.load_task(str(tmp_path)))
    assert "system prompt" in said and endpoint.asked == []
    assert finding(health, "replay_unasked").verdict == "fail" and finding(health) is None


def test_what_is_rated_by_people_is_compared_by_its_format_and_says_so(endpoint, tmp_path):
    task = promoted(endpoint, tmp_path, TASK_YAML + "accuracy_from: human\n")
    endpoint.says = lambda number: NO
    check = finding(look(task)[1])
    assert check.verdict == "pass" and "format_compliance minus that of 04" in check.evidence


def test_while_another_run_holds_the_home_nothing_is_asked_nor_written(endpoint, tmp_path):
    task = promoted(endpoint, tmp_path)
    holder = FileLock(store.home() / ".lock", thread_local=False)
    with holder, pytest.raises(WorkbookError, match="another run holds"):
        look(task)
    assert endpoint.asked == [] and read_replays(task, service_of(task)) == []


def test_a_version_of_this_machine_is_asked_where_it_is_served_or_not_at_all(tmp_path):
    candidate("v1").promote("v1", "production", "first", force=True)
    (tmp_path / "task.yaml").write_text(TASK_YAML.replace("name: mine", f"name: {TASK}"))
    said, health = look(tasks.load_task(str(tmp_path)))
    assert "set replay_at" in said and finding(health, "replay_unasked") is None


def test_a_password_in_the_address_is_not_written_down(endpoint, tmp_path):
    task = promoted(endpoint, tmp_path)
    look(task, rows=2, at=endpoint.url.replace("//", "//me:secret-pw@"))
    (night,) = read_replays(task, service_of(task))
    assert night.place and "secret-pw" not in night.place


def test_it_costs_no_more_than_the_run_may_spend(endpoint, clock, tmp_path):
    task = promoted(endpoint, tmp_path, TASK_YAML + PRICES)
    said, _ = look(task)
    assert "max_cost_usd" in said and endpoint.asked == []
    look(task, max_cost_usd=20.0)
    assert len(endpoint.asked) == 20 and Budget(store.open_run("dev")).spent > 0


def test_a_gateway_is_asked_for_the_version_by_a_user_that_is_no_traffic(endpoint, tmp_path):
    task = promoted(endpoint, tmp_path)
    look(task, rows=2, at=endpoint.url)
    assert {(body["model"], body["user"]) for body in endpoint.asked} == {("v1", REPLAY_USER)}


def test_nothing_is_asked_unless_it_is_asked_for_nor_about_simulated_traffic(endpoint, tmp_path):
    task = promoted(endpoint, tmp_path)
    said, health = look(task, rows=0)
    assert "replay_rows is 0" in said and endpoint.asked == [] and finding(health) is None
    shipped = tasks.load_task("support_triage")
    assert "no request was served" in look(shipped)[0]
    name = f"{store.now().date()}.jsonl"  # a log, and nothing that was promoted
    request = {"created_at": store.now(), "messages": [], "answer": YES}
    store.write_jsonl(store.home() / "live" / shipped.registry_name / name, [request])
    assert "no version is in production" in look(shipped)[0]


def test_closing_what_could_not_be_asked_keeps_the_nights_that_were(endpoint, clock, tmp_path):
    task = promoted(endpoint, tmp_path)
    look(task)
    clock["days"] = 1
    endpoint.says = lambda number: ""
    unasked = finding(look(task)[1], "replay_unasked")
    assert "replay_at is the base_url for clients" in unasked.remedy
    (alarm,) = registry.raise_alarms(task.registry_name, "v1", [unasked])
    clock["minutes"] = 5
    registry.close_alarm(alarm.id, "resolved", "it was switched off")
    clock["days"] = 2
    endpoint.says = lambda number: YES
    look(task)
    nights = read_replays(task, service_of(task))
    assert [(night.error, len(night.now)) for night in nights] == [("", 20), ("", 20)]


def test_a_line_that_a_kill_has_torn_costs_that_night_alone(endpoint, clock, tmp_path):
    task = promoted(endpoint, tmp_path)
    look(task)
    path = store.home() / "monitor" / "mine.replay.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    clock["days"] = 1
    look(task)
    assert [night.at.date() for night in read_replays(task, service_of(task))] == [
        store.now().date()
    ]


def nights(count, lost=0, rows=20):
    told = {str(number): 1.0 for number in range(rows)}
    now = told | {str(number): 0.0 for number in range(lost)}
    at = [store.now() + timedelta(days=day) for day in range(count)]
    return [Replay(version="v1", at=each, place="", before=told, now=now) for each in at]


def test_a_single_lost_row_of_fifty_is_within_the_margin_for_ever():
    assert judge_replays(nights(300, lost=1, rows=50), 0.02).verdict == "pass"


def test_a_loss_after_a_long_good_time_is_found_as_soon_as_an_early_one():
    late = nights(200) + nights(30, lost=2)
    early = nights(30, lost=2)

    def first(all_nights, start):
        for count in range(start + 1, len(all_nights) + 1):
            if judge_replays(all_nights[:count], 0.02).verdict == "fail":
                return count - start
        return None

    assert abs(first(early, 0) - first(late, 200)) <= 2 and first(late, 200) <= 14
