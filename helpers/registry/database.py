"""The registry's database, and transactions on it that are all or nothing, also under kill -9.

SQLite at artifacts/registry.db, or PostgreSQL by WORKBOOK_DATABASE_URL. What must never happen is
forbidden by the tables themselves, not only by the code above them: a second production version of
a task (partial unique index), an unknown status (CHECK), a changed or deleted audit row (triggers).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers import store
from helpers.records import WorkbookError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, TableClause

_log = logging.getLogger(__name__)
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_SECONDS = 60  # how long a writer waits for another one; a transaction here takes milliseconds
NO_SPACE = "disk is full|No space left|disk I/O error"  # the last where SQLite's index has no room
REMEDIES = {  # what the driver's words mean for the reader
    NO_SPACE: "free some disk space (or see whether the disk is sound) and try again",
    "permission denied for|read-only transaction|must be owner": (
        "this database role may only read; act with one that may write (docs/scaling.md, Roles)"
    ),
    "readonly|unable to open|Permission denied|Read-only|Not a directory": (
        "set WORKBOOK_HOME or its permissions"
    ),
    "database is locked": (
        "another process holds it, for longer than any of ours: end that one, then try again"
    ),
    "not a database|malformed|no such table": (
        "move it aside and restore it from a backup: workbook registry restore FILE"
    ),
    "onnection.*(failed|refused|closed|lost|slots)|timeout|(translate|resolve) host|authentication"
    "|closed the connection|terminating connection|EOF detected|(starting|shutting) (up|down)"
    "|too many": ("start the server, or correct WORKBOOK_DATABASE_URL; then try again"),
}
TABLES = {  # what constrains them stands in migrations/; the first column is the key
    "versions": (
        "id task run_id model_id base_model status trained_at created_at updated_at"
        " dataset_version evaluated_at train_until serve_until provider artifact artifact_sha256"
        " evaluation_sha256 reason fingerprints metadata eval_results"
    ),
    "routes": "task version previous generation since",
    "audit": ("id at actor version action because task from_status to_status evidence generation"),
    "outbox": ("id event_id event created_at delivered_at sent_at retry_at attempts sent_to"),
    "alarms": (
        "id task version name severity state finding opened_at seen_at told_at changed_at actor"
        " because"
    ),
    "attempts": "id task key rows n run_id version at",
}
JSON_COLUMNS = ("fingerprints", "metadata", "eval_results", "evidence", "event", "finding")


@functools.cache
def table(name: str) -> TableClause:
    """One of TABLES; moments are ISO 8601 text in UTC, which sorts and keeps its zone."""
    import sqlalchemy as sa

    json = sa.JSON(none_as_null=True)
    columns = [
        sa.column(column, json if column in JSON_COLUMNS else None)
        for column in TABLES[name].split()
    ]
    return sa.table(name, *columns)


def rows_of(db: Connection, name: str, /, **where: Any) -> list[dict[str, Any]]:
    """The rows of a table whose columns have these values, in the order of its key."""
    key = TABLES[name].split()[0]
    query = table(name).select().filter_by(**where).order_by(table(name).c[key])
    return [dict(row) for row in db.execute(query).mappings()]


def migrate(connection: Connection, to: str = "head") -> None:
    """Bring the tables to this program's revision, in the caller's transaction.

    A new database gets all revisions.
    """
    import sqlalchemy as sa

    tables = sa.inspect(connection).get_table_names()
    known = sorted(path.name[:4] for path in MIGRATIONS.glob("versions/0*.py"))
    revision = None
    if "alembic_version" in tables:
        revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if revision == known[-1]:
        return
    if revision is not None and revision not in known:
        raise WorkbookError(
            f"a newer workbook made this registry (revision {revision}, known up to {known[-1]});"
            " update this one"
        )
    from alembic import command
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    if revision is None and "versions" in tables:  # made by release 0.1.0, which had no revisions
        command.stamp(config, known[0])
    command.upgrade(config, to)


@dataclass(frozen=True)
class Registry:
    """One database, and the folder that holds its views (routes.json, notifications.jsonl)."""

    url: str
    folder: Path

    @contextlib.contextmanager
    def transaction(self, read_only: bool = False) -> Iterator[Connection]:
        """All or nothing: commits when the block ends, rolls back when it raises.

        There is one writer at a time, from its first statement on: what it read stays true until
        it commits.
        """
        from sqlalchemy.exc import DBAPIError

        try:
            self._make_ready()
            with _engine(self.url).execution_options(read_only=read_only).begin() as connection:
                yield connection
        except (DBAPIError, sqlite3.Error, OSError) as error:
            problem = re.sub(r"\S*@", "", str(getattr(error, "orig", error)))  # a password's end
            words = next((words for words in REMEDIES if re.search(words, problem)), "")
            if not words:
                raise
            where = self.url.rpartition("@")[2]  # without user and password
            raise WorkbookError(
                f"the registry at {where} cannot be used ({problem}); {REMEDIES[words]}",
                6 if words == NO_SPACE else 2,
            ) from error

    def rows(self, name: str, /, **where: Any) -> list[dict[str, Any]]:
        """`rows_of`, in a transaction of its own."""
        with self.transaction(read_only=True) as db:
            return rows_of(db, name, **where)

    def _make_ready(self) -> None:
        """Make the tables once, under a file's lock.

        SQLite's own locks do not cover the race of first openings.
        """
        file = self.url.removeprefix("sqlite:///")
        is_server = file == self.url
        if self.url in _ready and (is_server or Path(file).exists()):
            return
        from filelock import FileLock

        store.make_folder(self.folder)
        with FileLock(self.folder / ".registry.lock"):
            if not is_server:
                if Path(file).exists() and not Path(file).stat().st_size:
                    _log.warning(
                        "%s is empty, and a new registry begins in it; if it ever held versions,"
                        " restore a backup: workbook registry restore FILE", file
                    )  # fmt: skip
                Path(file).touch(mode=0o600)  # SQLite's own files take its mode
            with _engine(self.url).begin() as connection:
                migrate(connection)
        _ready.add(self.url)


_ready: set[str] = set()


def open_registry() -> Registry:
    """The home's registry."""
    url = os.environ.get("WORKBOOK_DATABASE_URL") or f"sqlite:///{store.home() / 'registry.db'}"
    return Registry(re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", url), store.home())


@functools.cache
def _engine(url: str) -> Engine:
    """An engine without a pool: opening takes a millisecond, and no connection crosses a fork."""
    import sqlalchemy as sa

    is_sqlite = url.startswith("sqlite")
    options = {"connect_args": {"timeout": BUSY_SECONDS}} if is_sqlite else {}
    try:
        place: str | sa.URL = url
        if is_sqlite:  # a folder's name may hold what a URL would read as its query
            place = sa.URL.create("sqlite", database=url.removeprefix("sqlite:///"))
        engine = sa.create_engine(place, poolclass=sa.pool.NullPool, **options)
    except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise WorkbookError(
            f"WORKBOOK_DATABASE_URL cannot be used ({store.redact(str(error))}); install the driver"
            ' it names (PostgreSQL: pip install -e ".[postgres]"), or unset it to use SQLite'
        ) from None
    if is_sqlite:
        sa.event.listen(engine, "connect", _on_connect)
    sa.event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: Any, _record: Any) -> None:
    # Else the driver begins late, and read-then-write meets SQLITE_BUSY at once.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _on_begin(connection: Connection) -> None:
    reads = connection.get_execution_options().get("read_only", False)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")
    elif reads:  # all statements see one moment, as they do in SQLite
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
    else:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7230451)")
