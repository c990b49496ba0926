"""The gateway's page in a real browser: ask, see the version, rate, correct; in both themes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path += [str(TESTS / "registry"), str(TESTS / "serve")]  # the toys of both

from registry_toys import home  # noqa: E402, F401
from serve_toys import ToyEngine, gateway, log_of, register, running, until  # noqa: E402


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_person_asks_rates_and_corrects_and_it_is_in_the_log(home, browser, axe, theme):  # noqa: F811
    register("v1", "production")
    page = browser.new_page(color_scheme=theme)
    troubles = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda line: troubles.append(line.text) if line.type == "error" else None)
    with running(ToyEngine().app) as engine, gateway(f"{engine}/v1") as (address, _):
        page.goto(address)
        until(lambda: page.input_value("#model") == "toy", 60)  # the page's policy forbids eval
        page.get_by_label("Message").fill("My hub is offline")
        page.get_by_role("button", name="Ask").click()
        page.get_by_text("v1 My hub is offline").wait_for()
        assert "production" in page.inner_text("#stamp") and "v1" in page.inner_text("#stamp")
        page.get_by_role("button", name="Bad").click()
        page.get_by_text("it is in the log").wait_for()
        page.get_by_label("What it should have answered").fill("Restart it")
        page.get_by_role("button", name="Send correction").click()
        until(lambda: [row.correction for row in log_of()] == ["Restart it"], 60)
        assert axe(page) == []
        assert troubles == []
    assert log_of()[0].feedback_score == 1
    page.close()
