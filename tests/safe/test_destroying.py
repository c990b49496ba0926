"""Lines 1, 2, 6 and 8: what deletes or overwrites proves first that it may."""

from __future__ import annotations

import os
import random
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
import record_toys

from helpers import registry, store
from helpers.models import practice
from helpers.records import DatasetPointer, WorkbookError
from helpers.registry import database, delivery, operations, versions
from helpers.run import collect
from helpers.tasks import new_task

TASK = "toy"
HISTORIES = int(os.environ.get("WORKBOOK_HISTORIES", "6"))  # 200: about two minutes


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory):
    """A registry without a row, made once: copies of it begin the histories."""
    folder = tmp_path_factory.mktemp("empty")
    list(database.Registry(f"sqlite:///{folder}/registry.db", folder).rows("audit"))
    return folder / "registry.db"


def start(home: Path, empty: Path) -> database.Registry:
    store.make_folder(home)
    shutil.copy(empty, home / "registry.db")
    return database.open_registry()


def train(history: database.Registry, number: int, at: int) -> str:
    """One run with its dataset and its model, registered."""
    run = store.open_run(f"run-{number}")
    began = store.now() + timedelta(minutes=at)
    run.save(record_toys.run_record(run.id, profile="p", status="failed", started_at=began))
    run.save(DatasetPointer(version=f"data-{number}", fingerprint="f"))
    run.save(record_toys.trained_model(version=f"v{number}"))
    for name in (f"datasets/data-{number}/train.jsonl", f"models/v{number}/adapter/weights"):
        store.write_text(store.home() / name, "x")
    return run.id


def register(history: database.Registry, number: int, run_id: str) -> None:
    more = {"base_model": "tiny", "dataset_version": f"data-{number}"}
    with history.transaction() as db:
        row = versions.new_row(f"v{number}", TASK, run_id, **more)
        db.execute(database.table("versions").insert().values(**row))
        versions.audit(db, row, "open", "training begins", to_status="training")
    delivery.catch_up(history)


def serve(history: database.Registry, number: int) -> None:
    with history.transaction() as db:
        versions.switch(db, TASK, versions.row_of(db, f"v{number}"), "promote", "better", {})
    delivery.catch_up(history)


def live(draw: random.Random, home: Path, empty: Path) -> tuple[database.Registry, set[int]]:
    """A random history: trainings, some registered, promotions among them."""
    history = start(home, empty)
    registered: set[int] = set()
    for number in range(draw.randint(2, 5)):
        run_id = train(history, number, at=number)
        if number == 0 or draw.random() < 0.7:
            register(history, number, run_id)
            registered.add(number)
        if draw.random() < 0.5:
            serve(history, draw.choice(sorted(registered)))
    return history, registered


def files(home: Path) -> set[str]:
    """What somebody would miss: runs, models, datasets, the routes."""
    paths = [*home.glob("routes.json")]
    for folder in ("runs", "models", "datasets"):
        paths += [path for path in (home / folder).rglob("*") if path.is_file()]
    return {f"{path.relative_to(home)} {store.sha256_file(path)}" for path in paths}


def empty_one(history, home, empty, draw, monkeypatch):
    shutil.copy(empty, home / "registry.db")


def removed(history, home, empty, draw, monkeypatch):
    for path in home.glob("registry.db*"):
        path.unlink()


def truncated(history, home, empty, draw, monkeypatch):
    removed(history, home, empty, draw, monkeypatch)
    (home / "registry.db").touch()


def elsewhere(history, home, empty, draw, monkeypatch):
    other = home.parent / f"{home.name}-other"
    store.make_folder(other)
    shutil.copy(empty, other / "registry.db")
    if draw.random() < 0.5:  # somebody else's history
        foreign = database.Registry(f"sqlite:///{other}/registry.db", other)
        for number in range(90, 90 + draw.randint(1, 12)):
            with foreign.transaction() as db:
                row = versions.new_row(f"v{number}", TASK, "theirs", base_model="tiny")
                db.execute(database.table("versions").insert().values(**row))
                versions.audit(db, row, "open", "training begins", to_status="training")
    if draw.random() < 0.5:  # also in a home whose notes were lost
        (home / "registry-seen.json").unlink()
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", f"sqlite:///{other}/registry.db")


def restored(history, home, empty, draw, monkeypatch):
    backup = home.parent / f"{home.name}.json"
    operations.backup(backup)
    register(history, 50, train(history, 50, at=50))  # after the backup
    removed(history, home, empty, draw, monkeypatch)
    shutil.copy(empty, home / "registry.db")
    operations.restore(backup)


def newer(history, home, empty, draw, monkeypatch):
    with history.transaction() as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    database._ready.clear()


DAMAGES = (empty_one, removed, truncated, elsewhere, restored, newer)


def test_line_01_gc_and_route_stop_at_a_registry_that_is_not_this_homes(
    tmp_path, empty_registry, monkeypatch
):
    for number in range(HISTORIES):
        draw = random.Random(number)
        home = tmp_path / str(number)
        damage = DAMAGES[number % len(DAMAGES)]
        with monkeypatch.context() as patch:
            patch.setenv("WORKBOOK_HOME", str(home))
            history, _ = live(draw, home, empty_registry)
            damage(history, home, empty_registry, draw, patch)
            before = files(home)
            for yes in (False, True):
                with pytest.raises(WorkbookError) as refusal:
                    collect(draw.randint(0, 2), yes)
                assert refusal.value.exit_code == 2
            if damage is not restored:
                with pytest.raises(WorkbookError):
                    registry.routes()
            assert files(home) == before, damage.__name__
        shutil.rmtree(home)


def test_line_01_what_a_route_a_way_back_or_a_remaining_run_names_is_never_deleted(
    tmp_path, empty_registry, monkeypatch
):
    for number in range(max(6, HISTORIES // 3)):
        draw = random.Random(number)
        home = tmp_path / str(number)
        monkeypatch.setenv("WORKBOOK_HOME", str(home))
        _, registered = live(draw, home, empty_registry)
        (home / "runs/run-1/run.json").write_text(draw.choice(["{}", "[]", "1", '"x"', "\x00"]))
        before = files(home)
        answer = collect(draw.randint(0, 2), yes=True)
        for version in registered:
            assert (home / f"models/v{version}/adapter/weights").exists()
            assert (home / f"datasets/data-{version}/train.jsonl").exists()
        for path in home.glob("runs/*/model.json"):
            name = store.read_json(path)["version"]
            assert (home / f"models/{name}/adapter/weights").exists(), "a run that stays names it"
        if answer["deleted"]:
            trash = Path(answer["trash"])
            assert files(trash) == before - files(home), "all of it can be put back"
            names = {str(Path(path).relative_to(home)) for path in answer["deleted"]}
            assert set(store.read_json(trash / "journal.json")["moved"]) == names


def old_run(run_id: str, **changes: object) -> store.Run:
    run = store.open_run(run_id)
    run.save(record_toys.run_record(run_id, profile="p", status="failed", **changes))
    return run


def test_line_02_gc_leaves_its_home_by_no_path_that_a_file_says(home, tmp_path):
    victim = store.make_folder(tmp_path / "victim")
    (victim / "precious").write_text("x")
    for number, run_id in enumerate(("../../../victim", str(victim), "original", "")):
        folder = store.make_folder(home / "runs" / f"odd-{number}")
        record = record_toys.run_record("x", profile="p", status="failed")
        store.write_json(folder / "run.json", record.model_copy(update={"run_id": run_id}))
    original = old_run("original", started_at=store.now() + timedelta(hours=1))
    (home / "runs/linked").symlink_to(victim)
    store.write_json(victim / "run.json", record_toys.run_record("linked", status="failed"))
    for room in ("models", "datasets"):
        store.make_folder(home / room)
        (home / room / "linked").symlink_to(victim)
    deleted = collect(1, yes=True)["deleted"]
    assert sorted(Path(path).name for path in deleted) == [f"odd-{n}" for n in range(4)]
    assert (victim / "precious").exists() and original.has("run.json")


def test_line_02_a_negative_number_of_runs_to_keep_is_refused(home):
    old_run("r1")
    with pytest.raises(WorkbookError, match="--keep -3"):
        collect(-3, yes=True)
    assert (home / "runs/r1").exists()


def test_line_02_what_an_unreadable_pointer_may_name_is_kept(home):
    run = old_run("r1")
    run.path("dataset.json").write_text("{")
    old_run("r0", started_at=record_toys.WHEN - timedelta(hours=1))
    store.write_text(home / "datasets/d/train.jsonl", "x")
    with pytest.raises(WorkbookError, match=r"dataset\.json"):
        collect(1, yes=True)
    assert (home / "datasets/d/train.jsonl").exists() and (home / "runs/r0").exists()


@pytest.mark.parametrize("name", ["human.jsonl", "production.csv", "human.parquet", "task.yaml"])
@pytest.mark.parametrize("through_link", [False, True])
def test_line_06_new_overwrites_nothing_of_a_folder(tmp_path, name, through_link):
    folder = store.make_folder(tmp_path / "mine")
    kept = tmp_path / "elsewhere" if through_link else folder / name
    kept.write_text("fifty rows")
    if through_link:
        (folder / name).symlink_to(kept)
    with pytest.raises(WorkbookError, match=name):
        new_task(folder)
    assert kept.read_text() == "fifty rows"
    assert [path.name for path in folder.iterdir()] == [name]


def test_line_19_backup_overwrites_nothing_else_and_restore_takes_no_odd_rows(
    home, tmp_path, empty_registry
):
    history = start(home, empty_registry)
    register(history, 1, train(history, 1, at=1))
    thesis = tmp_path / "thesis.json"
    for text in ('{"chapters": 9}', "plain text"):
        thesis.write_text(text)
        with pytest.raises(WorkbookError, match="thesis"):
            operations.backup(thesis)
        assert thesis.read_text() == text
    backup = tmp_path / "backup.json"
    operations.backup(backup)
    operations.backup(backup)
    content = store.read_json(backup)
    shutil.copy(empty_registry, home / "registry.db")
    for table, change in (("versions", {"status": "x"}), ("routes", {"generation": "many"})):
        rows = [content["tables"]["versions"][0] | change]
        if table == "routes":
            rows = [{"task": TASK, "version": "v1"} | change]
        store.write_json(backup, content | {"tables": content["tables"] | {table: rows}})
        with pytest.raises(WorkbookError, match="nothing was restored"):
            operations.restore(backup)
    for tables in ([], {"versions": [1]}, {"versions": 1}, None):
        store.write_json(backup, content | {"tables": tables})
        with pytest.raises(WorkbookError, match="no backup"):
            operations.restore(backup)
    assert history.rows("versions") == []


def test_line_01_a_file_without_a_byte_is_told_where_a_registry_should_be(home, caplog):
    (store.make_folder(home) / "registry.db").touch()
    assert registry.list_versions() == []
    assert "registry.db is empty" in caplog.text and "restore" in caplog.text
    caplog.clear()
    assert registry.list_versions() == [] and not caplog.text


@pytest.mark.parametrize("url", ["http://evil.example/v1", "x", 5, None, "http://127.0.0.1:1/v1"])
def test_line_19_a_poisoned_note_makes_practice_no_other_machine(home, url):
    store.write_json(home / "practice/server.json", {"url": url})
    assert practice._listening(home / "practice") == ""


def test_line_18_two_homes_with_one_registry_do_not_overwrite_each_others_version(
    tmp_path, empty_registry, monkeypatch
):
    shared = tmp_path / "shared.db"
    shutil.copy(empty_registry, shared)
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", f"sqlite:///{shared}")
    for home in ("one", "other"):
        monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / home))
        manager = registry.FineTuneLifecycleManager(TASK)
        if home == "one":
            manager.open_version("v1", "dev", "tiny", "d1")
            manager.open_version("v1", "dev", "tiny", "d1")  # a resumed run
            continue
        with pytest.raises(WorkbookError, match="another home"):
            manager.open_version("v1", "dev", "tiny", "d1")
        manager.open_version("v2", "dev-other", "tiny", "d1")
