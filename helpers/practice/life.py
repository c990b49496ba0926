"""The life of a job: validation, queue, training, model; each in a thread of its own, one training at a time."""

from __future__ import annotations

import base64
import csv
import io
import logging
import secrets
import threading
from typing import Any

from helpers.practice import scenarios, training
from helpers.practice.scenarios import Fault
from helpers.practice.state import ENDED, Clock, Entry, State

PHASE = 2.0  # seconds of validation, and of the queue
UNSEEN = 60.0  # how long a new model is not found (scenario not_found_after_success)
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
_log = logging.getLogger(__name__)


class Stopped(Exception):
    """The job was cancelled or paused while it trained."""


class Life:
    """Brings jobs forward."""

    def __init__(self, state: State, clock: Clock, live: bool) -> None:
        self.state, self.clock, self.live = state, clock, live
        self._training = threading.Lock()

    def begin(self, entry: Entry) -> None:
        """Let a job go its way, from its beginning or from where a restart or a pause left it."""
        threading.Thread(target=self._go, args=(entry,), daemon=True).start()

    def _go(self, entry: Entry) -> None:
        try:
            fault = self._run(entry)
        except Stopped:
            return
        except Exception as error:
            _log.exception("job %s", entry.id)
            fault = Fault(
                "server_error", f"The practice API itself failed ({type(error).__name__})."
            )
        if fault is not None:
            self.finish(entry, "failed", fault)

    def _run(self, entry: Entry) -> Fault | None:
        """All stages, until the model is there or something stands in the way."""
        job = entry.job
        data = {"training_file": self.state.content(job["training_file"])}
        if job["validation_file"]:
            data["validation_file"] = self.state.content(job["validation_file"])
        if job["status"] == "validating_files":
            if entry.scenario == "stuck_validating":
                return None
            self.clock.sleep(PHASE)
            if (
                fault := scenarios.file_fault(data) or scenarios.fault(entry.scenario, "validation")
            ) is not None:
                return fault
            used = training.settled(
                job["hyperparameters"], len((data["training_file"] or b"").splitlines())
            )
            method = {"type": "supervised", "supervised": {"hyperparameters": used}}
            self._pass(
                entry,
                "queued",
                "Files validated, moving job to queued state",
                hyperparameters=used,
                method=method,
            )
        self.clock.sleep(PHASE)
        if entry.scenario == "paused":
            entry.scenario = "ok"
            return self._pass(
                entry, "paused", "Fine-tuning job paused; it waits until somebody resumes it"
            )
        if (fault := scenarios.fault(entry.scenario, "queue")) is not None:
            return fault
        with self._training:
            self._pass(entry, "running", "Fine-tuning job started")
            parts = {"train": data["training_file"], "validation": data.get("validation_file")}
            made = training.train(entry, parts, lambda line: self._heard(entry, line))
        if (fault := scenarios.fault(entry.scenario, "training")) is not None:
            entry.say(
                self.clock.now(),
                f"Safety evaluation: {fault.message}",
                "moderation_checks",
                level="error",
            )
            return fault
        return self._succeed(entry, made)

    def _pass(self, entry: Entry, status: str, message: str, **changes: Any) -> None:
        """The next status, unless the job was cancelled or paused meanwhile."""
        with entry.lock:
            if entry.job["status"] in (*ENDED, "paused"):
                raise Stopped
            entry.job |= {"status": status, **changes}
            entry.say(self.clock.now(), message)

    def _heard(self, entry: Entry, line: dict[str, Any]) -> None:
        """A line of the training program becomes an event; losses are those of the real training."""
        if entry.job["status"] != "running":
            raise Stopped
        names = {"loss": "train_loss", "eval_loss": "full_valid_loss"}
        found = {theirs: round(line[ours], 4) for ours, theirs in names.items() if ours in line}
        if found:
            told = ", ".join(
                f"{name.replace('_', ' ').replace('train', 'training')}={v:.2f}"
                for name, v in found.items()
            )
            data = {"step": line["step"], "total_steps": line["steps"], **found}
            kind = "hidden" if entry.scenario == "base64_results" else "metrics"
            entry.say(self.clock.now(), f"Step {line['step']}/{line['steps']}: {told}", kind, data)

    def _succeed(self, entry: Entry, made: dict[str, Any]) -> None:
        """The model's name, its checkpoints newest first, and the result file."""
        job, now = entry.job, self.clock.now()
        name = f"ft:{job['model']}:practice:{job['user_provided_suffix'] or ''}:{entry.id[-8:]}"
        metrics: dict[int, dict[str, Any]] = {}
        for event in entry.events:
            if event["type"] in ("metrics", "hidden"):
                metrics.setdefault(event["data"]["step"], {}).update(event["data"])
        with entry.lock:
            entry.checkpoints = []
            for step in reversed(made["steps"]):
                told = {k: v for k, v in metrics.get(step, {}).items() if k != "total_steps"}
                final = step == made["steps"][-1]
                checkpoint = {
                    "object": "fine_tuning.job.checkpoint",
                    "id": f"ftckpt_{secrets.token_hex(12)}",
                }
                checkpoint |= {
                    "created_at": int(now),
                    "fine_tuning_job_id": entry.id,
                    "step_number": step,
                    "metrics": told,
                }
                checkpoint["fine_tuned_model_checkpoint"] = (
                    name if final else f"{name}:ckpt-step-{step}"
                )
                entry.checkpoints.append(checkpoint)
            entry.events = [event for event in entry.events if event["type"] != "hidden"]
            result = self.state.add_file(
                "step_metrics.csv", "fine-tune-results", self._csv(entry, metrics), now
            )
            entry.ready_at = now + UNSEEN if entry.scenario == "not_found_after_success" else 0.0
            job |= {
                "fine_tuned_model": name,
                "trained_tokens": made["tokens"],
                "result_files": [result["id"]],
            }
            entry.say(now, f"New fine-tuned model created: {name}")
        self.finish(entry, "succeeded")

    def _csv(self, entry: Entry, metrics: dict[int, dict[str, Any]]) -> bytes:
        """The curve as a provider gives it; in live mode in base64, as OpenAI does."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for step, m in sorted(metrics.items()):
            writer.writerow([step, m.get("train_loss"), None, m.get("full_valid_loss"), None])
        data = text.getvalue().encode()
        return base64.b64encode(data) if self.live or entry.scenario == "base64_results" else data

    def finish(self, entry: Entry, status: str, fault: Fault | None = None) -> None:
        """End a job, once."""
        said = {
            "succeeded": "The job has successfully completed",
            "cancelled": "The job was cancelled",
        }
        with entry.lock:
            if entry.job["status"] in ENDED:
                return
            now = self.clock.now()
            entry.job |= {"status": status, "finished_at": None if fault else int(now)}
            entry.job["error"] = fault._asdict() if fault else None
            entry.say(
                now, fault.message if fault else said[status], level="error" if fault else "info"
            )
