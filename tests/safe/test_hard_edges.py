"""Lines 7, 9, 11, 12 and 17: odd data, odd files and odd folders end in a message."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import random
import shutil
import stat

import pytest
import record_toys

from helpers import models, parameters, show, store, tasks
from helpers.curate.review import review_csv
from helpers.evaluate import strict_json
from helpers.records import (
    Budget,
    Decision,
    Evaluation,
    Health,
    Promotion,
    RunRecord,
    TrainedModel,
    WorkbookError,
)
from helpers.run import collect, past_runs, schedules, status
from helpers.tasks import load_task
from helpers.tasks.task import SHIPPED, Task

FUZZ = int(os.environ.get("WORKBOOK_FUZZ", "500"))  # inputs; 10,000 take a minute
ODD_JSON = ["{}", "[]", "1", '"x"', "null", "", "{", "\x00", "[" * 100_000, "9" * 5_000, "NaN"]
ODD_JSON += ['{"schema_version": 99}', '{"schema_version": "2"}', '{"schema_version": null}']
ODD_JSON += [json.dumps({"schema_version": 2, "run_id": [], "params": 1, "notebooks": {}})]
ODD_JSON += [json.dumps({"checks": 1, "window": [], "rules": "x", "rungs": None})]


def test_line_07_a_number_without_end_and_half_a_character_are_values_like_others(home):
    value = strict_json("1e999")
    assert store.fingerprint(value) == store.fingerprint(strict_json("2e999"))
    assert store.canonical([float("nan")]) == store.canonical([float("nan")])
    text = json.loads('"half \\ud800 of it"')
    path = store.write_json(home / "x.json", {"text": text})
    assert store.read_json(path) == {"text": text}
    store.write_jsonl(home / "x.jsonl", [text])
    assert store.read_jsonl(home / "x.jsonl") == [text]
    assert store.without_secrets(text) == "half ? of it"


def test_line_07_a_label_with_dollars_is_drawn_as_it_stands():
    figure, axis = show.subplots()
    axis.bar(["under $50_$100", "over $\\frac{1}"], [1, 2])
    axis.set_title("$x_")
    figure.savefig(io.BytesIO(), format="png")
    show.finished(figure)


@pytest.mark.parametrize("text", ODD_JSON, ids=range(len(ODD_JSON)))
def test_line_09_one_odd_file_stops_no_command(home, text):
    good = store.open_run("good")
    good.save(record_toys.run_record("good"))
    bad = store.open_run("bad")
    kinds = (RunRecord, Decision, Evaluation, Health, Promotion)
    for kind in kinds:
        bad.path(kind.FILE).write_text(text)
        good.path(kind.FILE if kind is not RunRecord else "x.json").write_text(text)
    for kind in kinds:
        with pytest.raises(WorkbookError, match=kind.FILE):
            bad.load(kind)
    (home / "runs" / "a folder that is no run").mkdir()
    (home / "runs" / "a file").write_text(text)
    assert [run.run_id for run in past_runs()] == ["good"]
    assert status()["overdue"] is False and schedules() == []
    assert collect(5, yes=True)["deleted"] == []


def test_line_09_damaged_artifacts_end_in_a_message(home):
    draw = random.Random(7)
    run = store.open_run("r")
    records = [record_toys.run_record("r"), record_toys.decision(), record_toys.trained_model()]
    kinds = (RunRecord, Decision, TrainedModel)
    texts = [store.dumps(record) for record in records]
    for number in range(FUZZ):
        kind, text = kinds[number % 3], texts[number % 3]
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(text))
            odd = draw.choice(['"', "{", "]", "null", "-", "1e999", ""])
            text = text[:at] + odd + text[at + 1 :]
        run.path(kind.FILE).write_text(text)
        with contextlib.suppress(WorkbookError):
            run.load(kind)


def test_line_11_a_model_folders_own_code_is_never_run(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass A: pass\n")
    names = {"AutoConfig": "evil.A", "AutoModelForCausalLM": "evil.A", "AutoTokenizer": "evil.A"}
    config = {"model_type": "evil", "auto_map": names}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 9))
    model = models.load_model(str(folder))
    for use in (lambda: model.network, lambda: model.tokenizer):
        with pytest.raises(WorkbookError):
            use()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("ref", ["http://evil.example/s.json", "file:///etc/passwd", "other.json"])
def test_line_11_a_schema_refers_to_nothing_but_itself(ref, tmp_path):
    fields = {
        "name": "t",
        "folder": tmp_path,
        "shipped": False,
        "instructions_full": "x",
        "instructions_short": "x",
        "targets": {"accuracy": 0.5},
    }
    for schema in ({"$ref": ref}, {"properties": {"a": {"anyOf": [{"$dynamicRef": ref}]}}}):
        with pytest.raises(ValueError, match="no part of this schema"):
            Task(**fields, schema={"type": "object"} | schema)


def test_line_12_a_cell_that_spreadsheets_would_compute_is_text_and_reads_back_equal():
    for text in ('=HYPERLINK("x")', "=1+1|cmd", "+1", "-1", "@a", "\tx", "\rx", "'=1", "''", "a=1"):
        cell = store.as_csv_cell(text)
        assert not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        assert store.from_csv_cell(cell) == text
    assert store.from_csv_cell("'tis typed by hand") == "'tis typed by hand"


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_line_17_what_holds_example_text_is_its_owners_alone(home, umask):
    before = os.umask(umask)
    try:
        with store.lock():
            run = store.open_run("r")
        store.write_jsonl(home / "datasets/d/train.jsonl", [{"text": "x"}])
        run.save(record_toys.run_record("r"))
        Budget(run, 1.0).reserve(0.5, "judge")
        assert run.private.exists() and store.home_id()
    finally:
        os.umask(before)
    for path in [home, *home.rglob("*")]:
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "missing"])
def test_line_09_what_is_no_file_is_refused_and_never_waited_for(home, tmp_path, kind):
    good = tmp_path / "good"
    shutil.copytree(SHIPPED / "policy_qa", good)
    for name in ("task.yaml", "human.jsonl", "knowledge/a.md"):
        folder = tmp_path / f"task {name.replace('/', ' ')}"
        shutil.copytree(good, folder)
        path = folder / name
        path.unlink(missing_ok=True)
        make_odd(path, kind)
        if (kind, name) == ("missing", "knowledge/a.md"):
            continue
        with pytest.raises(WorkbookError, match=path.name):
            task = load_task(str(folder))
            tasks.knowledge(task)
            tasks.load_examples(task, "human")
    make_odd(tmp_path / "odd.json", kind)
    with pytest.raises(WorkbookError, match=r"odd\.json"):
        store.read_json(tmp_path / "odd.json")


def make_odd(path, kind):
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.symlink_to("/dev/zero" if kind == "device" else path)


@pytest.mark.parametrize("width", [2, 9])
@pytest.mark.parametrize("key", ["template_args: {x: %s}", "columns: %s", "task: %s"])
def test_line_09_a_short_file_does_not_spell_out_a_long_value(tmp_path, key, width):
    inner = ["&a0 [x, x]"]
    for n in range(1, 40):
        inner.append(f"&a{n} [{', '.join([f'*a{n - 1}'] * width)}]")
    path = tmp_path / "task.yaml"
    path.write_text(key % f"[{', '.join(inner)}]")
    with pytest.raises(WorkbookError, match=r"line 1: more than 100,000 values"):
        parameters.read_yaml(path)
    path.write_text("a: &a {b: [1, 2]}\nc: {<<: *a, d: *a}\ne: &e [*a, *a]\nf: [*e, *e]\n")
    assert parameters.read_yaml(path)[0]["c"] == {"b": [1, 2], "d": {"b": [1, 2]}}


def test_line_11_an_article_from_elsewhere_is_none_of_the_tasks_own(tmp_path):
    folder = tmp_path / "task"
    shutil.copytree(SHIPPED / "policy_qa", folder)
    (tmp_path / "secret").write_text("not for the endpoint")
    (folder / "knowledge" / "a.md").symlink_to(tmp_path / "secret")
    with pytest.raises(WorkbookError, match=r"a\.md"):
        tasks.knowledge(load_task(str(folder)))


def test_line_12_review_csv_holds_no_formula():
    row = {"id": "=1", "source": "human", "input": "+1+1|cmd", "output": "@x", "why": "-"}
    lines = list(csv.reader(io.StringIO(review_csv([row]))))
    assert [cell[:1] for cell in lines[1] if cell] == ["'", "h", "'", "'", "'"]
