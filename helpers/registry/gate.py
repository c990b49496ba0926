"""The gate: named rules between a measured version and its users, each with its evidence.

04 judged the numbers, and its word is one of the rules. The others look at what can change after
04: the files, the version in production, the provider's dates, age. A rule fails when something is
wrong, is undecided when the evidence does not decide, and passes otherwise. The gate reads files
and records and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple

from helpers import evaluate, store
from helpers.models import openai_client, serves_until
from helpers.parameters import BROKEN
from helpers.records import (
    Decision,
    Evaluation,
    Finding,
    FindingVerdict,
    FineTunedModelVersion,
    MetricComparison,
    Parity,
    Target,
    WorkbookError,
    as_finding_verdict,
    verdict_of,
)
from helpers.registry.files import (
    artifact_sha256,
    digest_of_test_part,
    evaluation_of,
    load_or_reason,
    reevaluation,
    tuned_answers,
)
from helpers.registry.versions import CHANGES
from helpers.tasks import moment_of

FOR_STAGING = ("status", "evaluated", "evaluation_verdict", "artifact", "not_broken_on_purpose")
# a reason replaces neither a rollback nor a missing model, and heals none that was broken
NEVER_FORCED = ("status", "artifact", "not_broken_on_purpose")
MIN_SERVE_DAYS = 30  # a model that is withdrawn sooner is not worth a switch
Judgement = tuple[FindingVerdict, str]  # what a rule says, and why


@dataclass(frozen=True)
class Conditions:
    """What the caller of the gate asks for, or admits."""

    max_age_days: int = 90  # an older evaluation does not count
    break_it: str = ""  # what was broken on purpose, for practice


def validate_for_production(
    version: FineTunedModelVersion,
    run: store.Run,
    incumbent: FineTunedModelVersion | None = None,
    target: Target = "production",
    conditions: Conditions = Conditions(),
) -> list[Finding]:
    """Every rule that a version must pass before it may serve; staging asks for some of them."""
    evaluation, reason = evaluation_of(version.id, run)
    judgements = {
        "status": may_become(version, target),
        "evaluated": is_as_registered(version, run, evaluation, reason),
        "evaluation_verdict": verdict_of_04(evaluation),
        "against_production": holds_against(incumbent, version, run, evaluation),
        "ceilings": stays_below_ceilings(evaluation),
        "artifact": artifact_is_intact(version),
        "serve_until": may_serve_long_enough(version),
        "evaluation_age": is_recent(version, conditions.max_age_days),
        "decision": advice_of_01(run),
        "served_as_trained": answers_as_trained(version, run),
        "not_broken_on_purpose": not_broken(run, conditions),
    }
    rules = as_findings(judgements)
    return [rule for rule in rules if target != "staging" or rule.name in FOR_STAGING]


def not_broken(run: store.Run, conditions: Conditions) -> Judgement:
    """Nothing in this run was broken for practice, now or before."""
    broken = conditions.break_it
    if run.has(BROKEN):
        broken = store.read_json(run.path(BROKEN))["break_it"]
    return ("fail" if broken else "pass"), f"break_it: {broken or 'nothing'}"


def as_findings(judgements: Mapping[str, Judgement]) -> list[Finding]:
    """What the rules say, each under its name."""
    return [
        Finding(name=name, verdict=verdict, evidence=evidence)
        for name, (verdict, evidence) in judgements.items()
    ]


def can_be_forced(rules: Sequence[Finding]) -> bool:
    """Whether a reason may overrule the rules that did not pass."""
    return all(rule.verdict == "pass" for rule in rules if rule.name in NEVER_FORCED)


def can_serve_again(version: FineTunedModelVersion) -> list[Finding]:
    """What a rollback asks: the model is intact, and its provider still serves it, however long."""
    judgements = {"artifact": artifact_is_intact(version)}
    if is_hosted(version):
        answer = ask_provider(version)
        until = f"; served until {answer.until}" if answer.until else ""
        judgements["provider"] = answer.verdict, answer.evidence + until
    return as_findings(judgements)


def is_hosted(version: FineTunedModelVersion) -> bool:
    """Whether a provider keeps the model, not this machine."""
    return version.metadata.get("provider") == "api"


def may_become(version: FineTunedModelVersion, target: Target) -> Judgement:
    """The life of a version leads from its status to the target."""
    status = version.status
    becomes = "staging" if target == "staging" else "production"
    if status in (becomes, "production"):
        return "pass", f"it is {status} already"
    if becomes in CHANGES[status]:
        return "pass", f"from {status} to {becomes}"
    way_back = ""
    if status == "deprecated":
        way_back = f" ({version.metadata.get('reason')}); a rollback can bring it back"
    return "fail", f"it is {status} and cannot become {becomes}{way_back}"


def is_as_registered(
    version: FineTunedModelVersion, run: store.Run, evaluation: Evaluation | None, reason: str
) -> Judgement:
    """The evaluation can be read and is the one that was registered."""
    if evaluation is None:
        return "fail", reason
    digest = store.sha256_file(run.path(Evaluation.FILE))
    if digest != version.metadata.get("evaluation_sha256"):
        remedy = "run 04_evaluate again"
        if version.status == "production":
            remedy = "it serves on that one; `workbook registry reevaluate` measures it anew"
        return (
            "fail",
            f"evaluation.json ({digest[:8]}) is not the one that was registered; {remedy}",
        )
    return "pass", f"{evaluation.n_test} test rows, sha256 {digest[:8]}"


def verdict_of_04(evaluation: Evaluation | None) -> Judgement:
    """What 04 said about the test part, and which of its findings stand in the way."""
    if evaluation is None:
        return "undecided", "no evaluation"
    if evaluation.regression:
        return "fail", "regression: it is surely worse than what it would replace"
    if evaluation.verdict == "pass" and not evaluation.findings:
        return "undecided", (
            "passed by 0.1.0, whose 04 did not judge power, margins and the dataset's checks;"
            " run 04_evaluate again"
        )
    obstacles = [
        f"{finding.name} {finding.verdict}: {finding.evidence}"
        for finding in [*evaluation.findings, *evaluation.targets.values()]
        if finding.verdict != "pass" and finding.evidence
    ]
    evidence = "; ".join(obstacles or evaluation.reasons) or "no reason given"
    return as_finding_verdict(evaluation.verdict), evidence


def stays_below_ceilings(evaluation: Evaluation | None) -> Judgement:
    """Latency and cost stay below the ceilings of task.yaml, where it has any."""
    targets = evaluation.targets if evaluation else {}
    ceilings = [target for name, target in targets.items() if name not in evaluate.AT_LEAST]
    evidence = "; ".join(
        f"{ceiling.name} {ceiling.estimate} against {ceiling.threshold:g}: {ceiling.verdict}"
        for ceiling in ceilings
    )
    nothing = "task.yaml sets no ceiling for latency or cost"
    return as_finding_verdict(verdict_of(ceilings)), evidence or nothing


def holds_against(
    incumbent: FineTunedModelVersion | None,
    version: FineTunedModelVersion,
    run: store.Run,
    evaluation: Evaluation | None,
) -> Judgement:
    """Against the version in production now: as 04 measured it, else by its answers elsewhere."""
    if incumbent is None or incumbent.id == version.id:
        return "pass", "nothing else is in production; the best cheaper rung is the one to beat"
    if evaluation is None:
        return "undecided", "no evaluation"
    gain = None
    if evaluation.production == incumbent.id:
        gain = evaluation.against.get("production", {}).get("accuracy")
    remedy = f"run `workbook registry reevaluate {version.id}`"
    if evaluation.ratings is not None:  # only 04 has both answers judged, side by side
        remedy = "run 04_evaluate again"
    elif gain is None:
        gain = compare_answers(incumbent, version, run, evaluation)
    if gain is None:
        return "undecided", (
            f"{incumbent.id}, in production now, was not asked about these {evaluation.n_test} test"
            f" rows; {remedy}, then ask again"
        )
    return as_finding_verdict(gain.verdict), (
        f"accuracy {gain.difference} against {incumbent.id}"
        f" ({gain.gained} gained, {gain.lost} lost, margin {gain.margin:g})"
    )


def compare_answers(
    incumbent: FineTunedModelVersion,
    version: FineTunedModelVersion,
    run: store.Run,
    evaluation: Evaluation,
) -> MetricComparison | None:
    """Paired answers about the same test rows; None where `incumbent` was not asked about them.

    It was asked in its own run, or by a re-evaluation for this one.
    """
    ours = tuned_answers(run)
    theirs = {}
    for other in (store.Run(incumbent.run_id), reevaluation(run, incumbent)):
        answers = tuned_answers(other)
        same_part = digest_of_test_part(incumbent, other) == digest_of_test_part(version, run)
        if same_part and answers.keys() == ours.keys():
            theirs = answers
    if not theirs:
        return None
    ids = sorted(ours)
    difference, gained, lost = evaluate.paired_difference(
        [ours[i].scores.get("accuracy", 0.0) for i in ids],
        [theirs[i].scores.get("accuracy", 0.0) for i in ids],
        [ours[i].group for i in ids],
        evaluation.attempt.alpha,  # as sure as this attempt of the year has to be
    )
    measured = evaluation.comparison.get("accuracy")
    margin = measured.margin if measured else 0.0
    return MetricComparison(
        difference=difference,
        method="answers of two runs",
        gained=gained,
        lost=lost,
        margin=margin,
        verdict=evaluate.verdict_against(difference, -margin),
    )


def artifact_is_intact(version: FineTunedModelVersion) -> Judgement:
    """The model's files are there and are those that training wrote."""
    artifact = version.metadata.get("artifact", "")
    if is_hosted(version) and not artifact:
        return "pass", f"the provider keeps it as {version.model_id}; nothing lies here to check"
    digest = artifact_sha256(artifact)
    if not digest:
        evidence = f"{store.home() / artifact if artifact else 'its artifact'} is missing"
        note = version.metadata.get("retired")
        if note:
            evidence += f": it was retired on {note['at'][:10]} ({note['because']})"
        return "fail", evidence
    if digest != version.metadata.get("artifact_sha256"):
        return "fail", (
            f"{artifact} was changed: sha256 {digest[:8]} is not the one that was registered"
        )
    return "pass", f"{artifact}, sha256 {digest[:8]}"


def answers_as_trained(version: FineTunedModelVersion, run: store.Run) -> Judgement:
    """The engine that will serve was asked, and answers as the trained model does."""
    if is_hosted(version):
        return "pass", "its provider serves what 04 asked"
    parity, reason = load_or_reason(run, Parity)
    if parity is None and run.has(Parity):
        return "undecided", reason
    if parity is None or parity.artifact_sha256 != version.metadata.get("artifact_sha256"):
        return "undecided", (
            "these files were never asked through the engine that will serve them; run"
            f" `workbook serve --check {version.id} --engine ENGINE`, then ask again"
        )
    obstacles = [f"{f.name}: {f.evidence}" for f in parity.findings if f.verdict != "pass"]
    evidence = f"{parity.engine}: {parity.equal} of {parity.n} answers are equal"
    return as_finding_verdict(verdict_of(parity.findings)), "; ".join([evidence, *obstacles])


def may_serve_long_enough(version: FineTunedModelVersion) -> Judgement:
    """Who keeps the model serves it for a month more; a provider is asked for its date."""
    answer = ProviderAnswer("pass", "it lies here: nobody else can withdraw it")
    if is_hosted(version):
        answer = ask_provider(version)
    until = min(filter(None, (served_until(version), answer.until)), default="")
    if not until or answer.verdict == "fail":
        return answer.verdict, answer.evidence
    days = (date.fromisoformat(until) - store.now().date()).days
    return "fail" if days < MIN_SERVE_DAYS else answer.verdict, (
        f"{answer.evidence}; served until {until}, {days} days from now,"
        f" at least {MIN_SERVE_DAYS} are asked for"
    )


def served_until(version: FineTunedModelVersion) -> str:
    """The last day that was registered, or that its provider has announced; "" where none is."""
    announced = str(serves_until(version.metadata.get("base_url", "")) or "")
    return min(filter(None, (version.metadata.get("serve_until", "")[:10], announced)), default="")


class ProviderAnswer(NamedTuple):
    """Whether a provider still has a model, why we think so, its shutdown date ("" = unknown)."""

    verdict: FindingVerdict
    evidence: str
    until: str = ""


def ask_provider(version: FineTunedModelVersion) -> ProviderAnswer:
    """GET /models/ID at the version's endpoint, of the tuned model and of its base."""
    import openai

    base_url = version.metadata.get("base_url", "")
    if not base_url:
        return ProviderAnswer("undecided", "it is not known which endpoint keeps it")
    ends = []
    try:
        client = openai_client(base_url, timeout=10).with_options(max_retries=1)
        for name in (version.model_id, version.base_model):
            try:
                model = client.models.retrieve(name)
            except openai.NotFoundError:
                if name == version.model_id:  # the base of a tuned model need not be listed
                    return ProviderAnswer("fail", f"{base_url} has no model {name} (any more)")
                continue
            end = getattr(model, "shutdown_date", None)
            if end:
                ends.append(end)
    except (openai.OpenAIError, WorkbookError, ValueError) as error:
        evidence = f"{base_url} could not be asked ({type(error).__name__}); ask again"
        return ProviderAnswer("undecided", evidence)
    try:
        dates = [str(moment_of(end).date()) for end in ends]
    except (ValueError, TypeError, OverflowError):
        evidence = f"{base_url} has it until {ends}, which cannot be read as days; ask who runs it"
        return ProviderAnswer("undecided", evidence)
    return ProviderAnswer("pass", f"{base_url} has it", min(dates, default=""))


def is_recent(version: FineTunedModelVersion, max_age_days: int) -> Judgement:
    """The evaluation is not too old, nor from the future: data and questions move on."""
    evaluated_at = version.metadata.get("evaluated_at")
    if evaluated_at is None:
        return "fail", "it was never evaluated"
    days = (store.now() - datetime.fromisoformat(evaluated_at)).total_seconds() / 86400
    verdict: FindingVerdict = "pass" if -1 <= days <= max_age_days else "fail"
    return verdict, f"{days:.1f} days old, at most {max_age_days}"


def advice_of_01(run: store.Run) -> Judgement:
    """Shows what 01 advised and why training went on; 04, not 01, has the final word."""
    decision, reason = load_or_reason(run, Decision)
    if decision is None:
        return "pass", f"nothing is known of 01's advice: {reason}"
    because = decision.train_anyway_because
    reason = f"; trained because {because}" if because else ""
    return "pass", f"advised: {decision.recommendation}{reason}"
