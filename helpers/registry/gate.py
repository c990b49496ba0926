"""The gate: named rules between a trained version and its users, each with the evidence it was judged by.

A rule fails when something is wrong, is inconclusive when the evidence does not decide, and passes otherwise; the
gate as a whole is its worst rule. It reads files and records and changes nothing.
"""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from helpers import store
from helpers.evaluate import statistics
from helpers.models.api import openai_client
from helpers.records import Estimate, FineTunedModelVersion, Record, Verdict, WorkbookError
from helpers.registry.versions import CHANGES, artifact_sha256

Finding = tuple[Verdict, str]  # what a rule says, and why

FINGERPRINTS = ("template", "tokenizer", "system_prompt")
FOR_STAGING = ("status", "evaluated", "evaluation_verdict", "artifact", "not_broken_on_purpose")
NEVER_FORCED = ("status", "artifact")  # a reason replaces neither a rollback nor a missing model
FEW_TEST_ROWS = 30  # fewer decide nothing
MIN_SERVE_DAYS = 30  # a model that is withdrawn sooner is not worth a switch
TUNED_ANSWERS = "answers/fine_tuned.jsonl"


class RuleResult(Record):
    """One rule of the gate: its name, what it says, and why."""

    name: str
    verdict: Verdict
    evidence: str


def overall(rules: list[RuleResult]) -> Verdict:
    """fail if any rule fails, else inconclusive if any is, else pass."""
    verdicts = {rule.verdict for rule in rules}
    return (
        "fail" if "fail" in verdicts else "inconclusive" if "inconclusive" in verdicts else "pass"
    )


def validate_for_production(
    version: FineTunedModelVersion,
    run: store.Run,
    incumbent: FineTunedModelVersion | None = None,
    target: str = "production",
    max_age_days: int = 90,
    break_it: str = "",
) -> list[RuleResult]:
    """Every rule that a version must pass before it may serve; staging asks for those of FOR_STAGING."""
    evaluation = run.read("evaluation.json") if run.has("evaluation.json") else {}
    evaluation = evaluation if evaluation.get("version") == version.id else {}
    found = {
        "status": may_become(version, target),
        "evaluated": is_evaluated(version, run, evaluation),
        "evaluation_verdict": verdict_of_04(evaluation),
        "targets": meets_targets(evaluation),
        "ceilings": stays_below_ceilings(evaluation),
        "power": has_power(evaluation),
        "better_than_cheaper_rung": beats_cheaper_rung(evaluation),
        "margins": holds_margins(evaluation),
        "against_production": holds_against(incumbent, version, run, evaluation),
        "fingerprints": same_fingerprints(version, evaluation),
        "artifact": artifact_is_intact(version),
        "serve_until": may_serve_long_enough(version),
        "dataset_checks": dataset_is_checked(version),
        "evaluation_age": is_recent(version, max_age_days),
        "decision": advice_of_01(run),
        "not_broken_on_purpose": (
            "fail" if break_it else "pass",
            f"break_it: {break_it or 'nothing'}",
        ),
    }
    rules = [
        RuleResult(name=name, verdict=verdict, evidence=said)
        for name, (verdict, said) in found.items()
    ]
    return [rule for rule in rules if target != "staging" or rule.name in FOR_STAGING]


def can_serve_again(version: FineTunedModelVersion) -> list[RuleResult]:
    """What a rollback asks: the model is there and intact, and who keeps it still serves it, for however long."""
    verdict, said = artifact_is_intact(version)
    rules = [RuleResult(name="artifact", verdict=verdict, evidence=said)]
    if version.metadata.get("provider") == "api":
        verdict, said, until = ask_provider(version)
        said += f"; served until {until}" if until else ""
        rules.append(RuleResult(name="provider", verdict=verdict, evidence=said))
    return rules


def may_become(version: FineTunedModelVersion, target: str) -> Finding:
    """The life of a version leads from its status to the target."""
    status, target = version.status, "staging" if target == "staging" else "production"
    if status in (target, "production"):
        return "pass", f"it is {status} already"
    if target in CHANGES[status]:
        return "pass", f"from {status} to {target}"
    why = (
        f" ({version.metadata.get('reason')}); a rollback can bring it back"
        if status == "deprecated"
        else ""
    )
    return "fail", f"it is {status} and cannot become {target}{why}"


def is_evaluated(
    version: FineTunedModelVersion, run: store.Run, evaluation: dict[str, Any]
) -> Finding:
    """The evaluation is there and is the one that was registered."""
    if not evaluation:
        return "fail", f"run {run.id} has no evaluation.json of {version.id}; run 04_evaluate"
    found = store.sha256_file(run.path("evaluation.json"))
    if found != version.metadata.get("evaluation_sha256"):
        return (
            "fail",
            f"evaluation.json ({found[:8]}) is not the one that was registered; run 04_evaluate again",
        )
    return "pass", f"{evaluation.get('n_test', 0)} test rows, sha256 {found[:8]}"


def verdict_of_04(evaluation: dict[str, Any]) -> Finding:
    """What 04 said about the test part."""
    if evaluation.get("regression"):
        return "fail", "regression: it is surely worse than what it would replace"
    said = "; ".join(evaluation.get("reasons", [])) or (
        "no reason given" if evaluation else "no evaluation"
    )
    return evaluation.get("verdict", "inconclusive"), said


def meets_targets(evaluation: dict[str, Any]) -> Finding:
    """Every quality target of task.yaml is met by a whole interval."""
    return _targets(
        evaluation, [name for name in evaluation.get("targets", {}) if name in statistics.AT_LEAST]
    )


def stays_below_ceilings(evaluation: dict[str, Any]) -> Finding:
    """Latency and cost stay below the ceilings of task.yaml, where it has any."""
    named = [name for name in evaluation.get("targets", {}) if name not in statistics.AT_LEAST]
    return (
        _targets(evaluation, named)
        if named
        else ("pass", "task.yaml sets no ceiling for latency or cost")
    )


def _targets(evaluation: dict[str, Any], names: list[str]) -> Finding:
    targets = {name: evaluation["targets"][name] for name in names}
    said = [
        f"{name} {Estimate(**t['estimate'])} against {t['target']:g}: {t['met']}"
        for name, t in targets.items()
    ]
    met = {t["met"] for t in targets.values()}
    verdict: Verdict = "fail" if "no" in met else "pass" if met == {"yes"} else "inconclusive"
    return verdict, "; ".join(said) or "no targets were measured"


def has_power(evaluation: dict[str, Any]) -> Finding:
    """The test part has enough rows to tell a better model from a lucky one."""
    n = evaluation.get("n_test", 0)
    if n < FEW_TEST_ROWS:
        return (
            "inconclusive",
            f"{n} test rows; at least {FEW_TEST_ROWS} are needed: add verified examples, run 02 again",
        )
    gain = evaluation.get("comparison", {}).get("accuracy", {}).get("difference")
    said = (
        f"; the difference in accuracy is known to ±{50 * (gain['high'] - gain['low']):.0f} points"
        if gain
        else ""
    )
    return "pass", f"{n} test rows, at least {FEW_TEST_ROWS} are needed{said}"


def beats_cheaper_rung(evaluation: dict[str, Any]) -> Finding:
    """Paired on the same rows, it beats the best rung that needs no training: what serves before a first promotion."""
    gain = evaluation.get("comparison", {}).get("accuracy")
    if gain is None:
        return "inconclusive", "no comparison was measured"
    said = f"accuracy {Estimate(**gain['difference'])} against {evaluation.get('best_rung', 'the best rung')}"
    return gain["verdict"], said


def holds_margins(evaluation: dict[str, Any]) -> Finding:
    """No metric has surely lost more than its margin allows."""
    comparison = evaluation.get("comparison", {})
    lost = [name for name, metric in comparison.items() if metric["verdict"] == "fail"]
    said = ", ".join(
        f"{name} {Estimate(**m['difference'])} (margin {m['margin']:g})"
        for name, m in comparison.items()
    )
    verdict: Verdict = "fail" if lost else "pass" if comparison else "inconclusive"
    return verdict, (f"beyond its margin: {', '.join(lost)}; " if lost else "") + (
        said or "no comparison was measured"
    )


def holds_against(
    incumbent: FineTunedModelVersion | None,
    version: FineTunedModelVersion,
    run: store.Run,
    evaluation: dict[str, Any],
) -> Finding:
    """Against the version in production now: paired answers on the same test part."""
    if incumbent is None or incumbent.id == version.id:
        return "pass", "nothing else is in production; the best cheaper rung is the one to beat"
    new, old = _answers(run), {}
    for measured in (store.Run(incumbent.run_id), reevaluation(run, incumbent)):
        asked = (
            _answers(measured)
            if _test_part(incumbent, measured) == _test_part(version, run)
            else {}
        )
        old = asked if set(asked) == set(new) else old
    if not new or not old:
        said = f"{incumbent.id}, in production now, was not asked about these {len(new)} test rows"
        return (
            "inconclusive",
            f"{said}; run `workbook registry reevaluate {version.id}`, then ask again",
        )
    ids = sorted(new)
    right = [
        [float(answers[i].get("scores", {}).get("accuracy", 0.0)) for i in ids]
        for answers in (new, old)
    ]
    alpha = evaluation.get("attempt", {}).get(
        "alpha", statistics.TAIL
    )  # as sure as this attempt of the year has to be
    difference, gained, lost = statistics.paired_difference(
        *right, [new[i].get("group", i) for i in ids], alpha
    )
    margin = evaluation.get("comparison", {}).get("accuracy", {}).get("margin", 0.0)
    said = f"accuracy {difference} against {incumbent.id} ({gained} gained, {lost} lost, margin {margin:g})"
    return statistics.verdict(difference, -margin), said


def reevaluation(run: store.Run, incumbent: FineTunedModelVersion) -> store.Run:
    """Where the incumbent's answers about the test part of `run` are, when its own run used another part."""
    return store.Run(f"{run.id[:40]}.{store.fingerprint([run.id, incumbent.id])[:12]}")


def _test_part(version: FineTunedModelVersion, run: store.Run) -> str:
    """sha256 of the test rows that the answers in `run` are about."""
    name = (
        run.read("dataset.json")["version"] if run.has("dataset.json") else version.dataset_version
    )
    path = store.home() / "datasets" / (name or "-") / "test.jsonl"
    return store.sha256_file(path) if path.exists() else str(path)


def _answers(run: store.Run) -> dict[str, dict[str, Any]]:
    return (
        {row["id"]: row for row in store.read_jsonl(run.path(TUNED_ANSWERS))}
        if run.has(TUNED_ANSWERS)
        else {}
    )


def same_fingerprints(version: FineTunedModelVersion, evaluation: dict[str, Any]) -> Finding:
    """What was evaluated used the template, tokenizer and system prompt that were trained on."""
    trained, measured = version.metadata.get("fingerprints", {}), evaluation.get("fingerprints", {})
    # A hosted model keeps its template and tokenizer to itself.
    needed = FINGERPRINTS[2:] if version.metadata.get("provider") == "api" else FINGERPRINTS
    if changed := [
        name for name in needed if not trained.get(name) or measured.get(name) != trained[name]
    ]:
        return (
            "fail",
            f"{', '.join(changed)} changed between training and evaluation, or was not written down",
        )
    return "pass", ", ".join(f"{name} {trained[name][:8]}" for name in needed)


def artifact_is_intact(version: FineTunedModelVersion) -> Finding:
    """The model's files are there and are those that training wrote."""
    artifact = version.metadata.get("artifact", "")
    if version.metadata.get("provider") == "api" and not artifact:
        return (
            "pass",
            f"the provider keeps it as {version.model_id}; nothing lies here to be checked",
        )
    found = artifact_sha256(artifact)
    if not found:
        return "fail", f"{store.home() / artifact if artifact else 'its artifact'} is missing"
    if found != version.metadata.get("artifact_sha256"):
        return (
            "fail",
            f"{artifact} was changed: sha256 {found[:8]} is not the one that was registered",
        )
    return "pass", f"{artifact}, sha256 {found[:8]}"


def may_serve_long_enough(version: FineTunedModelVersion) -> Finding:
    """Who keeps the model will serve it for MIN_SERVE_DAYS more; a provider is asked for its shutdown date."""
    verdict, said, dates = (
        "pass",
        "it lies here: nobody else can withdraw it",
        [version.metadata.get("serve_until")],
    )
    if version.metadata.get("provider") == "api":
        verdict, said, polled = ask_provider(version)
        dates.append(polled)
    until = min(filter(None, dates), default="")[:10]
    if until and verdict != "fail":
        days = (date.fromisoformat(until) - store.now().date()).days
        verdict = "fail" if days < MIN_SERVE_DAYS else verdict
        said = f"{said}; served until {until}, {days} days from now, at least {MIN_SERVE_DAYS} are asked for"
    return verdict, said


def ask_provider(version: FineTunedModelVersion) -> tuple[Verdict, str, str]:
    """(does the provider still have the model, why, its shutdown date or ""): GET /models/ID, of it and of its base."""
    import openai

    base_url, dates = version.metadata.get("base_url", ""), []
    if not base_url:
        return "inconclusive", "it is not known which endpoint keeps it", ""
    try:
        client = openai_client(base_url, timeout=10).with_options(max_retries=1)
        for name in (version.model_id, version.base_model):
            try:
                dates.append(
                    str(getattr(client.models.retrieve(name), "shutdown_date", None) or "")
                )
            except openai.NotFoundError:
                if name == version.model_id:  # the base of a tuned model need not be listed
                    return "fail", f"{base_url} has no model {name} (any more)", ""
    except (openai.OpenAIError, WorkbookError) as error:
        return (
            "inconclusive",
            f"{base_url} could not be asked ({type(error).__name__}); ask again",
            "",
        )
    return "pass", f"{base_url} has it", min(filter(None, dates), default="")


def dataset_is_checked(version: FineTunedModelVersion) -> Finding:
    """The dataset it learned from is published, and every row of it is accounted for."""
    path = store.home() / "datasets" / (version.dataset_version or "-") / "manifest.json"
    try:
        funnel = store.read_json(path, "run 02_curate").get("funnel", [])
    except WorkbookError as error:
        return "fail", str(error)
    off = [f["stage"] for f in funnel if f["in"] != f["out"] + sum(f["rejected"].values())]
    if not funnel or off:
        return (
            "fail",
            f"its funnel of checks is missing or does not add up ({', '.join(off)}); run 02_curate again",
        )
    return "pass", f"{version.dataset_version}: {len(funnel)} checks, every row accounted for"


def is_recent(version: FineTunedModelVersion, max_age_days: int) -> Finding:
    """The evaluation is not older than `max_age_days` (nor from the future): data and questions move on."""
    when = version.metadata.get("evaluated_at")
    if when is None:
        return "fail", "it was never evaluated"
    days = (store.now() - datetime.fromisoformat(when)).total_seconds() / 86400
    return (
        "pass" if -1 <= days <= max_age_days else "fail"
    ), f"{days:.1f} days old, at most {max_age_days}"


def advice_of_01(run: store.Run) -> Finding:
    """Shows what 01 advised and why training went on; 04, not 01, has the final word."""
    if not run.has("decision.json"):
        return "pass", "this run made no decision of its own"
    decision = run.read("decision.json")
    because = decision.get("train_anyway_because")
    return "pass", f"advised: {decision['recommendation']}" + (
        f"; trained because {because}" if because else ""
    )
