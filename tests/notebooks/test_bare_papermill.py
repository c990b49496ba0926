"""papermill without `workbook run`: as strict, from any folder, for every notebook and profile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from helpers import store
from helpers.learn import clean
from helpers.parameters import declared_parameters, load_profile, resolve

NOTEBOOKS = sorted(
    path
    for path in (store.PROJECT / "notebooks").rglob("[0-9]*.ipynb")
    if ".ipynb_checkpoints" not in path.parts  # what Jupyter leaves
)
PROFILES = sorted((store.PROJECT / "params").glob("*.yaml"))
FOLDERS = (".", "notebooks")  # where papermill is started
# What papermill does to a notebook and a kernel with it, up to the first helper call: the cells are
# papermill's own, `In` is IPython's history. A kernel for each of 240 pairs would take 10 minutes.
BEGIN = """
import ast, json, sys
from pathlib import Path
from helpers.parameters import declared_parameters
from papermill.iorw import load_notebook_node, read_yaml_file
from papermill.parameterize import parameterize_notebook

def until_begin(notebook):
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        statements = ast.parse(cell.source).body
        for number, statement in enumerate(statements):
            if "parameters.begin(" in ast.unparse(statement):
                yield ast.unparse(ast.Module(statements[: number + 1], []))
                return
        yield cell.source

values = {}
for path, profile in json.load(sys.stdin):
    notebook = parameterize_notebook(load_notebook_node(path), read_yaml_file(profile))
    sources = list(until_begin(notebook))
    space = {"In": ["", *sources]}
    try:
        for source in sources:
            exec(source, space)
    except Exception as error:
        raise SystemExit(f"{path} with {profile}: {type(error).__name__}: {error}")
    values[f"{path} {profile}"] = {name: space[name] for name in declared_parameters(Path(path))}
print(json.dumps(values))
"""


def environment(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"WORKBOOK_HOME": str(tmp_path / "home"), "PYTHONPATH": str(store.PROJECT)}


def papermill(
    tmp_path: Path, cwd: Path, *arguments: str, notebook: Path = NOTEBOOKS[0]
) -> subprocess.CompletedProcess:
    copy = str(tmp_path / "out.ipynb")
    command = [sys.executable, "-m", "papermill", str(notebook), copy, "--no-progress-bar"]
    command += arguments
    return subprocess.run(
        command, cwd=cwd, env=environment(tmp_path), capture_output=True, text=True, timeout=300
    )


def test_an_unknown_name_stops_at_the_first_helper_call(tmp_path):
    done = papermill(tmp_path, tmp_path, "-p", "few_shots", "3")
    assert done.returncode == 1
    assert "unknown parameter 'few_shots'" in done.stderr
    assert not (tmp_path / "home" / "runs").exists()


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_notebook_begins_with_the_values_of_every_profile(tmp_path, folder):
    pairs = [(str(path), str(profile)) for path in NOTEBOOKS for profile in PROFILES]
    assert len(pairs) >= 11 * 11
    done = subprocess.run(
        [sys.executable, "-c", BEGIN],
        input=json.dumps(pairs),
        cwd=store.PROJECT / folder,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    values = json.loads(done.stdout)
    for path in NOTEBOOKS:
        defaults = declared_parameters(path)
        for profile in PROFILES:
            settings = resolve(load_profile(str(profile)))
            expected = {name: settings.get(name, value) for name, value in defaults.items()}
            assert values[f"{path} {profile}"] == expected, f"{path.stem} with {profile.stem}"
    assert (tmp_path / "home" / "runs" / "dev").is_dir()


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_notebook_runs_to_its_end_with_a_profile_that_names_others(tmp_path, folder):
    profile = store.PROJECT / "params" / "smoke.yaml"
    done = papermill(tmp_path, store.PROJECT / folder, "-f", str(profile))
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "home" / "runs" / "dev" / "environment.json").exists()


def test_where_papermill_sets_values_what_if_is_a_table_and_no_widget(tmp_path):
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": clean.KERNEL})
    code = """from helpers.show.whatif import what_if
what_if("Sum", {"a": (1, 2)}, [1], lambda a: f"all: {a}")"""
    notebook.cells = [nbformat.v4.new_code_cell(code)]
    path = tmp_path / "what_if.ipynb"
    nbformat.write(notebook, path)
    done = papermill(tmp_path, tmp_path, "-p", "seed", "7", notebook=path)
    assert done.returncode == 0, done.stderr[-2000:]
    copy = json.loads((tmp_path / "out.ipynb").read_text())
    [shown] = copy["cells"][-1]["outputs"]
    assert "all: 2</td>" in "".join(shown["data"]["text/html"])
    assert not any("widget" in kind for kind in shown["data"])
