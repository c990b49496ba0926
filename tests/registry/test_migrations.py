"""Every released schema is brought to the newest one, with its rows, and a new one equals it."""

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from postgres_toy import server
from registry_toys import TASK, candidate, contradictions

from helpers import registry, store
from helpers.records import WorkbookError
from helpers.registry import FineTuneLifecycleManager, database
from helpers.registry.operations import dump

RELEASED = sorted((Path(__file__).parent / "released").glob("*.sql"))
VERSIONS = sorted(path.name[:4] for path in database.MIGRATIONS.glob("versions/0*.py"))


@pytest.fixture(scope="module")
def new_database():
    with server() as new:
        yield new


def url_for(dialect, request, home):
    home.mkdir(exist_ok=True)
    return (
        f"sqlite:///{home / 'registry.db'}"
        if dialect == "sqlite"
        else request.getfixturevalue("new_database")()
    )


def as_released(url, path):
    """Make a database as a release made it."""
    statements = path.read_text().split(";\n--\n")
    with sa.create_engine(url, poolclass=sa.pool.NullPool).begin() as db:
        for statement in statements:
            db.exec_driver_sql(
                statement.rstrip().removesuffix(";").replace("%", "%%")
                if "sqlite" not in url
                else statement
            )


def shape(url):
    """Everything that decides what a database accepts."""
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    look, tables = sa.inspect(engine), {}
    for name in look.get_table_names():
        columns = sorted((c["name"], str(c["type"]), c["nullable"]) for c in look.get_columns(name))
        keys = sorted(
            str((k["constrained_columns"], k["referred_table"]))
            for k in look.get_foreign_keys(name)
        )
        indexes = sorted(
            str((i["name"], i["column_names"], i["unique"])) for i in look.get_indexes(name)
        )
        checks = [c["name"] for c in look.get_check_constraints(name)]
        tables[name] = (
            columns,
            keys,
            indexes,
            checks,
            look.get_unique_constraints(name)[0:1] != [],
            look.get_pk_constraint(name),
        )
    with engine.connect() as db:
        triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        if "postgresql" in url:
            triggers = "SELECT DISTINCT trigger_name FROM information_schema.triggers"
        return tables, sorted(db.exec_driver_sql(triggers).scalars())


def test_there_is_a_dump_of_every_released_schema():
    assert {path.name for path in RELEASED} >= {"0001_sqlite.sql", "0001_postgresql.sql"}
    assert [f"{n:04}" for n in range(1, len(VERSIONS) + 1)] == VERSIONS


@pytest.mark.parametrize("path", RELEASED, ids=lambda p: p.stem)
def test_a_released_database_is_upgraded_with_its_rows_and_goes_on(
    path, request, home, monkeypatch, tmp_path
):
    url = url_for(path.stem.partition("_")[2], request, home)
    as_released(url, path)
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", url)
    assert [(v.id, v.status) for v in registry.list_versions()] == [
        ("v2", "production"),
        ("v1", "deprecated"),
    ]
    assert len(registry.history()) == 9 and contradictions() == []
    candidate("v3")
    assert (
        FineTuneLifecycleManager(TASK).promote("v3", "production", "go on", force=True).previous
        == "v2"
    )
    assert contradictions() == []
    new = url_for(path.stem.partition("_")[2], request, tmp_path / "new")
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", new)
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "new"))  # the old one knows its registry
    assert registry.list_versions() == []
    assert shape(url) == shape(new)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), sa.create_engine(url).begin() as db:
        db.exec_driver_sql("DELETE FROM audit")


def test_the_tables_in_the_code_have_the_columns_that_migrations_make(home):
    registry.list_versions()
    look = sa.inspect(sa.create_engine(f"sqlite:///{home / 'registry.db'}"))
    made = {name: [c["name"] for c in look.get_columns(name)] for name in look.get_table_names()}
    assert {name: sorted(columns.split()) for name, columns in database.TABLES.items()} == {
        name: sorted(columns) for name, columns in made.items() if name != "alembic_version"
    }
    for name, columns in database.TABLES.items():
        assert look.get_pk_constraint(name)["constrained_columns"] == [columns.split()[0]]


def test_a_database_of_a_newer_workbook_is_left_alone(home):
    registry.list_versions()
    with sqlite3.connect(home / "registry.db") as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    database._ready.clear()
    with pytest.raises(WorkbookError, match="newer workbook"):
        registry.list_versions()


def test_a_migration_that_is_killed_leaves_the_old_database(home):
    path = next(p for p in RELEASED if p.stem.endswith("sqlite"))
    url = f"sqlite:///{home / 'registry.db'}"
    home.mkdir()
    as_released(url, path)
    before = shape(url)
    with pytest.raises(RuntimeError), database._engine(url).begin() as db:
        database.migrate(db)
        raise RuntimeError("killed before the commit")
    assert shape(url) == before
    assert len(registry.list_versions()) == 2
    assert store.home() == home


def test_a_team_moves_from_sqlite_to_postgresql_by_backup_and_restore(
    new_database, monkeypatch, tmp_path
):
    for name in ("v1", "v2"):
        candidate(name).promote(name, "production")
    before = dump(database.open_registry())
    registry.backup(tmp_path / "b.json")
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", new_database().replace("+psycopg", ""))
    registry.restore(tmp_path / "b.json")
    assert dump(database.open_registry()) == before
    assert (
        registry.rollback(because="it goes on").version == "v1"
    )  # the counters of audit and outbox go on, too
    assert contradictions() == []


def test_a_server_that_goes_away_in_the_middle_is_named_with_its_remedy(new_database, monkeypatch):
    url = new_database()
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", url)
    candidate("v1")
    other = sa.create_engine(url, poolclass=sa.pool.NullPool)
    refused = pytest.raises(WorkbookError, match="start the server, or correct")
    with refused, database.open_registry().transaction() as db:
        pid = db.exec_driver_sql("SELECT pg_backend_pid()").scalar()
        with other.connect() as admin:
            admin.exec_driver_sql(f"SELECT pg_terminate_backend({pid})")
        database.rows_of(db, "versions")
    assert [version.id for version in registry.list_versions()] == ["v1"]
