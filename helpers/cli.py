"""`workbook …`: parses and prints, nothing else. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

Args = argparse.Namespace


def main(argv: list[str] | None = None) -> int:
    """Run one command; the one place where a WorkbookError becomes a message and an exit code."""
    args = _parser().parse_args(argv)
    from helpers.records import WorkbookError

    try:
        return args.command(args)
    except WorkbookError as error:
        from helpers.retrain.ending import plain

        print(f"workbook: {plain(error)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("workbook: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `workbook runs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="workbook", description="The Fine-Tuning Workbook's command line.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[Args], int], text: str, as_json: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=command)
        if as_json:
            sub.add_argument("--json", action="store_true", help="print exactly one JSON value on stdout")
        return sub

    doctor = add("doctor", _doctor, "is this machine ready; what is missing and how to get it")
    doctor.add_argument("--fix", action="store_true", help="install and convert the embedded model")
    _new_options(add("new", _new, "write a task folder to fill in", as_json=False))
    run = add("run", _run, "run a profile's notebooks headless")
    run.add_argument("profile", metavar="PROFILE", help="a name in params/, or a path to a YAML file")
    run.add_argument("--only", default="", metavar="NB,…", help="run just these notebooks, for example 04")
    run.add_argument("--from", default="", dest="from_", metavar="NB", help="run this notebook and all after it")
    run.add_argument("--run-id", default="", metavar="ID", help="name the run; an existing run is resumed")
    run.add_argument("-p", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="set a parameter")
    add("runs", _runs, "past runs")
    _registry_options(add("registry", _registry, "versions, their history, promotion and rollback", as_json=False))
    add("route", _route, "the production routes")
    return parser


def _new_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", metavar="DIR")
    sub.add_argument("--from", default="", dest="data", metavar="DATA", help="CSV, Parquet or JSONL with your examples")
    sub.add_argument("--input", default="", metavar="COL", help="the column with the input text")
    sub.add_argument("--output", default="", metavar="COL", help="the column with the right answer")
    sub.add_argument("--logs", default="", metavar="LOGS", help="production logs, in the same columns")


def _registry_options(sub: argparse.ArgumentParser) -> None:
    actions = sub.add_subparsers(metavar="ACTION", dest="action", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("--task", default="", metavar="NAME", help="for example demo/support_triage")
        action.add_argument("--json", action="store_true", help="print exactly one JSON value on stdout")
        return action

    add("list", "all versions")
    add("show", "one version").add_argument("id", metavar="ID")
    add("history", "who changed what, when and why")
    promote = add("promote", "put a version into staging or production, through the gate")
    promote.add_argument("id", metavar="ID")
    promote.add_argument("--to", required=True, choices=("staging", "production"))
    promote.add_argument("--force", action="store_true", help="against the gate; needs --because")
    back = add("rollback", "serve an earlier version again: ID, or the one before the current")
    back.add_argument("id", metavar="ID", nargs="?", default="")
    for action in (promote, back):
        action.add_argument("--because", default="", metavar="TEXT", help="the reason, kept in the history")


def _tell(line: str) -> None:
    """One line of the log; a reader that went away (`… 2>&1 | head`) does not end the run."""
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


def _show(args: Args, value: Any, text: Callable[[], str]) -> None:
    """One JSON value, or the same for a person."""
    from helpers import store

    print(store.dumps(value, indent=2) if args.json else text())


def _columns(rows: list[dict[str, Any]], empty: str) -> str:
    """Plain text columns; no pandas, so that short commands stay short."""
    if not rows:
        return empty
    cells = [list(rows[0])] + [["" if v is None else str(v) for v in row.values()] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells)


def _doctor(args: Args) -> int:
    from helpers.retrain.doctor import doctor

    checks = doctor(args.fix, _tell)
    ready = all(check.status != "missing" for check in checks)
    rows = [check.model_dump() for check in checks]
    _show(args, {"ready": ready, "checks": rows}, lambda: _columns(rows, "") + ("\nready" if ready else "\nnot ready"))
    return 0 if ready else 2


def _new(args: Args) -> int:
    from pathlib import Path

    from helpers.tasks.new import new_task

    data, logs = (Path(given) if given else None for given in (args.data, args.logs))
    print("\n".join(new_task(Path(args.folder), data, args.input, args.output, logs)))
    return 0


def _run(args: Args) -> int:
    from helpers.retrain.flow import run
    from helpers.retrain.summary import summary

    record = run(args.profile, args.only, args.from_, args.run_id, args.overrides, _tell)
    if args.json:
        _tell(summary(record))
    _show(args, record, lambda: summary(record))
    return record["exit_code"]


def _runs(args: Args) -> int:
    from helpers.retrain.flow import past_runs

    records = past_runs()
    keys = ("run_id", "status", "verdict", "exit_code", "started_at", "reason")
    _show(args, records, lambda: _columns([{key: r[key] for key in keys} for r in records], "no run yet"))
    return 0


def _registry(args: Args) -> int:
    from helpers import registry

    if args.action in ("list", "history"):
        rows = registry.list_versions(args.task) if args.action == "list" else registry.history(args.task)
        keys = ("id", "task", "status", "base_model", "trained_at", "run_id")
        if args.action == "history":
            keys = ("at", "actor", "action", "version", "from_status", "to_status", "because")
        _show(args, rows, lambda: _columns([_some(row, keys) for row in rows], "nothing is registered yet"))
        return 0
    if args.action == "show":
        found = registry.show(args.id)
        _show(args, found, lambda: _yaml(found))
        return 0
    from helpers.retrain.ending import VERDICT_CODE

    if args.action == "promote":
        done = registry.promote(args.id, args.to, args.because, args.force)
    else:
        done = registry.rollback(args.id or None, args.task, args.because)
    _show(args, done, lambda: _yaml(done))
    return 0 if done.promoted else VERDICT_CODE.get(done.verdict, 0)


def _some(row: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    """The named fields of a record or a row, as far as it has them."""
    values = row if isinstance(row, dict) else row.model_dump(mode="json")
    return {key: values[key] for key in keys if key in values}


def _yaml(value: Any) -> str:
    """Nested values for a person."""
    import yaml

    from helpers import store

    return yaml.safe_dump(json.loads(store.dumps(value)), sort_keys=False, allow_unicode=True).rstrip()


def _route(args: Args) -> int:
    from helpers import registry

    routes = registry.routes()
    rows = [{"task": task, **route} for task, route in routes.items()]
    _show(args, routes, lambda: _columns(rows, "no model is in production yet"))
    return 0
