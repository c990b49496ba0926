"""What the command line and notebook 05 ask for, by a version's id alone.

Versions, history and routes; lineage, differences, re-evaluation, a rehearsal, backup, repair.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers import evaluate, store, tasks
from helpers.records import (
    Alarm,
    Budget,
    DatasetPointer,
    FineTunedModelVersion,
    Manifest,
    Promotion,
    Route,
    RunRecord,
    Target,
    TrainedModel,
    WorkbookError,
)
from helpers.registry import gate, sharing, versions
from helpers.registry.alarms import list_alarms
from helpers.registry.database import TABLES, Registry, open_registry, rows_of, table
from helpers.registry.delivery import (
    MAX_ATTEMPTS,
    catch_up,
    channels,
    mirror_versions,
    publish_routes,
)
from helpers.registry.files import load_or_reason, reevaluation, tuned_answers
from helpers.registry.identity import check_is_ours, remember
from helpers.registry.lifecycle import FineTuneLifecycleManager

BACKUP = "registry of the fine-tuning workbook"
log = logging.getLogger(__name__)


def list_versions(task: str = "") -> list[FineTunedModelVersion]:
    """All versions (of one task, if named), newest first."""
    return versions.listed(_known(), **_where(task))


def history(task: str = "") -> list[dict[str, Any]]:
    """The audit, oldest first (of one task, if named)."""
    return _known().rows("audit", **_where(task))


def alarms_of(task: str = "") -> list[Alarm]:
    """What was found about versions that serve, oldest first (of one task, if named)."""
    return list_alarms(**_where(task))


def _known() -> Registry:
    """The home's registry; one that lost what this home knows of is not read as an empty one."""
    registry = open_registry()
    check_is_ours(registry)
    return registry


def show(version_id: str) -> dict[str, Any]:
    """One version with its history and, when it serves, its route."""
    manager = manager_of(version_id)
    route = manager.route()
    return {
        "version": manager.get_version(version_id),
        "history": open_registry().rows("audit", version=version_id),
        "route": route if route.version == version_id else None,
    }


def promote(version_id: str, target: Target, because: str = "", force: bool = False) -> Promotion:
    """Take a version through the gate; `verdict` and `promoted` say what happened."""
    return manager_of(version_id).promote(version_id, target, because, force)


def rollback(version_id: str | None = None, task: str = "", because: str = "") -> Promotion:
    """Serve an earlier version again; its id, or there being only one task, tells the task."""
    if version_id and not task:
        manager = manager_of(version_id)
    else:
        manager = FineTuneLifecycleManager(_resolve(task))
    return manager.rollback(version_id, because)


def export(version_id: str, form: str, to: Path | None = None) -> dict[str, str]:
    """Write a version as adapter, merged model or GGUF beside its adapter, or into the folder `to`.

    What is there under the same name is not overwritten.
    """
    from helpers.train import export_model

    version = versions.version_of(version_id)
    sharing.bring(version)
    path = export_model(store.Run(version.run_id).load(TrainedModel), form)
    if to is not None:
        target = to / f"{version_id}-{path.name}"
        if target.exists() or to.is_file():
            there = to if to.is_file() else target
            raise WorkbookError(f"{there} is there already; name another folder, or remove it")
        to.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if path.is_dir() else shutil.copy2
        path = Path(copy(path, target))
    return {"version": version_id, "form": form, "path": str(path)}


def routes() -> dict[str, dict[str, Any]]:
    """The production routes: the content of routes.json, repaired if it was missing or stale."""
    return publish_routes(open_registry())


def manager_of(version_id: str) -> FineTuneLifecycleManager:
    """The manager of the task that a version belongs to."""
    return FineTuneLifecycleManager(versions.version_of(version_id).task)


def _where(task: str) -> dict[str, str]:
    return {"task": _resolve(task)} if task else {}


def _resolve(task: str) -> str:
    """A task's registered name, with or without its demo/; "" is the only one there is."""
    of_versions = {each.task for each in versions.listed(open_registry())}
    known = sorted(of_versions | {each.task for each in list_alarms()})
    if task in known:
        return task
    matches = [name for name in known if name == f"demo/{task}"] if task else [*of_versions]
    if len(matches) != 1:
        raise WorkbookError(
            f"--task {task!r} does not name one task; known tasks are {', '.join(known) or 'none'}"
        )
    return matches[0]


def lineage(version_id: str) -> list[dict[str, Any]]:
    """Where a version comes from and what became of it, in time order: from data to route."""
    manager = manager_of(version_id)
    version = manager.get_version(version_id)
    route = manager.route()
    history = open_registry().rows("audit", version=version_id)
    changes = [entry for entry in history if entry["to_status"] != entry["from_status"]]
    steps = [_data_step(version), _run_step(store.Run(version.run_id), changes[0]["at"])]
    began = version.trained_at.isoformat()
    steps.append(_step("model", version.model_id, began, f"from {version.base_model}"))
    if version.eval_results:
        facts = version.metadata
        what = f"evaluation.json {facts.get('evaluation_sha256', '')[:8]}"
        accuracy = f"accuracy {version.eval_results.accuracy}"
        steps.append(_step("evaluation", what, facts.get("evaluated_at", ""), accuracy))
    steps += [
        _step(entry["action"], entry["to_status"], entry["at"], entry["because"])
        for entry in changes
        if entry["to_status"] in ("staging", "production", "deprecated")
    ]
    if route.version == version_id:
        what = f"generation {route.generation}"
        steps.append(_step("route", what, route.since, f"serves {manager.task} now"))
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
    ours = _facts(versions.version_of(one))
    theirs = _facts(versions.version_of(other))
    rows = [
        {"field": name, "a": str(ours.get(name, "")), "b": str(theirs.get(name, ""))}
        for name in ours | theirs
    ]
    return [row for row in rows if row["a"] != row["b"]]


def _facts(version: FineTunedModelVersion) -> dict[str, Any]:
    facts = version.model_dump(exclude={"metadata", "eval_results"}) | version.metadata
    facts |= facts.pop("fingerprints", {}) | dict(version.eval_results or {})
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
    the_task = tasks.load_task(task or manager.task.removeprefix("demo/"))
    known = tuned_answers(run)
    rows = evaluate.choose_rows(the_task, dataset.examples, "test")
    rows = [row for row in rows if row.id in known]
    model = store.Run(incumbent.run_id).load(TrainedModel)
    evaluate.check_fingerprints(model, the_task, model.dataset_version, evaluate.REPLACE_UNCOMPARED)
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
        return {name: rows_of(db, name) for name in TABLES}


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
    is_known = file.is_file() and _is_backup(store.read_json(file, "choose another file"))
    if file.exists() and not is_known:
        raise WorkbookError(f"{file} exists and is no backup of a registry; choose another file")
    rows = dump(open_registry())
    store.write_json(file, {"format": BACKUP, "made_at": store.now(), "tables": rows})
    return _counts(file, rows)


def restore(file: Path) -> dict[str, Any]:
    """Fill an empty registry from a backup.

    Artifacts are not part of it; the gate will miss those that are gone.
    """
    from sqlalchemy.exc import StatementError

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
        load(registry, rows)
    except (ValueError, KeyError, TypeError, StatementError):
        raise WorkbookError(
            f"{file} holds a version, a route or another row that is none; nothing was restored"
        ) from None
    remember(registry, restored_from=str(file))
    catch_up(registry)
    return _counts(file, rows)


def _is_backup(content: Any) -> bool:
    """Whether a file's JSON is a backup whose columns this workbook knows."""
    try:
        tables = content["tables"]
        return content["format"] == BACKUP and all(
            row.keys() <= set(columns.split())
            for name, columns in TABLES.items()
            for row in tables.get(name, [])
        )
    except (AttributeError, KeyError, TypeError):
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


def record_attempt(task: str, attempt: dict[str, Any]) -> list[dict[str, Any]]:
    """Write an attempt down unless its key is known; all of the task's, in their order.

    It is one transaction: of two machines that evaluate at once, one is the first and the other the
    second. What this home kept in attempts/TASK.jsonl, as 0.1.0 did, comes first.
    """
    registry = open_registry()
    file = registry.folder / "attempts" / f"{task}.jsonl"
    with registry.transaction() as db:
        for line in [*(store.read_jsonl(file) if file.exists() else []), attempt]:
            if not rows_of(db, "attempts", task=task, key=line["key"]):
                db.execute(table("attempts").insert().values(line | {"task": task}))
        return rows_of(db, "attempts", task=task)
