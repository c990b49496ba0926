"""kill -9 of a machine that shares versions through the store: what is named is there, and whole.

2 points a kind of store by default; `make faults ROOM=store N=20` runs and records more, with
`S3=http://127.0.0.1:5000` a bucket `team` of a server there (moto_server) in place of our toy.
"""

from __future__ import annotations

import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from helpers import registry, store

sys.path.insert(0, str(store.PROJECT / "tests" / "grow"))
from s3_toy import Bucket

SEED = 7
N = int(os.environ.get("N") or 2)
S3 = os.environ.get("S3", "")
CHILD = """
import sys
import registry_toys
for number in range(200):
    registry_toys.candidate(f"{sys.argv[1]}x{number}")
    print(number, flush=True)
"""
pytestmark = pytest.mark.skipif(
    os.environ.get("ROOM", "store") != "store", reason="another room's faults were asked for"
)
outcomes: list[dict] = []


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_no_version_names_a_missing_or_torn_object(kind, tmp_path, monkeypatch):
    bucket = Bucket() if kind == "bucket" and not S3 else None
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", f"sqlite:///{tmp_path / 'team.db'}")
    (tmp_path / "store").mkdir()
    monkeypatch.setenv("WORKBOOK_STORE", str(tmp_path / "store"))
    if kind == "bucket":
        monkeypatch.setenv("WORKBOOK_STORE", "s3://team/workbook")
        monkeypatch.setenv("AWS_ENDPOINT_URL", S3 or bucket.url)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "a"))
    chance = random.Random(f"{SEED}-{kind}")
    rooms = [store.PROJECT / "tests" / room for room in ("registry", "")]
    path = os.pathsep.join(map(str, [store.PROJECT, *rooms]))
    for point in range(N):
        command = [sys.executable, "-c", CHILD, f"v{point}"]
        environment = os.environ | {"PYTHONPATH": path}
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert child.stdout.readline(), "the first version is shared"
        time.sleep(chance.random() * 0.4)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "b"))
    versions = registry.list_versions()
    named = [version.id for version in versions if version.metadata.get("store")]
    bad = []
    for version_id in named:
        try:
            registry.fetch(version_id)
            registry.check_files(registry.version_of(version_id))
        except Exception as error:
            bad.append(f"{version_id}: {error}")
    if bucket is not None:
        bucket.close()
    shutil.rmtree(tmp_path / "b")
    label = "bucket of another server" if kind == "bucket" and S3 else kind
    outcomes.append({"store": label, "kills": N, "named": len(named), "failures": bad})
    assert bad == [] and len(named) >= N


@pytest.fixture(scope="module", autouse=True)
def recorded():
    yield
    if os.environ.get("N") and outcomes:
        command = ["git", "-C", str(store.PROJECT), "describe", "--always", "--dirty"]
        told = subprocess.run([*command, "--exclude=*"], capture_output=True, text=True)
        system = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
        value = {"seed": SEED, "commit": told.stdout.strip(), "machine": system}
        path = store.PROJECT / "docs" / "measured" / "store_kills.json"
        store.write_text(path, json.dumps(value | {"outcomes": outcomes}, indent=2) + "\n")
