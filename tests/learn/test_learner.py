"""The learner edition, what a class has done, and whether the checkpoints have teeth."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers import learn, parameters, store
from helpers.learn import clean, edition, feedback, grading
from helpers.records import WorkbookError

# Answers that somebody might well give, six for each exercise; every one must be refused.
WRONG = json.loads((Path(__file__).parent / "wrong_answers.json").read_text())
NOTEBOOKS = [
    path
    for path in sorted(parameters.PROJECT_NOTEBOOKS.rglob("[0-9]*.ipynb"))
    if ".ipynb_checkpoints" not in path.parts
]


def documents() -> dict[Path, dict[str, Any]]:
    """The notebooks of this working tree, as git would keep them."""
    return {path: clean.cleaned(json.loads(path.read_text())) for path in NOTEBOOKS}


def all_exercises() -> list[Any]:
    params = []
    for path, document in documents().items():
        for exercise in grading.exercises(document):
            name = f"{path.stem}-{exercise.name}"
            params.append(pytest.param(grading._imports(document), exercise, id=name))
    return params


def with_answer(exercise: grading.Exercise, body: str) -> str:
    indent = edition.SOLUTION.search(exercise.source)[1]
    answer = "\n".join(indent + line for line in body.splitlines())
    return edition.SOLUTION.sub(lambda _: answer, exercise.source)


@pytest.mark.parametrize(("imports", "exercise"), all_exercises())
def test_a_checkpoint_accepts_the_solution_and_refuses_six_answers_that_people_give(
    imports, exercise
):
    def judge(source: str) -> tuple[str, str]:
        return grading.judge(imports, source, exercise.check)

    assert judge(exercise.source) == ("right", "")
    stub = edition.SOLUTION.sub(rf"\1{feedback.STUB}", exercise.source)
    assert judge(stub) == ("wrong", f"{exercise.name} is still open: complete the function above.")
    assert len(WRONG[exercise.name]) >= 5
    for body in WRONG[exercise.name]:
        state, message = judge(with_answer(exercise, body))
        assert state == "wrong", body
        assert "should" in message or "stopped" in message, "expected against got"


def test_every_core_notebook_has_three_exercises_and_hints_and_every_notebook_its_answers():
    for path, document in documents().items():
        texts = ["".join(cell["source"]) for cell in document["cells"]]
        count = len(list(grading.exercises(document)))
        assert count >= 3 or path.parent.name == "more", path.name
        assert sum(text.count("<summary>Hint 1</summary>") for text in texts) == count
        keys = [
            cell for cell in document["cells"] if "solution" in cell["metadata"].get("tags", [])
        ]
        questions = next(text for text in texts if "## Questions" in text).split("## Questions")[1]
        asked = sum(line[:1].isdigit() for line in questions.splitlines())
        answered = sum(line[:1].isdigit() for line in "".join(keys[0]["source"]).splitlines())
        assert len(keys) == 1 and asked == answered >= 3, path.name


def test_the_marks_are_nbgrader_s_and_each_exercise_has_a_name_of_its_own():
    for document in documents().values():
        marks = [
            c["metadata"]["nbgrader"] for c in document["cells"] if "nbgrader" in c["metadata"]
        ]
        names = [mark["grade_id"] for mark in marks]
        assert len(names) == len(set(names))
        for mark in marks:
            assert mark["schema_version"] == 3 and mark["grade"] is not mark["solution"]
            assert mark["locked"] is mark["grade"] and ("points" in mark) is mark["grade"]


def test_right_is_said_aloud_and_what_was_expected_stands_beside_what_came():
    assert "Right: abs gives" in learn.check(abs, ((-2,), 2, "no sign")).data
    with pytest.raises(feedback.NotYet, match=r"abs\(-2\) should be 3, yours gives 2: why"):
        learn.check(abs, ((-2,), 3, "why"))
    with pytest.raises(feedback.NotYet, match="stopped with TypeError"):
        learn.check(abs, (("x",), 3, "why"))


def test_true_is_no_one_and_numbers_are_equal_up_to_rounding():
    assert not feedback.same(1, True) and not feedback.same(True, 1)
    assert feedback.same(0.1 + 0.2, 0.3) and feedback.same((0.1 + 0.2, "a"), (0.3, "a"))
    assert not feedback.same([1], (1,)) and not feedback.same([1, 2], [1])


@pytest.mark.parametrize(
    ("result", "expected"),
    [(5.0, 5), (True, True), (0.3, 0.3), ([7, 8], [7, 8]), ([0.3, True], [0.3, True])],
)
def test_what_numpy_computed_is_judged_by_its_value(result, expected):
    import numpy

    theirs = numpy.array(result, dtype=object if isinstance(result, list) else None)
    assert feedback.same(theirs, expected) and feedback.same([theirs[()]], [expected])
    assert feedback.same((numpy.float64(1), numpy.bool_(False)), (1.0, False))
    assert not feedback.same(numpy.array([1, 0]), [1, 1]), "no traceback of numpy's either"
    assert feedback.same(numpy.array([1, 2]), (1, 2)) and not feedback.same([1, 2], (1, 2))
    assert not feedback.same(numpy.bool_(True), 1) and not feedback.same(numpy.int64(1), True)


def test_what_is_no_function_is_no_traceback():
    with pytest.raises(feedback.NotYet, match="is not callable"):
        learn.check(3, ((1,), 2, "why"))


def test_after_a_syntax_error_the_older_attempt_is_not_judged(monkeypatch):
    from types import SimpleNamespace

    history = ["def double(n):\n    return 2 * n", "def double(n)\n    return 3 * n"]
    shell = SimpleNamespace(user_ns={"In": history})
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    space: dict[str, Any] = {}
    exec(history[0], space)
    with pytest.raises(feedback.NotYet, match="newest double has a syntax error in line 1"):
        learn.check(space["double"], ((2,), 4, "twice"))


@pytest.fixture
def here(monkeypatch):
    """The edition of this working tree, whatever is committed."""
    monkeypatch.setattr(clean, "git", lambda *arguments: "")


def test_the_edition_holds_no_line_of_a_solution_and_no_answer(here, tmp_path):
    written = learn.write_edition(tmp_path / "mine")
    assert sorted(path.name for path in written) == sorted(path.name for path in NOTEBOOKS)
    for path, document in documents().items():
        target = tmp_path / "mine" / path.relative_to(parameters.PROJECT_NOTEBOOKS)
        texts = ["".join(cell["source"]) for cell in json.loads(target.read_text())["cells"]]
        stubs = sum(feedback.STUB in text for text in texts)
        assert stubs == len(list(grading.exercises(document)))
        for exercise in grading.exercises(document):
            solution = edition.SOLUTION.search(exercise.source)[0].splitlines()[1:-1]
            lines = [line for text in texts for line in text.splitlines()]
            assert not any(line in lines for line in solution if len(line.strip()) > 12)
        assert not any("Answers to the questions" in text for text in texts)
        assert len(texts) == len(document["cells"]) - 1


def test_the_edition_is_clean_whatever_was_run_tried_and_left_here(tmp_path, monkeypatch):
    folder = tmp_path / "notebooks"
    copies = {path: folder / path.relative_to(parameters.PROJECT_NOTEBOOKS) for path in NOTEBOOKS}
    for path, copy in copies.items():
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text())
    monkeypatch.setattr(store, "NOTEBOOKS", folder)
    monkeypatch.setattr(clean, "git", lambda *arguments: "")
    used = copies[parameters.PROJECT_NOTEBOOKS / "01_decide.ipynb"]
    document = json.loads(used.read_text())
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": ["secret"]}]
    used.write_text(json.dumps(document))
    (folder / "99_scratch.ipynb").write_text(json.dumps(document))
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "01_decide.ipynb").write_text("{}")
    written = learn.write_edition(tmp_path / "mine")
    assert len(written) == len(NOTEBOOKS)
    assert "secret" not in (tmp_path / "mine" / "01_decide.ipynb").read_text()


def test_parameters_that_were_tried_here_reach_no_learner(tmp_path):
    repository = tmp_path / "repository"
    path = repository / "notebooks" / "01_decide.ipynb"
    path.parent.mkdir(parents=True)
    committed = (parameters.PROJECT_NOTEBOOKS / path.name).read_text()
    path.write_text(committed)
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.email=a@b", "-c", "user.name=a", "commit", "-qm", "first"],
    ):
        subprocess.run(["git", *command], cwd=repository, check=True)
    path.write_text(committed.replace("seed: int = 7", "seed: int = 8"))
    assert edition._committed(path) == clean.cleaned(json.loads(committed))


def test_without_git_an_edited_parameter_is_named(here, tmp_path, monkeypatch):
    monkeypatch.setattr(parameters, "PROJECT_NOTEBOOKS", tmp_path)
    path = tmp_path / "01_decide.ipynb"
    text = (store.PROJECT / "notebooks" / path.name).read_text()
    path.write_text(text.replace("seed: int = 7", "seed: int = 8"))
    with pytest.raises(WorkbookError, match=r"was edited \(seed = 8\)"):
        edition._committed(path)


def test_work_that_is_there_is_not_overwritten(here, tmp_path):
    learn.write_edition(tmp_path)
    (tmp_path / "01_decide.ipynb").write_text("my answers")
    with pytest.raises(WorkbookError, match="empty folder"):
        learn.write_edition(tmp_path)
    assert (tmp_path / "01_decide.ipynb").read_text() == "my answers"


@pytest.mark.parametrize(
    "source", ["def f():\n    return 1", "def f():\n    ### BEGIN SOLUTION\n    return 1\n"]
)
def test_an_exercise_without_a_whole_solution_region_is_refused(source):
    notebook = {
        "cells": [{"cell_type": "code", "metadata": {"tags": ["exercise"]}, "source": source}]
    }
    with pytest.raises(WorkbookError, match="SOLUTION"):
        edition.without_solutions(notebook, "x.ipynb")


def answer(notebook: Path, exercise: str, source: str) -> None:
    """What a learner types and saves."""
    document = json.loads(notebook.read_text())
    for cell in document["cells"]:
        mark = cell["metadata"].get("nbgrader", {})
        if mark.get("solution") and mark["grade_id"] == exercise:
            cell["source"] = source
        if mark.get("grade") and mark["grade_id"] == f"check-{exercise}":
            cell["source"] = "pass  # a checkpoint that somebody bent"
    notebook.write_text(json.dumps(document))


def split_and_copy(notebook: Path, exercise: str, right: str) -> None:
    """The cell divided in two, as Lab does it (both keep the marks), and a stub beside it."""
    document = json.loads(notebook.read_text())
    [cell] = [c for c in document["cells"] if grade_of(c) == exercise]
    place = document["cells"].index(cell)
    first, _, second = right.partition("\n")
    stub = f"def {exercise}():\n    {feedback.STUB}"
    document["cells"][place : place + 1] = [cell | {"source": s} for s in (stub, first, second)]
    notebook.write_text(json.dumps(document))


def grade_of(cell: dict[str, Any]) -> str:
    return cell["metadata"].get("nbgrader", {}).get("grade_id", "")


def test_a_class_is_judged_by_the_workbook_s_own_checkpoints(here, tmp_path, monkeypatch):
    monkeypatch.setattr(grading, "SECONDS", 8)
    first = list(grading.course_notebooks().items())[:1]
    monkeypatch.setattr(grading, "course_notebooks", lambda: dict(first))
    for learner in ("ann", "bea"):
        learn.write_edition(tmp_path / learner)
    exercise, *_ = grading.exercises(first[0][1])
    answer(tmp_path / "ann" / "00_start_here.ipynb", exercise.name, exercise.source)
    broken = "def monthly_prompt_tokens(*a):\n    while True:\n        pass"
    answer(tmp_path / "bea" / "00_start_here.ipynb", exercise.name, broken)
    wrong = "def is_ready(checks):\n    print('noise')\n    raise SystemExit(0)"
    answer(tmp_path / "bea" / "00_start_here.ipynb", "is_ready", wrong)
    states = {(r.learner, r.exercise): (r.state, r.message) for r in learn.check_folder(tmp_path)}
    assert states["ann", exercise.name] == ("right", "")
    assert states["ann", "is_ready"][0] == "open"
    assert states["bea", exercise.name][0] == "wrong"
    assert states["bea", "is_ready"][0] == "wrong" and "SystemExit" in states["bea", "is_ready"][1]
    path = tmp_path / "bea" / "00_start_here.ipynb"
    split_and_copy(path, exercise.name, exercise.source)
    states = {r.exercise: r.state for r in learn.check_folder(tmp_path / "bea")}
    assert states[exercise.name] == "right", "split in Lab, beside the stub that was kept"
    for torn in (path.read_text()[:900], "[]", '{"cells": [{"metadata": []}]}'):
        path.write_text(torn)
        results = [r for r in learn.check_folder(tmp_path) if r.learner == "bea"]
        assert {r.state for r in results} == {"missing"}
        assert "cannot be read" in results[0].message, "and the others are judged"
    path.unlink()
    (tmp_path / "bea" / "01_decide.ipynb").touch()
    assert {r.message for r in learn.check_folder(tmp_path / "bea")} == {
        "its notebook is not there"
    }
    with pytest.raises(WorkbookError, match="holds no notebook"):
        learn.check_folder(Path(__file__).parent)


def test_what_a_learner_s_answer_says_moves_no_cursor_of_the_teacher_s(here, tmp_path, capsys):
    from helpers.cli import main

    learn.write_edition(tmp_path / "ann")
    odd = "def monthly_prompt_tokens(*a):\n    raise ValueError('\\x1b[2J all\\nright')"
    answer(tmp_path / "ann" / "00_start_here.ipynb", "monthly_prompt_tokens", odd)
    assert main(["check", str(tmp_path / "ann")]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "�[2J all right" in said


def test_the_command_prints_a_table_or_one_json_value(here, tmp_path, capsys):
    from helpers.cli import main

    assert main(["learner", str(tmp_path / "mine")]) == 0
    capsys.readouterr()
    assert main(["check", str(tmp_path / "mine")]) == 0
    count = sum(len(list(grading.exercises(document))) for document in documents().values())
    assert f"mine: 0 right, 0 wrong, {count} open, 0 missing" in capsys.readouterr().out
    learn.write_edition(tmp_path / "yours")
    assert main(["check", str(tmp_path)]) == 0
    *_, mine, yours = capsys.readouterr().out.splitlines()
    assert mine.startswith("mine: ") and yours == mine.replace("mine", "yours"), "a line for each"
    assert main(["check", str(tmp_path / "mine"), "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert len(results) == count and {result["state"] for result in results} == {"open"}
    assert main(["check", str(tmp_path / "nowhere")]) == 2
