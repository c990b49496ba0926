"""`workbook registry …` and `workbook route`: one JSON value, of the promised shape, and a code."""

import json
import os

import pytest
from registry_toys import candidate

from helpers import store
from helpers.cli import main
from helpers.records import Finding, FineTunedModelVersion
from helpers.registry import raise_alarms


@pytest.fixture
def call(capsys):
    def run(*arguments, code=0):
        assert main([*map(str, arguments), "--json"]) == code
        return json.loads(capsys.readouterr().out)

    return run


def test_the_commands_tell_the_whole_story(call, tmp_path):
    for name in ("v1", "v2"):
        candidate(name)
        assert call("registry", "promote", name, "--to", "production", "--because", "better")[
            "promoted"
        ]
    listed = [FineTunedModelVersion.model_validate(row) for row in call("registry", "list")]
    assert [(v.id, v.status) for v in listed] == [("v2", "production"), ("v1", "deprecated")]
    raise_alarms("other", "", [Finding(name="volume", verdict="fail", evidence="")])
    assert call("registry", "rollback", "--because", "drill")["version"] == "v1"
    assert call("route") == store.read_json(store.home() / "routes.json")
    assert [row["action"] for row in call("registry", "history")][-2:] == ["displace", "rollback"]
    assert call("registry", "show", "v1")["route"]["version"] == "v1"
    assert call("registry", "lineage", "v1")[-1]["step"] == "route"
    assert {"field", "a", "b"} == set(call("registry", "diff", "v1", "v2")[0])
    assert call("registry", "backup", tmp_path / "b.json")["versions"] == 2
    assert call("registry", "reconcile") == {"waiting": 0, "mirrored": [], "problems": []}


@pytest.mark.parametrize(("verdict", "code"), [("fail", 3), ("inconclusive", 4)])
def test_a_refusal_is_told_by_the_exit_code(call, verdict, code):
    candidate("v1", verdict=verdict)
    assert call("registry", "promote", "v1", "--to", "production", code=code)["promoted"] is False


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "nobody"),
        ("rollback",),
        ("lineage", "nobody"),
        ("reevaluate", "nobody"),
        ("restore", "/nowhere.json"),
        ("list", "--task", "nobody"),
        ("history", "--task", "nobody"),
        ("alarms", "--task", "nobody"),
        ("backup", "fifo"),
        ("show", ""),
        ("promote", "nobody", "--to", "staging", "--because", ""),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_exit_2(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    assert main(["registry", *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("workbook: ") and told.err.count("\n") == 1


def test_a_person_hears_the_verdict_and_the_rules_that_stand_in_the_way(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    candidate("v1", verdict="fail")
    assert main(["registry", "promote", "v1", "--to", "production"]) == 3
    first, *rules = capsys.readouterr().out.splitlines()
    assert first == "v1: not promoted to production; the gate says fail"
    assert rules and all(rule.startswith(("fail: ", "undecided: ")) for rule in rules)
    assert main(["registry", "history"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 140


def test_a_task_is_named_with_or_without_its_demo_wherever_it_is_asked_for(capsys):
    finding = Finding(name="volume", verdict="fail", evidence="none", severity="warning")
    raise_alarms("demo/asked", "", [finding])
    for name in ("asked", "demo/asked"):
        assert main(["registry", "alarms", "--task", name, "--json"]) == 0
        assert [alarm["name"] for alarm in json.loads(capsys.readouterr().out)] == ["volume"]


def test_alarms_of_tasks_without_a_version_can_be_told_apart(capsys):
    finding = Finding(name="volume", verdict="fail", evidence="none", severity="warning")
    for task in ("letters", "hotels"):
        raise_alarms(task, "", [finding])
    for command in (["registry", "alarms"], ["status"]):
        main(command)
        said = capsys.readouterr().out
        assert "letters" in said and "hotels" in said, said


def test_a_person_gets_tables(capsys):
    candidate("v1")
    for arguments in (("list",), ("history",), ("lineage", "v1"), ("diff", "v1", "v1")):
        assert main(["registry", *arguments]) == 0
    assert "they differ in nothing" in capsys.readouterr().out
