"""What a run leaves for those who did not watch it: a log, a page, a digest of a failure, and a heartbeat."""

from __future__ import annotations

import base64
import binascii
import contextlib
import html
import json
import logging
import os
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from helpers import store
from helpers.records import WorkbookError
from helpers.run import ending
from helpers.run.summary import summary

LOG, PAGE = "log.jsonl", "report.html"
LAST_LINES = 8
CAUSE = {
    ending.UNEXPECTED: "a fault in a notebook or in the program: the traceback in the executed notebook says where",
    ending.USER: "a setting, a file or the data is not what it should be: the message says which",
    ending.FAILED_GATE: "the candidate is not better, or not good enough: production stays as it is",
    ending.INCONCLUSIVE: "too few test rows, or too small a difference, to be sure: production stays as it is",
    ending.PROVIDER: "the provider: its limits, the key, the network, or the job itself",
    ending.OUT_OF_ROOM: "memory or disk: something else on this machine may use it too",
    ending.TIME_LIMIT: "more rows than usual, a busy machine, or a limit that is too short",
    130: "somebody pressed Ctrl-C",
    143: "the machine shut down, or the process was asked to end",
}
STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "pre{background:#f5f5f5;padding:.8rem;overflow-x:auto;white-space:pre-wrap}"
    "td,th{text-align:left;padding:.15rem 1rem .15rem 0}"
    "img{max-width:100%}.failed,.interrupted{color:#b00020}.finished,.reused{color:#1b6e2c}"
)


@contextlib.contextmanager
def heartbeat() -> Iterator[list[int]]:
    """Ping WORKBOOK_HEARTBEAT_URL/start, and /<exit code> at the end; the caller puts the code into the list.

    So a service that expects the pings notices a run that never began. Nothing but the code is sent.
    """
    codes: list[int] = []
    _ping("start")
    try:
        yield codes
    except WorkbookError as error:
        codes.append(error.exit_code)
        raise
    finally:
        _ping(str(codes[0] if codes else ending.UNEXPECTED))


def _ping(what: str) -> None:
    if url := os.environ.get("WORKBOOK_HEARTBEAT_URL", ""):
        with contextlib.suppress(OSError, ValueError):  # it must never cost a run
            parts = urlsplit(url)
            urllib.request.urlopen(
                urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{what}")), timeout=3
            ).close()


def logged(run: store.Run, tell: Callable[[str], None]) -> Callable[[str], None]:
    """`tell`, which also appends to the run's log.jsonl: {at, line}, each in one write so that none is torn."""

    def both(line: str) -> None:
        tell(line)
        with contextlib.suppress(OSError), open(run.path(LOG), "ab", buffering=0) as log:
            log.write(f"{store.dumps({'at': store.now(), 'line': ending.clean(line)})}\n".encode())

    return both


def digest(record: dict[str, Any], resume: str) -> str:
    """What failed, where, its last lines, the likely cause, and the next command."""
    failed = [
        f"where: {e['name']}, attempt {e['attempts']}"
        for e in record["notebooks"]
        if e["status"] == "failed"
    ]
    lines = [
        f"run {record['run_id']} ({record['profile']}): {record['status']}, exit {record['exit_code']}"
    ]
    lines += [
        *failed,
        f"what: {record['reason']}",
        f"likely cause: {CAUSE.get(record['exit_code'], 'unknown')}",
        f"next: {resume}",
    ]
    log = store.Run(record["run_id"]).path(LOG)
    said = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    lines += ["last lines:", *(json.loads(line)["line"] for line in said[-LAST_LINES:])]
    return ending.clean("\n".join(lines))


def publish(record: dict[str, Any], resume: str) -> None:
    """Write report.html; a run that needs a person is also told to the team. Neither can fail a run."""
    try:
        text = digest(record, resume) if record["exit_code"] else ""
        store.write_text(store.Run(record["run_id"]).path(PAGE), page(record, text))
        if text and record["exit_code"] != 130:  # who pressed Ctrl-C knows
            from helpers import registry

            registry.notify(text, f"{record['run_id']}@{record['started_at']}")
    except Exception as error:
        logging.getLogger(__name__).warning(
            "no report: %s", ending.clean(f"{type(error).__name__}: {error}")
        )


def page(record: dict[str, Any], failure: str) -> str:
    """The run as one HTML page without outside parts: result, failure, notebooks, figures, versions."""
    run, told = store.Run(record["run_id"]), html.escape
    rows = [
        f"<tr><td><a href='notebooks/{entry['name']}.ipynb'>{entry['name']}</a><td class={entry['status']}>{entry['status']}"
        f"<td>{'' if entry['seconds'] is None else entry['seconds']}<td>{entry['attempts']}"
        for entry in record["notebooks"]
    ]
    parts = [
        f"<h1>Run {told(run.id)}: <span class={record['status']}>{record['status'].replace('_', ' ')}</span></h1>"
    ]
    parts += [f"<h2>What failed</h2><pre>{told(failure)}</pre>"] if failure else []
    parts += [f"<h2>Result</h2><pre>{told(summary(record))}</pre><h2>Notebooks</h2>"]
    parts += ["<table><tr><th>notebook<th>status<th>seconds<th>attempts", *rows, "</table>"]
    for name in (entry["name"] for entry in record["notebooks"]):
        images = [
            f"<img alt='figure of {name}' src='data:image/png;base64,{data}'>"
            for data in _figures(run, name)
        ]
        parts += [f"<h2>{name}</h2>", *images] if images else []
    parts += [f"<h2>Versions</h2><pre>{told(store.dumps(record['versions'], indent=1))}</pre>"]
    head = f"<!doctype html><html lang=en><meta charset=utf-8><title>{told(run.id)}</title><style>{STYLE}</style>"
    return ending.clean(head + "".join(parts))


def _figures(run: store.Run, name: str) -> Iterator[str]:
    copy = run.path(f"notebooks/{name}.ipynb")
    for cell in store.read_json(copy)["cells"] if copy.exists() else []:
        for output in cell.get("outputs", []):
            data = "".join(output.get("data", {}).get("image/png", "")).replace("\n", "")
            with contextlib.suppress(binascii.Error):
                if data and base64.b64decode(data, validate=True):
                    yield data
