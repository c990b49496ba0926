"""A JupyterLab as `make lab` starts it, on a copy of the project, and a browser that looks."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import store

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
TOKEN = "for-tests"
READY = """() => {
    const widget = window.jupyterapp && window.jupyterapp.shell.currentWidget;
    const session = widget && widget.sessionContext && widget.sessionContext.session;
    return session && session.kernel && session.kernel.status === 'idle';
}"""


# WCAG 2.1's contrast of every visible text in outputs and prose, and what a screen reader lacks
PROBLEMS = r"""() => {
    const parse = text => {
        const n = text.match(/[\d.]+/g).map(Number);
        return text.startsWith('color(srgb') ? [255 * n[0], 255 * n[1], 255 * n[2], n[3] ?? 1]
                                             : [n[0], n[1], n[2], n[3] ?? 1];
    };
    const lum = c => {
        const [r, g, b] = c.slice(0, 3).map(v => v / 255)
            .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const over = (top, under) =>
        [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat([1]);
    const ground = element => {
        const layers = [];
        for (let e = element; e; e = e.parentElement) {
            const c = parse(getComputedStyle(e).backgroundColor);
            if (c[3] > 0) layers.push(c);
            if (c[3] === 1) break;
        }
        return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
    };
    const found = new Set();
    const places = '.jp-OutputArea-output, .jp-MarkdownOutput';
    for (const area of document.querySelectorAll(places)) {
        const walker = document.createTreeWalker(area, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
            const text = walker.currentNode.textContent.trim();
            const e = walker.currentNode.parentElement;
            if (!text || e.closest('[aria-hidden=true], .jp-mod-hidden, style, script')) continue;
            if (e.closest('.highlight, .widget-button, .jupyter-button')) continue;  // Lab's own
            if (!e.getClientRects().length) continue;
            const style = getComputedStyle(e);
            const ink = parse(e.closest('svg') ? style.fill : style.color);
            const back = ground(e);
            const [hi, lo] = [lum(over(ink, back)), lum(back)].sort((a, b) => b - a);
            const ratio = (hi + 0.05) / (lo + 0.05);
            if (ratio < 4.5) found.add(`contrast ${ratio.toFixed(2)}: ${text.slice(0, 40)}`);
        }
        for (const img of area.querySelectorAll('img'))
            if (!(img.alt || '').trim()) found.add('a picture without alt text');
        for (const th of area.querySelectorAll('.jp-RenderedHTML th'))
            if (!th.scope) found.add(`a heading without scope: ${th.textContent.slice(0, 30)}`);
        for (const box of area.querySelectorAll('select, textarea, input')) {
            const label = [...(box.labels || [])].map(l => l.textContent.trim()).join('');
            if (!label && !box.getAttribute('aria-label') && !box.title && !box.placeholder)
                found.add(`a ${box.tagName.toLowerCase()} without a label`);
        }
    }
    return [...found];
}"""


class Lab:
    """One running JupyterLab: where it serves, and the folder that it shows."""

    def __init__(self, folder: Path, port: int, browser: Any) -> None:
        self.folder = folder
        self.port = port
        self.browser = browser

    def address(self, place: str) -> str:
        """Where the server shows it."""
        return f"http://127.0.0.1:{self.port}/{place}?token={TOKEN}"

    def open(self, path: str, width: int = 1300) -> Any:
        """A page with the notebook, its kernel ready."""
        page = self.browser.new_page(viewport={"width": width, "height": 1000})
        page.set_default_timeout(240_000)
        page.goto(self.address(f"lab/tree/{path}") + "&reset")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.wait_for_function(READY)
        return page

    def run_all(self, page: Any) -> None:
        """Run All Cells, wait for the last, and save."""
        for command in ("notebook:run-all-cells", "docmanager:save"):
            page.evaluate(f"() => window.jupyterapp.commands.execute('{command}')")

    def theme(self, page: Any, name: str) -> None:
        """JupyterLab Light, or JupyterLab Dark."""
        change = f"'apputils:change-theme', {{theme: 'JupyterLab {name}'}}"
        page.evaluate(f"() => window.jupyterapp.commands.execute({change})")
        light = str(name == "Light").lower()
        page.wait_for_function(f"() => document.body.dataset.jpThemeLight === '{light}'")

    def problems(self, page: Any) -> list[str]:
        """Letters that are too pale, pictures without words, headings and boxes without labels."""
        return page.evaluate(PROBLEMS)

    def git_status(self) -> str:
        """What git says of the folder."""
        return subprocess.run(
            ["git", "status", "--short"], cwd=self.folder, capture_output=True, text=True
        ).stdout


def command_of_make_lab(folder: Path) -> list[str]:
    """What `make lab` would run, without its setting anything up; its workspace is put in place."""
    text = subprocess.run(
        ["make", "-n", "lab", f"VENV={Path(sys.executable).parents[1]}"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.replace("\\\n", " ")
    workspace = next(line for line in text.splitlines() if "docs/lab" in line)
    subprocess.run(["bash", "-c", workspace], cwd=folder, check=True)
    line = next(line for line in text.splitlines() if "jupyter lab" in line)
    _, *arguments = line.split()
    return [str(Path(sys.executable).with_name("jupyter")), *arguments]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Debian's chromium, one for all tests of a process."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("chromium is not installed (Debian: apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> Callable[..., list[str]]:
    """What axe-core finds serious or critical on a page, or in a part of it."""
    module = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is missing")

    def look(page: Any, part: str | None = None) -> list[str]:
        found = []
        for violation in module.Axe().run(page, context=part).response["violations"]:
            if violation["impact"] in ("serious", "critical"):
                nodes = [node["html"][:160] for node in violation["nodes"][:3]]
                found.append(f"{violation['id']}, {len(violation['nodes'])} times: {nodes}")
        return found

    return look


@pytest.fixture(scope="session")
def lab(tmp_path_factory, browser) -> Iterator[Lab]:
    if subprocess.run(["git", "rev-parse"], cwd=store.PROJECT, capture_output=True).returncode:
        pytest.skip("the copy is made by git, and this is no checkout")
    folder = tmp_path_factory.mktemp("lab") / "project"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=store.PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, files):
        source = store.PROJECT / name
        if source.is_file():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    clean = f"'{sys.executable}' helpers/learn/clean.py"
    for command in (
        ["init", "-q"],
        ["config", "filter.workbook.clean", clean],
        ["add", "-A"],
        ["-c", "user.email=a@b", "-c", "user.name=a", "commit", "-qm", "first"],
    ):
        subprocess.run(["git", *command], cwd=folder, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = folder.parent
    environment = os.environ | {
        "PYTHONPATH": str(folder),
        "WORKBOOK_HOME": str(folder / "artifacts"),
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    environment.pop("WORKBOOK_HEADLESS", None)
    options = [
        "--allow-root",
        "--no-browser",
        f"--port={port}",
        f"--IdentityProvider.token={TOKEN}",
    ]
    options.append("--LabApp.expose_app_in_browser=True")
    log = open(home / "lab.log", "w")  # noqa: SIM115 (as long as the server writes to it)
    server = subprocess.Popen(
        [*command_of_make_lab(folder), *options],
        cwd=folder,
        env=environment,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        _wait_for(port, server, home / "lab.log")
        yield Lab(folder, port, browser)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()


def _wait_for(port: int, server: subprocess.Popen, log: Path) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={TOKEN}", timeout=2)
            return
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"JupyterLab did not start: {log.read_text()[-2000:]}")
