"""A PostgreSQL server of our own for the tests, in a temporary folder, on a free port.

initdb runs as an unprivileged user.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_number = itertools.count()


def binaries() -> Path | None:
    """The folder of the newest installed server, if any."""
    found = shutil.which("initdb") or next(
        iter(sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)), None
    )
    return Path(found).parent if found else None


def _user() -> str | None:
    """Somebody who is not root: PostgreSQL refuses to run as root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in names), None)


@contextlib.contextmanager
def server() -> Iterator[Callable[[], str]]:
    """Run a server as long as the block; its value makes an empty database and returns the URL."""
    bin_folder = binaries()
    if bin_folder is None:
        pytest.skip("no PostgreSQL server is installed here (apt-get install postgresql)")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    user = _user()
    if os.getuid() == 0 and user is None:
        pytest.skip("PostgreSQL does not run as root, and there is no other user")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="workbook-pg-", dir="/tmp"))
    if user:
        shutil.chown(folder, user)

    def run(*command: str) -> None:
        extra = (
            {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []} if user else {}
        )
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=120, **extra
        )
        assert done.returncode == 0, done.stderr

    data, log = str(folder / "data"), str(folder / "log")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    run(str(bin_folder / "initdb"), "-D", data, "-U", "workbook", "-A", "trust", "--no-sync")
    run(str(bin_folder / "pg_ctl"), "-D", data, "-l", log, "-o", options, "-w", "start")
    try:

        def new_database() -> str:
            import psycopg

            name = f"registry_{next(_number)}"
            with psycopg.connect(
                host="127.0.0.1", port=port, user="workbook", dbname="postgres", autocommit=True
            ) as db:
                db.execute(f"CREATE DATABASE {name}")
            return f"postgresql+psycopg://workbook@127.0.0.1:{port}/{name}"

        yield new_database
    finally:
        run(str(bin_folder / "pg_ctl"), "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder, ignore_errors=True)
