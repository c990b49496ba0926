"""Around the life of versions: lineage, differences, a rehearsal on a copy, backup and restore, repair."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from helpers import evaluate, store, tasks
from helpers.evaluate.running import run_rung
from helpers.records import FineTunedModelVersion, WorkbookError
from helpers.registry import gate, mirror, versions
from helpers.registry.database import TABLES, Registry, open_registry, table
from helpers.registry.delivery import MAX_ATTEMPTS, catch_up
from helpers.registry.lifecycle import FineTuneLifecycleManager, manager_of

BACKUP = "registry of the fine-tuning workbook"


def lineage(version_id: str) -> list[dict[str, Any]]:
    """Where a version comes from and what became of it, in time order: data -> run -> model -> evaluation -> route."""
    manager = manager_of(version_id)
    version, route = manager.get_version(version_id), manager.route()
    run, known = store.Run(version.run_id), version.metadata
    manifest = store.home() / "datasets" / (version.dataset_version or "-") / "manifest.json"
    data = store.read_json(manifest) if manifest.exists() else {}
    parts = ", ".join(f"{part} {n}" for part, n in data.get("splits", {}).items())
    ran = run.read("run.json") if run.has("run.json") else {}
    told = [
        h
        for h in manager.history()
        if h["version"] == version_id and h["to_status"] != h["from_status"]
    ]
    decided = [h for h in told if h["to_status"] in ("staging", "production", "deprecated")]
    rows = [
        (
            "data",
            version.dataset_version,
            data.get("created_at", ""),
            parts or "its manifest is gone",
        ),
        (
            "run",
            run.id,
            ran.get("started_at", told[0]["at"]),
            f"profile {ran.get('profile', 'by hand')}",
        ),
        ("model", version.model_id, version.trained_at.isoformat(), f"from {version.base_model}"),
    ]
    if results := version.eval_results:
        sha256 = f"evaluation.json {known.get('evaluation_sha256', '')[:8]}"
        rows.append(
            ("evaluation", sha256, known.get("evaluated_at", ""), f"accuracy {results.accuracy}")
        )
    rows += [(h["action"], h["to_status"], h["at"], h["because"]) for h in decided]
    if route["version"] == version_id:
        rows.append(
            (
                "route",
                f"generation {route['generation']}",
                route["since"],
                f"serves {manager.task} now",
            )
        )
    return [
        dict(zip(("step", "what", "when", "detail"), row, strict=True)) for row in rows if row[1]
    ]


def diff(one: str, other: str) -> list[dict[str, str]]:
    """{field, a, b} wherever two versions differ: data, settings, fingerprints, scores, status."""
    facts = [_facts(manager_of(name).get_version(name)) for name in (one, other)]
    rows = [
        {"field": name, "a": str(facts[0].get(name, "")), "b": str(facts[1].get(name, ""))}
        for name in facts[0] | facts[1]
    ]
    return [row for row in rows if row["a"] != row["b"]]


def _facts(version: FineTunedModelVersion) -> dict[str, Any]:
    run = store.Run(version.run_id)
    model = run.read("model.json") if run.has("model.json") else {}
    facts = (
        dict(version)
        | version.metadata
        | version.metadata.get("fingerprints", {})
        | dict(version.eval_results or {})
    )
    facts |= {
        f"hyperparameters.{name}": value for name, value in model.get("hyperparameters", {}).items()
    }
    return {
        name: value
        for name, value in facts.items()
        if name not in ("metadata", "fingerprints", "eval_results")
    }


def reevaluate(version_id: str, task: str = "", say: Any = None, **settings: Any) -> dict[str, Any]:
    """Ask the version in production about the test rows of another version, so that the gate can compare the two.

    `task` is the task's name or folder, where it is not a shipped one. The answers stay beside the runs.
    """
    manager = manager_of(version_id)
    version, incumbent = manager.get_version(version_id), manager.get_production_version()
    if incumbent is None or incumbent.id == version.id:
        raise WorkbookError(
            f"nothing else than {version.id} is in production for {manager.task}; there is nothing to compare with"
        )
    run, the_task = (
        store.Run(version.run_id),
        tasks.load_task(task or manager.task.removeprefix("demo/")),
    )
    asked = {row["id"] for row in store.read_jsonl(run.path(gate.TUNED_ANSWERS))}
    rows = [
        e for e in evaluate.choose_rows(tasks.read_dataset(run).examples, "test") if e.id in asked
    ]
    card, where = store.Run(incumbent.run_id).read("model.json"), gate.reevaluation(run, incumbent)
    store.open_run(where.id).write("dataset.json", run.read("dataset.json"))
    settings = (
        {"style": card.get("prompt_style", "short"), "latency_rows": 0}
        | ({"say": say} if say else {})
        | settings
    )
    result = run_rung(
        evaluate.load_models(card)[1], "fine_tuned", rows, the_task, where, **settings
    )
    return {
        "version": version.id,
        "incumbent": incumbent.id,
        "n": result.n,
        "accuracy": result.results.accuracy,
    }


def dump(registry: Registry) -> dict[str, Any]:
    """All rows of a registry, at one moment."""
    with registry.transaction(read_only=True) as db:
        return {
            name: [dict(row) for row in db.execute(table(name).select()).mappings()]
            for name in TABLES
        }


def load(registry: Registry, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Put the rows of `dump` into a registry that has none."""
    with registry.transaction() as db:
        if db.execute(table("audit").select()).first() is not None:
            said = "this registry has a history of its own, which is never overwritten"
            raise WorkbookError(
                f"{said}; restore into an empty one: another WORKBOOK_HOME or WORKBOOK_DATABASE_URL"
            )
        for name in TABLES:  # versions come before the routes, which point at them
            if rows[name]:
                db.execute(table(name).insert(), rows[name])
        if db.dialect.name == "postgresql":
            for name in ("audit", "outbox"):
                db.exec_driver_sql(
                    f"SELECT setval('{name}_id_seq', (SELECT coalesce(max(id), 1) FROM {name}))"
                )


def backup(file: Path) -> dict[str, Any]:
    """Write the whole registry to one JSON file, which `restore` reads into SQLite or PostgreSQL."""
    rows = dump(open_registry())
    store.write_json(file, {"format": BACKUP, "made_at": store.now(), "tables": rows})
    return {"file": str(file)} | {name: len(rows[name]) for name in TABLES}


def restore(file: Path) -> dict[str, Any]:
    """Fill an empty registry from a backup; artifacts are not part of it, and the gate will miss those that are gone."""
    content, registry = store.read_json(file), open_registry()
    rows = (
        content.get("tables")
        if isinstance(content, dict) and content.get("format") == BACKUP
        else None
    )
    if rows is None or any(
        set(row) - set(TABLES[name].split()) for name in TABLES for row in rows.get(name, [])
    ):
        raise WorkbookError(
            f"{file} is no backup that this workbook can read; it may be of a newer one"
        )
    load(registry, {name: rows.get(name, []) for name in TABLES})
    catch_up(registry)
    return {"file": str(file)} | {name: len(rows.get(name, [])) for name in TABLES}


def rehearse(task: str, version_id: str) -> list[dict[str, Any]]:
    """On a scratch copy: put the version into production, roll back, and roll back again; what would serve after each.

    The gate is overruled there, since the drill is about the way back. A step that cannot be done says why.
    """
    with tempfile.TemporaryDirectory(prefix="registry-drill-") as folder:
        copy = Registry(f"sqlite:///{folder}/registry.db", Path(folder))
        load(copy, dump(open_registry()))
        manager = FineTuneLifecycleManager(task, copy)
        steps = {
            "now": lambda: None,
            "promote": lambda: manager.promote(version_id, "production", "rehearsal", force=True),
            "roll back": lambda: manager.rollback(because="rehearsal"),
            "and back again": lambda: manager.rollback(because="rehearsal"),
        }
        seen = []
        for name, step in steps.items():
            try:
                done = step()
                said = "; ".join(done.reasons) if done and not done.promoted else ""
            except WorkbookError as error:
                said = str(error)
            route = manager.route()
            serves = {"serves": route["version"] or "nothing", "previous": route["previous"] or "-"}
            seen.append({"step": name} | serves | {"generation": route["generation"], "note": said})
    return seen


def reconcile() -> dict[str, Any]:
    """Repair everything that follows the database, and say what a person has to look at."""
    registry = open_registry()
    catch_up(registry)
    waiting = [row for row in registry.rows("outbox") if row["sent_at"] is None]
    given_up = [row["event_id"] for row in waiting if row["attempts"] >= MAX_ATTEMPTS]
    problems = [
        f"event {event_id} did not reach every channel in {MAX_ATTEMPTS} attempts"
        for event_id in given_up
    ]
    for route in registry.rows("routes"):
        for role in ("version", "previous"):
            for version in versions.listed(registry, id=route[role]) if route[role] else ():
                stops = [
                    rule.evidence
                    for rule in gate.can_serve_again(version)
                    if rule.verdict == "fail"
                ]
                problems += [f"{route['task']}, {role} {version.id}: {said}" for said in stops]
    return {"waiting": len(waiting), "mirrored": mirror.mirror(registry), "problems": problems}
