"""The gate: named rules between a trained version and its users, each with the evidence it was judged by.

A rule fails when something is wrong, is inconclusive when the evidence does not decide, and passes otherwise; the
gate as a whole is its worst rule. It reads files and records and changes nothing.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from helpers import store
from helpers.evaluate import statistics
from helpers.records import FineTunedModelVersion, Record, Verdict, WorkbookError
from helpers.registry.versions import artifact_sha256

FINGERPRINTS = ("template", "tokenizer", "system_prompt")
NEVER_FORCED = ("artifact",)  # a reason cannot replace a missing model
TUNED_ANSWERS = "answers/fine_tuned.jsonl"


class RuleResult(Record):
    """One rule of the gate: its name, what it says, and why."""

    name: str
    verdict: Verdict
    evidence: str


def overall(rules: list[RuleResult]) -> Verdict:
    """fail if any rule fails, else inconclusive if any is, else pass."""
    verdicts = {rule.verdict for rule in rules}
    return "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"


def can_be_forced(rules: list[RuleResult]) -> bool:
    """Whether everything that stands against a promotion may be overruled by a person with a reason."""
    return all(rule.verdict == "pass" for rule in rules if rule.name in NEVER_FORCED)


def validate_for_production(
    version: FineTunedModelVersion,
    run: store.Run,
    incumbent: FineTunedModelVersion | None = None,
    max_age_days: int = 90,
    break_it: str = "",
) -> list[RuleResult]:
    """Every rule that a version must pass before it may serve."""
    evaluation = _evaluation(version, run)
    return [
        evaluated_rule(version, run, evaluation),
        verdict_rule(evaluation),
        targets_rule(evaluation),
        cheaper_rung_rule(evaluation),
        incumbent_rule(version, run, evaluation, incumbent),
        fingerprints_rule(version, evaluation),
        artifact_rule(version),
        dataset_rule(version),
        age_rule(version, max_age_days),
        decision_rule(run),
        break_it_rule(version, break_it),
    ]


def validate_for_staging(
    version: FineTunedModelVersion, run: store.Run, max_age_days: int = 90, break_it: str = ""
) -> list[RuleResult]:
    """The lighter gate: measured, better, intact and meant. (`max_age_days` matters for production alone.)"""
    evaluation = _evaluation(version, run)
    return [
        evaluated_rule(version, run, evaluation),
        verdict_rule(evaluation),
        artifact_rule(version),
        break_it_rule(version, break_it),
    ]


def _evaluation(version: FineTunedModelVersion, run: store.Run) -> dict[str, Any]:
    """evaluation.json of this very version, or {}."""
    evaluation = run.read("evaluation.json") if run.has("evaluation.json") else {}
    return evaluation if evaluation.get("version") == version.id else {}


def _rule(name: str, verdict: Verdict, evidence: str) -> RuleResult:
    return RuleResult(name=name, verdict=verdict, evidence=evidence)


def evaluated_rule(version: FineTunedModelVersion, run: store.Run, evaluation: dict[str, Any]) -> RuleResult:
    """The evaluation is there and is the one that was registered."""
    if not evaluation:
        return _rule("evaluated", "fail", f"run {run.id} has no evaluation.json of {version.id}; run 04_evaluate")
    registered, found = version.metadata.get("evaluation_sha256", ""), store.sha256_file(run.path("evaluation.json"))
    if registered != found:
        said = f"evaluation.json ({found[:8]}) is not the one registered ({registered[:8] or 'none'})"
        return _rule("evaluated", "fail", said + "; run 04_evaluate again")
    return _rule("evaluated", "pass", f"{evaluation.get('n_test', 0)} test rows, sha256 {found[:8]}")


def verdict_rule(evaluation: dict[str, Any]) -> RuleResult:
    """What 04 said about the test part."""
    verdict = evaluation.get("verdict", "inconclusive")
    if evaluation.get("regression"):
        return _rule("evaluation_verdict", "fail", "regression: it is surely worse than what it would replace")
    reasons = "; ".join(evaluation.get("reasons", [])) or ("no evaluation" if not evaluation else "no reason given")
    return _rule("evaluation_verdict", verdict, reasons)


def targets_rule(evaluation: dict[str, Any]) -> RuleResult:
    """Every target of task.yaml is met by a whole interval, cost and latency ceilings included."""
    targets = evaluation.get("targets", {})
    said = "; ".join(
        f"{name} {_short(t.get('estimate'))} against {t['target']:g}: {t['met']}" for name, t in targets.items()
    )
    met = {t["met"] for t in targets.values()}
    verdict: Verdict = "fail" if "no" in met else "pass" if met == {"yes"} else "inconclusive"
    return _rule("targets", verdict, said or "no targets were measured")


def cheaper_rung_rule(evaluation: dict[str, Any]) -> RuleResult:
    """Paired on the same rows, it beats the best rung that needs no training, and loses nothing beyond the margins."""
    comparison = evaluation.get("comparison", {})
    if "accuracy" not in comparison:
        return _rule("better_than_cheaper_rung", "inconclusive", "no comparison was measured")
    lost = [name for name, metric in comparison.items() if metric["verdict"] == "fail"]
    verdict: Verdict = "fail" if lost else comparison["accuracy"]["verdict"]
    said = f"accuracy {_short(comparison['accuracy']['difference'])} against {evaluation.get('best_rung', 'the best rung')}"
    return _rule(
        "better_than_cheaper_rung", verdict, said + (f"; beyond its margin: {', '.join(lost)}" if lost else "")
    )


def incumbent_rule(
    version: FineTunedModelVersion, run: store.Run, evaluation: dict[str, Any], incumbent: FineTunedModelVersion | None
) -> RuleResult:
    """Against the version in production now: paired answers on the same test part."""
    name = "against_production"
    if incumbent is None or incumbent.id == version.id:
        return _rule(name, "pass", "nothing else is in production; the best cheaper rung is the one to beat")
    ours, theirs = _test_fingerprint(version), _test_fingerprint(incumbent)
    if not ours or ours != theirs:
        return _rule(
            name, "inconclusive", f"{incumbent.id} was evaluated on another test part; evaluate it on this one"
        )
    old, new = (_answers(r) for r in (store.Run(incumbent.run_id), run))
    if not new or set(old) != set(new):
        return _rule(name, "inconclusive", f"the answers of {incumbent.id} to these test rows are not there any more")
    ids = sorted(new)
    groups = [new[i].get("group", i) for i in ids]
    difference, gained, lost = statistics.paired_difference(
        [_right(new[i]) for i in ids], [_right(old[i]) for i in ids], groups
    )
    margin = evaluation.get("comparison", {}).get("accuracy", {}).get("margin", 0.0)
    verdict = statistics.verdict(difference, -margin)
    said = f"accuracy {difference} against {incumbent.id} ({gained} gained, {lost} lost, margin {margin:g})"
    return _rule(name, verdict, said)


def _test_fingerprint(version: FineTunedModelVersion) -> str:
    path = store.home() / "datasets" / (version.dataset_version or "-") / "test.jsonl"
    return store.sha256_file(path) if path.exists() else ""


def _answers(run: store.Run) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in store.read_jsonl(run.path(TUNED_ANSWERS))} if run.has(TUNED_ANSWERS) else {}


def _right(answer: dict[str, Any]) -> float:
    return float(answer.get("scores", {}).get("accuracy", 0.0))


def fingerprints_rule(version: FineTunedModelVersion, evaluation: dict[str, Any]) -> RuleResult:
    """What was evaluated used the template, tokenizer and system prompt that were trained on."""
    trained, measured = version.metadata.get("fingerprints", {}), evaluation.get("fingerprints", {})
    # A hosted model keeps its template and tokenizer to itself.
    needed = FINGERPRINTS[2:] if version.metadata.get("provider") == "api" else FINGERPRINTS
    if missing := [name for name in needed if not trained.get(name)]:
        return _rule("fingerprints", "fail", f"model.json has no fingerprint of {', '.join(missing)}; train again")
    if changed := [name for name in needed if measured.get(name) != trained[name]]:
        return _rule("fingerprints", "fail", f"{', '.join(changed)} changed between training and evaluation")
    return _rule("fingerprints", "pass", ", ".join(f"{name} {trained[name][:8]}" for name in needed))


def artifact_rule(version: FineTunedModelVersion) -> RuleResult:
    """The model's files are there and are those that training wrote."""
    artifact, registered = version.metadata.get("artifact", ""), version.metadata.get("artifact_sha256", "")
    if version.metadata.get("provider") == "api" and not artifact:
        return _rule(
            "artifact", "pass", f"the provider keeps it as {version.model_id}; nothing lies here to be checked"
        )
    found = artifact_sha256(artifact)
    if not found:
        return _rule("artifact", "fail", f"{store.home() / artifact if artifact else 'its artifact'} is missing")
    if found != registered:
        return _rule(
            "artifact", "fail", f"{artifact} was changed: sha256 {found[:8]}, registered {registered[:8] or 'none'}"
        )
    return _rule("artifact", "pass", f"{artifact}, sha256 {found[:8]}")


def dataset_rule(version: FineTunedModelVersion) -> RuleResult:
    """The dataset it learned from is published, and every row of it is accounted for."""
    path = store.home() / "datasets" / (version.dataset_version or "-") / "manifest.json"
    try:
        manifest = store.read_json(path)
    except WorkbookError as error:
        return _rule("dataset_checks", "fail", str(error))
    funnel = manifest.get("funnel", [])
    off = [f["stage"] for f in funnel if f["in"] != f["out"] + sum(f["rejected"].values())]
    if not funnel or off:
        why = f"the funnel does not add up at {', '.join(off)}" if off else "the manifest has no funnel of checks"
        return _rule("dataset_checks", "fail", f"{why}; run 02_curate again")
    rejected = sum(sum(f["rejected"].values()) for f in funnel)
    return _rule("dataset_checks", "pass", f"{version.dataset_version}: {len(funnel)} checks, {rejected} rows rejected")


def age_rule(version: FineTunedModelVersion, max_age_days: int) -> RuleResult:
    """The evaluation is not older than `max_age_days`; data and questions move on."""
    when = version.metadata.get("evaluated_at")
    if when is None:
        return _rule("evaluation_age", "fail", "it was never evaluated")
    days = (store.now() - datetime.fromisoformat(when)).total_seconds() / 86400
    if days < -1:
        return _rule("evaluation_age", "inconclusive", f"it was evaluated in the future ({when}); check the clock")
    verdict: Verdict = "pass" if days <= max_age_days else "fail"
    return _rule("evaluation_age", verdict, f"{max(0.0, days):.1f} days old, at most {max_age_days}")


def decision_rule(run: store.Run) -> RuleResult:
    """Shows what 01 advised and why training went on; 04, not 01, has the final word."""
    if not run.has("decision.json"):
        return _rule("decision", "pass", "this run made no decision of its own")
    decision = run.read("decision.json")
    because = decision.get("train_anyway_because", "")
    return _rule(
        "decision",
        "pass",
        f"advised: {decision['recommendation']}" + (f"; trained because {because}" if because else ""),
    )


def break_it_rule(version: FineTunedModelVersion, break_it: str) -> RuleResult:
    """A run that was broken on purpose serves nobody."""
    broken = break_it or version.metadata.get("break_it", "")
    return _rule(
        "not_broken_on_purpose", "fail" if broken else "pass", f"break_it: {broken}" if broken else "no break_it"
    )


def _short(estimate: Any) -> str:
    if not isinstance(estimate, dict):
        return "?" if estimate is None else f"{estimate:g}"
    return f"{estimate['value']:.3g} [{estimate['low']:.3g}, {estimate['high']:.3g}] n={estimate['n']}"
