"""Two homes and one PostgreSQL: what one machine did counts for the other."""

from __future__ import annotations

import shutil
import sys

import pytest
import registry_toys
from postgres_toy import server
from sqlalchemy import create_engine

from helpers import registry, store
from helpers.records import WorkbookError

sys.path.insert(0, str(store.PROJECT / "tests" / "registry"))
from test_reevaluate import endpoint, requests, rule_of, two_versions  # noqa: F401 (fixtures)


@pytest.fixture(scope="module")
def new_database():
    with server() as new:
        yield new


@pytest.fixture
def team(new_database, tmp_path, monkeypatch):
    """Makes the machine `name` this one; all share a database. `team.url` is its address."""
    url = new_database()
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", url)

    def be(name: str) -> None:
        monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / name))

    be.url = url
    be("a")
    return be


def line(key: str) -> dict:
    return {
        **{"key": key, "rows": "r", "n": 100, "run_id": "run", "version": "v"},
        "at": store.now().isoformat(),
    }


def test_an_attempt_of_one_machine_counts_on_the_other(team):
    registry.record_attempt("toy", line("one"))
    team("b")
    keys = [row["key"] for row in registry.record_attempt("toy", line("two"))]
    assert keys == ["one", "two"]
    assert [r["key"] for r in registry.record_attempt("toy", line("one"))] == keys
    assert registry.record_attempt("other", line("x"))[0]["key"] == "x"


def test_attempts_at_once_are_all_counted_and_in_one_order(team):
    def work(i, queue):
        queue.put([row["key"] for row in registry.record_attempt("toy", line(str(i)))])

    seen = registry_toys.in_processes(4, work)
    final = max(seen, key=len)
    assert sorted(final) == list("0123") and all(keys == final[: len(keys)] for keys in seen)
    assert sorted(map(len, seen)) == [1, 2, 3, 4]


def test_what_a_home_kept_in_a_file_comes_first_and_a_restored_home_remembers(team, monkeypatch):
    monkeypatch.delenv("WORKBOOK_DATABASE_URL")
    store.write_jsonl(store.home() / "attempts" / "toy.jsonl", [line("old")])  # as 0.1.0 did
    for _ in range(2):
        assert [r["key"] for r in registry.record_attempt("toy", line("new"))] == ["old", "new"]
    registry_toys.candidate("v1")  # the history that a backup is proved by
    backup = store.home() / "backup.json"
    registry.backup(backup)
    team("restored")
    registry.restore(backup)
    assert len(registry.record_attempt("toy", line("next"))) == 3


def test_a_role_that_may_only_read_sees_all_and_is_told_why_it_cannot_write(team, monkeypatch):
    registry_toys.candidate("v1")
    owner = create_engine(registry.open_registry().url)
    with owner.begin() as db:
        db.exec_driver_sql("DROP ROLE IF EXISTS viewer")
        db.exec_driver_sql("CREATE ROLE viewer LOGIN")
        db.exec_driver_sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO viewer")
    owner.dispose()
    url = registry.open_registry().url
    user = url.partition("://")[2].partition("@")[0].partition(":")[0]
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", url.replace(f"//{user}", "//viewer", 1))
    team("c")
    assert [version.id for version in registry.list_versions()] == ["v1"]
    assert registry.routes() == {} and registry.list_alarms() == []
    for write in (
        lambda: registry.record_attempt("toy", line("x")),
        lambda: registry_toys.FineTuneLifecycleManager("toy").set_status("v1", "deprecated", "why"),
    ):
        with pytest.raises(WorkbookError, match="may only read"):
            write()


def test_b_evaluates_promotes_and_rolls_back_what_a_trained_though_a_s_disk_is_lost(
    team,
    endpoint,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("WORKBOOK_STORE", str(tmp_path / "store"))
    two_versions(endpoint, tmp_path)  # v1 serves, v2 was measured on other rows
    shutil.rmtree(tmp_path / "a")
    team("b")
    done = registry.reevaluate("v2", str(tmp_path))
    assert (done["incumbent"], done["n"]) == ("v1", 44)
    manager = registry.FineTuneLifecycleManager("mine")
    assert rule_of(manager).verdict == "fail", "v1 gets all of these rows right, v2 a half"
    assert manager.promote("v2", "production", "of the test", force=True).promoted
    assert manager.rollback().version == "v1"
    team("c")
    assert manager.get_production_version().id == "v1" and registry_toys.contradictions() == []


def test_what_nobody_shared_is_said_in_one_sentence(team, endpoint, tmp_path):  # noqa: F811
    two_versions(endpoint, tmp_path)  # without a store
    team("b")
    with pytest.raises(WorkbookError) as error:
        registry.reevaluate("v2", str(tmp_path))
    assert "WORKBOOK_STORE" in str(error.value)
