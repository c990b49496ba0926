"""Debian's cron, for real: an installed schedule runs, in cron's bare environment (75 s)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

import pytest

from helpers import store

pytestmark = pytest.mark.slow


def test_cron_starts_what_was_scheduled(tmp_path):
    """Nothing has to be computed: what is tested is the way from the crontab to run.json."""
    if os.getuid() or not shutil.which("cron") or not shutil.which("crontab"):
        pytest.skip("needs Debian's cron, and root to start it")
    profile = tmp_path / "every.yaml"
    profile.write_text("notebooks: [06_monitor, 02_curate]\nbase_model: tiny\n")
    home = tmp_path / "home"
    env = os.environ | {"WORKBOOK_HOME": str(home), "PYTHONPATH": str(store.PROJECT)}

    def workbook(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "helpers.cli", *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)

    before = subprocess.run(["crontab", "-l"], capture_output=True, text=True).stdout
    running = subprocess.run(["pgrep", "-x", "cron"], capture_output=True).returncode == 0
    cron = (
        None
        if running
        else subprocess.Popen(["cron", "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    )
    try:
        done = workbook("schedule", str(profile), "--cron", "* * * * *")
        assert done.returncode == 0, done.stderr
        log, until = home / "schedules/every.log", time.monotonic() + 240
        while not (log.exists() and "06_monitor" in log.read_text()):
            assert time.monotonic() < until, "cron never started it"
            time.sleep(0.5)
        workbook("schedule", "--remove", "every")
        while "exit" not in log.read_text():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.5)
        records = [store.read_json(path) for path in home.glob("runs/*/run.json")]
        assert records[0]["status"] == "nothing_to_do" and records[0]["exit_code"] == 0, (
            log.read_text()
        )
        assert "is in production" in records[0]["reason"]
    finally:
        workbook("schedule", "--remove", "every")
        if cron:
            cron.terminate()
            cron.wait(10)
        after = subprocess.run(["crontab", "-l"], capture_output=True, text=True).stdout
        assert "workbook:every" not in after
        if not before:
            subprocess.run(["crontab", "-r"], capture_output=True)
