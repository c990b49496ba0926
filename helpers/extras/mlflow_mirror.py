"""An optional projection into MLflow: versions as model versions, and the alias `production`. MLflow decides nothing.

Switched on by WORKBOOK_MLFLOW_URI; best effort after a commit, and repaired by `workbook registry reconcile`.
"""

from __future__ import annotations

import os
from typing import Any

from helpers import store
from helpers.records import FineTunedModelVersion, WorkbookError
from helpers.registry import versions
from helpers.registry.database import Registry

EXPERIMENT = "fine-tuning-workbook"


def mirror(registry: Registry) -> list[str]:
    """Bring MLflow up to date with the registry; returns what was changed there, or why nothing could be."""
    uri = os.environ.get("WORKBOOK_MLFLOW_URI", "")
    if not uri:
        return []
    if "://" not in uri or (uri.startswith("sqlite:///") and not uri.startswith("sqlite:////")):
        raise WorkbookError(
            "WORKBOOK_MLFLOW_URI has to be absolute (https://…, sqlite:////…): a relative one makes new databases"
        )
    os.environ |= {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }  # read when it is imported
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        return ['MLflow is not installed: pip install -e ".[mlflow]"']
    try:
        client, done = MlflowClient(uri, uri), []
        found = client.get_experiment_by_name(EXPERIMENT)
        files = (
            None if uri.startswith("http") else (store.home() / "mlflow").as_uri()
        )  # else they go to the caller's folder
        experiment = found.experiment_id if found else client.create_experiment(EXPERIMENT, files)
        everything = [version for version in versions.listed(registry) if version.eval_results]
        for task in sorted({version.task for version in everything}):
            name, known = task.replace("/", "."), {}  # MLflow forbids slashes
            if not client.search_registered_models(f"name = '{name}'"):
                client.create_registered_model(name)
            for there in client.search_model_versions(f"name = '{name}'"):
                known[there.tags.get("workbook_version")] = there.version
            for version in reversed(everything):  # oldest first, as MLflow numbers them
                if version.task == task and version.id not in known:
                    known[version.id] = _add_version(client, experiment, name, version)
                    done.append(f"{version.id} was added")
            serving = next(
                (v.id for v in everything if v.task == task and v.status == "production"), None
            )
            now, target = (
                client.get_registered_model(name).aliases.get("production"),
                known.get(serving),
            )
            if str(now) != str(target):
                set_alias = (
                    client.set_registered_model_alias
                    if target
                    else client.delete_registered_model_alias
                )
                set_alias(name, "production", *([target] if target else []))
                done.append(f"{name}: production is {serving or 'nothing'}")
        return done
    except MlflowException as error:
        return [f"MLflow could not be brought up to date: {store.redact(str(error))[:200]}"]


def _add_version(client: Any, experiment: str, name: str, version: FineTunedModelVersion) -> str:
    """A run with parameters, metrics and the adapter's files, and a model version that points at it; its number."""
    run = client.create_run(
        experiment, run_name=version.run_id, tags={"workbook_version": version.id}
    ).info.run_id
    for field in ("model_id", "base_model", "dataset_version"):
        client.log_param(run, field, getattr(version, field) or "")
    for field in (
        "accuracy",
        "format_compliance",
        "latency_p50",
        "latency_p95",
        "cost_per_request",
    ):
        client.log_metric(run, field, getattr(version.eval_results, field).value)
    artifact = version.metadata.get("artifact")
    if artifact and (store.home() / artifact).is_dir():
        client.log_artifacts(run, str(store.home() / artifact), "adapter")
    client.set_terminated(run)
    tags = {"workbook_version": version.id}
    return client.create_model_version(
        name, source=f"runs:/{run}/adapter", run_id=run, tags=tags
    ).version
