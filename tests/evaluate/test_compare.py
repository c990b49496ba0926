from __future__ import annotations

import json

import pytest
from evaluate_toys import (
    BROKEN,
    RIGHT,
    WRONG,
    asking,
    constant,
    publish_dataset,
    right_where,
    scored_rows,
    toy_rows,
    toy_task,
    trained_toy,
)
from evaluate_toys import measure as measure_04
from record_toys import decision, rung

from helpers import store
from helpers.evaluate import compare_results
from helpers.evaluate.compare import (
    check_fingerprints,
    check_targets,
    dataset_is_checked,
    findings_against,
    flips,
    has_power,
    holds_margins,
)
from helpers.records import (
    Estimate,
    Evaluation,
    Finding,
    Manifest,
    MetricComparison,
    WorkbookError,
    verdict_of,
)

pytestmark = pytest.mark.usefixtures("prints")


def measure(task, run, tuned, base, n=100, **changes):
    return measure_04(task, run, tuned, base, toy_rows(n), **changes)


def test_flips_add_up_to_the_difference(task):
    ours, theirs = scored_rows([1, 1, 1, 0, 0]), scored_rows([0, 0, 1, 1, 0])
    changed, comparison = flips(ours, theirs), compare_results(ours, theirs, task)["accuracy"]
    assert changed == {"gained": ["r0", "r1"], "lost": ["r3"]}
    assert (comparison.gained, comparison.lost) == (2, 1)
    assert comparison.difference.value == pytest.approx(
        (len(changed["gained"]) - len(changed["lost"])) / 5
    )


def test_rows_are_paired_by_id_whatever_their_order(task):
    ours, theirs = scored_rows([1, 0] * 20), scored_rows([0, 0] * 20)
    assert compare_results(ours, theirs[::-1], task) == compare_results(ours, theirs, task)


def test_other_rows_cannot_be_compared(task):
    with pytest.raises(WorkbookError, match="same rows"):
        compare_results(scored_rows([1, 0]), scored_rows([1]), task)


@pytest.mark.parametrize(
    ("replace", "margins", "min_gain", "gained", "lost", "expected"),
    [
        ("better", {}, 0.0, 30, 0, "pass"),
        ("better", {}, 0.4, 30, 0, "fail"),  # surely below the wanted gain
        ("better", {}, 0.28, 30, 0, "inconclusive"),
        (
            "better",
            {"accuracy": 0.5},
            0.0,
            0,
            0,
            "inconclusive",
        ),  # a margin never helps where better is asked for
        ("better", {}, 0.0, 10, 10, "inconclusive"),
        ("better", {}, 0.0, 0, 30, "fail"),
        ("not_worse", {"accuracy": 0.1}, 0.0, 0, 0, "pass"),
        ("not_worse", {"accuracy": 0.1}, 0.0, 0, 10, "inconclusive"),
        ("not_worse", {"accuracy": 0.1}, 0.0, 0, 40, "fail"),
        ("not_worse", {}, 0.0, 0, 0, "inconclusive"),
    ],
)
def test_the_lower_bound_must_clear_the_rule(
    tmp_path, replace, margins, min_gain, gained, lost, expected
):
    task = toy_task(tmp_path, replace=replace, margins=margins)
    same = 100 - gained - lost
    ours, theirs = (
        scored_rows([1] * gained + [0] * lost + [1] * same),
        scored_rows([0] * gained + [1] * lost + [1] * same),
    )
    assert compare_results(ours, theirs, task, min_gain)["accuracy"].verdict == expected


def comparison(verdict, low=0.1, high=0.3, n=100):
    estimate = Estimate(value=(low + high) / 2, low=low, high=high, n=n)
    return MetricComparison(
        difference=estimate, method="toy", gained=1, lost=0, margin=0.0, verdict=verdict
    )


def target(verdict):
    estimate = Estimate(value=0.5, low=0.4, high=0.6, n=50)
    return Finding(name="target", verdict=verdict, estimate=estimate, threshold=0.5)


def regression(findings):
    return next(f for f in findings if f.name == "regression").verdict == "fail"


@pytest.mark.parametrize(
    ("gain", "targets", "expected"),
    [
        ("pass", ["pass", "pass"], "pass"),
        ("pass", ["pass", "undecided"], "inconclusive"),
        ("pass", ["pass", "fail"], "fail"),
        ("pass", ["undecided", "fail"], "fail"),
        ("inconclusive", ["pass", "pass"], "inconclusive"),
        ("inconclusive", ["pass", "fail"], "fail"),
        ("fail", ["pass", "pass"], "fail"),
        ("fail", ["undecided", "undecided"], "fail"),
        (None, ["pass", "pass"], "inconclusive"),
        (None, ["fail", "pass"], "fail"),
    ],
)
def test_pass_needs_everything_and_one_sure_violation_fails(task, gain, targets, expected):
    given = {"accuracy": comparison(gain)} if gain else {}
    findings = findings_against(task, {"prompt": given})
    assert [f.name for f in findings] == ["gain_over_prompt", "regression"]
    assert not regression(findings)
    assert verdict_of([*findings, *map(target, targets)]) == expected


def test_a_format_that_is_surely_worse_is_a_regression_unless_the_margin_allows_it(tmp_path):
    given = {"accuracy": comparison("pass"), "format_compliance": comparison("fail", -0.2, -0.05)}
    findings = findings_against(toy_task(tmp_path), {"prompt": given})
    assert verdict_of([*findings, target("pass")]) == "fail" and regression(findings)
    lenient = toy_task(tmp_path, margins={"format_compliance": 0.1})
    findings = findings_against(lenient, {"prompt": given})
    assert verdict_of([*findings, target("pass")]) == "pass" and not regression(findings)


def test_nothing_measured_is_never_a_pass_nor_a_fail(task):
    nothing = {"accuracy": comparison("inconclusive", -1, 1, 0)}
    findings = findings_against(task, {"prompt": nothing})
    assert verdict_of(findings) == "inconclusive" and not regression(findings)


def test_a_metric_beyond_its_margin_is_named():
    lost = {"accuracy": comparison("pass"), "format_compliance": comparison("fail", -0.2, -0.05)}
    found = holds_margins(lost)
    assert found.verdict == "fail" and "beyond its margin: format_compliance" in found.evidence
    assert holds_margins({"accuracy": comparison("inconclusive")}).verdict == "pass"
    assert holds_margins({}).verdict == "undecided"


def test_few_test_rows_decide_nothing(task, run):
    assert has_power(29, {}).verdict == "undecided" and has_power(30, {}).verdict == "pass"
    assert "known to ±10 points" in has_power(30, {"accuracy": comparison("pass")}).evidence
    base = right_where(lambda i: i < 5, "base", BROKEN)
    found = measure(task, run, constant(RIGHT, "tuned"), base, n=29)
    assert found.verdict == "inconclusive"
    undecided = [f.name for f in found.findings if f.verdict != "pass"]
    assert undecided == ["power"] and all(t.verdict == "pass" for t in found.targets.values())


def test_a_dataset_whose_rows_are_not_accounted_for_fails(task, run):
    assert "manifest.json is missing" in dataset_is_checked("d1").evidence
    publish_dataset()
    assert dataset_is_checked("d1").verdict == "pass"
    path = store.home() / "datasets" / "d1" / "manifest.json"
    manifest = Manifest.parse(store.read_json(path), "here")
    lossy = manifest.funnel[0].model_copy(update={"rows_out": 8})
    store.write_json(path, manifest.model_copy(update={"funnel": [lossy]}))
    found = dataset_is_checked("d1")
    assert found.verdict == "fail" and "does not add up (read)" in found.evidence


def test_every_judgement_is_written_down_also_what_passed(task, run):
    base = right_where(lambda i: i < 40, "base", BROKEN)
    found = measure(task, run, constant(RIGHT, "tuned"), base)
    names = ["gain_over_prompt", "regression", "margins", "power", "fingerprints", "dataset_checks"]
    assert [f.name for f in found.findings] == names
    assert found.verdict == verdict_of([*found.findings, *found.targets.values()]) == "pass"


def test_a_perfect_model_passes_and_a_copy_of_the_base_does_not(task, run):
    good = measure(
        task, run, constant(RIGHT, "tuned"), right_where(lambda i: i < 40, "base", BROKEN)
    )
    assert good.verdict == "pass" and not good.regression
    assert all(c.verdict == "pass" for c in good.targets.values())
    same = measure(
        task, run, right_where(lambda i: i < 80, "b2"), right_where(lambda i: i < 80, "b1")
    )
    assert same.verdict == "inconclusive"
    worse = measure(task, run, constant(WRONG, "t3"), right_where(lambda i: i < 80, "b1"))
    assert worse.verdict == "fail" and worse.regression


def test_a_target_that_the_test_part_cannot_show_names_the_rows_it_needs(tmp_path, run):
    task = toy_task(tmp_path, targets={"accuracy": 0.98})
    result = measure(task, run, constant(RIGHT, "tuned"), constant(BROKEN, "base"))
    assert result.verdict == "inconclusive"
    assert any("189 rows are needed" in reason for reason in result.reasons)


def test_the_evaluation_holds_what_its_readers_need(task, run):
    base = right_where(lambda i: i % 2, "base")
    result = measure(task, run, constant(RIGHT, "tuned"), base)
    run.save(result)
    assert run.load(Evaluation) == result
    written = store.read_json(run.path("evaluation.json"))
    assert [r["name"] for r in written["rungs"]] == ["zero_shot", "prompt", "fine_tuned"]
    assert (
        written["n_test"] == 100
        and written["best_rung"] == "prompt"
        and written["dataset_version"] == "d1"
    )
    assert written["base_model"] == written["rungs"][0]["results"]
    assert len(written["flips"]["gained"]) == written["comparison"]["accuracy"]["gained"] == 50
    assert {r["part"] for r in written["rungs"]} == {"test"}
    assert all(run.path(r["answers"]).exists() for r in written["rungs"])


def test_the_base_is_asked_once_where_zero_shot_is_the_best_rung(task, run):
    base = constant(WRONG, "base")
    run.save(
        decision(rungs=[rung("zero_shot", asking=asking("zero_shot", base))], best_rung="zero_shot")
    )
    result = measure(task, run, constant(RIGHT, "tuned"), base)
    assert [r.name for r in result.rungs] == ["zero_shot", "fine_tuned"]
    assert len(base.asked) == 100


def test_two_runs_write_the_same_evaluation_apart_from_timing(task, monkeypatch, tmp_path):
    texts = []
    for i in range(2):
        monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / f"home{i}"))
        run = store.open_run("same")
        result = measure(task, run, constant(RIGHT, "tuned"), right_where(lambda i: i % 3, "base"))
        texts.append(
            json.dumps({k: v for k, v in json.loads(store.dumps(result)).items() if k != "timing"})
        )
    assert texts[0] == texts[1]


@pytest.mark.parametrize("name", ["template", "tokenizer", "system_prompt"])
def test_a_changed_fingerprint_stops_the_measurement_and_is_named(task, run, prints, name):
    prints[name] = "other"
    tuned = constant(RIGHT, "tuned")
    with pytest.raises(WorkbookError, match=f"the {name.replace('_', ' ')} is not the one"):
        measure(task, run, tuned, constant(WRONG))
    assert tuned.asked == []


def test_a_hosted_model_is_held_to_its_system_prompt(task, run):
    trained = {"template": "", "tokenizer": "", "system_prompt": "x"}
    card = trained_toy(provider="api", fingerprints=trained)
    with pytest.raises(WorkbookError, match="system prompt"):
        check_fingerprints(card, task, "d1")


def test_a_model_of_another_dataset_is_refused(task, run):
    with pytest.raises(WorkbookError, match="the dataset is not the one"):
        measure(task, run, constant(RIGHT), constant(WRONG), dataset_version="d2")


def test_an_empty_test_part_is_an_error_of_the_data(task, run):
    with pytest.raises(WorkbookError, match="test part is empty"):
        measure(task, run, constant(RIGHT), constant(WRONG), n=0)


def test_people_must_judge_what_no_scorer_can(tmp_path, run):
    task = toy_task(tmp_path, schema=None, scored_fields=[], accuracy_from="human")
    result = measure(task, run, constant("a", "t"), constant("b", "b"))
    assert result.verdict == "inconclusive" and "accuracy" not in result.comparison
    assert any("accuracy_from is human" in reason for reason in result.reasons)


def test_targets_are_checked_on_latency_and_cost_too(tmp_path, run):
    task = toy_task(tmp_path, targets={"accuracy": 0.5, "latency_p95": 50, "cost_per_request": 1.0})
    result = measure(task, run, constant(RIGHT, "t"), constant(BROKEN, "b"))
    assert {k: c.verdict for k, c in check_targets(task, result.fine_tuned_model).items()} == {
        "accuracy": "pass",
        "latency_p95": "fail",
        "cost_per_request": "pass",
    }
    assert result.verdict == "fail"
