"""The registry's tables, and transactions on them that are all or nothing, also under kill -9.

SQLite at artifacts/registry.db unless WORKBOOK_DATABASE_URL names another database. What must never happen is
forbidden by the tables themselves, not only by the code above them: a second production version of a task (partial
unique index), an unknown status (CHECK), a changed or deleted audit row (triggers).
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from helpers import store
from helpers.records import Status, WorkbookError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, MetaData, Table

SCHEMA_VERSION = 1
STATUSES: tuple[str, ...] = get_args(Status)
BUSY_SECONDS = 60  # how long a writer waits for another one; a transaction here takes milliseconds


class Tables(NamedTuple):
    """The tables by name; moments are ISO 8601 text in UTC, which sorts, and keeps its zone in every database."""

    metadata: MetaData
    versions: Table
    routes: Table
    audit: Table
    outbox: Table
    schema_version: Table


@functools.cache
def tables() -> Tables:
    """The schema, built on first use (importing SQLAlchemy takes a quarter of a second)."""
    import sqlalchemy as sa

    metadata = sa.MetaData()
    text, number = sa.Text, sa.Integer

    def column(name: str, kind: Any, *extra: Any, null: bool = False, **options: Any) -> sa.Column[Any]:
        return sa.Column(name, kind, *extra, nullable=null, **options)

    listed = ", ".join(f"'{status}'" for status in STATUSES)
    versions = sa.Table(
        "versions",
        metadata,
        column("id", text, primary_key=True),
        column("task", text, index=True),
        column("run_id", text),
        column("model_id", text),
        column("base_model", text),
        column("trained_at", text),
        column("dataset_version", text, null=True),
        column("eval_results", sa.JSON(none_as_null=True), null=True),
        column("status", text, sa.CheckConstraint(f"status IN ({listed})", name="known_status")),
        column("metadata", sa.JSON),
        column("provider", text),
        column("artifact", text),  # folder relative to the home; "" when a provider keeps the model
        column("artifact_sha256", text),
        column("fingerprints", sa.JSON),
        column("evaluation_sha256", text),
        column("evaluated_at", text, null=True),
        column("reason", text),  # why it has this status
        column("created_at", text),
        column("updated_at", text),
    )
    in_production = sa.text("status = 'production'")
    sa.Index(
        "one_production_version_per_task",
        versions.c.task,
        unique=True,
        sqlite_where=in_production,
        postgresql_where=in_production,
    )
    routes = sa.Table(
        "routes",
        metadata,
        column("task", text, primary_key=True),
        column("version", text, sa.ForeignKey("versions.id"), null=True),  # null: retired, nothing serves
        column("previous", text, sa.ForeignKey("versions.id"), null=True),
        column("generation", number),  # counts the changes; a caller says which one it looked at
        column("since", text),
    )
    audit = sa.Table(
        "audit",
        metadata,
        column("id", number, primary_key=True, autoincrement=True),
        column("at", text),
        column("actor", text),
        column("task", text, index=True),
        column("version", text),
        column("action", text),
        column("from_status", text, null=True),
        column("to_status", text, null=True),
        column("because", text),
        column("evidence", sa.JSON),
        column("generation", number, null=True),
    )
    outbox = sa.Table(
        "outbox",
        metadata,
        column("id", number, primary_key=True, autoincrement=True),
        column("event_id", text, unique=True),
        column("event", sa.JSON),
        column("created_at", text),
        column("delivered_at", text, null=True),
    )
    schema_version = sa.Table("schema_version", metadata, column("version", number, primary_key=True))
    _make_append_only(audit)
    return Tables(metadata, versions, routes, audit, outbox, schema_version)


def _make_append_only(table: Table) -> None:
    """Triggers that refuse UPDATE and DELETE, also the hidden delete of SQLite's INSERT OR REPLACE."""
    import sqlalchemy as sa

    said = "the audit is append-only"
    statements = [
        ("sqlite", f"CREATE TRIGGER audit_no_{verb} BEFORE {verb} ON audit BEGIN SELECT RAISE(ABORT, '{said}'); END")
        for verb in ("UPDATE", "DELETE")
    ]
    statements += [
        (
            "sqlite",
            "CREATE TRIGGER audit_no_replace BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id) "
            f"BEGIN SELECT RAISE(ABORT, '{said}'); END",
        ),
        (
            "postgresql",
            "CREATE OR REPLACE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{said}'; END $$",
        ),
        (
            "postgresql",
            "CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()",
        ),
    ]
    for dialect, statement in statements:
        ddl = sa.DDL(statement.replace("%", "%%")).execute_if(dialect=dialect)
        sa.event.listen(table, "after_create", ddl)


# ---------------------------------------------------------------- opening


@dataclass(frozen=True)
class Registry:
    """One database, and the folder that holds its views (routes.json, notifications.jsonl) and its lock."""

    url: str
    folder: Path

    @contextlib.contextmanager
    def transaction(self, read_only: bool = False) -> Iterator[Connection]:
        """All or nothing: commits when the block ends, rolls back when it raises.

        A writer holds SQLite's write lock from its first statement, so what it read stays true until it commits.
        """
        from sqlalchemy.exc import DBAPIError

        try:
            self.make_ready()
            with _engine(self.url).execution_options(read_only=read_only).begin() as connection:
                yield connection
        except (DBAPIError, sqlite3.Error) as error:
            raise _explained(error, self.url) from error

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """One process at a time writes the files beside the database (waits for its turn)."""
        self.make_ready()  # takes the same lock, which is not reentrant
        with self._locked():
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.folder / ".registry.lock"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "a+")  # noqa: SIM115 (closed below; closing releases the lock)
        except OSError as error:
            raise WorkbookError(
                f"{path} cannot be opened ({error.strerror}); set WORKBOOK_HOME to a folder you may write to"
            ) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def make_ready(self) -> None:
        """Make the tables once, in one transaction, under a lock: SQLite's own locks do not cover this race."""
        file = self.url.removeprefix("sqlite:///") if self.url.startswith("sqlite:///") else ""
        known = (self.url, os.getpid())
        if known in _ready and (not file or Path(file).exists()):
            return
        with self._locked():
            engine = _engine(self.url)
            if file:
                with contextlib.closing(engine.raw_connection()) as raw:
                    raw.execute("PRAGMA journal_mode=WAL")  # stays with the file
            with engine.begin() as connection:
                _create(connection)
        _ready.add(known)


_ready: set[tuple[str, int]] = set()


def open_registry(folder: Path | None = None) -> Registry:
    """The home's registry; with a folder, the SQLite registry in it (such as a scratch copy)."""
    if folder is not None:
        return Registry(f"sqlite:///{folder / 'registry.db'}", folder)
    home = store.home()
    return Registry(os.environ.get("WORKBOOK_DATABASE_URL") or f"sqlite:///{home / 'registry.db'}", home)


def _create(connection: Connection) -> None:
    t = tables()
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7230451)")  # our file lock ends at this machine
    t.metadata.create_all(connection)
    found = connection.execute(t.schema_version.select()).scalar()
    if found is None:
        connection.execute(t.schema_version.insert().values(version=SCHEMA_VERSION))
    elif found != SCHEMA_VERSION:
        raise WorkbookError(
            f"the registry has schema {found}, this workbook knows {SCHEMA_VERSION}; use the workbook that wrote it"
        )


@functools.cache
def _engine(url: str) -> Engine:
    """An engine without a pool: opening SQLite takes a millisecond, and no connection ever crosses a fork."""
    import sqlalchemy as sa

    sqlite = url.startswith("sqlite")
    try:
        engine = sa.create_engine(
            url, poolclass=sa.pool.NullPool, connect_args={"timeout": BUSY_SECONDS} if sqlite else {}
        )
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise WorkbookError(
            f"WORKBOOK_DATABASE_URL cannot be used ({store.redact(str(error))}); install the driver it names, "
            "or unset it to use SQLite"
        ) from None
    if sqlite:
        sa.event.listen(engine, "connect", _on_connect)
        sa.event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # else the driver begins late, and read-then-write meets SQLITE_BUSY at once
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "recursive_triggers=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _explained(error: Exception, url: str) -> Exception:
    """The database's complaint with its remedy; what nobody can mend stays as it is."""
    said, where = str(getattr(error, "orig", error)), url.rpartition("@")[2]
    if "full" in said and "disk" in said:
        return WorkbookError(f"no space left to write the registry at {where}; free some disk space and try again", 6)
    if "readonly" in said or "unable to open" in said:
        return WorkbookError(
            f"the registry at {where} cannot be written ({said}); set WORKBOOK_HOME or its permissions"
        )
    if "not a database" in said or "malformed" in said:
        return WorkbookError(f"the registry at {where} is damaged ({said}); restore it from a backup")
    if "one_production_version_per_task" in said or "versions.task" in said or "routes_pkey" in said:
        return WorkbookError("production changed since you looked; look again (`workbook route`), then repeat")
    return error
