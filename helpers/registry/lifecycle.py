"""The life of a task's models: opened, evaluated, promoted through the gate, rolled back.

Nothing is ever deleted.
"""

from __future__ import annotations

import contextlib
import shlex
from typing import TYPE_CHECKING, Any, get_args

from helpers import store
from helpers.records import (
    Evaluation,
    Finding,
    FineTunedModelVersion,
    Promotion,
    Route,
    RunRecord,
    Status,
    Target,
    TrainedModel,
    WorkbookError,
    verdict_of,
)
from helpers.registry import gate, sharing, versions
from helpers.registry.database import Registry, open_registry, rows_of, table
from helpers.registry.delivery import catch_up
from helpers.registry.files import artifact_sha256, evaluation_of
from helpers.registry.gate import Conditions

if TYPE_CHECKING:
    from sqlalchemy import Connection


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
        serving = versions.listed(self.registry, task=self.task, status="production")
        return next(iter(serving), None)

    def get_evaluation(self, version_id: str) -> Evaluation | None:
        """What 04 wrote about a version; None where its run has nothing of it that can be read."""
        return evaluation_of(version_id, store.Run(self.get_version(version_id).run_id))[0]

    def list_versions(self) -> list[FineTunedModelVersion]:
        """The task's versions, newest first."""
        return versions.listed(self.registry, task=self.task)

    def history(self) -> list[dict[str, Any]]:
        """The audit of this task, oldest first: who did what to which version, when and why."""
        return self.registry.rows("audit", task=self.task)

    def route(self) -> Route:
        """Which version serves, and which one a rollback goes back to."""
        with self.registry.transaction(read_only=True) as db:
            return versions.route_of(db, self.task)

    def open_version(
        self, version_id: str, run_id: str, base_model: str, dataset_version: str | None
    ) -> FineTunedModelVersion:
        """Open a version as `training`; a resumed run finds the one that it opened before."""
        with self.registry.transaction() as db:
            known = next(iter(rows_of(db, "versions", id=version_id)), None)
            if known is None:
                self._close_dead_runs(db, run_id)
                row = versions.new_row(
                    version_id,
                    self.task,
                    run_id,
                    base_model=base_model,
                    dataset_version=dataset_version,
                    metadata={"home": store.home_id()},
                )
                db.execute(table("versions").insert().values(**row))
                versions.audit(db, row, "open", "training begins", to_status="training")
            elif known["metadata"].get("home", store.home_id()) != store.home_id():
                raise WorkbookError(
                    f"version {version_id} was opened by another home that shares this registry,"
                    f" in a run that is called {run_id} as well; use another run_id"
                )
            elif (known["task"], known["run_id"]) != (self.task, run_id) or (
                known["status"] == "deprecated"
            ):
                raise WorkbookError(
                    f"version {version_id} belongs to task {known['task']}, run {known['run_id']}"
                    f" and is {known['status']} ({known['reason']}); use another run_id"
                )
        return self.get_version(version_id)

    def _close_dead_runs(self, db: Connection, run_id: str) -> None:
        """Deprecate what earlier `workbook run`s of this home began to train and never finished.

        Whoever has the home's lock knows that no other run is alive; until now they could go on.
        Runs by hand (no run.json) can always go on.
        """
        for row in rows_of(db, "versions", task=self.task, status="training"):
            run = store.Run(row["run_id"])
            if run.id == run_id or not run.has(RunRecord) or run.has(TrainedModel):
                continue
            with contextlib.suppress(WorkbookError), store.lock():
                why = f"run {run.id} did not finish its training before run {run_id} began one"
                versions.change_status(db, row, "deprecated", "close", why)

    def record_model(self, version_id: str, model: TrainedModel) -> FineTunedModelVersion:
        """Tie a version to what training made: model id, fingerprints, sha256 of its files."""
        artifact = model.adapter or ""
        address = {"base_url": model.base_url} if model.base_url else {}
        values: dict[str, Any] = {
            "model_id": model.model_id,
            "base_model": model.base_model,
            "dataset_version": model.dataset_version,
            "provider": model.provider,
            "fingerprints": model.fingerprints,
            "artifact": artifact,
            "artifact_sha256": artifact_sha256(artifact),
        }
        with self.registry.transaction() as db:
            row = versions.row_of(db, version_id, task=self.task)
            values["metadata"] = row["metadata"] | address
            if all(row[name] == value for name, value in values.items()):
                return versions.as_record(row)
            if row["status"] not in ("training", "evaluating"):
                raise WorkbookError(
                    f"version {version_id} is {row['status']}: its model cannot change any more;"
                    " train under another run_id"
                )
            versions.update(db, version_id, **values, trained_at=store.now().isoformat())
            versions.audit(db, row, "model", "training ended", evidence=values)
        sharing.share(self.registry, self.get_version(version_id))
        return self.get_version(version_id)

    def register(self, run: store.Run) -> FineTunedModelVersion:
        """Tie a run's version to its evaluation.json; a new database learns the rest as well.

        What a version was promoted on stays: once it serves or has served, a new evaluation is
        noted in the audit only.
        """
        model = run.load(TrainedModel)
        version_id = model.version
        if not versions.listed(self.registry, id=version_id):
            self.open_version(version_id, run.id, model.base_model, model.dataset_version)
            self.record_model(version_id, model)
        evaluation, _ = evaluation_of(version_id, run)  # the gate tells why there is none
        if evaluation is not None:
            self._record_evaluation(evaluation, store.sha256_file(run.path(Evaluation.FILE)))
        sharing.share(self.registry, self.get_version(version_id))
        return self.get_version(version_id)

    def _record_evaluation(self, evaluation: Evaluation, digest: str) -> None:
        results = evaluation.fine_tuned_model.model_dump(mode="json")
        with self.registry.transaction() as db:
            row = versions.row_of(db, evaluation.version, task=self.task)
            if digest == row["evaluation_sha256"]:
                return
            status: Status = "evaluating" if row["status"] == "training" else row["status"]
            if status in ("evaluating", "staging"):
                versions.update(
                    db,
                    evaluation.version,
                    eval_results=results,
                    evaluation_sha256=digest,
                    evaluated_at=store.now().isoformat(),
                    status=status,
                )
            versions.audit(
                db,
                row,
                "evaluate",
                "measured on the test part",
                from_status=row["status"],
                to_status=status,
                evidence={"evaluation_sha256": digest, "accuracy": results["accuracy"]},
            )

    def set_status(
        self, version_id: str, status: Status, because: str = ""
    ) -> FineTunedModelVersion:
        """Change a status where no gate decides: to `evaluating`, or to `deprecated`.

        A production version that is deprecated stops serving.
        """
        with self.registry.transaction() as db:
            row = versions.row_of(db, version_id, task=self.task)
            old: Status = row["status"]
            if old == status:
                return versions.as_record(row)
            if status not in versions.CHANGES[old] or status in ("staging", "production"):
                raise WorkbookError(
                    f"version {version_id} is {old} and cannot simply become {status};"
                    " the gate decides about staging and production: promote it"
                )
            if old == "production":
                versions.switch(db, self.task, None, "retire", because or "retired", {})
            else:
                versions.change_status(db, row, status, "status", because)
        catch_up(self.registry)
        return self.get_version(version_id)

    def validate_for_production(
        self, version_id: str, target: Target = "production", conditions: Conditions = Conditions()
    ) -> list[Finding]:
        """The gate's rules for a version, against the version in production now."""
        version = self.get_version(version_id)
        serving = self.get_production_version()
        for each in filter(None, (version, serving)):
            sharing.bring(each)
        return gate.validate_for_production(
            version, store.Run(version.run_id), serving, target, conditions
        )

    def promote(
        self,
        version_id: str,
        target: Target,
        because: str = "",
        force: bool = False,
        expected_generation: int | None = None,
        conditions: Conditions = Conditions(),
    ) -> Promotion:
        """Ask the gate; if it passes (or `force` has a reason) change all in one transaction.

        A gate that refuses is an answer, not an error. An error is a version or a route that
        changed while the gate was looking (or since the caller saw `expected_generation`).
        """
        if target not in get_args(Target):
            raise WorkbookError(f"promote_to is {target!r}; choose none, staging or production")
        if force and not because.strip():
            raise WorkbookError("--force needs a reason: --because TEXT; it is kept in the audit")
        route = self.route()
        version = self.get_version(version_id)
        versions.expect(route, expected_generation)
        rules = self.validate_for_production(version_id, target, conditions)
        verdict = verdict_of(rules)
        is_done = target == "none" or version.status in (target, "production")
        may = is_done or verdict == "pass"
        forced = force and not may and gate.can_be_forced(rules)
        reasons = [f"{rule.name}: {rule.evidence}" for rule in rules if rule.verdict != "pass"]
        if forced:
            reasons.append(f"forced: {because}")
        answer = Promotion(
            version=version_id,
            target=target,
            verdict=verdict,
            promoted=target != "none" and (may or forced),
            forced=forced,
            rules=rules,
            reasons=reasons,
            previous=route.previous,
            generation=route.generation,
        )
        return answer if is_done else self._carry_out(answer, version, because)

    def _carry_out(
        self, answer: Promotion, version: FineTunedModelVersion, because: str
    ) -> Promotion:
        """Write the gate's answer down in one transaction, with everything that follows from it."""
        evidence = answer.model_dump(include={"target", "verdict", "forced", "rules"})
        with self.registry.transaction() as db:
            row = versions.row_of(db, version.id, task=self.task)
            route = versions.route_of(db, self.task)
            if answer.target == "production":
                versions.expect(route, answer.generation)
            if versions.as_record(row) != version:
                raise WorkbookError(
                    f"version {version.id} changed while the gate looked; look again, then repeat"
                )
            if not answer.promoted:
                reason = because or "; ".join(answer.reasons)
                versions.audit(db, row, "refuse", reason, evidence=evidence)
            elif answer.target == "production":
                route = versions.switch(db, self.task, row, "promote", because, evidence)
            else:
                versions.change_status(db, row, "staging", "promote", because, evidence=evidence)
                versions.announce(db, row, "promote", because, target="staging")
        catch_up(self.registry)
        return answer.model_copy(
            update={"previous": route.previous, "generation": route.generation}
        )

    def rollback(
        self,
        to_version_id: str | None = None,
        because: str = "",
        expected_generation: int | None = None,
    ) -> Promotion:
        """Serve an earlier version again; without an id the one before the current one.

        The target must have served before and its artifact must be there, unchanged. The version
        that is left keeps its artifact and rows, so that rolling back once more returns to it.
        """
        with self.registry.transaction(read_only=True) as db:
            seen = versions.route_of(db, self.task)
            versions.expect(seen, expected_generation)
            version_id = to_version_id or seen.previous
            if version_id is None:
                raise WorkbookError(
                    f"nothing served task {self.task} before; there is nothing to roll back to"
                )
            version = versions.as_record(versions.row_of(db, version_id, task=self.task))
            served = rows_of(db, "audit", version=version_id, to_status="production")
            if version.status != "deprecated" or not served:
                raise WorkbookError(
                    f"version {version_id} is {version.status};"
                    " only one that served before can come back"
                )
        sharing.bring(version)
        # Outside the transaction: this hashes files and may ask a provider.
        rules = gate.can_serve_again(version)
        obstacles = [rule.evidence for rule in rules if rule.verdict == "fail"]
        if obstacles:
            raise WorkbookError(
                f"version {version_id} cannot serve again: {'; '.join(obstacles)};"
                " restore it, or choose another"
            )
        with self.registry.transaction() as db:
            versions.expect(versions.route_of(db, self.task), seen.generation)
            row = versions.row_of(db, version_id, task=self.task)
            route = versions.switch(db, self.task, row, "rollback", because, {"rules": rules})
        catch_up(self.registry)
        return Promotion(
            version=version_id,
            target="production",
            verdict="pass",
            promoted=True,
            rules=rules,
            previous=route.previous,
            generation=route.generation,
        )

    def schedule_retrain(
        self, cron: str, profile: str = "retrain", because: str = ""
    ) -> dict[str, Any]:
        """Write down that this task asks for a regular retrain; returns the command for it.

        The registry decides about models, `workbook schedule` about clocks: it checks and installs
        what is asked for here.
        """
        if len(cron.split()) != 5:
            raise WorkbookError(
                f'cron {cron!r} has not five fields; "0 3 * * 0" is every Sunday at three'
            )
        command = shlex.join(["workbook", "schedule", profile, "--cron", cron])
        request = {"cron": cron, "profile": profile, "command": command}
        with self.registry.transaction() as db:
            serving = {"task": self.task, "id": versions.route_of(db, self.task).version or ""}
            versions.audit(db, serving, "schedule", because or command, evidence=request)
            versions.announce(db, serving, "schedule", because, target="retrain", **request)
        catch_up(self.registry)
        return {"task": self.task} | request
