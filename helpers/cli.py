"""`workbook …`: parses and prints, nothing else.

Everything heavy is imported by the command that needs it.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

Args = argparse.Namespace
SCHEDULES = "profile cron how installed last_success next_due overdue problem"
REGISTRY = {  # the actions of `workbook registry`
    "list": "all versions",
    "show": "one version",
    "history": "who changed what, when and why",
    "promote": "put a version into staging or production, through the gate",
    "rollback": "serve an earlier version again: ID, or the one before the current",
    "diff": "what differs between two versions",
    "alarms": "what was found about versions that serve",
    "acknowledge": "an alarm was looked at: no more reminders",
    "resolve": "an alarm is over: its check begins anew",
    "retire": "give up the models of old versions; what was measured stays",
    "lineage": "data, run, evaluation and route of a version",
    "reevaluate": "ask the version in production about another version's test part",
    "fetch": "a version's files from the team's store",
    "reconcile": "repair routes.json, notifications and the MLflow mirror from the database",
    "backup": "write the registry to one file",
    "restore": "fill an empty registry from a backup",
}
WITH_ID = "show promote lineage reevaluate acknowledge resolve fetch"
WITH_REASON = "promote rollback acknowledge resolve retire"
WITH_TASK = "list history promote rollback reevaluate alarms"


def main(argv: list[str] | None = None) -> int:
    """Run one command; what the machine refuses it is a message and an exit code too."""
    try:
        return _main(sys.argv[1:] if argv is None else argv)
    except (KeyboardInterrupt, EOFError):  # Ctrl-C, and Ctrl-D where something is asked
        _tell("workbook: interrupted")
        return 130
    except BrokenPipeError:  # `workbook runs | head`
        _close_stdout()
        return 128 + signal.SIGPIPE
    except Exception as error:
        code = getattr(error, "errno", None)
        if isinstance(error, MemoryError) or code == errno.ENOMEM or _no_address_is_left():
            _tell("workbook: out of memory; free some, or raise this shell's limit (ulimit -v)")
            return 6
        if code in (errno.ENOSPC, errno.EDQUOT):
            _close_stdout()
            _tell("workbook: no space left to write; free some disk space and try again")
            return 6
        if not isinstance(error, OSError) or error.filename is None:
            raise
        from helpers.store import printable

        _tell(f"workbook: {printable(str(error.filename))}: {error.strerror}")
        return 2


def _close_stdout() -> None:
    """What is left to print goes nowhere, so that nothing fails at the very end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _no_address_is_left() -> bool:
    """Whether this shell's limit (ulimit -v) is nearly reached: then any error may be its work."""
    import resource

    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    sizes = Path("/proc/self/statm")  # Linux; in pages, the address space first
    if limit == resource.RLIM_INFINITY or not sizes.exists():
        return False
    return int(sizes.read_text().split()[0]) * resource.getpagesize() > 0.7 * limit


def _main(given: list[str]) -> int:
    """The one place where a WorkbookError becomes a message and an exit code."""
    for word in given:
        option, equals, value = word.partition("=")
        if not (value if equals and option.startswith("--") else word).strip(" ,"):
            _tell("workbook: an argument is empty (a variable that is not set?); leave it out")
            return 2
    if given[:1] == ["practice-api"]:  # a program of its own: only it imports its room
        from helpers.practice.__main__ import main as practice_api

        return practice_api(given[1:])
    if given[:1] == ["serve"]:
        from helpers.serve.__main__ import main as serve

        return serve(given[1:])
    args = _parser().parse_args(given)
    from helpers.records import WorkbookError
    from helpers.run import message_for_person

    try:
        code = args.command(args)  # None: it went well
        print(end="", flush=True)  # a full disk behind stdout is met here, and not at the very end
        return code or 0
    except WorkbookError as error:
        _tell(f"workbook: {message_for_person(error)}")
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workbook", description="The Fine-Tuning Workbook's command line."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_first_steps(commands)
    _add_runs(commands)
    _add_upkeep(commands)
    commands.add_parser(
        "practice-api", help="a fine-tuning API on this machine, to learn with and to test on"
    )
    commands.add_parser(
        "serve", help="answer requests with the versions in production (OpenAI-compatible)"
    )
    registry = commands.add_parser(
        "registry", help="versions, their history, promotion and rollback"
    )
    _registry_actions(registry.add_subparsers(metavar="ACTION", dest="action", required=True))
    route = _add(commands, "route", _route, "the production routes, and trials beside them")
    _trial_options(route)
    logs = commands.add_parser("logs", help="the live log: bring in logs of others, or check it")
    _logs_actions(logs.add_subparsers(metavar="ACTION", dest="action", required=True))
    return parser


def _add_first_steps(commands: Any) -> None:
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
    new.add_argument(
        "--set",
        action="append",
        default=[],
        type=_pair,
        metavar="KEY=VALUE",
        help="answer a question beforehand, or write a line of task.yaml (columns.dates=day_first)",
    )
    new.add_argument("--yes", action="store_true", help="take every guess, and say it; for scripts")
    text = "write the notebooks with exercises instead of solutions"
    learner = _add(commands, "learner", _learner, text, as_json=False)
    check = _add(commands, "check", _check, "exercises of a learner or a class: right, wrong, open")
    for command in (new, learner, check):
        command.add_argument("folder", type=Path, metavar="DIR")


def _add_runs(commands: Any) -> None:
    run = _add(commands, "run", _run, "run a profile's notebooks headless")
    run.add_argument(
        "profile",
        metavar="PROFILE",
        nargs="?",
        default="",
        help="a name in params/, or a path to a YAML file; else one is chosen, and said why",
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
    _add_limit(run, "spending limit of the whole run; the same as -p max_cost_usd=USD")
    _add(commands, "runs", _runs, "past runs")
    rate = _add(commands, "rate", _rate, "rate a run's answers, blind, in the terminal", False)
    rate.add_argument("run", metavar="RUN", help="a run id, as `workbook runs` shows it")
    rate.add_argument("--rater", default="", metavar="NAME", help="a further person's own table")
    export = _add(commands, "export", _export, "write a version as adapter, merged model or GGUF")
    export.add_argument("version", metavar="VERSION")
    export.add_argument("--form", required=True, choices=("adapter", "merged", "gguf"))
    export.add_argument("--to", type=Path, metavar="DIR", help="a folder to copy it into")
    _add(
        commands,
        "status",
        _status,
        "schedules, open requests and waiting approvals; exit 1 when a run is overdue",
    )


def _add_upkeep(commands: Any) -> None:
    plan = _add(commands, "schedule", _schedule, "run a profile at fixed times, by cron or systemd")
    plan.add_argument("profile", metavar="PROFILE", nargs="?", default="")
    plan.add_argument(
        "--as", dest="how", choices=("cron", "systemd"), default="cron", help="what starts the run"
    )
    what = plan.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--cron", metavar="FIELDS", help='five fields, for example "0 3 * * 0": Sundays at three'
    )
    what.add_argument("--list", action="store_true", help="the schedules of this home")
    what.add_argument("--remove", metavar="PROFILE", default="", help="take a schedule out again")
    gc = _add(
        commands,
        "gc",
        _gc,
        "move old runs, and models and datasets that nothing names, to the trash (7 days)",
    )
    gc.add_argument(
        "--keep", type=int, required=True, metavar="N", help="how many of the newest runs stay"
    )
    gc.add_argument("--yes", action="store_true", help="do it; without it, only say what would go")


def _trial_options(route: Any) -> None:
    route.add_argument("task", metavar="TASK", nargs="?", default="", help="a task, or its folder")
    kind = route.add_mutually_exclusive_group()
    kind.add_argument(
        "--shadow", default="", metavar="VERSION", help="answers a second time, unseen"
    )
    kind.add_argument(
        "--canary", default="", metavar="VERSION", help="answers a share of the users"
    )
    kind.add_argument("--end", action="store_true", help="end the trial that runs")
    route.add_argument("--share", type=float, default=0.1, help="of the requests (default 0.1)")
    route.add_argument("--requests", type=int, default=2000, help="then it ends undecided")
    route.add_argument(
        "--promote",
        action="store_true",
        help="ask the gate for production when the canary surely holds its margins",
    )
    route.add_argument("--because", default="", metavar="TEXT", help="the reason of an end")


def _logs_actions(actions: Any) -> None:
    bring = _add(actions, "import", _logs, "add the requests of other systems' logs, each once")
    bring.add_argument("--format", required=True, metavar="FORMAT", help="openai, litellm, …")
    bring.add_argument("--task", required=True, metavar="NAME", help="a task, or its folder")
    bring.add_argument(
        "--text", choices=("full", "masked", "none"), default="masked", help="what is kept of texts"
    )
    check = _add(actions, "check", _logs, "can these lines be read as a live log?")
    for action in (bring, check):
        action.add_argument("files", type=Path, nargs="+", metavar="FILE")


def _registry_actions(actions: Any) -> None:
    added = {name: _add(actions, name, _registry, text) for name, text in REGISTRY.items()}
    for name in WITH_ID.split():
        added[name].add_argument("id", metavar="ID")
    for name in ("backup", "restore"):
        added[name].add_argument("file", type=Path, metavar="FILE")
    for name in WITH_REASON.split():
        added[name].add_argument(
            "--because", default="", metavar="TEXT", help="the reason, kept in the history"
        )
    for name in WITH_TASK.split():
        added[name].add_argument(
            "--task", default="", metavar="NAME", help="for example demo/support_triage"
        )
    promote, retire, compare = added["promote"], added["retire"], added["diff"]
    promote.add_argument("--to", required=True, choices=("staging", "production"))
    promote.add_argument("--force", action="store_true", help="against the gate; needs --because")
    added["rollback"].add_argument("id", metavar="ID", nargs="?", default="")
    compare.add_argument("id", metavar="A")
    compare.add_argument("other", metavar="B")
    retire.add_argument(
        "ids", metavar="ID", nargs="*", help="else refused and deprecated ones, by --days"
    )
    retire.add_argument(
        "--days", type=int, default=90, metavar="N", help="nothing happened to it for so long"
    )
    retire.add_argument("--yes", action="store_true", help="do it; without it, only say what")
    _add_limit(
        added["reevaluate"], "spending limit of that version's whole run; by default the one it had"
    )


def _add(
    commands: Any, name: str, command: Callable[[Args], int | None], text: str, as_json: bool = True
) -> Any:
    sub = commands.add_parser(name, help=text, description=text)
    sub.set_defaults(command=command)
    if as_json:
        sub.add_argument(
            "--json", action="store_true", help="print exactly one JSON value on stdout"
        )
    return sub


def _add_limit(command: Any, text: str) -> None:
    """Every command that may spend money takes the same limit."""
    command.add_argument("--max-cost-usd", type=float, metavar="USD", help=text)


def _tell(line: str) -> None:
    """One line of the log; a reader that went away (`… 2>&1 | head`) does not end the run."""
    if sys.stderr is not None:  # else `print` would take stdout
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)


def _show(args: Args, value: Any) -> None:
    """One JSON value; for a person, YAML."""
    from helpers import store

    if args.json:
        print(store.dumps(value, indent=2))
        return
    import yaml

    content = json.loads(store.dumps(value))
    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=10_000).rstrip())


def _show_table(args: Args, rows: Any, columns: str, empty: str = "", value: Any = None) -> None:
    """`value` (else the rows) as one JSON value; for a person, these columns of the rows.

    (No pandas: short commands stay short.)
    """
    from helpers import store

    if args.json:
        print(store.dumps(rows if value is None else value, indent=2))
        return
    if not rows:
        print(empty)
        return
    names = columns.split()
    lines = [names]
    for row in json.loads(store.dumps(rows)):
        texts = ("" if row.get(name) is None else str(row[name]) for name in names)
        lines.append([store.printable(" ".join(text.split())) for text in texts])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if names[-1] in ("reason", "because", "problem"):  # sentences: --json has them whole
        left = shutil.get_terminal_size((120, 24)).columns - sum(widths[:-1]) - 2 * len(widths[:-1])
        for cells in lines:
            cells[-1] = textwrap.shorten(cells[-1], max(left, 24), placeholder=" …")
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        print("  ".join(cells).rstrip())


def _doctor(args: Args) -> int:
    from helpers.run import doctor

    checks = doctor(args.fix, _tell, args.gpu)
    ready = not any(check.verdict == "fail" and check.severity == "critical" for check in checks)
    columns = "name verdict severity evidence remedy"
    _show_table(args, checks, columns, value={"ready": ready, "checks": checks})
    _tell("ready" if ready else "not ready")
    return 0 if ready else 2


def _new(args: Args) -> None:
    from helpers.records import WorkbookError
    from helpers.tasks import Interview, new_task

    answers: dict[str, str] = {}
    for key, value in args.set:
        if key in answers:
            raise WorkbookError(f"--set {key}=… was given twice; leave one of them")
        answers[key] = value
    is_person = sys.stdin.isatty() and sys.stdout.isatty() and not args.yes
    interview = Interview(answers, input if is_person else None, args.yes)
    lines = new_task(args.folder, args.data, args.input, args.output, args.logs, interview)
    print("\n".join(lines))


def _pair(text: str) -> tuple[str, str]:
    """KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError("write KEY=VALUE")
    return key, value


def _run(args: Args) -> int:
    from helpers.run import choose_profile, run, summary

    overrides = args.overrides
    if args.max_cost_usd is not None:
        overrides = [*overrides, f"max_cost_usd={args.max_cost_usd}"]
    profile, reason = choose_profile(args.profile, overrides)
    if reason:
        _tell(reason)
    record = run(profile, args.only, args.from_, args.run_id, overrides, _tell)
    if args.json:
        _tell(summary(record))
        _show(args, record)
    else:
        print(summary(record))
    return record.exit_code


def _runs(args: Args) -> None:
    from helpers.run import past_runs

    _show_table(
        args, past_runs(), "run_id status verdict exit_code started_at reason", "no run yet"
    )


def _rate(args: Args) -> None:
    from helpers import store
    from helpers.extras.rate import rate_run

    rate_run(store.Run(args.run), rater=args.rater)


def _export(args: Args) -> None:
    from helpers import registry

    _show(args, registry.export(args.version, args.form, args.to))


def _status(args: Args) -> int:
    from helpers.run import status

    state = status()
    empty = "no schedule; `workbook schedule PROFILE --cron …` makes one"
    _show_table(args, state["schedules"], SCHEDULES, empty, value=state)
    if not args.json:
        for alarm in state["alarms"]:
            print(
                f"alarm {alarm.id} ({alarm.state}): {alarm.name} of {alarm.version or alarm.task}"
            )
        for title in ("open_requests", "waiting_approvals"):
            for row in state[title]:
                facts = ", ".join(f"{key} {value}" for key, value in row.items())
                print(f"{title.replace('_', ' ')[:-1]}: {facts}")
    return 1 if state["overdue"] else 0


def _schedule(args: Args) -> None:
    from helpers.run import add_schedule, remove_schedule, schedules

    if args.remove:
        remove_schedule(args.remove)
    elif args.cron:
        schedule = add_schedule(args.profile, args.cron, args.how)
        _tell(
            f"next due {schedule.next_due.isoformat()}; keys go into {schedule.environment};"
            f" output goes to {schedule.log}"
        )
        if args.how == "systemd":
            timer = Path(schedule.units[-1]).name
            systemctl = "systemctl --user"
            _tell(f"begin with: {systemctl} daemon-reload && {systemctl} enable --now {timer}")
    _show_table(args, schedules(), SCHEDULES, "no schedule")


def _gc(args: Args) -> None:
    from helpers.run import collect

    _show(args, collect(args.keep, args.yes))


def _learner(args: Args) -> None:
    from helpers.learn import write_edition

    print("\n".join(map(str, write_edition(args.folder))))


def _check(args: Args) -> None:
    from helpers.learn import check_folder

    results = [result._asdict() for result in check_folder(args.folder)]
    _show_table(args, results, "learner notebook exercise state message")
    if args.json:
        return
    for learner in dict.fromkeys(result["learner"] for result in results):
        states = [result["state"] for result in results if result["learner"] == learner]
        counts = [f"{states.count(name)} {name}" for name in ("right", "wrong", "open", "missing")]
        print(f"{learner}: {', '.join(counts)}")


def _registry(args: Args) -> int | None:
    from helpers import registry

    match args.action:
        case "list":
            columns = "id task status base_model trained_at run_id"
            versions = registry.list_versions(args.task)
            _show_table(args, versions, columns, "nothing is registered yet")
        case "history":
            columns = "at actor action version from_status to_status because"
            _show_table(args, registry.history(args.task), columns, "nothing has happened yet")
        case "alarms":
            columns = "id state severity name task version opened_at because"
            _show_table(args, registry.alarms_of(args.task), columns, "no alarm was ever raised")
        case "diff":
            differences = registry.diff(args.id, args.other)
            _show_table(args, differences, "field a b", "they differ in nothing")
        case "lineage":
            _show_table(args, registry.lineage(args.id), "when step what detail")
        case "promote":
            promotion = registry.promote(args.id, args.to, args.because, args.force)
            return _show_promotion(args, promotion)
        case "rollback":
            promotion = registry.rollback(args.id or None, args.task, args.because)
            return _show_promotion(args, promotion)
        case _:
            _show(args, _done(args))


def _done(args: Args) -> Any:
    """What an action of the registry answers that prints no table."""
    from helpers import registry
    from helpers.run import retire

    match args.action:
        case "show":
            return registry.show(args.id)
        case "acknowledge":
            return registry.close_alarm(args.id, "acknowledged", args.because)
        case "resolve":
            return registry.close_alarm(args.id, "resolved", args.because)
        case "retire":
            return retire(args.ids, args.days, args.because, args.yes)
        case "fetch":
            return registry.fetch(args.id)
        case "reevaluate":
            return registry.reevaluate(args.id, args.task, _tell, args.max_cost_usd)
        case "reconcile":
            return registry.reconcile()
        case "backup":
            return registry.backup(args.file)
        case "restore":
            return registry.restore(args.file)


def _show_promotion(args: Args, promotion: Any) -> int:
    from helpers.run import VERDICT_CODE

    done = "promoted" if promotion.promoted else "not promoted"
    gate = f"the gate says {promotion.verdict}{', and was overruled' * promotion.forced}"
    lines = [f"{promotion.version}: {done} to {promotion.target}; {gate}"]
    for rule in promotion.rules:
        if rule.verdict != "pass":
            lines.append(
                f"{rule.verdict}: {rule.name}: {rule.evidence}; {rule.remedy}".rstrip("; ")
            )
    if args.json:
        _show(args, promotion)
    else:
        print("\n".join(lines))
    return 0 if promotion.promoted else VERDICT_CODE.get(promotion.verdict, 0)


def _route(args: Args) -> None:
    from helpers import registry

    if args.task or args.shadow or args.canary or args.end or args.promote:
        _trial(args)
    else:
        routes = registry.routes()
        rows = [{"task": task, **route} for task, route in routes.items()]
        columns = "task version model_id provider since previous generation"
        _show_table(args, rows, columns, "no model is in production yet", value=routes)


def _trial(args: Args) -> None:
    """Begin or end a trial of a task's next version; show how it stands."""
    from helpers import serve
    from helpers.records import WorkbookError
    from helpers.tasks import load_task

    task = load_task(args.task.removeprefix("demo/"))
    if args.shadow or args.canary:
        kind = "shadow" if args.shadow else "canary"
        version = args.shadow or args.canary
        serve.start_trial(kind, version, task, args.share, args.requests, args.promote)
    elif args.end:
        serve.stop_trial(task, args.because)
    elif args.promote:
        raise WorkbookError("--promote says how a trial may end: give --canary VERSION, too")
    _show(args, serve.trial_report(task))


def _logs(args: Args) -> int:
    from helpers.extras.log_import import check_logs, import_log

    if args.action == "import":
        _show(args, import_log(args.files, args.format, args.task, args.text))
        return 0
    facts = check_logs(args.files)
    _show(args, facts)
    return 1 if facts["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
