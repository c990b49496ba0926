"""The files of deploy/ say what is there: no daemon is needed to find most of what can be wrong."""

from __future__ import annotations

import re
import shutil
import subprocess

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
    for service in composed["services"].values():
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).exists()
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in composed["volumes"]
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


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_has_nothing_to_say():
    done = subprocess.run(["hadolint", DEPLOY / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
