"""`workbook serve …` and `python -m helpers.serve …`: a program of its own."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import get_args

from pydantic import ValidationError

from helpers import store
from helpers.records import LogText, Parity, WorkbookError, problem_of, verdict_of
from helpers.serve.settings import KEYS, Settings
from helpers.serve.starting import serve

EXIT = {"pass": 0, "fail": 3, "inconclusive": 4}  # as `workbook run` ends
UNIT = """[Unit]
Description=Fine-Tuning Workbook: the gateway
After=network.target

[Service]
WorkingDirectory={folder}
Environment="WORKBOOK_HOME={home}"
EnvironmentFile=-{home}/serve.env
ExecStart={python} -m helpers.serve {arguments}
Restart=on-failure
TimeoutStopSec=45

[Install]
WantedBy=default.target
"""


class CleanLines(logging.Formatter):
    """Lines of a log, tracebacks too, without what others must not see."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, or more."""
        return store.without_secrets(super().format(record))


def main(argv: Sequence[str]) -> int:
    """Parse, then serve."""
    args = _parser().parse_args(argv)
    handler = logging.StreamHandler()
    handler.setFormatter(CleanLines("%(asctime)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for noisy in ("httpx", "httpx2", "alembic", "presidio-analyzer"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        if args.how == "systemd":
            sys.stdout.write(unit(argv))
            return 0
        settings = settings_of(args)
        if args.check:
            from helpers.serve.parity import check_parity

            parity = check_parity(args.check, settings.engine, settings.rows)
            sys.stdout.writelines(
                (store.dumps(parity, indent=2) if args.json else sentence_of(parity), "\n")
            )
            return EXIT[verdict_of(parity.findings)]
        return serve(settings)
    except WorkbookError as error:
        sys.stderr.write(f"workbook: {store.without_secrets(str(error))}\n")
        return error.exit_code


def sentence_of(parity: Parity) -> str:
    """What a check found: the verdict, the cause and the remedy."""
    words = [
        f"{parity.version} through {parity.engine}: {verdict_of(parity.findings)}",
        f"{parity.equal} of {parity.n} answers are equal",
    ]
    open_ones = (finding for finding in parity.findings if finding.verdict != "pass")
    for cause in sorted(open_ones, key=lambda finding: finding.verdict != "fail")[:1]:
        words += [f"{cause.name}: {cause.evidence}", cause.remedy]
    return "; ".join(filter(None, words))


def settings_of(args: argparse.Namespace) -> Settings:
    """What the arguments say."""
    log_text: dict[str, LogText] = {}  # by task; that of all others under ""
    for text in args.log_text:
        task, _, level = text.rpartition("=")
        if level not in get_args(LogText):
            raise WorkbookError(f"--log-text {text!r}: give [TASK=]full, masked or none")
        log_text[task] = level
    said = {name: value for name, value in vars(args).items() if name in Settings.model_fields}
    said |= {"tasks": args.task, "host_names": args.host_name}
    said |= {"log_text": log_text.get("", "masked"), "log_text_of": log_text}
    try:
        return Settings.model_validate(said)
    except ValidationError as error:
        name, reason = problem_of(error)
        raise WorkbookError(f"--{name.replace('_', '-')}: {reason}") from None


def unit(argv: Sequence[str]) -> str:
    """A systemd unit that starts the gateway with the same arguments."""
    asked = argparse.ArgumentParser(add_help=False)
    asked.add_argument("--as")
    _, words = asked.parse_known_args(argv)  # all but this
    return UNIT.format(
        folder=_unit_word(str(store.PROJECT))[1:-1],
        home=_unit_word(str(store.home()))[1:-1],
        python=_unit_word(sys.executable),
        arguments=" ".join(_unit_word(word) for word in words),
    )


def _unit_word(text: str) -> str:
    """A word of a unit, quoted; what would end its line is refused."""
    if any(ord(character) < 32 for character in text):
        raise WorkbookError(f"{text!r} cannot stand in a systemd unit; use another path")
    for special, spelt in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%"), ("$", "$$")):
        text = text.replace(special, spelt)
    return f'"{text}"'


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="workbook serve",
        description="Answer requests with the versions in production (OpenAI-compatible).",
    )
    add = parser.add_argument
    add(
        "--task",
        action="append",
        default=[],
        metavar="NAME",
        help="a shipped task or a task folder; several may be named (default: all that are routed)",
    )
    add("--host", default="127.0.0.1", help="address to listen at")
    add("--port", type=int, default=8600, help="0: any free one")
    add(
        "--engine",
        default="auto",
        metavar="auto|local|llamacpp|URL",
        help="what computes: llama.cpp where it is installed, our own models, or a server",
    )
    add(
        "--anywhere",
        action="store_true",
        help=f"let other machines in; needs {KEYS}=NAME:KEY,… in the environment",
    )
    add(
        "--host-name",
        action="append",
        default=[],
        metavar="NAME",
        help="a further name under which callers reach this gateway",
    )
    add(
        "--log-text",
        action="append",
        default=[],
        metavar="[TASK=]full|masked|none",
        help="how much text the live log holds (default: masked)",
    )
    add("--keep-days", type=int, default=90, help="of the live log; 0: for ever")
    add("--most-waiting", type=int, default=64, help="requests of a task at once; more get 429")
    add("--timeout", type=float, default=120.0, help="seconds for one answer")
    add(
        "--max-cost-usd",
        type=float,
        default=0.0,
        help="a month and task, for versions that live at a provider",
    )
    add("--check", default="", metavar="VERSION", help="is what would serve what was trained?")
    add("--json", action="store_true", help="print all that --check found as one JSON value")
    add("--rows", type=int, default=40, help="validation rows that --check asks")
    add("--as", dest="how", choices=("systemd",), help="print a unit instead of serving")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
