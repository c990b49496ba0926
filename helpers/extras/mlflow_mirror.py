"""An optional projection into MLflow: versions as model versions, and the alias `production`.

Switched on by WORKBOOK_MLFLOW_URI; best effort after a commit, and repaired by `workbook registry
reconcile`. MLflow decides nothing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from helpers import store
from helpers.records import FineTunedModelVersion, WorkbookError

EXPERIMENT = "fine-tuning-workbook"
METRICS = ("accuracy", "format_compliance", "latency_p50", "latency_p95", "cost_per_request")


def mirror(versions: Sequence[FineTunedModelVersion]) -> list[str]:
    """Bring MLflow up to date with the registry's versions, newest first.

    Returns what was changed there, or why nothing could be.
    """
    uri = os.environ.get("WORKBOOK_MLFLOW_URI", "")
    if not uri:
        return []
    is_relative_file = uri.startswith("sqlite:///") and not uri.startswith("sqlite:////")
    if "://" not in uri or is_relative_file:
        raise WorkbookError(
            "WORKBOOK_MLFLOW_URI has to be absolute (https://…, sqlite:////…):"
            " a relative one makes new databases"
        )
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when mlflow is imported
    os.environ["DO_NOT_TRACK"] = "true"
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError:
        return ['MLflow is not installed: pip install -e ".[mlflow]"']
    measured = [version for version in versions if version.eval_results]
    changes = []
    try:
        client = MlflowClient(uri, uri)
        known = client.get_experiment_by_name(EXPERIMENT)
        # without a server the files would go to the caller's folder
        files = None if uri.startswith("http") else (store.home() / "mlflow").as_uri()
        experiment = known.experiment_id if known else client.create_experiment(EXPERIMENT, files)
        for task in sorted({version.task for version in measured}):
            changes += _mirror_task(client, experiment, task, measured)
    except MlflowException as error:
        return [f"MLflow could not be brought up to date: {store.redact(str(error))[:200]}"]
    return changes


def _mirror_task(
    client: Any, experiment: str, task: str, versions: Sequence[FineTunedModelVersion]
) -> list[str]:
    """Add one task's missing versions and move its alias; what was changed."""
    versions = [version for version in versions if version.task == task]
    name = task.replace("/", ".")  # MLflow forbids slashes
    changes = []
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    there = client.search_model_versions(f"name = '{name}'")
    numbers = {each.tags.get("workbook_version"): each.version for each in there}
    for version in reversed(versions):  # oldest first, as MLflow numbers them
        if version.id not in numbers:
            numbers[version.id] = _add_version(client, experiment, name, version)
            changes.append(f"{version.id} was added")
    serving = next((v.id for v in versions if v.status == "production"), None)
    number = numbers.get(serving)
    aliased = client.get_registered_model(name).aliases.get("production")
    if str(aliased) == str(number):
        return changes
    if number:
        client.set_registered_model_alias(name, "production", number)
    else:
        client.delete_registered_model_alias(name, "production")
    return [*changes, f"{name}: production is {serving or 'nothing'}"]


def _add_version(client: Any, experiment: str, name: str, version: FineTunedModelVersion) -> str:
    """A run with parameters, metrics and the adapter's files, and a model version of it.

    Returns MLflow's number of the version.
    """
    tags = {"workbook_version": version.id}
    run = client.create_run(experiment, run_name=version.run_id, tags=tags).info.run_id
    for field in ("model_id", "base_model", "dataset_version"):
        client.log_param(run, field, getattr(version, field) or "")
    for field in METRICS:
        client.log_metric(run, field, getattr(version.eval_results, field).value)
    artifact = version.metadata.get("artifact")
    if artifact and (store.home() / artifact).is_dir():
        client.log_artifacts(run, str(store.home() / artifact), "adapter")
    client.set_terminated(run)
    source = f"runs:/{run}/adapter"
    return client.create_model_version(name, source=source, run_id=run, tags=tags).version
