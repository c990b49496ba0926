"""The team's store: what is named is there, whole and unchanged, whatever was killed."""

from __future__ import annotations

import shutil

import pytest
import registry_toys
from s3_toy import Bucket

from helpers import registry, store
from helpers.extras import stores
from helpers.records import WorkbookError
from helpers.registry.files import artifact_sha256


@pytest.fixture(params=["folder", "s3"])
def place(request, tmp_path, monkeypatch):
    """WORKBOOK_STORE, once a folder and once a bucket on loopback."""
    if request.param == "folder":
        (tmp_path / "der Speicher").mkdir()
        monkeypatch.setenv("WORKBOOK_STORE", str(tmp_path / "der Speicher"))
        yield tmp_path / "der Speicher"
        return
    bucket = Bucket()
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.url)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("WORKBOOK_STORE", "s3://team/workbook")
    yield None
    bucket.close()


@pytest.fixture
def team(tmp_path, monkeypatch):
    """Makes the machine `name` this one; all share a registry."""
    monkeypatch.setenv("WORKBOOK_DATABASE_URL", f"sqlite:///{tmp_path / 'team.db'}")

    def be(name):
        monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / name))

    be("a")
    return be


def test_another_machine_promotes_serves_and_rolls_back_what_the_first_one_trained(
    place, team, tmp_path
):
    for name in ("v1", "v2"):
        registry_toys.candidate(name)
    team("b")
    manager = registry.FineTuneLifecycleManager("toy")
    assert manager.promote("v1", "production").promoted
    assert manager.promote("v2", "production", "force of the test", force=True).promoted
    shutil.rmtree(tmp_path / "a")  # A's disk is lost
    team("c")
    registry.check_files(registry.version_of("v2"))
    assert manager.rollback().version == "v1"
    assert (store.home() / "models/v1/adapter/adapter_model.safetensors").exists()
    assert registry.fetch("v2").metadata["store"].keys() == {"artifact", "run", "dataset"}
    assert store.Run("run-v2").has("answers/fine_tuned.jsonl")


def test_a_tree_comes_back_as_it_was_and_an_unchanged_file_is_written_once(place, team):
    folder = store.home() / "datasets" / "d1"
    store.write_text(folder / "train.jsonl", "a\n")
    store.write_text(folder / "deep" / "test.jsonl", "b\n")
    tree = stores.upload(folder, folder.rglob("*.jsonl"))
    assert tree == artifact_sha256("datasets/d1")
    copy = store.home() / "copy"
    stores.download(tree, copy)
    assert (copy / "deep" / "test.jsonl").read_text() == "b\n"
    (copy / "train.jsonl").unlink()
    stores.download(tree, copy)  # only what is missing
    assert (copy / "train.jsonl").read_text() == "a\n"
    if place is not None:
        objects = {path: path.stat().st_mtime_ns for path in place.rglob("*") if path.is_file()}
        store.write_text(folder / "train.jsonl", "c\n")
        assert stores.upload(folder, folder.rglob("*.jsonl")) != tree
        assert all(path.stat().st_mtime_ns == when for path, when in objects.items())
        assert sum(path.is_file() for path in place.rglob("*")) == len(objects) + 2


def test_a_torn_or_missing_object_is_refused_by_name_and_nothing_appears(place, team):
    if place is None:
        pytest.skip("a bucket's objects are whole or not there")
    registry_toys.candidate("v1")
    weights = store.sha256_file(store.home() / "models/v1/adapter/adapter_model.safetensors")
    thing = place / "objects" / weights[:2] / weights
    content = thing.read_bytes()
    team("b")
    thing.write_bytes(content[:-1] + b"X")
    with pytest.raises(WorkbookError, match="is not what its name says"):
        registry.fetch("v1")
    thing.unlink()
    with pytest.raises(WorkbookError, match="is missing in the store"):
        registry.check_files(registry.version_of("v1"))
    assert not (store.home() / "models/v1/adapter").exists()
    thing.write_bytes(content)
    registry.check_files(registry.version_of("v1"))


def test_a_tree_cannot_write_outside_its_folder(place, team):
    file = store.write_text(store.home() / "x", "x")
    store.make_folder(store.home() / "deep")
    tree = stores.upload(store.home() / "deep", [])
    entries = [["../outside", store.sha256_file(file)]]
    name = store.fingerprint(entries)
    if place is None:
        pytest.skip("the same code")
    stores.upload(store.home(), [file])
    (place / "trees" / f"{name}.json").write_text(store.canonical(entries))
    with pytest.raises(WorkbookError, match="outside its folder"):
        stores.download(name, store.home() / "new")
    assert tree and not (store.home() / "outside").exists()


def test_a_store_that_cannot_be_reached_is_one_sentence(team, monkeypatch, tmp_path):
    registry_toys.candidate("v1")
    with pytest.raises(WorkbookError, match="was not shared"):
        registry.fetch("v1")
    models = store.home() / "models"
    monkeypatch.setenv("WORKBOOK_STORE", "nonsense://x")
    with pytest.raises(WorkbookError, match="cannot be used"):
        stores.upload(models, models.rglob("*.safe*"))


def test_a_store_that_is_not_mounted_is_named_and_not_made(team, monkeypatch, tmp_path):
    registry_toys.candidate("v1")
    models, place = store.home() / "models", tmp_path / "mnt" / "team"
    for address in (str(place), place.as_uri()):
        monkeypatch.setenv("WORKBOOK_STORE", address)
        for act in (
            lambda: stores.upload(models, models.rglob("*.safe*")),
            lambda: stores.download("0" * 64, store.home() / "new"),
        ):
            with pytest.raises(WorkbookError, match=f"is it mounted.*mkdir -p '{place}'"):
                act()
    assert not place.parent.exists() and not (store.home() / "new").exists()


def test_what_killed_downloads_left_goes_and_is_told_and_nothing_of_others_goes(
    place, team, caplog
):
    folder = store.home() / "datasets" / "d1"
    store.write_text(folder / "train.jsonl", "a\n")
    tree = stores.upload(folder, folder.rglob("*.jsonl"))
    copies = store.home() / "copies"
    for name in (".copy.fetch", ".copy.partial"):  # the second is of 0.1.0
        store.write_text(copies / name / "stray.jsonl", "torn")
    others = {".copy.99999999.partial", ".other.fetch"}  # another container's pid; another folder
    for name in others:
        store.write_text(copies / name / "train.jsonl", "being written")
    stores.download(tree, copies / "copy")
    assert [path.name for path in (copies / "copy").iterdir()] == ["train.jsonl"]
    assert {path.name for path in copies.glob(".*")} == others
    assert ".copy.fetch" in caplog.text and ".copy.partial" in caplog.text
