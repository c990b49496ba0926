"""Around the life of versions: lineage, differences, re-evaluation, a rehearsal, backup, repair."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import evaluate, store, tasks
from helpers.records import (
    Budget,
    DatasetPointer,
    FineTunedModelVersion,
    Manifest,
    Promotion,
    Route,
    RunRecord,
    TrainedModel,
    WorkbookError,
)
from helpers.registry import gate, sharing, versions
from helpers.registry.commands import manager_of
from helpers.registry.database import TABLES, Registry, open_registry, table
from helpers.registry.delivery import MAX_ATTEMPTS, catch_up, channels, mirror_versions
from helpers.registry.files import load_or_reason, reevaluation, tuned_answers
from helpers.registry.identity import check_is_ours, remember
from helpers.registry.lifecycle import FineTuneLifecycleManager

BACKUP = "registry of the fine-tuning workbook"
log = logging.getLogger(__name__)


def lineage(version_id: str) -> list[dict[str, Any]]:
    """Where a version comes from and what became of it, in time order: from data to route."""
    manager = manager_of(version_id)
    version = manager.get_version(version_id)
    route = manager.route()
    history = [entry for entry in manager.history() if entry["version"] == version_id]
    changes = [entry for entry in history if entry["to_status"] != entry["from_status"]]
    steps = [_data_step(version), _run_step(store.Run(version.run_id), changes[0]["at"])]
    origin = f"from {version.base_model}"
    steps.append(_step("model", version.model_id, version.trained_at.isoformat(), origin))
    if version.eval_results:
        digest = version.metadata.get("evaluation_sha256", "")[:8]
        accuracy = f"accuracy {version.eval_results.accuracy}"
        when = version.metadata.get("evaluated_at", "")
        steps.append(_step("evaluation", f"evaluation.json {digest}", when, accuracy))
    steps += [
        _step(entry["action"], entry["to_status"], entry["at"], entry["because"])
        for entry in changes
        if entry["to_status"] in ("staging", "production", "deprecated")
    ]
    if route.version == version_id:
        serves = f"serves {manager.task} now"
        steps.append(_step("route", f"generation {route.generation}", route.since, serves))
    return [step for step in steps if step["what"]]


def _step(step: str, what: str | None, when: str, detail: str) -> dict[str, Any]:
    return {"step": step, "what": what, "when": when, "detail": detail}


def _data_step(version: FineTunedModelVersion) -> dict[str, Any]:
    name = version.dataset_version
    path = store.home() / "datasets" / (name or "-") / Manifest.FILE
    try:
        manifest = Manifest.parse(store.read_json(path, "restore it from a backup"), str(path))
    except WorkbookError as error:
        return _step("data", name, "", str(error))
    parts = ", ".join(f"{part} {count}" for part, count in manifest.splits)
    return _step("data", name, manifest.created_at.isoformat(), parts)


def _run_step(run: store.Run, opened_at: str) -> dict[str, Any]:
    record, reason = load_or_reason(run, RunRecord)
    if record is None:
        return _step("run", run.id, opened_at, reason if run.has(RunRecord) else "profile by hand")
    return _step("run", run.id, record.started_at.isoformat(), f"profile {record.profile}")


def diff(one: str, other: str) -> list[dict[str, str]]:
    """{field, a, b} wherever two versions differ: data, settings, fingerprints, scores, status."""
    ours = _facts(manager_of(one).get_version(one))
    theirs = _facts(manager_of(other).get_version(other))
    rows = [
        {"field": name, "a": str(ours.get(name, "")), "b": str(theirs.get(name, ""))}
        for name in ours | theirs
    ]
    return [row for row in rows if row["a"] != row["b"]]


def _facts(version: FineTunedModelVersion) -> dict[str, Any]:
    facts = dict(version) | version.metadata | version.metadata.get("fingerprints", {})
    facts |= dict(version.eval_results or {})
    for name in ("metadata", "fingerprints", "eval_results"):
        facts.pop(name, None)
    run = store.Run(version.run_id)
    model, reason = load_or_reason(run, TrainedModel)
    if model is None:
        return facts | {"model.json": reason if run.has(TrainedModel) else ""}
    facts |= {f"hyperparameters.{name}": value for name, value in model.hyperparameters.items()}
    asking = model.asking.model_dump(exclude={"model"})  # which is the version's own id
    return facts | {f"asking.{name}": value for name, value in asking.items()}


def reevaluate(
    version_id: str,
    task: str = "",
    say: evaluate.Say | None = None,
    max_cost_usd: float | None = None,
) -> dict[str, Any]:
    """Ask the version in production about the test rows of another, so that the gate can compare.

    It is asked exactly as its own model.json says, and the cost goes to the ledger of the other
    version's run; `max_cost_usd` is that run's limit (None: as in its run.json, else 0). `task` is
    the task's name or folder, where it is not a shipped one. The answers stay beside the runs.
    """
    manager = manager_of(version_id)
    version = manager.get_version(version_id)
    incumbent = manager.get_production_version()
    if incumbent is None or incumbent.id == version.id:
        raise WorkbookError(
            f"nothing else than {version.id} is in production for {manager.task};"
            " there is nothing to compare with"
        )
    sharing.bring_run(version)
    sharing.bring_run(incumbent)
    run = store.Run(version.run_id)
    if max_cost_usd is None:
        record, _ = load_or_reason(run, RunRecord)  # a run by hand has none
        max_cost_usd = record.params.get("max_cost_usd", 0.0) if record else 0.0
    folder = store.open_run(reevaluation(run, incumbent).id)
    folder.save(run.load(DatasetPointer))
    dataset = tasks.read_dataset(run)
    ids = tuned_answers(run).keys()
    the_task = tasks.load_task(task or manager.task.removeprefix("demo/"))
    rows = evaluate.choose_rows(the_task, dataset.examples, "test")
    rows = [row for row in rows if row.id in ids]
    model = store.Run(incumbent.run_id).load(TrainedModel)
    session = evaluate.Session(
        task=the_task,
        run=folder,
        budget=Budget(run, max_cost_usd),
        train=dataset.part("train"),
        latency_rows=0,
        say=say or log.info,
        models={model.asking.model: evaluate.load_models(model)[1]},
    )
    result = evaluate.ask_rung(model.asking, rows, session)
    return {
        "version": version.id,
        "incumbent": incumbent.id,
        "n": result.n,
        "accuracy": result.results.accuracy,
    }


def dump(registry: Registry) -> dict[str, Any]:
    """All rows of a registry, at one moment; one that lost rows since is no backup of itself."""
    check_is_ours(registry)
    with registry.transaction(read_only=True) as db:
        return {
            name: [dict(row) for row in db.execute(table(name).select()).mappings()]
            for name in TABLES
        }


def load(registry: Registry, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Put the rows of `dump` into a registry that has none."""
    with registry.transaction() as db:
        if db.execute(table("audit").select()).first() is not None:
            raise WorkbookError(
                "this registry has a history of its own, which is never overwritten;"
                " restore into an empty one: another WORKBOOK_HOME or WORKBOOK_DATABASE_URL"
            )
        for name in TABLES:  # versions come before the routes, which point at them
            if rows[name]:
                db.execute(table(name).insert(), rows[name])
        if db.dialect.name == "postgresql":
            for name in ("audit", "outbox", "attempts"):
                highest = f"SELECT coalesce(max(id), 1) FROM {name}"
                db.exec_driver_sql(f"SELECT setval('{name}_id_seq', ({highest}))")


def backup(file: Path) -> dict[str, Any]:
    """Write the whole registry to one JSON file, which `restore` reads into any database."""
    if file.exists() and not _is_backup(store.read_json(file, "choose another file")):
        raise WorkbookError(f"{file} exists and is no backup of a registry; choose another file")
    rows = dump(open_registry())
    store.write_json(file, {"format": BACKUP, "made_at": store.now(), "tables": rows})
    return _counts(file, rows)


def restore(file: Path) -> dict[str, Any]:
    """Fill an empty registry from a backup.

    Artifacts are not part of it; the gate will miss those that are gone.
    """
    content = store.read_json(file, "give a file that `workbook registry backup` wrote")
    registry = open_registry()
    if not _is_backup(content):
        raise WorkbookError(
            f"{file} is no backup that this workbook can read; it may be of a newer one"
        )
    rows = {name: content["tables"].get(name, []) for name in TABLES}
    try:
        for row in rows["versions"]:
            versions.as_record(row)
        for row in rows["routes"]:
            Route(**row)
    except (ValueError, KeyError, TypeError):
        raise WorkbookError(
            f"{file} holds a version or a route that is none; nothing was restored"
        ) from None
    load(registry, rows)
    remember(registry, restored_from=str(file))
    catch_up(registry)
    return _counts(file, rows)


def _is_backup(content: Any) -> bool:
    """Whether a file's JSON is a backup whose columns this workbook knows."""
    if not isinstance(content, dict) or content.get("format") != BACKUP or "tables" not in content:
        return False
    try:
        return all(
            row.keys() <= set(columns.split())
            for name, columns in TABLES.items()
            for row in content["tables"].get(name, [])
        )
    except (AttributeError, TypeError):
        return False


def _counts(file: Path, rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {"file": str(file)} | {name: len(rows[name]) for name in TABLES}


def rehearse(task: str, version_id: str) -> list[dict[str, Any]]:
    """On a scratch copy: promote the version, roll back, and roll back again; what would serve.

    The gate is overruled there, since the drill is about the way back. A step that cannot be done
    says why.
    """
    with tempfile.TemporaryDirectory(prefix="registry-drill-") as folder:
        copy = Registry(f"sqlite:///{folder}/registry.db", Path(folder))
        load(copy, dump(open_registry()))
        manager = FineTuneLifecycleManager(task, copy)
        why = "rehearsal"
        steps: dict[str, Callable[[], Promotion | None]] = {
            "now": lambda: None,
            "promote": lambda: manager.promote(version_id, "production", why, force=True),
            "roll back": lambda: manager.rollback(because=why),
            "and back again": lambda: manager.rollback(because=why),
        }
        rows = []
        for name, step in steps.items():
            try:
                promotion = step()
                refused = promotion is not None and not promotion.promoted
                note = "; ".join(promotion.reasons) if refused else ""
            except WorkbookError as error:
                note = str(error)
            route = manager.route()
            serves = {"serves": route.version or "nothing", "previous": route.previous or "-"}
            rows.append({"step": name, **serves, "generation": route.generation, "note": note})
    return rows


def reconcile() -> dict[str, Any]:
    """Repair everything that follows the database, and say what a person has to look at."""
    registry = open_registry()
    catch_up(registry)
    rows = registry.rows("outbox") if channels() else []  # without a channel nobody waits
    waiting = [row for row in rows if row["sent_at"] is None]
    problems = [
        f"event {row['event_id']} did not reach every channel in {MAX_ATTEMPTS} attempts"
        for row in waiting
        if row["attempts"] >= MAX_ATTEMPTS
    ]
    for route in registry.rows("routes"):
        for role in ("version", "previous"):
            for version in versions.listed(registry, id=route[role]):
                problems += [
                    f"{route['task']}, {role} {version.id}: {rule.evidence}"
                    for rule in gate.can_serve_again(version)
                    if rule.verdict == "fail"
                ]
    return {"waiting": len(waiting), "mirrored": mirror_versions(registry), "problems": problems}
