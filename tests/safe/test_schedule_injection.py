"""Line 8: a path in a profile's place becomes no line of its own in a crontab or a unit."""

from __future__ import annotations

import shutil

import pytest
from run_toys import toy_crontab

from helpers import parameters
from helpers.records import WorkbookError
from helpers.run import add_schedule, schedule, schedules

ODD = (
    "a\n* * * * * touch pwned\n",
    "x # y",
    'quo"te',
    "quo'te",
    "back\\slash",
    "do$llar",
    "tick`x`",
    "a\rb",
)


@pytest.fixture
def tab(tmp_path, monkeypatch):
    path = tmp_path / "tab"
    path.write_text("15 4 * * 1 /usr/bin/true\n")
    for name, value in toy_crontab(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return path


@pytest.mark.parametrize("how", ["cron", "systemd"])
@pytest.mark.parametrize("name", ODD)
def test_line_08_odd_paths_are_refused_before_anything_is_changed(tab, tmp_path, name, how):
    add_schedule("smoke", "0 3 * * *", how)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    folder = tmp_path / name
    folder.mkdir()
    profile = shutil.copy(parameters.PROFILES / "smoke.yaml", folder / "smoke.yaml")
    with pytest.raises(WorkbookError, match="cannot carry safely"):
        add_schedule(str(profile), "0 4 * * *", how)
    profile.unlink()
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert [plan.cron for plan in schedules()] == ["0 3 * * *"]


def test_line_08_a_change_that_fails_leaves_the_old_schedule(tab, tmp_path, monkeypatch):
    add_schedule("smoke", "0 3 * * *")
    before = tab.read_text()
    (tmp_path / "config").write_text("no folder")
    with pytest.raises(WorkbookError):
        add_schedule("smoke", "0 4 * * *", "systemd")
    assert tab.read_text() == before and schedules()[0].installed
    (tmp_path / "config").unlink()
    add_schedule("smoke", "0 4 * * *", "systemd")
    assert "smoke" not in tab.read_text(), "the other kind is taken out when the new one stands"
    schedule.remove_schedule("smoke")
    assert not list((tmp_path / "config").rglob("*.timer"))
