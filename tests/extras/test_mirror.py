"""The optional mirror in MLflow: what serves carries the alias; it never stops anything."""

import os
import sys
from pathlib import Path

import pytest

from helpers import registry
from helpers.records import WorkbookError

sys.path.append(str(Path(__file__).parents[1] / "registry"))
from registry_toys import candidate, home  # noqa: F401 (home: a fixture)


@pytest.fixture
def client(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    MlflowClient = pytest.importorskip(
        "mlflow", reason="the extra mlflow is not installed"
    ).MlflowClient
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("WORKBOOK_MLFLOW_URI", uri)
    return MlflowClient(uri, uri)


def alias(client):
    number = client.get_registered_model("toy").aliases.get("production")
    return number and client.get_model_version("toy", number).tags["workbook_version"]


def test_the_alias_follows_promotion_and_rollback_and_is_repaired(client):
    for name in ("v1", "v2"):
        manager = candidate(name)
        manager.promote(name, "production")
        assert alias(client) == name
    manager.rollback(because="drill")
    assert alias(client) == "v1"
    run = client.get_run(client.get_model_version_by_alias("toy", "production").run_id)
    assert (run.data.metrics["accuracy"], run.data.tags["workbook_version"], run.info.status) == (
        0.8,
        "v1",
        "FINISHED",
    )
    assert [f.path for f in client.list_artifacts(run.info.run_id, "adapter")] == [
        "adapter/adapter_model.safetensors"
    ]
    assert list(Path.cwd().iterdir()) == []  # nothing is written to the folder of the caller
    client.delete_registered_model_alias("toy", "production")
    assert registry.reconcile()["mirrored"] == ["toy: production is v1"]
    assert (alias(client), registry.reconcile()["mirrored"]) == ("v1", [])
    manager.set_status("v1", "deprecated", "end of life")
    assert alias(client) is None
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_mirror_that_cannot_be_reached_never_stops_a_promotion(monkeypatch):
    monkeypatch.setenv("WORKBOOK_MLFLOW_URI", "mlflow.db")
    assert candidate("v1").promote("v1", "production").promoted
    with pytest.raises(WorkbookError, match="has to be absolute"):
        registry.reconcile()


def test_without_mlflow_the_mirror_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setenv("WORKBOOK_MLFLOW_URI", "sqlite:////tmp/never-made.db")
    assert candidate("v1").promote("v1", "production").promoted
    assert registry.reconcile()["mirrored"] == [
        'MLflow is not installed: pip install -e ".[mlflow]"'
    ]
