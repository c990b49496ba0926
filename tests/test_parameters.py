"""The vocabulary of parameters, and what of a profile or a command line is refused."""

from pathlib import Path

import pytest

from helpers import parameters
from helpers.records import WorkbookError


@pytest.fixture
def resolve(toys, tmp_path: Path):
    def call(text: str, *overrides: str) -> dict:
        path = tmp_path / "p.yaml"
        path.write_text(text)
        return parameters.resolve(parameters.load_profile(str(path)), overrides)

    return call


def test_1e_minus_4_is_a_float_and_a_date_is_a_text(resolve):
    assert resolve("epochs: 1e-4\nrun_id: 2026-11-22\n") == {"epochs": 1e-4, "run_id": "2026-11-22"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epochs: abc\n", "p.yaml, line 1: epochs should be float"),
        ("# one\nlerning_rate: 1.0\n", "p.yaml, line 2: unknown parameter 'lerning_rate'"),
        ("epocs: 1.0\n", "unknown parameter 'epocs'; did you mean 'epochs'?"),
        (f"epochs: 1{'0' * 400}\n", "epochs should be float"),
        ("seed: 1\nseed: 2\n", "p.yaml, line 2: 'seed' is already set on line 1"),
        ("seed: 1\n? !!seq x\n: 2\n", "p.yaml cannot be read"),
        ("seed: true\n", "seed should be int"),
        ("trainer: both\n", "line 1: trainer takes auto, lora, openai; got 'both'"),
        ("promote_to: prod\n", "promote_to takes none, staging, production"),
        ("time_limits: {01_decide: soon}\n", "time_limits.01_decide should be float"),
        ("time_limits: {nope: 1.0}\n", "time_limits takes 00_start_here"),
        ("notebooks: []\n", "notebooks takes"),
        ("notebooks: [07_more]\n", "notebooks takes 00_start_here.*07_more"),
        ("- a list\n", "line 1: a list of"),
        ("a: [1\n", "p.yaml, line 2: expected"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_file_line_and_remedy(resolve, text, said):
    with pytest.raises(WorkbookError, match=said.replace("[", r"\[")) as caught:
        resolve(text)
    assert caught.value.exit_code == 2


def test_a_key_is_twice_there_only_where_it_was_written_twice(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "base: &B {x: 0}\na: &A {<<: *B, x: 1}\nb: {<<: [*A, *B], y: 2}\ntop: {<<: *A}\n"
        "keys: {true: 5, 'true': 6}\n"
    )
    values, lines = parameters.read_yaml(path)
    assert values["b"] == {"x": 1, "y": 2} and values["top"] == {"x": 1}
    assert values["keys"] == {True: 5, "true": 6} and lines["top"] == 4
    for text, said in (
        ("keys:\n  true: 5\n  True: 6\n", "line 3: 'True' is already set on line 2"),
        ("a: &A {x: 1}\nb: &B {x: 2}\nc: {<<: *A, <<: *B}\n", "line 3: '<<' is already set on"),
    ):
        path.write_text(text)
        with pytest.raises(WorkbookError, match=said):
            parameters.read_yaml(path)


def test_overrides_are_yaml_but_a_text_stays_a_text(resolve):
    values = resolve(
        "seed: 1\n", "seed=3", "run_id=20261122", "epochs=1e-4", "time_limits={04_evaluate: 2}"
    )
    assert values == {
        "seed": 3,
        "run_id": "20261122",
        "epochs": 1e-4,
        "time_limits": {"04_evaluate": 2.0},
    }
    with pytest.raises(WorkbookError, match="-p: epochs should be float"):
        resolve("", "epochs=abc")


def test_a_name_must_belong_to_a_notebook_of_the_run(resolve, toys):
    with pytest.raises(WorkbookError, match="unknown parameter 'nowhere'"):
        resolve("nowhere: 1\n")
    assert resolve("notebooks: [04_evaluate]\nseed: 1\n")["seed"] == 1


def test_a_short_notebook_name_must_be_unmistakable():
    names = list(parameters.NOTEBOOKS)
    assert parameters.select(names, "04,02", "") == ["02_curate", "04_evaluate"]
    assert parameters.select(names, "", "05") == ["05_registry", "06_monitor"]
    assert parameters.select(names, "", "") == names
    assert parameters.select(names, "02, ", "") == ["02_curate"]
    for only, n in (("03", 2), (",", len(names)), (" ", len(names)), ("02,,04", len(names))):
        with pytest.raises(WorkbookError, match=f"names {n} notebooks"):
            parameters.select(names, only, "")
