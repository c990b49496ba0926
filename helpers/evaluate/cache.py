"""Answers that were given before, by content: the same model, prompt and decoding need not be asked twice."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from pathlib import Path

from helpers import store
from helpers.models import Answer, Model, plain
from helpers.records import Message

VERSION = "answers-1"  # raise it when the meaning of a stored answer changes


class AnswerCache:
    """One append-only file per model under store.home()/cache/answers; a torn last line (kill -9) is only lost work."""

    def __init__(self, model: Model, max_new_tokens: int, run_id: str) -> None:
        self.decoding = {"max_new_tokens": max_new_tokens, "greedy": True, "version": VERSION}
        if model.provider == "api":  # what answers behind a name can change, so its answers are good for one run
            self.decoding["run"] = run_id
        self.fingerprint = model.fingerprint
        self.path: Path = store.home() / "cache" / "answers" / f"{store.fingerprint(self.fingerprint)[:24]}.jsonl"
        self.known: dict[str, Answer] = {}
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    row = json.loads(line)
                    self.known[row["key"]] = Answer(**row["answer"])
                except (ValueError, KeyError, TypeError):
                    continue

    def key(self, chat: Sequence[Message]) -> str:
        """What decides an answer: model, prompt and decoding."""
        return store.fingerprint([self.fingerprint, plain(chat), self.decoding])

    def keep(self, answers: dict[str, Answer]) -> None:
        """Append answers that did not fail, in one write, so that another process's lines stay whole."""
        good = {key: answer for key, answer in answers.items() if answer.finish != "error"}
        self.known |= good
        lines = "".join(store.dumps({"key": key, "answer": answer}) + "\n" for key, answer in good.items())
        if not lines:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)  # answers are example text
        with open(self.path, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            torn = file.seek(0, 2) > 0 and not self._ends_with_newline()
            file.write((b"\n" if torn else b"") + lines.encode("utf-8", "replace"))
            file.flush()

    def _ends_with_newline(self) -> bool:
        with open(self.path, "rb") as file:
            file.seek(-1, 2)
            return file.read(1) == b"\n"
