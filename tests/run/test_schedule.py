"""Schedules: our own line in a crontab (a file here), what is due, what is overdue."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import record_toys
from run_toys import toy_crontab

from helpers import store
from helpers.records import WorkbookError
from helpers.run import add_schedule, remove_schedule, schedule, schedules, status

FOREIGN = "15 4 * * 1 /usr/bin/true # somebody's own\n"
ODD_LINES = b"""# m h  dom mon dow   command

SHELL=/usr/bin/fish
CRON_TZ = America/New_York
EMPTY=
MAILTO="a b"
FOO = bar
 \t# indented, for \xe9ric
@reboot\t/opt/start %% stdin %and more
@every_minute x
0  3 * jan-mar,dec mon-fri/2   tab\there  # workbook is fine
*/7 1-5/2 * * 7 cat \\%s\t
~ 4 * * * random
61 * * * * invalid
17 *\t* * *\troot    cd / && run-parts /etc/cron.hourly
- 0 5 * * * quiet
#0 5 * * * switched off
0 5 * * * x=1 y
half a line\r
no newline at the end"""


@pytest.fixture
def tab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in toy_crontab(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home %1"))
    path = tmp_path / "tab"
    path.write_text(FOREIGN)
    return path


def finished(profile: str, at: datetime, status: str = "finished") -> None:
    run = store.open_run(f"{profile}-{at.timestamp():.0f}")
    run.save(record_toys.run_record(run.id, profile=profile, status=status, started_at=at))


@pytest.mark.parametrize(
    ("cron", "said"),
    [
        ("0 3 * *", "five"),
        ("0 0 3 * * 0", "five"),
        ("@weekly", "five"),
        ("0 0 31 2 *", "never comes"),
        ("61 * * * *", "refuse"),
        ("R 3 * * *", "Minutes: 'R'"),
        ("0 3 * * L", "Day of Week: 'L'"),
        ("0 3 ? * 1", "Day of Month: '[?]'"),
        ("0 3 * * sat-sun", "'sat-sun' runs backwards"),
        ("0 22-2 * * *", "Hours: '22-2'"),
        ("5/10 3 * * *", "Minutes: '5/10'"),
        ("0~30 3 * * *", "Minutes"),
        ("*/0 3 * * *", "refuse"),
        ("*/60 3 * * *", "Minutes: '[*]/60' has a step above 59"),
        ("0 */48 * * *", "Hours"),
        ("0 3 */40 * *", "Day of Month"),
        ("0 3 * 1-12/13 *", "Month"),
        ("0 3 * * */8", "Day of Week"),
        ("0 jan * * *", "refuse"),
        ("0 3 * * 0; rm x", "fields"),
        ("", "five"),
    ],
)
def test_what_cron_would_not_understand_or_never_run_is_refused_and_nothing_is_written(
    tab, cron, said
):
    with pytest.raises(WorkbookError, match=said):
        add_schedule("smoke", cron)
    assert tab.read_text() == FOREIGN and not (store.home() / "schedules").exists()


def test_a_profile_that_would_not_run_is_not_scheduled(tab, tmp_path):
    (tmp_path / "bad.yaml").write_text("epochs: many\n")
    with pytest.raises(WorkbookError, match="epochs should be float"):
        add_schedule(str(tmp_path / "bad.yaml"), "0 3 * * 0")
    with pytest.raises(WorkbookError, match="profiles are"):
        add_schedule("nightly", "0 3 * * 0")


def test_the_line_is_ours_alone_absolute_and_idempotent(tab):
    made = add_schedule("smoke", "0  3 * * sun")
    add_schedule("smoke", "0 3 * * sun")
    lines = tab.read_text().splitlines()
    assert FOREIGN.strip() in lines and len([line for line in lines if "workbook" in line]) == 1
    line = next(line for line in lines if "workbook:" in line).lower()
    assert line.startswith("0 3 * * sun cd /") and str(sys.executable).lower() in line
    assert r"home \%1" in line, "cron would end the command at a bare %"
    assert made.next_due.strftime("%a %H:%M") == "Sun 03:00"
    add_schedule("smoke", "30 4 * * *")
    assert [(plan.cron, plan.installed) for plan in schedules()] == [("30 4 * * *", True)]
    remove_schedule("smoke")
    assert tab.read_text().strip() == FOREIGN.strip() and not schedules()
    with pytest.raises(WorkbookError, match="--list"):
        remove_schedule("smoke")


def test_another_profile_of_the_same_name_takes_no_schedule_over(tab, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "smoke.yaml").write_text("notebooks: [06_monitor]\n")
    others = [str(tmp_path / "a/smoke.yaml"), str(tmp_path / "b/smoke.yaml"), "smoke"]
    for profile in others:
        add_schedule(profile, "0 3 * * 0")
        before = tab.read_text()
        for other in {*others} - {profile}:
            with pytest.raises(WorkbookError, match="--remove smoke"):
                add_schedule(other, "0 4 * * 0")
        assert tab.read_text() == before
        remove_schedule("smoke")


def test_other_people_s_lines_stay_byte_for_byte_below_ours(tab, tmp_path, monkeypatch):
    tab.write_bytes(ODD_LINES)
    for profile in ("smoke", "tutorial", "smoke"):
        add_schedule(profile, "0 3 * * 0")
        ours, others = tab.read_bytes().split(b"# m h", 1)
        assert b"# m h" + others == ODD_LINES and b"\n0 3" in b"\n" + ours
    assert ours.count(b"workbook:") == 2
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "other"))
    add_schedule("smoke", "0 4 * * 0")
    remove_schedule("smoke")
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home %1"))
    assert all(plan.installed for plan in schedules()), "another home's line is not ours"
    tab.write_bytes(tab.read_bytes().replace(b"0 3 * * 0", b"# 0 3 * * 0", 1))
    assert [plan.installed for plan in schedules()] == [False, True], "a comment runs nothing"
    for profile in ("smoke", "tutorial"):
        remove_schedule(profile)
    assert tab.read_bytes() == ODD_LINES


def test_what_the_crontab_program_refuses_changes_nothing(tab, monkeypatch):
    tab.unlink()
    add_schedule("smoke", "0 3 * * 0")
    assert tab.read_bytes().count(b"workbook:smoke:") == 1, "who has no crontab gets one"
    tab.write_bytes(ODD_LINES)
    assert not schedules()[0].installed
    monkeypatch.setenv("REFUSE", "errors in crontab file, can't install")
    with pytest.raises(WorkbookError, match="can't install"):
        add_schedule("tutorial", "0 3 * * 0")
    assert tab.read_bytes() == ODD_LINES
    assert [plan.profile for plan in schedules()] == ["smoke"]
    monkeypatch.setenv("PATH", "")
    assert "install cron" in schedules()[0].problem, "a home that came from elsewhere is shown"


def test_the_environment_file_is_private_and_keeps_what_its_owner_wrote(tab):
    path = Path(add_schedule("smoke", "0 3 * * 0").environment)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_text().replace("PATH=", "PATH=/opt/cuda/bin:").replace("HOME=", "HOME=/old")
    path.write_text(before + "OPENAI_API_KEY='it'\n")
    add_schedule("smoke", "0 4 * * 0")
    text = path.read_text()
    assert text.count("OPENAI_API_KEY='it'") == 1 and text.count("WORKBOOK_HOME=") == 1
    assert "PATH=/opt/cuda/bin:" in text and "/old" not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    said = subprocess.run(
        ["sh", "-c", f". '{path}' && echo $WORKBOOK_HOME"], capture_output=True, text=True, env={}
    )
    assert said.stdout.strip() == str(store.home()), "a shell reads it"


def test_the_line_runs_in_cron_s_bare_environment(tab):
    add_schedule("smoke", "0 3 * * 0")
    line = next(line for line in tab.read_text().splitlines() if "workbook:" in line)
    command = line.split(" ", 5)[5].replace(r"\%", "%").replace(" run smoke ", " runs ")
    bare = {"HOME": os.environ["HOME"], "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=bare, cwd="/", capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert (store.home() / "schedules/smoke.log").read_text().strip() == "no run yet"


def test_other_code_than_was_scheduled_is_refused(monkeypatch):
    doctor = importlib.import_module("helpers.run.doctor")  # the door's name is its function
    monkeypatch.setattr(doctor, "commit", lambda: "b" * 40 + "+changes")
    monkeypatch.setenv("WORKBOOK_COMMIT", "b" * 40)
    doctor.check_commit()
    monkeypatch.setenv("WORKBOOK_COMMIT", "a" * 40)
    with pytest.raises(WorkbookError, match=r"workbook schedule .* again"):
        doctor.check_commit()


def test_overdue_is_what_should_have_succeeded_by_now(tab, monkeypatch):
    add_schedule("smoke", "0 3 * * *")
    assert not status()["overdue"], "it was installed just now"
    now = store.now()
    monkeypatch.setattr(store, "now", lambda: now + timedelta(days=3))
    assert status()["overdue"] and status()["schedules"][0].last_success is None
    finished("smoke", now + timedelta(days=2, hours=22), "failed")
    finished("other", now + timedelta(days=2, hours=22))
    assert status()["overdue"], "neither a failure nor another profile's success counts"
    finished("smoke", now + timedelta(days=2, hours=23), "running")
    assert status()["overdue"], "nobody holds the lock: it was killed"
    monkeypatch.setattr(schedule, "_at_work", lambda: True)
    assert not status()["overdue"], "it is at work"
    finished("smoke", now + timedelta(days=2, hours=23, minutes=30), "nothing_to_do")
    plan = status()["schedules"][0]
    assert not plan.overdue and plan.last_success


def test_what_an_older_version_recorded_is_shown_and_stops_nothing(tab):
    add_schedule("smoke", "0 3 * * *")
    add_schedule("tutorial", "0 3 * * *")
    for name, cron in (("smoke", "0 3 * * fri-mon"), ("tutorial", "0 0 31 2 *")):
        path = store.home() / f"schedules/{name}.json"
        store.write_json(path, store.read_json(path) | {"cron": cron})
    odd, never = status()["schedules"]
    assert (odd.overdue, odd.problem) == (False, ""), "croniter reads it, so it can be judged"
    assert never.overdue and "never comes" in never.problem and never.installed
    with pytest.raises(WorkbookError, match="refuse"):
        add_schedule("smoke", "0 3 * * fri-mon")


def test_systemd_gets_a_service_and_a_timer_that_it_understands(tab, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    made = add_schedule("smoke", "*/20 8-18 1 jan,jul *", "systemd")
    service, timer = (Path(path).read_text() for path in made.units)
    assert "KillMode=mixed" in service and "home %%1" in service and "Persistent=true" in timer
    hours = "8,9,10,11,12,13,14,15,16,17,18"
    assert f"OnCalendar=*-1,7-1 {hours}:0,20,40:00" in timer and "workbook" not in tab.read_text()
    assert schedules()[0].installed
    add_schedule("smoke", "0 3 * * 1-5")
    assert not Path(made.units[0]).exists() and "workbook:smoke" in tab.read_text(), (
        "cron takes over"
    )
    assert f"stop {Path(made.units[1]).name}" in caplog.text, "systemd has read it before"
    for sunday in ("0", "7", "00", "07", "sun"):
        assert schedule.calendar(f"5 3 * * {sunday}") == "Sun *-*-* 3:5:00"
    with pytest.raises(WorkbookError, match="two profiles"):
        schedule.calendar("0 3 1 * 1")


@pytest.mark.parametrize(
    ("zone", "after", "due"),
    [
        ("UTC", "2026-01-01T04:00", "2026-01-02T03:00"),
        ("Europe/Berlin", "2026-03-28T12:00", "2026-03-29T01:00"),  # 3:00 is summer time already
        ("Europe/Berlin", "2026-10-24T12:00", "2026-10-25T02:00"),
        ("America/New_York", "2026-10-31T12:00", "2026-11-01T08:00"),
        ("Australia/Lord_Howe", "2026-04-04T00:00", "2026-04-04T16:30"),  # by half an hour
    ],
)
def test_a_time_is_what_the_clock_on_this_machine_s_wall_shows(monkeypatch, zone, after, due):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        start = datetime.fromisoformat(f"{after}+00:00")
        assert schedule.following("0 3 * * *", start) == datetime.fromisoformat(f"{due}+00:00")
        skipped = schedule.following("30 2 * * *", datetime(2026, 3, 28, 12, tzinfo=UTC))
        assert skipped - start < timedelta(days=400), "an hour that a day lacks is no error"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_two_homes_of_one_user_keep_their_units_apart(tab, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    first = add_schedule("smoke", "0 3 * * *", "systemd")
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "other"))
    second = add_schedule("smoke", "0 4 * * *", "systemd")
    assert not set(first.units) & set(second.units)
    assert all(Path(unit).exists() for unit in (*first.units, *second.units))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize(
    "cron",
    [
        "5-59/10 */6 1-15/2 * *",
        "*/7 8-18 1 jan,jul *",
        "0 3 * * 0-6",  # systemd's week begins on Monday
        "0 3 * * sun-tue",
        "0 3 * * 5-7/2",
        "0 3 * * */2",
        "0 3 * * mon-fri/3",
    ],
)
def test_systemd_comes_when_cron_would(cron):
    env = os.environ | {"TZ": "UTC"}
    command = ["systemd-analyze", "calendar", "--iterations=9", schedule.calendar(cron)]
    said = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    times = re.findall(r"(?:Next elapse|Iter\w*\.? #\d+): \w+ ([\d-]+ [\d:]+) UTC", said)
    assert len(times) == 9
    due = datetime.now(UTC)
    for time_of_systemd in times:
        due = schedule.following(cron, due)
        assert f"{due.astimezone(UTC):%Y-%m-%d %H:%M:%S}" == time_of_systemd


def test_without_systemd_analyze_it_is_said_that_nobody_checked(tab, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("PATH", "")
    assert add_schedule("smoke", "0 3 * * 1", "systemd").units
    assert "nobody checked OnCalendar=Mon" in caplog.text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_what_systemd_does_not_understand_is_refused_before_anything_is_written(
    tab, tmp_path, monkeypatch
):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    schedule._check_calendar("Sun *-*-* 3:5:00")
    monkeypatch.setattr(schedule, "calendar", lambda cron: "Sun..Sat *-*-* 3:00:00")
    with pytest.raises(WorkbookError, match="systemd does not understand 'Sun"):
        add_schedule("smoke", "0 3 * * 0-6", "systemd")
    assert not (tmp_path / "config").exists() and not schedules()
