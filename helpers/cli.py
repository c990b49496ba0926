"""`workbook …`: parses and prints, nothing else. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Args = argparse.Namespace


def main(argv: list[str] | None = None) -> int:
    """Run one command; the one place where a WorkbookError becomes a message and an exit code."""
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["practice-api"]:  # a program of its own: only it imports its room
        from helpers.practice.__main__ import main as practice_api

        return practice_api(given[1:])
    args = _parser().parse_args(given)
    from helpers.records import WorkbookError
    from helpers.retrain.ending import plain

    try:
        return args.command(args)
    except WorkbookError as error:
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
    doctor = _add(commands, "doctor", _doctor, "is this machine ready; what is missing and how to get it")
    doctor.add_argument("--fix", action="store_true", help="install and convert the embedded model")
    new = _add(commands, "new", _new, "write a task folder to fill in", as_json=False)
    new.add_argument("folder", type=Path, metavar="DIR")
    new.add_argument("--from", type=Path, dest="data", metavar="DATA", help="CSV, Parquet or JSONL with your examples")
    new.add_argument("--input", default="", metavar="COL", help="the column with the input text")
    new.add_argument("--output", default="", metavar="COL", help="the column with the right answer")
    new.add_argument("--logs", type=Path, metavar="LOGS", help="production logs, in the same columns")
    run = _add(commands, "run", _run, "run a profile's notebooks headless")
    run.add_argument("profile", metavar="PROFILE", help="a name in params/, or a path to a YAML file")
    run.add_argument("--only", default="", metavar="NB,…", help="run just these notebooks, for example 04")
    run.add_argument("--from", default="", dest="from_", metavar="NB", help="run this notebook and all after it")
    run.add_argument("--run-id", default="", metavar="ID", help="name the run; an existing run is resumed")
    run.add_argument("-p", action="append", default=[], dest="overrides", metavar="KEY=VALUE", help="set a parameter")
    _add(commands, "runs", _runs, "past runs")
    commands.add_parser("practice-api", help="a fine-tuning API on this machine, to learn with and to test on")
    registry = commands.add_parser("registry", help="versions, their history, promotion and rollback")
    _registry_actions(registry.add_subparsers(metavar="ACTION", dest="action", required=True))
    _add(commands, "route", _route, "the production routes")
    return parser


def _registry_actions(actions: Any) -> None:
    listed = _add(actions, "list", _registry, "all versions")
    _add(actions, "show", _registry, "one version").add_argument("id", metavar="ID")
    history = _add(actions, "history", _registry, "who changed what, when and why")
    promote = _add(actions, "promote", _registry, "put a version into staging or production, through the gate")
    promote.add_argument("id", metavar="ID")
    promote.add_argument("--to", required=True, choices=("staging", "production"))
    promote.add_argument("--force", action="store_true", help="against the gate; needs --because")
    back = _add(actions, "rollback", _registry, "serve an earlier version again: ID, or the one before the current")
    back.add_argument("id", metavar="ID", nargs="?", default="")
    for action in (promote, back):
        action.add_argument("--because", default="", metavar="TEXT", help="the reason, kept in the history")
    for action in (listed, history, promote, back):
        action.add_argument("--task", default="", metavar="NAME", help="for example demo/support_triage")


def _add(commands: Any, name: str, command: Callable[[Args], int], text: str, as_json: bool = True) -> Any:
    sub = commands.add_parser(name, help=text, description=text)
    sub.set_defaults(command=command)
    if as_json:
        sub.add_argument("--json", action="store_true", help="print exactly one JSON value on stdout")
    return sub


def _tell(line: str) -> None:
    """One line of the log; a reader that went away (`… 2>&1 | head`) does not end the run."""
    with contextlib.suppress(BrokenPipeError):
        print(line, file=sys.stderr, flush=True)


def _show(args: Args, value: Any, rows: Any = None, columns: str = "", empty: str = "") -> None:
    """One JSON value; or for a person these columns of the rows, or YAML. (No pandas: short commands stay short.)"""
    from helpers import store

    if args.json:
        print(store.dumps(value, indent=2))
    elif not columns:
        import yaml

        print(yaml.safe_dump(json.loads(store.dumps(value)), sort_keys=False, allow_unicode=True).rstrip())
    elif not rows:
        print(empty)
    else:
        names, given = columns.split(), json.loads(store.dumps(rows))
        cells = [names] + [["" if row.get(name) is None else str(row[name]) for name in names] for row in given]
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        for line in cells:
            print("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


def _doctor(args: Args) -> int:
    from helpers.retrain import doctor

    checks = doctor(args.fix, _tell)
    ready = all(check.status != "missing" for check in checks)
    _show(args, {"ready": ready, "checks": checks}, checks, "name status found remedy")
    _tell("ready" if ready else "not ready")
    return 0 if ready else 2


def _new(args: Args) -> int:
    from helpers.tasks.new import new_task

    print("\n".join(new_task(args.folder, args.data, args.input, args.output, args.logs)))
    return 0


def _run(args: Args) -> int:
    from helpers.retrain.flow import run
    from helpers.retrain.summary import summary

    record = run(args.profile, args.only, args.from_, args.run_id, args.overrides, _tell)
    if args.json:
        _tell(summary(record))
        _show(args, record)
    else:
        print(summary(record))
    return record["exit_code"]


def _runs(args: Args) -> int:
    from helpers.retrain.flow import past_runs

    runs = past_runs()
    _show(args, runs, runs, "run_id status verdict exit_code started_at reason", "no run yet")
    return 0


def _registry(args: Args) -> int:
    from helpers import registry

    if args.action == "list":
        rows = registry.list_versions(args.task)
        _show(args, rows, rows, "id task status base_model trained_at run_id", "nothing is registered yet")
    elif args.action == "history":
        rows = registry.history(args.task)
        _show(args, rows, rows, "at actor action version from_status to_status because", "nothing has happened yet")
    elif args.action == "show":
        _show(args, registry.show(args.id))
    else:
        from helpers.retrain.ending import VERDICT_CODE

        if args.action == "promote":
            done = registry.promote(args.id, args.to, args.because, args.force)
        else:
            done = registry.rollback(args.id or None, args.task, args.because)
        _show(args, done)
        return 0 if done.promoted else VERDICT_CODE.get(done.verdict, 0)
    return 0


def _route(args: Args) -> int:
    from helpers import registry

    routes = registry.routes()
    rows = [{"task": task, **route} for task, route in routes.items()]
    _show(args, routes, rows, "task version model_id provider since previous generation", "no model is in production yet")
    return 0
