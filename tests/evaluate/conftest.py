import pytest
from evaluate_toys import toy_task

from helpers import store


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("WORKBOOK_LOCK_HELD", raising=False)
    return (tmp_path / "home").resolve()


@pytest.fixture
def task(tmp_path):
    return toy_task(tmp_path)


@pytest.fixture
def run():
    return store.open_run("t1")
