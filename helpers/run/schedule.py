"""Runs at fixed times: a line in the user's crontab, or a systemd timer; and whether it was kept.

A schedule is a small file in schedules/ beside the runs, an environment file that only its owner
can read, and one line in the crontab that carries our tag. All other lines stay byte for byte.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from helpers import parameters, store
from helpers.records import Record, RunRecord, WorkbookError
from helpers.run.doctor import commit
from helpers.run.history import past_runs

GRACE = timedelta(hours=1)  # a run that is later than this is overdue
SUCCESS = ("finished", "nothing_to_do")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
FIELDS = {"Minutes": 59, "Hours": 23, "Day of Month": 31, "Month": 12, "Day of Week": 7}
_END = r"[A-Za-z]{3}|\d+"
PART = re.compile(rf"(?:{_END})|(?:\*|(?P<first>{_END})-(?P<last>{_END}))(?:/(?P<step>\d+))?")
EXAMPLE = '"0 3 * * 0"'
ODD = re.compile("[\x00-\x1f\x7f\"'\\\\#$`]")
_log = logging.getLogger(__name__)
KEYS = (
    "# Keys and addresses that the run needs, a NAME='value' a line; only you can read this file.\n"
)


class Schedule(Record):
    """schedules/NAME.json: which profile runs when, by what, and with which code."""

    profile: str
    cron: str
    how: Literal["cron", "systemd"]
    commit: str
    installed_at: datetime
    command: list[str]
    next_due: datetime
    environment: str
    log: str
    units: list[str] = Field(default_factory=list)


class ScheduleStatus(Schedule):
    """A schedule, and whether it was kept."""

    last_success: datetime | None
    overdue: bool
    installed: bool  # its line or its units are in place
    problem: str = ""  # why nobody can tell when it is due


def following(cron: str, after: datetime, strict: bool = False) -> datetime:
    """The next time that five cron fields name, by the clock on this machine's wall.

    What never comes is refused, and if `strict`, what croniter takes and cron would not.
    """
    from croniter import croniter
    from croniter.croniter import CroniterError

    if len(cron.split()) != 5:
        raise WorkbookError(
            f'--cron "{cron}" has {len(cron.split())} fields; cron wants five (minute, hour, day of'
            f" month, month, day of week): {EXAMPLE}"
        )
    try:
        if strict:
            _check_fields(cron)
        wall = after.astimezone().replace(tzinfo=None)  # whose hours summer time moves
        return croniter(cron, wall).get_next(datetime).astimezone()
    except (CroniterError, ValueError, KeyError) as error:
        raise WorkbookError(
            f'--cron "{cron}" never comes, or cron would refuse it ({error.args[0]}); {EXAMPLE} is'
            " Sunday at three"
        ) from None


def _check_fields(cron: str) -> None:
    """ValueError where cron would not take a field that croniter does (man 5 crontab)."""
    numbers = dict(zip((*DAYS, *MONTHS), (*range(7), *range(1, 13)), strict=True))
    for (field, most), value in zip(FIELDS.items(), cron.split(), strict=True):
        for part in value.split(","):
            matched = PART.fullmatch(part)
            if matched is None:
                raise ValueError(f"{field}: {part!r}")
            if int(matched["step"] or 1) > most:
                raise ValueError(f"{field}: {part!r} has a step above {most}")
            if matched["last"]:
                first, last = (matched[end].lower() for end in ("first", "last"))
                if int(numbers.get(first, first)) > int(numbers.get(last, last)):
                    raise ValueError(f"{field}: {part!r} runs backwards")


def add_schedule(profile: str, cron: str, how: Literal["cron", "systemd"] = "cron") -> Schedule:
    """Install a schedule, or replace the one of the same profile.

    The environment file keeps what its owner added.
    """
    cron = " ".join(cron.split())
    next_due = following(cron, store.now(), strict=True)
    loaded = parameters.load_profile(profile)
    parameters.resolve(loaded)
    if how == "systemd":
        _check_calendar(calendar(cron))  # what systemd cannot say changes nothing
    name = loaded.path.stem
    if not store.RUN_ID.fullmatch(name):
        raise WorkbookError(
            f"the profile's name {name!r} must be made of letters, digits, dot, dash and underscore"
        )
    shipped = loaded.path.parent == parameters.PROFILES
    _check_paths(loaded.path.resolve())
    target = name if shipped else str(loaded.path.resolve())
    path = _file(name, "json")
    old = _read(path) if path.exists() else None
    if old is not None and old.command[-1] != target:
        raise WorkbookError(
            f"{old.command[-1]} is scheduled as {name!r} already, and another profile's runs must"
            f" not count as its own; rename {target}, or `workbook schedule --remove {name}` first"
        )
    code = commit().partition("+")[0]
    schedule = Schedule(
        profile=name,
        cron=cron,
        how=how,
        commit=code,
        installed_at=store.now().astimezone(),
        command=[sys.executable, "-m", "helpers.cli", "run", target],
        next_due=next_due,
        environment=str(_write_environment(_file(name, "env"), code)),
        log=str(_file(name, "log")),
    )
    if how == "systemd":
        schedule = schedule.model_copy(update={"units": _write_units(schedule)})
    else:
        _put_into_crontab(name, _line(schedule))
    store.write_json(path, schedule)
    if old is not None and old.how != how:  # the last step: a refused change leaves the old one
        _take_out(old)
    return schedule


def _check_paths(profile: Path) -> None:
    """Refuse what a crontab, a unit and a shell read in different ways, or as a line of its own."""
    for path in (profile, store.PROJECT, store.home(), store.cache(), Path(sys.executable)):
        odd = ODD.search(str(path))
        if odd:
            raise WorkbookError(
                f"{str(path)!r} holds {odd[0]!r}, which crontabs and units cannot carry safely; use"
                " another folder or name"
            )


def remove_schedule(profile: str) -> None:
    """Take out the schedule of a profile: our line or units, and our files."""
    name = Path(profile).stem if profile.endswith((".yaml", ".yml")) else profile
    path = _file(name, "json")
    if not path.exists():
        raise WorkbookError(
            f"no schedule for {name!r}; `workbook schedule --list` shows which there are"
        )
    _take_out(_read(path))
    path.unlink()
    _file(name, "env").unlink(missing_ok=True)


def _take_out(schedule: Schedule) -> None:
    for unit in schedule.units:
        Path(unit).unlink(missing_ok=True)
    if schedule.how == "cron":
        _put_into_crontab(schedule.profile, "")
    else:
        systemctl = "systemctl --user"
        stop = f"{systemctl} stop {Path(schedule.units[-1]).name} && {systemctl} daemon-reload"
        _log.warning("systemd goes on with it until you say: %s", stop)


def schedules() -> list[ScheduleStatus]:
    """Every schedule of this home, when it succeeded last and is due next, and if it is overdue.

    One whose fields cannot be read is overdue for all we know, and has a `problem`.
    """
    paths = sorted((store.home() / "schedules").glob("*.json"))
    if not paths:
        return []
    runs = past_runs()
    return [_status(_read(path), runs) for path in paths]


def _status(schedule: Schedule, all_runs: list[RunRecord]) -> ScheduleStatus:
    runs = [run for run in all_runs if run.profile == schedule.profile]
    successes = [run.started_at for run in runs if run.status in SUCCESS]
    fields = schedule.model_dump() | {"overdue": True, "installed": False}
    fields["last_success"] = max(successes, default=None)
    problems = []
    try:  # an older version took what is refused now
        due = following(schedule.cron, max([schedule.installed_at, *successes]))
        at_work = bool(runs) and runs[-1].status == "running" and _at_work()
        fields["overdue"] = store.now() > due + GRACE and not at_work
        fields["next_due"] = following(schedule.cron, store.now())
    except WorkbookError as error:
        problems.append(str(error))
    try:  # this machine may have no cron
        fields["installed"] = _is_installed(schedule)
    except WorkbookError as error:
        problems.append(str(error))
    return ScheduleStatus(**fields, problem="; ".join(problems))


def _read(path: Path) -> Schedule:
    try:
        return Schedule.model_validate(store.read_json(path))
    except ValidationError:
        raise WorkbookError(
            f"{path} is no schedule of this workbook; delete it and schedule its profile again"
        ) from None


def _at_work() -> bool:
    """Whether a run holds the lock: run.json of a killed one says `running`, too."""
    try:
        with store.lock():
            return False
    except WorkbookError as error:
        return error.exit_code == 75


def _file(name: str, kind: str) -> Path:
    return store.home() / "schedules" / f"{name}.{kind}"


def _tag(name: str) -> str:
    """What marks our line; two homes of one user keep theirs apart."""
    return f"workbook:{name}:{_home_mark()}"


def _home_mark() -> str:
    return store.fingerprint(str(store.home()))[:8]


def _is_installed(schedule: Schedule) -> bool:
    """Whether its units are there, or its line, and nobody made a comment of it."""
    if schedule.how == "systemd":
        return all(Path(unit).exists() for unit in schedule.units)
    lines = (line for line in _crontab("-l") if not line.startswith(b"#"))
    return any(_is_ours(line, schedule.profile) for line in lines)


def _is_ours(line: bytes, name: str) -> bool:
    return line.rstrip().endswith(f"# {_tag(name)}".encode())


def _put_into_crontab(name: str, line: str) -> None:
    """Our line, in place of the one before, above all others; "" takes it out.

    What a crontab sets (SHELL, CRON_TZ, MAILTO) holds for the lines below it, so for none of ours.
    """
    from filelock import FileLock

    with FileLock(store.make_folder(store.cache()) / "crontab.lock"):
        old = _crontab("-l")
        others = [other for other in old if not _is_ours(other, name)]
        if line or others != old:
            _crontab("-", line.encode() + b"".join(others))


def _crontab(argument: str, content: bytes = b"") -> list[bytes]:
    """The lines that `crontab` prints; a user who has no crontab yet has an empty one."""
    try:
        done = subprocess.run(["crontab", argument], input=content, capture_output=True)
    except OSError as error:
        reason = str(error)
    else:
        reason = done.stderr.decode("utf-8", "replace").strip()
        if done.returncode == 0:
            return done.stdout.splitlines(keepends=True)
        if argument == "-l" and re.search("no crontab for|No such file", reason):
            return []
    raise WorkbookError(f"no crontab here ({reason}); install cron, or use --as systemd")


def _write_environment(path: Path, commit: str) -> Path:
    """The environment file (0600) that shells and systemd both read; what else is in it stays."""
    ours = {
        "WORKBOOK_HOME": str(store.home()),
        "WORKBOOK_CACHE": str(store.cache()),
        "WORKBOOK_COMMIT": commit,
        "LANG": "C.UTF-8",
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin",
    }
    lines = (path.read_text(encoding="utf-8") if path.exists() else KEYS).splitlines()
    for name, value in ours.items():
        present = [line for line in lines if line.startswith(f"{name}=")]
        if not present or name.startswith("WORKBOOK_"):  # a PATH of its owner's stays
            lines = [line for line in lines if line not in present]
            lines.append(f"{name}={shlex.quote(value)}")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    store.write_text(path, "\n".join(lines) + "\n").chmod(0o600)
    return path


def _line(schedule: Schedule) -> str:
    """One line of the crontab: absolute paths, the environment file, output into a log."""
    project = shlex.quote(str(store.PROJECT))
    settings = shlex.quote(schedule.environment)
    log = shlex.quote(schedule.log)
    command = shlex.join(schedule.command)
    shell = f"cd {project} && set -a && . {settings} && exec {command} >> {log} 2>&1"
    shell = shell.replace("%", r"\%")  # at a bare one cron ends the command
    return f"{schedule.cron} {shell} # {_tag(schedule.profile)}\n"


SERVICE = """[Unit]
Description=Fine-Tuning Workbook: {profile}

[Service]
Type=oneshot
WorkingDirectory={project}
EnvironmentFile={environment}
ExecStart={command}
SuccessExitStatus=3 4 7 75
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


def _write_units(schedule: Schedule) -> list[str]:
    """A service and a timer in the user's own systemd folder; returns their paths."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd/user"
    values = {
        "profile": schedule.profile,
        "project": str(store.PROJECT),
        "environment": schedule.environment,
        "command": " ".join(f'"{word}"' for word in schedule.command),
    }
    for name, value in values.items():
        values[name] = value.replace("%", "%%")  # % begins a specifier
    name = f"workbook-{schedule.profile}-{_home_mark()}"
    service = folder / f"{name}.service"
    timer = folder / f"{name}.timer"
    store.write_text(service, SERVICE.format(**values))
    store.write_text(timer, TIMER.format(**values, when=calendar(schedule.cron)))
    return [str(service), str(timer)]


def calendar(cron: str) -> str:
    """systemd's OnCalendar for five cron fields: every number that they stand for.

    (cron takes day of month OR day of week, systemd both: that is refused.)
    """
    from croniter import croniter

    if cron.split()[2] != "*" and cron.split()[4] != "*":
        raise WorkbookError(
            "--as systemd cannot say `this day of the month or that day of the week`;"
            " use two profiles, or cron"
        )
    *fields, weekdays = croniter.expand(cron)[0]
    minute, hour, day, month = (",".join(map(str, numbers)) for numbers in fields)
    when = f"*-{month}-{day} {hour}:{minute}:00"
    if weekdays == ["*"]:
        return when
    return f"{','.join(DAYS[number].title() for number in weekdays)} {when}"


def _check_calendar(when: str) -> None:
    """Ask systemd itself, where it is, whether it understands an OnCalendar."""
    try:
        command = ["systemd-analyze", "calendar", when]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        _log.warning("no systemd-analyze here, so nobody checked OnCalendar=%s", when)
        return
    if done.returncode:
        raise WorkbookError(f"systemd does not understand {when!r} ({done.stderr.strip()})")
