"""The pictures of docs/gallery.md, taken from a run's executed notebooks.

`python docs/book/gallery.py [RUN]`; without RUN it takes the last finished run that has every
notebook of the main line. The rendered rows are HTML, so Chromium draws them, once in the colours
of each of JupyterLab's themes. Look at each picture before you commit it: what the page says of
them is written by hand.
"""

from __future__ import annotations

import argparse
import base64
import shutil
import sys
from collections.abc import Iterator
from typing import Any

from make import DOCS, choose_run

from helpers import store
from helpers.records import WorkbookError

IMAGES = DOCS / "images"
FIGURES = {  # picture: notebook, and what its cell calls
    "ladder": ("01_decide", "views.ladder("),
    "funnel": ("02_curate", "views.funnel_figure("),
    "loss": ("03a_train_lora", "views.loss_figure("),
    "comparison": ("04_evaluate", "views.comparison("),
    "confusion": ("04_evaluate", "views.confusion("),
    "quality": ("06_monitor", "views.daily_quality("),
}
ROWS = ("03a_train_lora", "views.seen_rows(")
THEMES = {"rows": ("#ffffff", "#000000de"), "rows_dark": ("#111111", "#ffffff")}
PAGE = """<body style="margin:0;background:{};color:{};font:14px/1.5 system-ui,sans-serif">
<style>pre {{font:13px/1.3 monospace}}</style><div style="width:760px;padding:8px">{}</div>"""


def outputs(run_id: str, notebook: str, call: str) -> Iterator[dict[str, Any]]:
    """By MIME type, what the cell with this call showed."""
    path = store.Run(run_id).path("notebooks") / f"{notebook}.ipynb"
    for cell in store.read_json(path)["cells"]:
        if cell["cell_type"] == "code" and call in "".join(cell["source"]):
            for output in cell["outputs"]:
                if "data" in output:
                    yield output["data"]


def draw_rows(page: str) -> None:
    """The first of the rendered rows as pictures, in both themes."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise WorkbookError("chromium is not installed (Debian: apt-get install chromium)")
    first = "</pre>".join(page.split("</pre>")[:2]) + "</pre>"
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, colours in THEMES.items():
            tab = browser.new_page(viewport={"width": 776, "height": 200})
            tab.set_content(PAGE.format(*colours, first))
            tab.locator("div").first.screenshot(path=str(IMAGES / f"{name}.png"))
        browser.close()


def main() -> None:
    """Write every picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="", help="a run's id; else the last finished one")
    try:
        run_id = choose_run(parser.parse_args().run).run_id
        for name, place in FIGURES.items():
            [picture] = [
                data["image/png"] for data in outputs(run_id, *place) if "image/png" in data
            ]
            (IMAGES / f"{name}.png").write_bytes(base64.b64decode(picture))
        [rows] = [data["text/html"] for data in outputs(run_id, *ROWS)]
        draw_rows("".join(rows))
    except WorkbookError as error:
        sys.exit(f"{error}")
    sys.stdout.write(f"pictures of run {run_id} are in {IMAGES}\n")


if __name__ == "__main__":
    main()
