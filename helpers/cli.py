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
SCHEDULES = "profile cron how installed last_success next_due overdue"


def main(argv: list[str] | None = None) -> int:
    """Run one command; the one place where a WorkbookError becomes a message and an exit code."""
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["practice-api"]:  # a program of its own: only it imports its room
        from helpers.practice.__main__ import main as practice_api

        return practice_api(given[1:])
    args = _parser().parse_args(given)
    from helpers.records import WorkbookError
    from helpers.run.ending import plain

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
    parser = argparse.ArgumentParser(
        prog="workbook", description="The Fine-Tuning Workbook's command line."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    doctor = _add(
        commands, "doctor", _doctor, "is this machine ready; what is missing and how to get it"
    )
    doctor.add_argument("--fix", action="store_true", help="install and convert the embedded model")
    doctor.add_argument(
        "--gpu",
        action="store_true",
        help="prove the GPU: two real training steps each of LoRA and QLoRA",
    )
    new = _add(commands, "new", _new, "write a task folder to fill in", as_json=False)
    new.add_argument("folder", type=Path, metavar="DIR")
    new.add_argument(
        "--from",
        type=Path,
        dest="data",
        metavar="DATA",
        help="CSV, Parquet or JSONL with your examples",
    )
    new.add_argument("--input", default="", metavar="COL", help="the column with the input text")
    new.add_argument("--output", default="", metavar="COL", help="the column with the right answer")
    new.add_argument(
        "--logs", type=Path, metavar="LOGS", help="production logs, in the same columns"
    )
    run = _add(commands, "run", _run, "run a profile's notebooks headless")
    run.add_argument(
        "profile", metavar="PROFILE", help="a name in params/, or a path to a YAML file"
    )
    run.add_argument(
        "--only", default="", metavar="NB,…", help="run just these notebooks, for example 04"
    )
    run.add_argument(
        "--from", default="", dest="from_", metavar="NB", help="run this notebook and all after it"
    )
    run.add_argument(
        "--run-id", default="", metavar="ID", help="name the run; an existing run is resumed"
    )
    run.add_argument(
        "-p",
        action="append",
        default=[],
        dest="overrides",
        metavar="KEY=VALUE",
        help="set a parameter",
    )
    _add(commands, "runs", _runs, "past runs")
    _add(
        commands,
        "status",
        _status,
        "schedules, open requests and waiting approvals; exit 1 when a run is overdue",
    )
    plan = _add(commands, "schedule", _schedule, "run a profile at fixed times, by cron or systemd")
    plan.add_argument("profile", metavar="PROFILE", nargs="?", default="")
    plan.add_argument(
        "--cron", metavar="FIELDS", help='five fields, for example "0 3 * * 0": Sundays at three'
    )
    plan.add_argument(
        "--as", dest="how", choices=("cron", "systemd"), default="cron", help="what starts the run"
    )
    plan.add_argument("--list", action="store_true", help="the schedules of this home")
    plan.add_argument("--remove", metavar="PROFILE", default="", help="take a schedule out again")
    gc = _add(
        commands,
        "gc",
        _gc,
        "delete old runs, and the models and datasets that nothing names any more",
    )
    gc.add_argument(
        "--keep", type=int, required=True, metavar="N", help="how many of the newest runs stay"
    )
    gc.add_argument("--yes", action="store_true", help="delete; without it, only say what would go")
    learner = _add(
        commands,
        "learner",
        _learner,
        "write the notebooks with exercises instead of solutions",
        as_json=False,
    )
    learner.add_argument("folder", type=Path, metavar="DIR")
    commands.add_parser(
        "practice-api", help="a fine-tuning API on this machine, to learn with and to test on"
    )
    registry = commands.add_parser(
        "registry", help="versions, their history, promotion and rollback"
    )
    _registry_actions(registry.add_subparsers(metavar="ACTION", dest="action", required=True))
    _add(commands, "route", _route, "the production routes")
    return parser


def _registry_actions(actions: Any) -> None:
    listed = _add(actions, "list", _registry, "all versions")
    _add(actions, "show", _registry, "one version").add_argument("id", metavar="ID")
    history = _add(actions, "history", _registry, "who changed what, when and why")
    promote = _add(
        actions, "promote", _registry, "put a version into staging or production, through the gate"
    )
    promote.add_argument("id", metavar="ID")
    promote.add_argument("--to", required=True, choices=("staging", "production"))
    promote.add_argument("--force", action="store_true", help="against the gate; needs --because")
    back = _add(
        actions,
        "rollback",
        _registry,
        "serve an earlier version again: ID, or the one before the current",
    )
    back.add_argument("id", metavar="ID", nargs="?", default="")
    compare = _add(actions, "diff", _registry, "what differs between two versions")
    compare.add_argument("id", metavar="A")
    compare.add_argument("other", metavar="B")
    _add(
        actions, "lineage", _registry, "data, run, evaluation and route of a version"
    ).add_argument("id", metavar="ID")
    again = _add(
        actions,
        "reevaluate",
        _registry,
        "ask the version in production about another version's test part",
    )
    again.add_argument("id", metavar="ID")
    _add(
        actions,
        "reconcile",
        _registry,
        "repair routes.json, notifications and the MLflow mirror from the database",
    )
    for name, text in (
        ("backup", "write the registry to one file"),
        ("restore", "fill an empty registry from a backup"),
    ):
        _add(actions, name, _registry, text).add_argument("file", type=Path, metavar="FILE")
    for action in (promote, back):
        action.add_argument(
            "--because", default="", metavar="TEXT", help="the reason, kept in the history"
        )
    for action in (listed, history, promote, back, again):
        action.add_argument(
            "--task", default="", metavar="NAME", help="for example demo/support_triage"
        )


def _add(
    commands: Any, name: str, command: Callable[[Args], int], text: str, as_json: bool = True
) -> Any:
    sub = commands.add_parser(name, help=text, description=text)
    sub.set_defaults(command=command)
    if as_json:
        sub.add_argument(
            "--json", action="store_true", help="print exactly one JSON value on stdout"
        )
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

        print(
            yaml.safe_dump(
                json.loads(store.dumps(value)), sort_keys=False, allow_unicode=True
            ).rstrip()
        )
    elif not rows:
        print(empty)
    else:
        names, given = columns.split(), json.loads(store.dumps(rows))
        cells = [names] + [
            ["" if row.get(name) is None else str(row[name]) for name in names] for row in given
        ]
        widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
        for line in cells:
            print("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


def _doctor(args: Args) -> int:
    from helpers.run import doctor

    checks = doctor(args.fix, _tell, args.gpu)
    ready = all(check.status != "missing" for check in checks)
    _show(args, {"ready": ready, "checks": checks}, checks, "name status found remedy")
    _tell("ready" if ready else "not ready")
    return 0 if ready else 2


def _new(args: Args) -> int:
    from helpers.tasks.new import new_task

    print("\n".join(new_task(args.folder, args.data, args.input, args.output, args.logs)))
    return 0


def _run(args: Args) -> int:
    from helpers.run.flow import run
    from helpers.run.summary import summary

    record = run(args.profile, args.only, args.from_, args.run_id, args.overrides, _tell)
    if args.json:
        _tell(summary(record))
        _show(args, record)
    else:
        print(summary(record))
    return record["exit_code"]


def _runs(args: Args) -> int:
    from helpers.run.flow import past_runs

    runs = past_runs()
    _show(args, runs, runs, "run_id status verdict exit_code started_at reason", "no run yet")
    return 0


def _status(args: Args) -> int:
    from helpers.run.state import status

    found = status()
    if args.json:
        _show(args, found)
    else:
        _show(
            args,
            found,
            found["schedules"],
            SCHEDULES,
            "no schedule; `workbook schedule PROFILE --cron …` makes one",
        )
        for name in ("open_requests", "waiting_approvals"):
            for row in found[name]:
                print(
                    f"{name.replace('_', ' ')[:-1]}: "
                    + ", ".join(f"{key} {value}" for key, value in row.items())
                )
    return 1 if found["overdue"] else 0


def _schedule(args: Args) -> int:
    from helpers.records import WorkbookError
    from helpers.run import schedule

    if args.remove:
        schedule.remove(args.remove)
    elif args.profile and args.cron is not None:
        made = schedule.add(args.profile, args.cron, args.how)
        _tell(
            f"next due {made['next_due']}; keys go into {made['environment']}; output goes to {made['log']}"
        )
        for unit in made.get("units", [])[1:]:
            _tell(
                f"begin with: systemctl --user daemon-reload && systemctl --user enable --now {Path(unit).name}"
            )
    elif not args.list:
        raise WorkbookError('say PROFILE --cron "0 3 * * 0", --list, or --remove PROFILE')
    rows = schedule.listed()
    _show(args, rows, rows, SCHEDULES, "no schedule")
    return 0


def _gc(args: Args) -> int:
    from helpers.run.state import collect

    found = collect(args.keep, args.yes)
    _show(args, found)
    return 0


def _learner(args: Args) -> int:
    from helpers.learn.edition import write_edition

    print("\n".join(map(str, write_edition(args.folder))))
    return 0


def _registry(args: Args) -> int:
    from helpers import registry

    if args.action == "list":
        rows = registry.list_versions(args.task)
        _show(
            args,
            rows,
            rows,
            "id task status base_model trained_at run_id",
            "nothing is registered yet",
        )
    elif args.action == "history":
        rows = registry.history(args.task)
        _show(
            args,
            rows,
            rows,
            "at actor action version from_status to_status because",
            "nothing has happened yet",
        )
    elif args.action == "show":
        _show(args, registry.show(args.id))
    elif args.action == "diff":
        rows = registry.diff(args.id, args.other)
        _show(args, rows, rows, "field a b", "they differ in nothing")
    elif args.action == "lineage":
        rows = registry.lineage(args.id)
        _show(args, rows, rows, "when step what detail")
    elif args.action == "reevaluate":
        _show(args, registry.reevaluate(args.id, args.task, _tell))
    elif args.action in ("backup", "restore"):
        _show(args, getattr(registry, args.action)(args.file))
    elif args.action == "reconcile":
        _show(args, registry.reconcile())
    else:
        from helpers.run.ending import VERDICT_CODE

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
    _show(
        args,
        routes,
        rows,
        "task version model_id provider since previous generation",
        "no model is in production yet",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
