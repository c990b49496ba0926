"""What a run leaves for those who did not watch it: a log, a page, a digest, and a heartbeat."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import logging
import os
import re
import shlex
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from helpers import store
from helpers.records import RunRecord, WorkbookError
from helpers.run import ending
from helpers.run.doctor import versions
from helpers.run.summary import summary

LOG, PAGE = "log.jsonl", "report.html"
LAST_LINES = 8
KNOWN_ALREADY = (ending.INTERRUPTED, ending.NEEDS_PERSON)  # who pressed Ctrl-C knows
CAUSE = {
    ending.UNEXPECTED: "a fault in a notebook or in the program: the traceback in the executed"
    " notebook says where",
    ending.USER: "a setting, a file or the data is not what it should be: the message says which",
    ending.FAILED_GATE: "the candidate is not better, or not good enough: production stays as it"
    " is",
    ending.INCONCLUSIVE: "too few test rows, or too small a difference, to be sure: production"
    " stays as it is",
    ending.PROVIDER: "the provider: its limits, the key, the network, or the job itself",
    ending.OUT_OF_ROOM: "memory or disk: something else on this machine may use it too",
    ending.NEEDS_PERSON: "what serves has changed: the alarm says how, and what to do",
    ending.LOCKED: "another run was still at work: leave more time between them",
    ending.TIME_LIMIT: "more rows than usual, a busy machine, or a limit that is too short",
    ending.INTERRUPTED: "somebody pressed Ctrl-C",
    ending.KILLED: "the process was killed from outside",
    ending.TERMINATED: "the machine shut down, or the process was asked to end",
}
PAGE_TEMPLATE = """<!doctype html><html lang=en><meta charset=utf-8>
<meta name=viewport content="width=device-width">
<title>{{ record.run_id }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #222 }
pre { background: #f5f5f5; padding: .8rem; white-space: pre-wrap; overflow-wrap: anywhere }
td, th { text-align: left; padding: .15rem 1rem .15rem 0 }
img { max-width: 100% }
.failed, .interrupted { color: #b00020 }
.finished, .reused { color: #1b6e2c }
@media (prefers-color-scheme: dark) {
  body { background: #14181e; color: #e2e2e2 }
  pre { background: #222832 }
  a { color: #8ab4f8 }
  .failed, .interrupted { color: #ff8a9a }
  .finished, .reused { color: #7fd694 }
}
</style>
<h1>Run {{ record.run_id }}:
<span class={{ record.status }}>{{ record.status.replace("_", " ") }}</span></h1>
{% if failure %}<h2>What failed</h2><pre>{{ failure }}</pre>{% endif %}
<h2>Result</h2><pre>{{ result }}</pre>
<h2>Notebooks</h2>
<table><tr><th>notebook<th>status<th>seconds<th>attempts
{% for entry in record.notebooks %}
<tr><td><a href="notebooks/{{ entry.name }}.ipynb">{{ entry.name }}</a>
<td class={{ entry.status }}>{{ entry.status }}
<td>{{ "" if entry.seconds is none else entry.seconds }}<td>{{ entry.attempts }}
{% endfor %}
</table>
{% for entry in record.notebooks %}{% for data in figures_of(entry.name) %}
{% if loop.first %}<h2>{{ entry.name }}</h2>{% endif %}
<img alt="figure of {{ entry.name }}" src="data:image/png;base64,{{ data }}">
{% endfor %}{% endfor %}
<h2>Versions</h2><pre>{{ versions }}</pre>
"""


@contextlib.contextmanager
def heartbeat(profile: str) -> Iterator[list[int]]:
    """Ping WORKBOOK_HEARTBEAT_URL/start, and /<exit code> at the end, which the caller appends.

    So a service that expects the pings notices a run that never began. Only the code is sent. A
    scheduled run that is refused before it begins leaves run.json and a message, like others. (By
    hand, whoever started it reads the error; WORKBOOK_COMMIT, which is empty where git is missing,
    says that it was a schedule.)
    """
    codes: list[int] = []
    _ping("start")
    try:
        yield codes
    except WorkbookError as error:
        codes.append(error.exit_code)
        if "WORKBOOK_COMMIT" in os.environ:
            _record_refusal(profile, error)
        raise
    finally:
        _ping(str(codes[0] if codes else ending.UNEXPECTED))


def name_of(profile: str) -> str:
    """A profile's name, of the signs that a run's id may hold."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", Path(profile).stem).strip("-._")[:40] or "run"


def _record_refusal(profile: str, error: WorkbookError) -> None:
    """Without the lock, which may be what was missing: the folder is new, and nobody else's."""
    now = store.now()
    name = name_of(profile)
    run = store.Run(f"{name}-{now:%Y%m%dT%H%M%S%fZ}")
    record = RunRecord(
        run_id=run.id,
        profile=name,
        params={},
        status="failed",
        reason=ending.message_for_person(error),
        resume=shlex.join(["workbook", "run", profile]),
        exit_code=error.exit_code,
        started_at=now,
        finished_at=now,
        notebooks=[],
        versions=versions(),
    )
    with contextlib.suppress(WorkbookError, OSError):  # told all the same
        store.write_json(run.path(RunRecord.FILE), record)
    publish(record)


def _ping(what: str) -> None:
    url = os.environ.get("WORKBOOK_HEARTBEAT_URL", "")
    if not url:
        return
    with contextlib.suppress(OSError, ValueError):  # it must never cost a run
        parts = urlsplit(url)
        address = urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{what}"))
        urllib.request.urlopen(address, timeout=3).close()


def logged(run: store.Run, tell: Callable[[str], None]) -> Callable[[str], None]:
    """`tell`, which also appends {at, line} to the run's log.jsonl, each in one write."""

    def both(line: str) -> None:
        tell(line)
        entry = store.dumps({"at": store.now(), "line": store.without_secrets(line)})
        with contextlib.suppress(OSError), open(run.path(LOG), "ab", buffering=0) as log:
            log.write(f"{entry}\n".encode())

    return both


def digest(record: RunRecord) -> str:
    """What failed, where, its last lines, the likely cause, and the next command."""
    named = ["workbook", "run", record.profile, "--run-id", record.run_id]
    resume = record.resume or shlex.join(named)
    lines = [f"run {record.run_id} ({record.profile}): {record.status}, exit {record.exit_code}"]
    failed = [entry for entry in record.notebooks if entry.status == "failed"]
    lines += [f"where: {entry.name}, attempt {entry.attempts}" for entry in failed]
    cause = CAUSE.get(record.exit_code, "unknown")
    lines += [f"what: {record.reason}", f"likely cause: {cause}", f"next: {resume}", "last lines:"]
    log = store.Run(record.run_id).path(LOG)
    with contextlib.suppress(OSError), open(log, encoding="utf-8", errors="replace") as entries:
        lines += map(_line_of, list(entries)[-LAST_LINES:])
    return store.without_secrets("\n".join(lines))


def _line_of(entry: str) -> str:
    """What an entry of log.jsonl says; one that a full disk has cut short, as it stands."""
    try:
        return str(json.loads(entry)["line"])
    except (ValueError, LookupError, TypeError):
        return entry.rstrip()


def publish(record: RunRecord) -> None:
    """Write report.html; a run that did not go well is also told to the team.

    Of an open alarm the team has been told when it was raised. Neither fails a run, or the other.
    """
    failure = digest(record) if record.exit_code else ""
    path = store.Run(record.run_id).path(PAGE)
    steps = [lambda: store.write_text(path, page(record, failure))]
    if failure and record.exit_code not in KNOWN_ALREADY:
        steps.append(lambda: _tell_team(record, failure))
    for step in steps:
        try:
            step()
        except Exception as error:
            problem = store.without_secrets(f"{type(error).__name__}: {error}")
            logging.getLogger(__name__).warning("no report: %s", problem)


def _tell_team(record: RunRecord, failure: str) -> None:
    from helpers import registry

    registry.notify(failure, f"{record.run_id}@{record.started_at.isoformat()}")


def page(record: RunRecord, failure: str) -> str:
    """The run as one HTML page without outside parts: result, failure, notebooks, versions."""
    from jinja2 import Template

    run = store.Run(record.run_id)
    return Template(PAGE_TEMPLATE, autoescape=True).render(
        record=record,
        failure=failure,
        result=store.without_secrets(summary(record)),
        figures_of=lambda name: _figures(run, name),
        versions=store.dumps(store.clean(record.versions), indent=1),
    )


def _figures(run: store.Run, name: str) -> Iterator[str]:
    """The base64 of every PNG in the executed copy of a notebook."""
    copy = run.path(f"notebooks/{name}.ipynb")
    if not copy.exists():
        return
    for cell in store.read_json(copy)["cells"]:
        for output in cell.get("outputs", []):
            data = "".join(output.get("data", {}).get("image/png", "")).replace("\n", "")
            with contextlib.suppress(binascii.Error):
                if data and base64.b64decode(data, validate=True):
                    yield data
