"""The life of a task's models: opened, evaluated, promoted through the gate, rolled back. Nothing is ever deleted."""

from __future__ import annotations

from typing import Any, Literal

from helpers import store
from helpers.records import EvalResults, FineTunedModelVersion, Record, Status, Verdict, WorkbookError
from helpers.registry import delivery, gate, versions
from helpers.registry.database import Registry, open_registry, tables
from helpers.registry.gate import RuleResult
from helpers.registry.switching import announce, expect, route_of, switch

Target = Literal["none", "staging", "production"]


class Promotion(Record):
    """What was asked, what the gate said, what happened; promotion.json holds exactly this."""

    version: str
    target: Target
    verdict: Verdict
    promoted: bool
    reasons: list[str]
    rules: list[RuleResult]
    previous: str | None = None  # the version that served before this one
    generation: int = 0
    forced: bool = False


class FineTuneLifecycleManager:
    """The versions, the route and the history of one task."""

    def __init__(self, task_name: str, registry: Registry | None = None) -> None:
        self.task = task_name
        self.registry = registry or open_registry()
        self.registry.make_ready()
        delivery.catch_up(self.registry)

    # ---------------------------------------------------------------- writing a version down

    def open_version(
        self,
        version_id: str,
        run_id: str,
        base_model: str,
        dataset_version: str | None,
        model_id: str = "",
        metadata: dict[str, Any] | None = None,
    ) -> FineTunedModelVersion:
        """Open a version as `training`; a resumed run finds the one it opened before, as it is now."""
        t = tables().versions
        with self.registry.transaction() as db:
            found = db.execute(t.select().where(t.c.id == version_id)).mappings().first()
            if found is not None:
                return self._reopened(dict(found), run_id)
            now = store.now().isoformat()
            row: dict[str, Any] = dict(
                id=version_id, task=self.task, run_id=run_id, base_model=base_model, status="training"
            )
            row |= dict(model_id=model_id or version_id, dataset_version=dataset_version, metadata=metadata or {})
            row |= dict.fromkeys(("trained_at", "created_at", "updated_at"), now)
            row |= dict(provider="", artifact="", artifact_sha256="", fingerprints={}, evaluation_sha256="", reason="")
            db.execute(t.insert().values(**row))
            versions.audit(db, row, "open", "training begins", to_status="training")
        return self.get_version(version_id)

    def _reopened(self, row: dict[str, Any], run_id: str) -> FineTunedModelVersion:
        if (row["task"], row["run_id"]) != (self.task, run_id):
            raise WorkbookError(
                f"version {row['id']} belongs to task {row['task']}, run {row['run_id']}; use another run_id"
            )
        if row["status"] == "deprecated":
            raise WorkbookError(
                f"version {row['id']} is closed ({row['reason']}) and cannot be trained again; "
                "use another run_id, or roll back to it if it served before"
            )
        return versions.as_record(row)

    def record_model(self, version_id: str, model_json: dict[str, Any]) -> FineTunedModelVersion:
        """Tie a version to what training made: model id, fingerprints, and the sha256 of the artifact's files."""
        artifact = model_json.get("adapter") or ""
        values = {
            "model_id": model_json["model_id"],
            "base_model": model_json["base_model"],
            "dataset_version": model_json.get("dataset_version"),
            "provider": model_json.get("provider", ""),
            "artifact": artifact,
            "artifact_sha256": versions.artifact_sha256(artifact),
            "fingerprints": model_json.get("fingerprints", {}),
        }
        with self.registry.transaction() as db:
            row = versions.row_of(db, version_id, self.task)
            if all(row[name] == value for name, value in values.items()):
                return versions.as_record(row)
            if row["status"] not in ("training", "evaluating"):
                raise WorkbookError(
                    f"version {version_id} is {row['status']}: its model cannot change any more; train under another run_id"
                )
            more = {name: model_json[name] for name in ("prompt_style", "base_url") if model_json.get(name)}
            versions.update(
                db, version_id, **values, trained_at=store.now().isoformat(), metadata=row["metadata"] | more
            )
            versions.audit(db, row, "model", "training ended", evidence=values)
        return self.get_version(version_id)

    def record_evaluation(
        self, version_id: str, eval_results: EvalResults | dict[str, Any], evaluation_sha256: str
    ) -> FineTunedModelVersion:
        """Tie a version to its evaluation.json; moves `training` to `evaluating`.

        What a version was promoted on stays: once it serves or has served, a new evaluation is noted in the audit only.
        """
        results = EvalResults.model_validate(eval_results).model_dump(mode="json")
        with self.registry.transaction() as db:
            row = versions.row_of(db, version_id, self.task)
            if row["evaluation_sha256"] == evaluation_sha256:
                return versions.as_record(row)
            new: Status = "evaluating" if row["status"] == "training" else row["status"]
            if row["status"] in ("training", "evaluating", "staging"):
                values = {"eval_results": results, "evaluation_sha256": evaluation_sha256}
                versions.update(db, version_id, **values, evaluated_at=store.now().isoformat(), status=new)
            evidence = {"evaluation_sha256": evaluation_sha256, "accuracy": results["accuracy"]}
            statuses = {"from_status": row["status"], "to_status": new}
            versions.audit(db, row, "evaluate", "measured on the test part", **statuses, evidence=evidence)
        return self.get_version(version_id)

    def register(self, run: store.Run) -> FineTunedModelVersion:
        """The version of a run from its model.json and evaluation.json, written down where that has not been done."""
        model = run.read("model.json")
        self.open_version_of(model, run)
        if run.has("evaluation.json"):
            evaluation = run.read("evaluation.json")
            if evaluation.get("version") == model["version"]:
                digest = store.sha256_file(run.path("evaluation.json"))
                return self.record_evaluation(model["version"], evaluation["fine_tuned_model"], digest)
        return self.get_version(model["version"])

    def open_version_of(self, model: dict[str, Any], run: store.Run) -> None:
        """Open and fill the version of a model.json that the registry does not know (a lost or new database)."""
        if not any(version.id == model["version"] for version in self.list_versions()):
            self.open_version(
                model["version"], run.id, model["base_model"], model.get("dataset_version"), model["model_id"]
            )
            self.record_model(model["version"], model)

    def set_status(self, version_id: str, status: Status, because: str = "") -> FineTunedModelVersion:
        """Change a status where no gate decides: to `evaluating`, or to `deprecated` (a production version stops serving)."""
        with self.registry.transaction() as db:
            row = versions.row_of(db, version_id, self.task)
            if row["status"] == status:
                return versions.as_record(row)
            versions.check_change(version_id, row["status"], status)
            if status in ("staging", "production"):
                raise WorkbookError(f"the gate decides about {status}: promote {version_id} to {status} instead")
            if row["status"] == "production":
                switch(db, self.task, None, "retire", because or "retired", {})
            else:
                versions.update(db, version_id, status=status, reason=because)
                versions.audit(db, row, "status", because, from_status=row["status"], to_status=status)
        delivery.catch_up(self.registry)
        return self.get_version(version_id)

    # ---------------------------------------------------------------- looking

    def get_version(self, version_id: str) -> FineTunedModelVersion:
        """One version of this task by its id."""
        with self.registry.transaction(read_only=True) as db:
            return versions.as_record(versions.row_of(db, version_id, self.task))

    def get_production_version(self) -> FineTunedModelVersion | None:
        """The version that serves now, if any."""
        return next(iter(self.list_versions("production")), None)

    def list_versions(self, status: Status | None = None) -> list[FineTunedModelVersion]:
        """The task's versions, newest first."""
        t = tables().versions
        query = t.select().where(t.c.task == self.task).order_by(t.c.created_at.desc(), t.c.id)
        with self.registry.transaction(read_only=True) as db:
            rows = db.execute(query if status is None else query.where(t.c.status == status)).mappings().all()
        return [versions.as_record(row) for row in rows]

    def history(self) -> list[dict[str, Any]]:
        """The audit of this task, oldest first: who did what to which version, when and why."""
        t = tables().audit
        with self.registry.transaction(read_only=True) as db:
            rows = db.execute(t.select().where(t.c.task == self.task).order_by(t.c.id)).mappings().all()
        return [dict(row) for row in rows]

    def route(self) -> dict[str, Any]:
        """{task, version, previous, generation, since}; generation 0 means that nothing was ever promoted."""
        with self.registry.transaction(read_only=True) as db:
            return route_of(db, self.task)

    # ---------------------------------------------------------------- promoting

    def validate_for_production(
        self, version_id: str, target: Target = "production", max_age_days: int = 90, break_it: str = ""
    ) -> list[RuleResult]:
        """The gate's rules for a version, against the version in production now."""
        version, now_serving = self.get_version(version_id), self.get_production_version()
        options = {"max_age_days": max_age_days, "break_it": break_it}
        if target == "staging":
            return gate.validate_for_staging(version, store.Run(version.run_id), **options)
        return gate.validate_for_production(version, store.Run(version.run_id), now_serving, **options)

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

        A gate that refuses is an answer, not an error. An error is: a status that cannot become `target`, or a route
        that changed while the gate was looking (or since the caller saw `expected_generation`).
        """
        if target not in ("none", "staging", "production"):
            raise WorkbookError(f"promote_to is {target!r}; choose none, staging or production")
        if force and not because.strip():
            raise WorkbookError("--force needs a reason: --because TEXT; it is kept in the audit")
        route, version = self.route(), self.get_version(version_id)
        expect(route, expected_generation)
        rules = self.validate_for_production(version_id, target, max_age_days, break_it)
        verdict = gate.overall(rules)
        reasons = [f"{rule.name}: {rule.evidence}" for rule in rules if rule.verdict != "pass"]
        passed = verdict == "pass" or (force and gate.can_be_forced(rules))
        forced = passed and verdict != "pass"
        status = version.status
        if target == "none":
            passed, forced = False, False
        elif status == target or (status, target) == ("production", "staging"):
            passed, forced, reasons = True, False, [*reasons, f"it is {status} already"]
        else:
            evidence = {"verdict": verdict, "forced": forced, "rules": [rule.model_dump() for rule in rules]}
            why = because or ("" if passed else "; ".join(reasons))
            route = self._decide(version, target, passed, why, evidence, route["generation"])
            reasons += [f"forced: {because}"] if forced else []
        said: dict[str, Any] = {"version": version_id, "target": target, "verdict": verdict, "rules": rules}
        said |= {"previous": route["previous"], "generation": route["generation"]}
        return Promotion(**said, promoted=passed, forced=forced, reasons=reasons)

    def _decide(
        self,
        version: FineTunedModelVersion,
        target: Status,
        passed: bool,
        because: str,
        evidence: dict[str, Any],
        generation: int,
    ) -> dict[str, Any]:
        """Write the gate's answer down in one transaction, with everything that follows from it; returns the route."""
        with self.registry.transaction() as db:
            row, route = versions.row_of(db, version.id, self.task), route_of(db, self.task)
            versions.check_change(version.id, row["status"], target)
            if target == "production":
                expect(route, generation)
            if versions.as_record(row) != version:
                raise WorkbookError(
                    f"version {version.id} changed while the gate looked at it; look again, then repeat"
                )
            if not passed:
                versions.audit(db, row, "refuse", because, evidence=evidence | {"target": target})
            elif target == "production":
                route = switch(db, self.task, row, "promote", because, evidence)
            else:
                change = {"from_status": row["status"], "to_status": target}
                versions.update(db, version.id, status=target, reason=because)
                versions.audit(db, row, "promote", because, evidence=evidence, **change)
                event = {"action": "promote", "task": self.task, "version": version.id, "target": target}
                announce(db, event | {"because": because})
        delivery.catch_up(self.registry)
        return route

    def rollback(
        self, to_version_id: str | None = None, because: str = "", expected_generation: int | None = None
    ) -> Promotion:
        """Serve an earlier version again; without an id the one that served before the current one was put there.

        The target must have served before and its artifact must be there, unchanged. The version that is left keeps
        its artifact and rows, so that rolling back once more returns to it.
        """
        with self.registry.transaction() as db:
            route = route_of(db, self.task)
            expect(route, expected_generation)
            target = to_version_id or route["previous"]
            if target is None:
                raise WorkbookError(f"nothing served task {self.task} before; there is nothing to roll back to")
            row = versions.row_of(db, target, self.task)
            t = tables().audit
            served = t.select().where(t.c.version == target, t.c.to_status == "production").limit(1)
            if row["status"] != "deprecated" or db.execute(served).first() is None:
                raise WorkbookError(
                    f"version {target} is {row['status']}; only a version that served before can come back"
                )
            rule = gate.artifact_rule(versions.as_record(row))
            if rule.verdict != "pass":
                raise WorkbookError(
                    f"version {target} cannot serve again: {rule.evidence}; restore the files, or choose another"
                )
            evidence = {"rules": [rule.model_dump()]}
            route = switch(db, self.task, row, "rollback", because, evidence)
        delivery.catch_up(self.registry)
        said: dict[str, Any] = {"version": target, "target": "production", "verdict": "pass", "promoted": True}
        return Promotion(**said, reasons=[], rules=[rule], previous=route["previous"], generation=route["generation"])
