"""The life of a job: validation, queue, training, model; one training at a time."""

from __future__ import annotations

import base64
import contextlib
import csv
import io
import secrets
import threading
from typing import Any

from helpers.practice import scenarios, training
from helpers.practice.scenarios import Fault
from helpers.practice.storage import ENDED, Clock, Storage, TuningJob
from helpers.practice.training import Trained
from helpers.practice.wire import refusal_of

PHASE = 2.0  # seconds of validation, and of the queue
UNSEEN = 60.0  # how long a new model is not found (scenario not_found_after_success)
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
LOSSES = {"loss": "train_loss", "eval_loss": "full_valid_loss"}  # ours: theirs


class Stopped(BaseException):
    """The job was cancelled or paused while it trained; no fault of anything."""


class Life:
    """Brings jobs forward, each in a thread of its own."""

    def __init__(self, storage: Storage, clock: Clock, live: bool) -> None:
        self.storage = storage
        self.clock = clock
        self.live = live
        self._training = threading.Lock()

    def begin(self, tuning: TuningJob) -> None:
        """Let a job go its way, from its beginning or from where a restart or a pause left it."""
        threading.Thread(target=self._go, args=(tuning,), daemon=True).start()

    def _go(self, tuning: TuningJob) -> None:
        with contextlib.suppress(Stopped):
            try:
                self._run(tuning)
            except Exception as error:
                known = isinstance(error, Fault)
                fault = error if known else Fault("server_error", str(refusal_of(error)))
                self._pass(tuning, "failed", str(fault), "error", error=fault.body)

    def _run(self, tuning: TuningJob) -> None:
        """All stages, until the model is there; Fault where something stands in the way."""
        job = tuning.job
        files = {"training_file": self.storage.content(job["training_file"])}
        if job["validation_file"]:
            files["validation_file"] = self.storage.content(job["validation_file"])
        if job["status"] == "validating_files":
            if tuning.scenario == "stuck_validating":
                return
            self.clock.sleep(PHASE)
            scenarios.check_files(files)
            scenarios.check_stage(tuning.scenario, "validation")
            # "auto" becomes numbers, as soon as the rows are known
            count = len((files["training_file"] or b"").splitlines())
            used = training.in_numbers(job["hyperparameters"], count)
            method = {"type": "supervised", "supervised": {"hyperparameters": used}}
            message = "Files validated, moving job to queued state"
            self._pass(tuning, "queued", message, hyperparameters=used, method=method)
        self.clock.sleep(PHASE)
        if tuning.scenario == "paused":
            tuning.scenario = "ok"
            message = "Fine-tuning job paused; it waits until somebody resumes it"
            self._pass(tuning, "paused", message)
            return
        scenarios.check_stage(tuning.scenario, "queue")
        with self._training:
            self._pass(tuning, "running", "Fine-tuning job started")
            parts = {"train": files["training_file"], "validation": files.get("validation_file")}
            trained = training.train(tuning, parts, lambda line: self._on_line(tuning, line))
            try:
                scenarios.check_stage(tuning.scenario, "training")
            except Fault as fault:
                message = f"Safety evaluation: {fault}"
                tuning.say(self.clock.now(), message, "moderation_checks", level="error")
                raise
            self._succeed(tuning, trained)

    def _pass(
        self, tuning: TuningJob, status: str, message: str, level: str = "info", **changes: Any
    ) -> None:
        """The next status, unless the job was cancelled or paused meanwhile."""
        with tuning.lock:
            if tuning.status in (*ENDED, "paused"):
                raise Stopped
            tuning.job |= {"status": status, **changes}
            tuning.say(self.clock.now(), message, level=level)

    def _on_line(self, tuning: TuningJob, line: dict[str, Any]) -> None:
        """A line of the training program becomes an event; its losses are real."""
        if tuning.status != "running":
            raise Stopped
        losses = {theirs: round(line[ours], 4) for ours, theirs in LOSSES.items() if ours in line}
        if not losses:
            return
        words = ", ".join(f"{name}={value:.2f}" for name, value in losses.items())
        words = words.replace("_", " ").replace("train", "training")
        data = {"step": line["step"], "total_steps": line["steps"], **losses}
        kind = "hidden" if tuning.scenario == "base64_results" else "metrics"
        message = f"Step {line['step']}/{line['steps']}: {words}"
        tuning.say(self.clock.now(), message, kind, data)

    def _succeed(self, tuning: TuningJob, trained: Trained) -> None:
        """The model's name, its checkpoints newest first, and the result file."""
        job = tuning.job
        now = self.clock.now()
        name = f"ft:{job['model']}:practice:{job['user_provided_suffix'] or ''}:{tuning.id[-8:]}"
        metrics: dict[int, dict[str, Any]] = {}
        for event in tuning.events:
            if event["type"] in ("metrics", "hidden"):
                metrics.setdefault(event["data"]["step"], {}).update(event["data"])
        checkpoints = []
        for step in reversed(trained.steps):
            values = {k: v for k, v in metrics.get(step, {}).items() if k != "total_steps"}
            final = step == trained.steps[-1]
            checkpoint = {
                "object": "fine_tuning.job.checkpoint",
                "id": f"ftckpt_{secrets.token_hex(12)}",
                "created_at": int(now),
                "fine_tuning_job_id": tuning.id,
                "step_number": step,
                "metrics": values,
                "fine_tuned_model_checkpoint": name if final else f"{name}:ckpt-step-{step}",
            }
            checkpoints.append(checkpoint)
        data = _csv(metrics)
        if self.live or tuning.scenario == "base64_results":
            data = base64.b64encode(data)  # as OpenAI does
        words = f"New fine-tuned model created: {name}"
        with tuning.lock:
            tuning.events = [event for event in tuning.events if event["type"] != "hidden"]
            made = {"fine_tuned_model": name, "trained_tokens": trained.tokens}
            self._pass(tuning, "running", words, **made)
            if tuning.scenario == "not_found_after_success":
                tuning.ready_at = now + UNSEEN
            tuning.checkpoints = checkpoints
            result = self.storage.add_file("step_metrics.csv", "fine-tune-results", data, now)
            job["result_files"] = [result["id"]]
            words = "The job has successfully completed"
            self._pass(tuning, "succeeded", words, finished_at=int(now))


def _csv(metrics: dict[int, dict[str, Any]]) -> bytes:
    """The curve as a provider gives it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for step, values in sorted(metrics.items()):
        writer.writerow([step, values.get("train_loss"), None, values.get("full_valid_loss"), None])
    return text.getvalue().encode()
