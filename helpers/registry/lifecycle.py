"""The life of a task's models: opened, evaluated, promoted through the gate, rolled back. Nothing is ever deleted."""

from __future__ import annotations

import contextlib
import shlex
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field

from helpers import store
from helpers.records import (
    EvalResults,
    FineTunedModelVersion,
    Record,
    Status,
    Verdict,
    WorkbookError,
)
from helpers.registry import gate, versions
from helpers.registry.database import Registry, open_registry, table
from helpers.registry.delivery import catch_up, publish_routes
from helpers.registry.gate import RuleResult

if TYPE_CHECKING:
    from sqlalchemy import Connection

TOLD_TOO = ("base_url", "prompt_style")  # of model.json, into the metadata
Target = Literal["none", "staging", "production"]


class Promotion(Record):
    """What was asked, what the gate said, what happened; promotion.json holds exactly this."""

    version: str
    target: Target
    verdict: Verdict
    promoted: bool
    rules: list[RuleResult]
    reasons: list[str] = Field(default_factory=list)
    previous: str | None = None  # the version that served before this one
    generation: int = 0
    forced: bool = False


class FineTuneLifecycleManager:
    """The versions, the route and the history of one task."""

    def __init__(self, task_name: str, registry: Registry | None = None) -> None:
        self.task = task_name
        self.registry = registry or open_registry()
        catch_up(self.registry)

    def get_version(self, version_id: str) -> FineTunedModelVersion:
        """One version of this task by its id."""
        with self.registry.transaction(read_only=True) as db:
            return versions.as_record(versions.row_of(db, version_id, task=self.task))

    def get_production_version(self) -> FineTunedModelVersion | None:
        """The version that serves now, if any."""
        return next(iter(versions.listed(self.registry, task=self.task, status="production")), None)

    def list_versions(self) -> list[FineTunedModelVersion]:
        """The task's versions, newest first."""
        return versions.listed(self.registry, task=self.task)

    def history(self) -> list[dict[str, Any]]:
        """The audit of this task, oldest first: who did what to which version, when and why."""
        return self.registry.rows("audit", task=self.task)

    def route(self) -> dict[str, Any]:
        """{task, version, previous, generation, since}; generation 0 means that nothing was ever promoted."""
        with self.registry.transaction(read_only=True) as db:
            return versions.route_of(db, self.task)

    def open_version(
        self, version_id: str, run_id: str, base_model: str, dataset_version: str | None
    ) -> FineTunedModelVersion:
        """Open a version as `training`; a resumed run finds the one it opened before, as it is now."""
        t = table("versions")
        with self.registry.transaction() as db:
            row = db.execute(t.select().filter_by(id=version_id)).mappings().first()
            if row is None:
                row = {"id": version_id, "task": self.task, "run_id": run_id, "status": "training"}
                row |= {
                    "model_id": version_id,
                    "base_model": base_model,
                    "dataset_version": dataset_version,
                }
                row |= dict.fromkeys(
                    ("trained_at", "created_at", "updated_at"), store.now().isoformat()
                )
                row |= dict.fromkeys(
                    ("provider", "artifact", "artifact_sha256", "evaluation_sha256", "reason"), ""
                )
                row |= {"fingerprints": {}, "metadata": {}}
                self._close_dead_runs(db, run_id)
                db.execute(t.insert().values(**row))
                versions.audit(db, row, "open", "training begins", to_status="training")
            elif (row["task"], row["run_id"]) != (self.task, run_id) or row[
                "status"
            ] == "deprecated":
                said = f"belongs to task {row['task']}, run {row['run_id']} and is {row['status']} ({row['reason']})"
                raise WorkbookError(f"version {version_id} {said}; use another run_id")
        return self.get_version(version_id)

    def _close_dead_runs(self, db: Connection, run_id: str) -> None:
        """Deprecate what earlier `workbook run`s of this home began to train and never finished; until now they could go on.

        Whoever has the home's lock knows that no other run is alive. Runs by hand (no run.json) can always go on.
        """
        for row in (
            db.execute(table("versions").select().filter_by(task=self.task, status="training"))
            .mappings()
            .all()
        ):
            run = store.Run(row["run_id"])
            if run.id != run_id and run.has("run.json") and not run.has("model.json"):
                with contextlib.suppress(WorkbookError), store.lock():
                    why = f"run {run.id} did not finish its training before run {run_id} began one"
                    versions.change_status(db, row, "deprecated", "close", why)

    def record_model(self, version_id: str, model_json: dict[str, Any]) -> FineTunedModelVersion:
        """Tie a version to what training made: model id, fingerprints, and the sha256 of the artifact's files."""
        artifact = model_json.get("adapter") or ""
        told = ("model_id", "base_model", "dataset_version", "provider", "fingerprints")
        values = {name: model_json[name] for name in told}
        values |= {"artifact": artifact, "artifact_sha256": versions.artifact_sha256(artifact)}
        values |= {name: model_json.get(name) for name in ("train_until", "serve_until")}
        with self.registry.transaction() as db:
            row = versions.row_of(db, version_id, task=self.task)
            values["metadata"] = row["metadata"] | {
                name: model_json[name] for name in TOLD_TOO if model_json.get(name)
            }
            if all(row[name] == value for name, value in values.items()):
                return versions.as_record(row)
            if row["status"] not in ("training", "evaluating"):
                said = f"version {version_id} is {row['status']}: its model cannot change any more"
                raise WorkbookError(f"{said}; train under another run_id")
            versions.update(db, version_id, **values, trained_at=store.now().isoformat())
            versions.audit(db, row, "model", "training ended", evidence=values)
        return self.get_version(version_id)

    def register(self, run: store.Run) -> FineTunedModelVersion:
        """Tie a run's version to its evaluation.json; what a new database does not know is read from the run's files.

        What a version was promoted on stays: once it serves or has served, a new evaluation is noted in the audit only.
        """
        model = run.read("model.json")
        version_id = model["version"]
        if not versions.listed(self.registry, id=version_id):
            self.open_version(version_id, run.id, model["base_model"], model["dataset_version"])
            self.record_model(version_id, model)
        evaluation = run.read("evaluation.json") if run.has("evaluation.json") else {}
        digest = (
            store.sha256_file(run.path("evaluation.json"))
            if evaluation.get("version") == version_id
            else ""
        )
        with self.registry.transaction() as db:
            row = versions.row_of(db, version_id, task=self.task)
            if digest not in ("", row["evaluation_sha256"]):
                results = EvalResults.model_validate(evaluation["fine_tuned_model"]).model_dump(
                    mode="json"
                )
                new: Status = "evaluating" if row["status"] == "training" else row["status"]
                if new in ("evaluating", "staging"):
                    values = {"eval_results": results, "evaluation_sha256": digest, "status": new}
                    versions.update(db, version_id, **values, evaluated_at=store.now().isoformat())
                told = {"from_status": row["status"], "to_status": new}
                told["evidence"] = {"evaluation_sha256": digest, "accuracy": results["accuracy"]}
                versions.audit(db, row, "evaluate", "measured on the test part", **told)
        return self.get_version(version_id)

    def set_status(
        self, version_id: str, status: Status, because: str = ""
    ) -> FineTunedModelVersion:
        """Change a status where no gate decides: to `evaluating`, or to `deprecated` (a production version stops serving)."""
        with self.registry.transaction() as db:
            row = versions.row_of(db, version_id, task=self.task)
            old: Status = row["status"]
            if old == status:
                return versions.as_record(row)
            if status not in versions.CHANGES[old] or status in ("staging", "production"):
                said = f"version {version_id} is {old} and cannot simply become {status}"
                raise WorkbookError(
                    f"{said}; the gate decides about staging and production: promote it"
                )
            if old == "production":
                versions.switch(db, self.task, None, "retire", because or "retired", {})
            else:
                versions.change_status(db, row, status, "status", because)
        catch_up(self.registry)
        return self.get_version(version_id)

    def validate_for_production(
        self,
        version_id: str,
        target: Target = "production",
        max_age_days: int = 90,
        break_it: str = "",
    ) -> list[RuleResult]:
        """The gate's rules for a version, against the version in production now."""
        version, now = self.get_version(version_id), self.get_production_version()
        return gate.validate_for_production(
            version, store.Run(version.run_id), now, target, max_age_days, break_it
        )

    def promote(
        self,
        version_id: str,
        target: Target,
        because: str = "",
        force: bool = False,
        expected_generation: int | None = None,
        max_age_days: int = 90,
        break_it: str = "",
    ) -> Promotion:
        """Ask the gate; if it passes (or `force` has a reason) change status, route, audit and outbox in one transaction.

        A gate that refuses is an answer, not an error. An error is a version or a route that changed while the gate
        was looking (or since the caller saw `expected_generation`).
        """
        if target not in get_args(Target):
            raise WorkbookError(f"promote_to is {target!r}; choose none, staging or production")
        if force and not because.strip():
            raise WorkbookError("--force needs a reason: --because TEXT; it is kept in the audit")
        route, version = self.route(), self.get_version(version_id)
        versions.expect(route, expected_generation)
        rules = self.validate_for_production(version_id, target, max_age_days, break_it)
        verdict = gate.overall(rules)
        reasons = [f"{rule.name}: {rule.evidence}" for rule in rules if rule.verdict != "pass"]
        hard = any(rule.verdict != "pass" for rule in rules if rule.name in gate.NEVER_FORCED)
        asks, already = target == "none", version.status in (target, "production")
        forced = force and verdict != "pass" and not (asks or already or hard)
        promoted = not asks and (already or forced or verdict == "pass")
        reasons += [f"forced: {because}"] if forced else []
        said: dict[str, Any] = {
            "version": version_id,
            "target": target,
            "verdict": verdict,
            "rules": rules,
        }
        said |= {"previous": route["previous"], "generation": route["generation"]}
        answer = Promotion(**said, promoted=promoted, forced=forced, reasons=reasons)
        return answer if asks or already else self._carry_out(answer, version, because)

    def _carry_out(
        self, answer: Promotion, version: FineTunedModelVersion, because: str
    ) -> Promotion:
        """Write the gate's answer down in one transaction, with everything that follows from it."""
        evidence = answer.model_dump(include={"target", "verdict", "forced", "rules"})
        with self.registry.transaction() as db:
            row, route = (
                versions.row_of(db, version.id, task=self.task),
                versions.route_of(db, self.task),
            )
            if answer.target == "production":
                versions.expect(route, answer.generation)
            if versions.as_record(row) != version:
                raise WorkbookError(
                    f"version {version.id} changed while the gate looked; look again, then repeat"
                )
            if not answer.promoted:
                versions.audit(
                    db, row, "refuse", because or "; ".join(answer.reasons), evidence=evidence
                )
            elif answer.target == "production":
                route = versions.switch(db, self.task, row, "promote", because, evidence)
            else:
                versions.change_status(db, row, "staging", "promote", because, evidence=evidence)
                event = {
                    "action": "promote",
                    "task": self.task,
                    "version": version.id,
                    "target": "staging",
                }
                versions.announce(db, event | {"because": because})
        catch_up(self.registry)
        return answer.model_copy(
            update={"previous": route["previous"], "generation": route["generation"]}
        )

    def rollback(
        self,
        to_version_id: str | None = None,
        because: str = "",
        expected_generation: int | None = None,
    ) -> Promotion:
        """Serve an earlier version again; without an id the one that served before the current one was put there.

        The target must have served before and its artifact must be there, unchanged. The version that is left keeps
        its artifact and rows, so that rolling back once more returns to it.
        """
        with self.registry.transaction(read_only=True) as db:
            seen = versions.route_of(db, self.task)
            versions.expect(seen, expected_generation)
            target = to_version_id or seen["previous"]
            if target is None:
                raise WorkbookError(
                    f"nothing served task {self.task} before; there is nothing to roll back to"
                )
            version = versions.as_record(versions.row_of(db, target, task=self.task))
            served = table("audit").select().filter_by(version=target, to_status="production")
            if version.status != "deprecated" or db.execute(served).first() is None:
                raise WorkbookError(
                    f"version {target} is {version.status}; only one that served before can come back"
                )
        rules = gate.can_serve_again(
            version
        )  # outside the transaction: it hashes files and may ask a provider
        if stops := [rule.evidence for rule in rules if rule.verdict == "fail"]:
            raise WorkbookError(
                f"version {target} cannot serve again: {'; '.join(stops)}; restore it, or choose another"
            )
        with self.registry.transaction() as db:
            versions.expect(versions.route_of(db, self.task), seen["generation"])
            row = versions.row_of(db, target, task=self.task)
            evidence = {"rules": [rule.model_dump() for rule in rules]}
            route = versions.switch(db, self.task, row, "rollback", because, evidence)
        catch_up(self.registry)
        said: dict[str, Any] = {
            "previous": route["previous"],
            "generation": route["generation"],
            "rules": rules,
        }
        return Promotion(version=target, target="production", verdict="pass", promoted=True, **said)

    def schedule_retrain(
        self, cron: str, profile: str = "retrain", because: str = ""
    ) -> dict[str, Any]:
        """Write down that this task asks for a regular retrain; returns the command that makes it so.

        The registry decides about models, `workbook schedule` about clocks: it checks and installs what is asked for here.
        """
        if len(cron.split()) != 5:
            raise WorkbookError(
                f'cron {cron!r} has not five fields; "0 3 * * 0" is every Sunday at three'
            )
        command = f"workbook schedule {shlex.quote(profile)} --cron {shlex.quote(cron)}"
        asked = {"cron": cron, "profile": profile, "command": command}
        with self.registry.transaction() as db:
            serving = versions.route_of(db, self.task)["version"] or ""
            versions.audit(
                db,
                {"task": self.task, "id": serving},
                "schedule",
                because or command,
                evidence=asked,
            )
            event = {
                "action": "schedule",
                "task": self.task,
                "version": serving,
                "target": "retrain",
            }
            versions.announce(db, event | asked | {"because": because})
        catch_up(self.registry)
        return {"task": self.task} | asked


def list_versions(task: str = "") -> list[FineTunedModelVersion]:
    """All versions (of one task, if named), newest first."""
    return versions.listed(open_registry(), **({"task": _resolve(task)} if task else {}))


def history(task: str = "") -> list[dict[str, Any]]:
    """The audit, oldest first (of one task, if named)."""
    return open_registry().rows("audit", **({"task": _resolve(task)} if task else {}))


def show(version_id: str) -> dict[str, Any]:
    """One version with its history and, when it serves, its route."""
    manager = manager_of(version_id)
    version, route = manager.get_version(version_id), manager.route()
    told = open_registry().rows("audit", version=version_id)
    return {
        "version": version,
        "history": told,
        "route": route if route["version"] == version_id else None,
    }


def promote(version_id: str, target: Target, because: str = "", force: bool = False) -> Promotion:
    """Take a version through the gate; `verdict` and `promoted` say what happened."""
    return manager_of(version_id).promote(version_id, target, because, force)


def rollback(version_id: str | None = None, task: str = "", because: str = "") -> Promotion:
    """Serve an earlier version again; the task may be left out when the version, or the only task, tells it."""
    manager = (
        manager_of(version_id)
        if version_id and not task
        else FineTuneLifecycleManager(_resolve(task))
    )
    return manager.rollback(version_id, because)


def routes() -> dict[str, dict[str, Any]]:
    """The production routes: the content of routes.json, repaired if it was missing or stale."""
    return publish_routes(open_registry())


def _resolve(task: str) -> str:
    """The registered name of a task, given as demo/support_triage or as support_triage; "" means the only one."""
    known = sorted({version.task for version in versions.listed(open_registry())})
    found = (
        [task] if task in known else [name for name in known if not task or name == f"demo/{task}"]
    )
    if len(found) != 1:
        raise WorkbookError(
            f"--task {task!r} does not name one task; known tasks are {', '.join(known) or 'none'}"
        )
    return found[0]


def manager_of(version_id: str) -> FineTuneLifecycleManager:
    """The manager of the task that a version belongs to."""
    with open_registry().transaction(read_only=True) as db:
        return FineTuneLifecycleManager(versions.row_of(db, version_id)["task"])
