"""The book: the executed notebooks of a run and the guides, as a site that needs no network.

`python docs/book/make.py [RUN] [--to FOLDER]`; without RUN it takes the last finished run that has
every notebook of the main line. `make book` calls it.
"""

from __future__ import annotations

import argparse
import html
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from helpers import store
from helpers.learn import clean
from helpers.learn.edition import course_notebooks
from helpers.records import Evaluation, RunRecord, WorkbookError
from helpers.run import past_runs

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent
sys.path.append(str(DOCS.parent))
from benchmarks import growth  # noqa: E402 (it is no package of ours)

MAIN_LINE = ("00_start_here", "01_decide", "02_curate", "04_evaluate", "05_registry", "06_monitor")
GUIDES = (
    "task",
    "headless",
    "serving",
    "scaling",
    "training",
    "teaching",
    "practice-api",
    "gallery",
)
REFERENCE = ("glossary", "statistics", "artifacts", "kernels", "dependencies", "decisions")
FOLDED = {"exercise": "hide-input", "parameters": "hide-input"}  # tag: what myst-nb does with it
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:|#|mailto:)([^)]+)\)")
ANCHOR = re.compile(r'^<a id="([^"]+)"></a>', re.M)
TERM_ROW = re.compile(r"^\| ([^|]+?) \| (?:[^|]*\| )?([^|]+?) \|$", re.M)


def choose_run(name: str) -> RunRecord:
    """The run that was named, or the last finished one with every notebook of the main line."""
    if name:
        run = store.Run(name)
        if not run.path(RunRecord.FILE).exists():
            raise WorkbookError(f"there is no run {name!r}; `workbook runs` lists them")
        return run.load(RunRecord)
    for record in reversed(past_runs()):
        if record.status == "finished" and all(path.exists() for path in _copies(record)):
            return record
    raise WorkbookError("no finished run has all notebooks: `make run` first, or name a run")


def _copies(record: RunRecord) -> list[Path]:
    folder = store.Run(record.run_id).path("notebooks")
    return [folder / f"{name}.ipynb" for name in MAIN_LINE]


def stage(record: RunRecord, folder: Path) -> None:
    """Write the sources of the book: notebooks, guides, and a first page."""
    shutil.rmtree(folder, ignore_errors=True)
    for path, committed in course_notebooks().items():
        copy = store.Run(record.run_id).path("notebooks") / path.name
        executed = copy.exists() and path.parent == Path()
        document = store.read_json(copy) if executed else committed
        store.write_text(folder / path, notebook_page(document, path, executed))
    for name in (*GUIDES, *REFERENCE):
        text = local_links((DOCS / f"{name}.md").read_text(encoding="utf-8"))
        if name == "glossary":
            text = glossary_page(text)
        store.write_text(folder / f"{name}.md", text)
    shutil.copytree(DOCS / "images", folder / "images")
    growth.plot(folder / "images" / growth.PICTURE.name)
    store.write_text(folder / "index.md", first_page(record))


def notebook_page(document: dict[str, Any], path: Path, executed: bool) -> str:
    """The notebook as a page of the book; one with an error in its outputs is refused."""
    cells = [cell for cell in document["cells"] if not _is_injected(cell)]
    for cell in cells:
        tags = cell["metadata"].get("tags", [])
        folds = [FOLDED[tag] for tag in tags if tag in FOLDED and "checkpoint" not in tags]
        cell["metadata"] = {"tags": [*tags, *folds]}
        if cell["cell_type"] == "markdown":
            cell["source"] = local_links(
                "".join(cell["source"]), "../" * path.as_posix().count("/")
            )
        for output in cell.get("outputs", []):
            output["metadata"] = {}
            if output["output_type"] == "error":
                raise WorkbookError(
                    f"{path}: a cell ended in {output['ename']}; choose another run"
                )
    opened = f"To open it: `make lab`, then `notebooks/{path}`."
    ran = "Executed; its outputs are those of the run." if executed else "Not run for this book."
    note = {"cell_type": "markdown", "metadata": {}, "source": f"*{opened} {ran}*"}
    metadata = {"kernelspec": clean.KERNEL, "language_info": {"name": "python"}}
    page = document | {"cells": [cells[0], note, *cells[1:]], "metadata": metadata}
    text = clean.as_text(page)
    places = {store.home(): "artifacts", Path(sys.prefix): ".venv"}
    places |= {store.PROJECT: "fine-tuning-workbook", Path.home(): "~"}
    for place, name in places.items():
        text = text.replace(str(place), name)
    return text


def _is_injected(cell: dict[str, Any]) -> bool:
    return "injected-parameters" in cell["metadata"].get("tags", [])


def local_links(text: str, up: str = "") -> str:
    """Links to other pages of the book, `up` from here; what a link outside it says is text."""

    def replace(match: re.Match[str]) -> str:
        place, mark, fragment = match[2].partition("#")
        page = Path(place).name
        if page.removesuffix(".md") in (*GUIDES, *REFERENCE):
            return f"[{match[1]}]({up}{page}{mark}{fragment})"
        return match[1] if "`" in match[1] else f"`{match[1]}`"

    return ANCHOR.sub(r"(\1)=\n", LINK.sub(replace, text))


def glossary_terms(text: str) -> dict[str, str]:
    """Word -> meaning, of every row of the glossary's tables."""
    rows = {}
    for word, meaning in TERM_ROW.findall(text):
        if word not in ("word", "---") and not meaning.startswith("--"):
            rows[word] = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", meaning).replace("`", "")
    return rows


def anchor(word: str) -> str:
    """Where the glossary explains a word."""
    return "term-" + re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")


def glossary_page(text: str) -> str:
    """The glossary with a place to link to at each word."""
    for word in glossary_terms(text):
        text = text.replace(f"| {word} |", f"| [{word}]{{#{anchor(word)}}} |", 1)
    return text


def first_page(record: RunRecord) -> str:
    """What the book is, which run it shows, and the table of contents."""
    run = store.Run(record.run_id)
    facts = [f"run `{record.run_id}`, profile `{record.profile}`, {record.started_at:%d %B %Y}"]
    if run.has(Evaluation):
        evaluation = run.load(Evaluation)
        accuracy = evaluation.comparison["accuracy"]
        facts.append(f"verdict of 04: **{evaluation.verdict}**, n = {evaluation.n_test}")
        facts.append(f"gain in accuracy, with 95% interval: {accuracy.difference}")
    names = [str(path.with_suffix("")) for path in course_notebooks()]
    toc = {
        "The notebooks": [name for name in names if "/" not in name],
        "Side rooms": [name for name in names if "/" in name],
        "Guides": GUIDES,
        "Reference": REFERENCE,
    }
    page = "# The Fine-Tuning Workbook\n\n"
    page += (HERE / "about.md").read_text(encoding="utf-8")
    page += "\n## The run that this book shows\n\n" + "".join(f"- {fact}\n" for fact in facts)
    for title, pages in toc.items():
        lines = "\n".join(pages)
        page += f"\n```{{toctree}}\n:caption: {title}\n:maxdepth: 1\n\n{lines}\n```\n"
    return page


class _Page(HTMLParser):
    """What a page links to, what can be linked to in it, and what it loads from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors = {"", "top"}  # known to every browser
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if tag == "a" and values.get("href"):
            self.links.append(values["href"])
        source = values.get("src") or (values.get("href") if tag == "link" else "")
        if source and tag != "a" and not source.startswith("data:"):
            self.loaded.append(source)


def faults(folder: Path) -> list[str]:
    """Links that lead nowhere, and files that would be loaded from the network."""
    pages = {}
    for path in set(folder.rglob("*.html")) - set((folder / "_static").rglob("*.html")):
        pages[path.resolve()] = page = _Page()
        page.feed(path.read_text(encoding="utf-8"))
    found = []
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        for link in [*page.links, *page.loaded]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded:
                    found.append(f"{name} loads {link}")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                found.append(f"{name}: {link} is not there")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name}: {link} has no such place")
    return sorted(set(found))


def build(record: RunRecord, folder: Path) -> Path:
    """Make the site in `folder`; its first page. Refused with what is wrong in it."""
    if importlib.util.find_spec("sphinx") is None or importlib.util.find_spec("myst_nb") is None:
        raise WorkbookError('the book needs the extra `book`: pip install -e ".[book]"')
    sources, site = folder / "sources", folder / "site"
    shutil.rmtree(site, ignore_errors=True)
    stage(record, sources)
    words = glossary_terms((DOCS / "glossary.md").read_text(encoding="utf-8"))
    entries = {word: [anchor(word), html.escape(text)] for word, text in words.items()}
    (sources / "terms.json").write_text(json.dumps(entries), encoding="utf-8")
    command = [sys.executable, "-m", "sphinx", "-q", "-E", "-c", str(HERE)]
    command += ["-d", str(folder / "doctrees"), str(sources), str(site)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not (site / "index.html").exists():
        raise WorkbookError(f"the book could not be built:\n{done.stderr[-4000:]}", 1)
    found = [line for line in done.stderr.splitlines() if "WARNING" in line] + faults(site)
    if found:
        raise WorkbookError("the book has faults:\n" + "\n".join(found[:40]), 1)
    return site / "index.html"


def main() -> None:
    """Build, and say where it is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="", help="a run's id; else the last finished one")
    parser.add_argument("--to", type=Path, default=store.PROJECT / "build" / "book")
    choices = parser.parse_args()
    started = time.monotonic()
    try:
        record = choose_run(choices.run)
        sys.stdout.write(f"making the pages of run {record.run_id}: half a minute or less\n")
        sys.stdout.flush()
        page = build(record, choices.to)
    except WorkbookError as error:
        sys.exit(f"{error}")
    seconds = time.monotonic() - started
    sys.stdout.write(f"{page} ({seconds:.0f} s): open it in a browser; it needs no network\n")


if __name__ == "__main__":
    main()
