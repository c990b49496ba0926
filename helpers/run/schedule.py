"""Runs at fixed times: a line in the user's crontab, or a systemd timer; and whether what was due has happened.

A schedule is a small file in schedules/ beside the runs, an environment file that only its owner can read, and one
line in the crontab that carries our tag. Only lines with our tag are ever changed.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from helpers import store
from helpers.records import WorkbookError
from helpers.run import machine, parameters

GRACE = timedelta(hours=1)  # a run that is later than this is overdue
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_FIELD = re.compile(r"(\*|\d+|[a-z]{3})(-(\d+|[a-z]{3}))?(/\d+)?", re.I)
OURS = ("WORKBOOK_HOME", "WORKBOOK_CACHE", "WORKBOOK_COMMIT", "PATH", "LANG")
KEYS = (
    "# Keys and addresses that the run needs, a NAME='value' a line; only you can read this file.\n"
)


def now() -> datetime:
    """The present moment in this machine's time zone, which is cron's."""
    return store.now().astimezone()


def following(cron: str, after: datetime) -> datetime:
    """The next time that five cron fields name; what cron would not understand, or never comes, is refused."""
    from croniter import croniter
    from croniter.croniter import CroniterError

    fields = cron.split()
    if len(fields) != len(FIELDS):
        raise WorkbookError(
            f'--cron "{cron}" has {len(fields)} fields; cron wants five ({", ".join(FIELDS)}): "0 3 * * 0"'
        )
    for name, text in zip(FIELDS, fields, strict=True):
        if not all(_FIELD.fullmatch(part) for part in text.split(",")):
            raise WorkbookError(
                f'--cron "{cron}": {text!r} is no {name} that cron understands; "0 3 * * 0" is Sunday at three'
            )
    try:
        return croniter(" ".join(fields), after).get_next(datetime)
    except (CroniterError, ValueError) as error:
        raise WorkbookError(
            f'--cron "{cron}" never comes, or cron would refuse it ({error})'
        ) from None


def add(profile: str, cron: str, how: str = "cron") -> dict[str, Any]:
    """Install a schedule, or replace the one of the same profile; the environment file keeps what its owner added."""
    cron = " ".join(cron.split())
    due, loaded = following(cron, now()), parameters.load_profile(profile)
    parameters.settle(loaded)
    if how == "systemd":
        calendar(cron)  # what systemd cannot say is refused before anything is changed
    name = loaded.path.stem
    if not store.RUN_ID.fullmatch(name):
        raise WorkbookError(
            f"the profile's name {name!r} must be made of letters, digits, dot, dash and underscore"
        )
    given = name if loaded.path.parent == parameters.PROFILES else str(loaded.path.resolve())
    commit = machine.commit().partition("+")[0]
    entry = {
        "profile": name,
        "cron": cron,
        "how": how,
        "commit": commit,
        "installed_at": now().isoformat(),
    }
    entry |= {
        "command": [sys.executable, "-m", "helpers.cli", "run", given],
        "next_due": due.isoformat(),
    }
    entry |= {
        "environment": str(_environment(_file(name, "env"), commit)),
        "log": str(_file(name, "log")),
    }
    if _file(name, "json").exists():
        _take_out(store.read_json(_file(name, "json")))
    if how == "systemd":
        entry["units"] = _systemd(entry)
    else:
        tab = _crontab()
        tab.remove_all(comment=_tag(name))
        tab.new(command=_line(entry), comment=_tag(name)).setall(cron)
        tab.write()
    store.write_json(_file(name, "json"), entry)
    return entry


def remove(profile: str) -> None:
    """Take out the schedule of a profile: our line or units, and our files."""
    name = Path(profile).stem if profile.endswith((".yaml", ".yml")) else profile
    if not _file(name, "json").exists():
        raise WorkbookError(
            f"no schedule for {name!r}; `workbook schedule --list` shows which there are"
        )
    _take_out(store.read_json(_file(name, "json")))
    for kind in ("json", "env"):
        _file(name, kind).unlink(missing_ok=True)


def _take_out(entry: dict[str, Any]) -> None:
    for unit in entry.get("units", []):
        Path(unit).unlink(missing_ok=True)
    if entry["how"] == "cron":
        tab = _crontab()
        tab.remove_all(comment=_tag(entry["profile"]))
        tab.write()


def listed() -> list[dict[str, Any]]:
    """Every schedule of this home: profile, cron, next_due, last_success, overdue, and whether its line is in place."""
    from helpers.run.flow import past_runs

    runs, found = past_runs(), []
    entries = [
        store.read_json(path) for path in sorted((store.home() / "schedules").glob("*.json"))
    ]
    tab = _crontab() if any(entry["how"] == "cron" for entry in entries) else None
    for entry in entries:
        mine = [run for run in runs if run["profile"] == entry["profile"]]
        good = [run["started_at"] for run in mine if run["status"] in ("finished", "nothing_to_do")]
        running = bool(mine) and mine[-1]["status"] == "running" and _at_work()
        since = max(datetime.fromisoformat(at) for at in [entry["installed_at"], *good[-1:]])
        late = now() > following(entry["cron"], since.astimezone()) + GRACE
        there = (
            list(tab.find_comment(_tag(entry["profile"])))
            if entry["how"] == "cron" and tab
            else entry.get("units")
        )
        told = {
            "last_success": good[-1] if good else None,
            "next_due": following(entry["cron"], now()).isoformat(),
        }
        found.append(entry | told | {"overdue": late and not running, "installed": bool(there)})
    return found


def _at_work() -> bool:
    """Whether a run holds the lock: run.json of one that was killed says `running` until the next run begins."""
    try:
        with store.lock():
            return False
    except WorkbookError as error:
        return error.exit_code == 75


def _file(name: str, kind: str) -> Path:
    return store.home() / "schedules" / f"{name}.{kind}"


def _tag(name: str) -> str:
    """What marks our line; two homes of one user keep theirs apart."""
    return f"workbook:{name}:{store.fingerprint(str(store.home()))[:8]}"


def _crontab() -> Any:
    """The user's crontab, or the file WORKBOOK_CRONTAB."""
    from crontab import CronTab

    path = os.environ.get("WORKBOOK_CRONTAB")
    try:
        if path:
            Path(path).touch()
        return CronTab(tabfile=path) if path else CronTab(user=True)
    except OSError as error:
        raise WorkbookError(
            f"no crontab here ({error}); install cron, or use --as systemd"
        ) from None


def _environment(path: Path, commit: str) -> Path:
    """Write the environment file (0600) that shells and systemd both read; what else stands in it stays."""
    ours = {
        "WORKBOOK_HOME": store.home(),
        "WORKBOOK_CACHE": store.cache(),
        "WORKBOOK_COMMIT": commit,
        "LANG": "C.UTF-8",
    }
    ours["PATH"] = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    old = path.read_text(encoding="utf-8") if path.exists() else KEYS
    kept = [
        line for line in old.splitlines() if not line.startswith(tuple(f"{name}=" for name in OURS))
    ]
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    lines = [*kept, *(f"{name}={shlex.quote(str(value))}" for name, value in ours.items())]
    store.write_text(path, "\n".join(lines) + "\n").chmod(0o600)
    return path


def _line(entry: dict[str, Any]) -> str:
    """One line of shell: absolute paths, the environment file, output into a log. (python-crontab escapes % itself.)"""
    place, settings, log = (
        shlex.quote(str(p)) for p in (store.PROJECT, entry["environment"], entry["log"])
    )
    return (
        f"cd {place} && set -a && . {settings} && exec {shlex.join(entry['command'])} >> {log} 2>&1"
    )


SERVICE = """[Unit]
Description=Fine-Tuning Workbook: {profile}

[Service]
Type=oneshot
WorkingDirectory={place}
EnvironmentFile={environment}
ExecStart={command}
SuccessExitStatus=3 4 75
KillMode=mixed
TimeoutStopSec=60
"""
TIMER = """[Unit]
Description=When the Fine-Tuning Workbook runs {profile}

[Timer]
OnCalendar={when}
Persistent=true

[Install]
WantedBy=timers.target
"""


def _systemd(entry: dict[str, Any]) -> list[str]:
    """A service and a timer in the user's own systemd folder; returns their paths."""
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user"
    command = " ".join(f'"{word}"' for word in entry["command"])
    known = {
        "profile": entry["profile"],
        "place": store.PROJECT,
        "environment": entry["environment"],
        "command": command,
    }
    known = {
        name: str(value).replace("%", "%%") for name, value in known.items()
    }  # % begins a specifier
    texts = {
        "service": SERVICE.format(**known),
        "timer": TIMER.format(**known, when=calendar(entry["cron"])),
    }
    return [
        str(store.write_text(base / f"workbook-{entry['profile']}.{kind}", text))
        for kind, text in texts.items()
    ]


def calendar(cron: str) -> str:
    """systemd's OnCalendar for five cron fields. (cron takes day of month OR day of week, systemd both: refused.)"""
    minute, hour, day, month, weekday = cron.lower().split()
    if day != "*" and weekday != "*":
        raise WorkbookError(
            "--as systemd cannot say `this day of the month or that day of the week`; use two profiles, or cron"
        )
    weekday = re.sub(r"\d", lambda found: DAYS[int(found[0])], weekday).replace("-", "..")
    month = re.sub("[a-z]{3}", lambda found: str(MONTHS.index(found[0]) + 1), month)
    every = zip((minute, hour, day, month), (0, 0, 1, 1), strict=True)
    minute, hour, day, month = (
        re.sub(r"^\*/", f"{first}/", text).replace("-", "..") for text, first in every
    )
    return f"{'' if weekday == '*' else weekday.title() + ' '}*-{month}-{day} {hour}:{minute}:00"
