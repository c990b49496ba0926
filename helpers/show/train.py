"""What 03 shows: the rows with their loss mask, what will happen, how the loss fell."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from html import escape
from statistics import median
from typing import Any

from helpers import show
from helpers.records import Record, TrainedModel, WorkbookError

Line = Mapping[str, Any]  # of training.jsonl, or an event of a job
# tokens that carry loss: a tint of the tuned colour, with letters that both themes can show on it
LEARNT = "background:#F6C9A8;color:#111;font-weight:600"
BOX = "white-space:pre-wrap;padding:.5em;border:1px solid #ddd"
GOES_ON = (
    "Closing this tab does not stop it. When you come back, run this cell again: it waits for the"
    " training, or shows the one that has ended."
)
EVENTS = {
    "starting": "starting the training program, which loads its libraries first …",
    "loading": "loading {base} and {rows} rows",
    "choosing": "comparing the fast loss with the stock trainer's, to choose the path …",
    "started": "training {steps} steps ({path} path)",
    "resumed": "going on after step {step}, from the last checkpoint",
    "smaller": (
        "out of memory: now {batch_size} rows a pass and {gradient_accumulation} passes a step,"
        " the same gradient"
    ),
    "stopped": "stopped early at step {step}: no lower validation loss since step {best}",
    "checking": "asking general questions of the base and of the tuned model …",
    "merging": "comparing the merged weights, then 4-bit ones, with the adapter …",
    "checked": "merged and 4-bit weights compared with the adapter, general questions asked",
    "finished": "trained {steps} steps on {tokens:,} tokens; lowest validation loss at step {best}",
}


def seen_rows(report: Any, show_text: bool) -> show.HTML:
    """Some rows of a train.Preflight exactly as the model gets them; what carries loss is coloured.

    Headless, only masked excerpts are shown.
    """
    page = f'<p>Plain: given. <span style="{LEARNT}">Coloured: carries loss.</span></p>'
    for name, spans in report.samples.items():
        page += f'<p style="margin:.6em 0 .1em"><b>{escape(name)}</b></p><pre style="{BOX}">'
        for text, carries in spans:
            style = LEARNT if carries else ""
            page += f'<span style="{style}">{escape(show.masked(text, show_text, 2000))}</span>'
        page += "</pre>"
    return show.html(page)


def checks_table(report: Any) -> show.Table:
    """What the train.Preflight found, one line per question."""
    trained = [row.trained for row in report.train]
    learnt = f"{min(trained)} to {max(trained)}, median {median(trained):g}"
    refused = f"{len(report.refused)}"
    for name, reason in list(report.refused.items())[:3]:
        refused += f"; {name}: {reason}"
    end = f"yes ({report.end_token})" if report.end_token else "NO"
    answers = {
        "rows that are trained on": f"{len(trained)} (validation {len(report.validation)})",
        "rows refused": refused,
        "rows beyond the token budget": report.left_out,
        "tokens, all epochs together": report.tokens,
        "tokens with loss, per row": learnt,
        "end of turn is learnt": end,
        "same tokens as the template's": f"{report.round_trip} of {len(trained)} rows",
    }
    return show.pairs("question", "answer", answers, "What the model will see")


def settings_table(config: Record, schedule: Mapping[str, int] | None = None) -> show.Table:
    """Hyperparameters as asked for and, where the schedule changed one, as used."""
    rows = []
    for name, asked in config.model_dump().items():
        used = (schedule or {}).get(name, asked)
        rows.append({"parameter": name, "asked": asked, "used": "" if used == asked else used})
    return show.table(rows, "Settings; `used` is empty where it equals what was asked for")


def estimate_table(estimate: Mapping[str, Any]) -> show.Table:
    """How long and at what cost, with the basis of the forecast."""
    flat = dict(estimate)
    for part, size in flat.pop("memory_parts_mb", {}).items():
        flat[f"memory mb, {part}"] = size
    return show.pairs("what", "forecast", flat, "Before it starts")


def after_note(model: TrainedModel) -> show.HTML:
    """Whether merged and 4-bit weights behave as the adapter does, and what it cost elsewhere."""
    sentences = []
    warns = False
    for name, agreement in model.details.get("agreement", {}).items():
        distance = f"{agreement['nats_per_token']:.4f} nats per token from the adapter"
        within = "within" if agreement["within"] else "BEYOND"
        sentences.append(f"{name} weights: {distance}, {within} {agreement['bound']}")
        warns = warns or not agreement["within"]
    general = model.details.get("general")
    if general:
        counts = f"{general['tuned']} of {general['questions']} right, the base {general['base']}"
        changes = f"{general['lost']} lost, {general['gained']} gained"
        sentences.append(f"general questions: {counts} ({changes})")
        warns = warns or general["forgot"]
    text = "; ".join(sentences) or "no comparison was made for a quantised or sharded base"
    return show.note(text, "warning" if warns else "good")


def result_table(model: TrainedModel) -> show.Table:
    """model.json in short: what came out and what it took."""
    names = ("version", "model_id", "provider", "tokens", "seconds", "cost_usd")
    values = {name: getattr(model, name) for name in names}
    for part, loss in model.losses.items():
        values[f"loss, {part}"] = loss
    return show.pairs("what", "value", values, "What training made")


def progress() -> Callable[[Line], None]:
    """A callback for training lines and for a job's events.

    By hand a live curve, headless every message and evaluation.
    """
    told = -1  # the last tenth of the steps of which a line was said
    curve = None if show.unattended() else LiveCurve()

    def on_line(line: Line) -> None:
        nonlocal told
        if line.get("event") in EVENTS:
            show.say(EVENTS[line["event"]].format(**line))
            if curve is not None and line["event"] == "started":
                show.say(GOES_ON)
        elif curve is not None and ("loss" in line or "eval_loss" in line):
            curve.add(line)
        else:
            text, told = _spoken(line, told)
            if text:
                show.say(text)

    return on_line


def _spoken(line: Line, told: int) -> tuple[str, int]:
    """What is said of a line, "" for nothing, and the last tenth of the steps that was told."""
    data = line.get("data") or line
    step = data.get("step")
    steps = data.get("steps") or data.get("total_steps") or 1
    if "eval_loss" in line:
        return f"step {step}/{steps}: validation loss {line['eval_loss']:.3f}", told
    if step is None:
        return line["message"], told
    tenth = 10 * step // steps
    if tenth <= told:
        return "", told
    text = line.get("message")
    return text or f"step {step}/{steps}: loss {line['loss']:.3f}, {line['seconds']:.0f} s", tenth


class LiveCurve:
    """A bar of the steps with the time left, and the loss so far, drawn anew as lines come in."""

    def __init__(self) -> None:
        self.lines = []
        self.bar = None
        self.picture = None

    def add(self, line: Line) -> None:
        """Draw with one more point."""
        self.lines.append(line)
        step, steps = line["step"], line["steps"]
        if self.bar is None:
            self.bar = show.Progress("training", steps, unit="steps", done=step)
            self.bar.draw(time.monotonic())
        self.bar.reach(step)
        figure = loss_figure(self.lines, 0, 0)
        figure.axes[0].set_xlim(0, steps)
        self.picture = show.redraw(figure, self.picture)


class JobView:
    """A job while it runs; it shows and never feeds a later cell.

    By hand a widget: status, cost, curve, last messages, a button to cancel. Headless: a line per
    change, and one each half minute (later: each tenth of the time). A click is heard while the
    cell waits where Jupyter has subshells (ipykernel 7); elsewhere interrupt the cell first.
    """

    def __init__(self, job_id: str, cancel: Callable[[str], str]) -> None:
        self.job_id = job_id
        self.status = ""
        self.told = 0.0  # minutes at the last line
        self.messages = ["waiting for news"]
        self._on_line = progress()
        self._widget = None
        if show.unattended():
            return
        import ipywidgets as widgets
        from IPython.display import display

        self._widget = widgets.HTML()
        self._button = widgets.Button(description="Cancel the job", icon="stop")
        self._button.on_click(lambda _: self._cancel(cancel))
        # ipykernel 7.4 lets the busy main shell answer a comm that it has opened; without this
        # note the front end's own choice holds, which is a subshell
        vars(self._button.comm).pop("_reply_subshell_id", None)
        display(widgets.VBox([self._widget, self._button]))

    def _cancel(self, cancel: Callable[[str], str]) -> None:
        """Ask for it; what was answered, or why it was refused, is a message."""
        try:
            self.messages.append(f"cancel was asked for: {cancel(self.job_id)}")
        except WorkbookError as error:
            self.messages.append(str(error))

    def event(self, event: Line) -> None:
        """A new event of the job."""
        if self._widget is None:
            self._on_line(event)
        elif event.get("type") != "metrics":
            self.messages.append(event["message"])

    def look(self, now: Line) -> None:
        """What a look at the job found: status, ended, minutes, usd, curve."""
        if self._widget is not None:
            self._widget.value = self.page(now)
            self._button.disabled = now["ended"]
        elif now["status"] != self.status or now["minutes"] > max(0.5 + self.told, 1.1 * self.told):
            self.told = now["minutes"]
            show.say(f"{self.job_id}: {now['status']} after {now['minutes']:.1f} min")
        self.status = now["status"]

    def page(self, now: Line) -> str:
        """The widget's HTML."""
        colour = show.OTHER
        if now["ended"]:
            colour = show.GOOD if now["status"] == "succeeded" else show.BAD
        mark = f'<span aria-hidden="true" style="color:{colour}">●</span>'
        status = f"{mark} <b>{escape(now['status'])}</b>"
        cost = f"at most {now['usd']:.2f} USD" if now["usd"] else "costs nothing"
        head = f"{status} · {escape(self.job_id)} · {now['minutes']:.1f} min · {cost}"
        texts = [escape(show.masked(text, True, 110)) for text in self.messages[-3:]]
        messages = f"<div><small>{'<br>'.join(texts)}</small></div>"
        curve = ""
        if now["curve"]:
            curve = show.figure_html(loss_figure(now["curve"], 0, 0))
        return f'<div style="line-height:1.5">{head}</div>{curve}{messages}'


def loss_figure(lines: Sequence[Line], n_train: int, n_validation: int) -> show.Figure:
    """Loss per supervised token over the steps; the lowest on the validation rows is marked."""
    figure, axis = show.subplots(figsize=(7.5, 3.6))
    train = {line["step"]: line["loss"] for line in lines if "loss" in line}
    validation = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    looks = {"color": show.OTHER, "label": _rows("train", n_train)}
    point = "o" if len(train) < 2 else ""  # a line of one point would be invisible
    axis.plot(train.keys(), train.values(), marker=point, **looks)
    if validation:
        looks = {"color": show.TUNED, "label": _rows("validation", n_validation)}
        axis.plot(validation.keys(), validation.values(), "o-", markersize=5, **looks)
        best = min(validation, key=validation.__getitem__)
        looks = {"color": show.TARGET, "linestyle": ":", "linewidth": 1}
        axis.axvline(best, label=f"lowest: step {best}, {validation[best]:.3f}", **looks)
    axis.set(xlabel="optimiser step", ylabel="loss per learnt token (nats)")
    highest = max([*train.values(), *validation.values()], default=1.0)
    axis.set_ylim(0, 1.1 * highest or 1.0)
    axis.grid(alpha=0.3)
    axis.legend(loc="upper center")
    return show.finished(figure)


def _rows(name: str, count: int) -> str:
    return f"{name}, {count} rows" if count else name
