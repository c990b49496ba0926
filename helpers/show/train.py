"""What 03 shows: the rows with their loss mask, what will happen and how long it takes, and how the loss fell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from statistics import median
from typing import TYPE_CHECKING, Any

from helpers import show, store

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

LEARNT = "background:#F6C9A8;font-weight:600"  # the tokens that carry loss: a tint of the tuned model's colour
EVENTS = {
    "loading": "loading {base} and {rows} rows",
    "started": "training {steps} steps ({path} path)",
    "resumed": "going on after step {step}, from the last checkpoint",
    "smaller": "out of memory: now {batch_size} rows a pass and {gradient_accumulation} passes a step, the same gradient",
    "stopped": "stopped early at step {step}: no lower validation loss since step {best}",
    "checked": "merged and 4-bit weights compared with the adapter, general questions asked",
    "finished": "trained {steps} steps on {tokens:,} tokens; lowest validation loss at step {best}",
}


def seen_rows(report: Any, show_text: bool) -> HTML:
    """Some rows exactly as the model gets them; what carries loss stands on colour (headless: masked excerpts)."""
    from IPython.display import HTML

    page = [f'<p>Grey: given. <span style="{LEARNT}">On colour: carries loss.</span></p>']
    for name, pieces in report.samples.items():
        spans = [
            f'<span style="{LEARNT if carries else "color:#555"}">{escape(show.masked(text, show_text, 2000))}</span>'
            for text, carries in pieces
        ]
        page.append(f'<p style="margin:.6em 0 .1em"><b>{escape(name)}</b></p>')
        page.append(
            f'<pre style="white-space:pre-wrap;padding:.5em;border:1px solid #ddd">{"".join(spans)}</pre>'
        )
    return HTML("".join(page))


def checks_table(report: Any) -> Styler:
    """What the preflight found, one line per question."""
    per_row = [row.trained for row in report.train]
    refused = [f"{name}: {reason}" for name, reason in report.refused.items()]
    rows = {
        "rows that are trained on": f"{len(per_row)} (validation {len(report.validation)})",
        "rows refused": "; ".join([str(len(refused)), *refused[:3]]),
        "rows beyond the token budget": str(report.left_out),
        "answers cut at max_length": "; ".join([str(len(report.shortened)), *report.shortened[:3]]),
        "tokens, all epochs together": f"{report.tokens:,}",
        "tokens with loss, per row": f"{min(per_row)} to {max(per_row)}, median {median(per_row):g}",
        "end of turn is learnt": f"yes ({report.end_token})" if report.end_token else "NO",
        "same tokens as the template's": f"{report.round_trip} of {len(per_row)} rows",
    }
    return show.table(
        [{"question": q, "answer": a} for q, a in rows.items()], "What the model will see"
    )


def settings_table(config: Any, schedule: Mapping[str, Any] | None = None) -> Styler:
    """Hyperparameters as asked for and, where the schedule changed one, as used."""
    rows = []
    for name, asked in config.model_dump().items():
        used = (schedule or {}).get(name, asked)
        rows.append(
            {
                "parameter": name,
                "asked": _plain(asked),
                "used": "" if used == asked else _plain(used),
            }
        )
    return show.table(rows, "Settings; `used` is empty where it equals what was asked for")


def estimate_table(estimate: Mapping[str, Any]) -> Styler:
    """How long and at what cost, with the basis of the forecast."""
    flat = {name: value for name, value in estimate.items() if not isinstance(value, dict)}
    for part, size in estimate.get("memory_parts_mb", {}).items():
        flat[f"memory mb, {part}"] = size
    rows = [
        {"what": name.replace("_", " "), "forecast": _plain(value)} for name, value in flat.items()
    ]
    return show.table(rows, "Before it starts")


def after_note(model: Any) -> HTML:
    """Whether merged and 4-bit weights behave as the adapter does, and what general knowledge was lost."""
    said, warns = [], False
    for name, found in model.details.get("agreement", {}).items():
        within = "within" if found["within"] else "BEYOND"
        said.append(
            f"{name} weights: {found['nats_per_token']:.4f} nats per token from the adapter, {within} {found['bound']}"
        )
        warns |= not found["within"]
    if general := model.details.get("general"):
        counts = f"{general['tuned']} of {general['questions']} right, the base {general['base']}"
        said.append(
            f"general questions: {counts} ({general['lost']} lost, {general['gained']} gained)"
        )
        warns |= general["forgot"]
    return show.note(
        "; ".join(said) or "no comparison was made for a quantised or sharded base",
        "warning" if warns else "good",
    )


def result_table(model: Any) -> Styler:
    """model.json in short: what came out and what it took."""
    names = ("version", "model_id", "provider", "tokens", "seconds", "cost_usd")
    values = {name: getattr(model, name) for name in names} | {
        f"loss, {k}": v for k, v in model.losses.items()
    }
    rows = [
        {"what": name.replace("_", " "), "value": _plain(value)} for name, value in values.items()
    ]
    return show.table(rows, "What training made")


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return (
        ", ".join(map(str, value))
        if isinstance(value, list)
        else f"{value:,}"
        if type(value) is int
        else str(value)
    )


def progress() -> Callable[[dict[str, Any]], None]:
    """A callback for training lines and for a job's events: by hand a live curve, headless every message and evaluation."""
    done, curve = -1, None if store.headless() else LiveCurve()

    def on_line(line: dict[str, Any]) -> None:
        nonlocal done
        data = line.get("data") or line
        step, steps = data.get("step"), data.get("steps") or data.get("total_steps")
        if line.get("event") in EVENTS:
            show.say(EVENTS[line["event"]].format(**line))
        elif curve is not None and ("loss" in line or "eval_loss" in line):
            curve.add(line)
        elif "eval_loss" in line:
            show.say(f"step {step}/{steps}: validation loss {line['eval_loss']:.3f}")
        elif step is None:
            show.say(line["message"])
        elif (tenth := 10 * step // max(1, steps or 0)) > done:
            done = tenth
            show.say(
                line.get("message")
                or f"step {step}/{steps}: loss {line['loss']:.3f}, {line['seconds']:.0f} s"
            )

    return on_line


class LiveCurve:
    """A picture of the loss so far that is drawn again as lines come in, with tokens per second and the time left."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.handle: Any = None

    def add(self, line: dict[str, Any]) -> None:
        """Draw with one more point."""
        from IPython.display import display

        self.lines.append(line)
        figure = loss_figure(self.lines, 0, 0)
        figure.axes[0].set_title(pace(self.lines), fontsize=10, loc="left")
        figure.axes[0].set_xlim(0, line["steps"])
        if self.handle is None:
            self.handle = display(figure, display_id=True)
        else:
            self.handle.update(figure)


def pace(lines: Sequence[Mapping[str, Any]]) -> str:
    """Step, tokens per second and time left, from the lines so far."""
    last = lines[-1]
    timed = [line for line in lines if "tokens" in line and "step" in line]
    if len(timed) < 2 or timed[-1]["seconds"] <= timed[0]["seconds"]:
        return f"step {last['step']} of {last['steps']}"
    first, now = timed[0], timed[-1]
    seconds = now["seconds"] - first["seconds"]
    rate, left = (
        (now["tokens"] - first["tokens"]) / seconds,
        seconds / (now["step"] - first["step"] or 1),
    )
    minutes = left * (now["steps"] - now["step"]) / 60
    return f"step {last['step']} of {last['steps']} · {rate:.0f} tokens/s · {minutes:.1f} min left"


def _rows(name: str, count: int) -> str:
    return f"{name}, {count} rows" if count else name


JOB_ENDS = {"succeeded": "good", "failed": "bad", "cancelled": "bad"}


class JobView:
    """A job while it runs. By hand a widget: status, cost, curve, last messages, a button to cancel. Headless: a line
    per change. It shows and never feeds a later cell. A click is heard while the cell waits where Jupyter has
    subshells (ipykernel 7); elsewhere interrupt the cell first.
    """

    def __init__(self, job_id: str, cancel: Callable[[str], str]) -> None:
        self.job_id, self.status, self.messages, self._line, self._widget = (
            job_id,
            "",
            ["waiting for news"],
            progress(),
            None,
        )
        if not store.headless():
            import ipywidgets as widgets
            from IPython.display import display

            self._widget, self._button = (
                widgets.HTML(),
                widgets.Button(description="Cancel the job", icon="stop"),
            )
            self._button.on_click(
                lambda _: self.messages.append(f"cancel was asked for: {cancel(job_id)}")
            )
            # ipykernel 7.4 lets the busy main shell answer a comm that it has opened; without this note the front end's
            # own choice holds, which is a subshell
            vars(self._button.comm).pop("_reply_subshell_id", None)
            display(widgets.VBox([self._widget, self._button]))

    def event(self, event: dict[str, Any]) -> None:
        """A new event of the job."""
        if self._widget is None:
            self._line(event)
        elif event.get("type") != "metrics":
            self.messages.append(event["message"])

    def look(self, now: Mapping[str, Any]) -> None:
        """What a look at the job found: status, minutes, usd, curve."""
        if self._widget is not None:
            self._widget.value, self._button.disabled = self.page(now), now["status"] in JOB_ENDS
        elif now["status"] != self.status:
            show.say(f"{self.job_id}: {now['status']} after {now['minutes']:.1f} min")
        self.status = now["status"]

    def page(self, now: Mapping[str, Any]) -> str:
        """The widget's HTML."""
        colour = JOB_ENDS.get(now["status"], "other")
        head = f'<b style="color:{show.COLOURS[colour]}">{escape(now["status"])}</b> · {escape(self.job_id)}'
        facts = f"{now['minutes']:.1f} min · " + (
            f"at most {now['usd']:.2f} USD" if now["usd"] else "costs nothing"
        )
        said = "<br>".join(escape(show.masked(text, True, 110)) for text in self.messages[-3:])
        return f'<div style="line-height:1.5">{head} · {facts}</div>{_sparkline(now["curve"])}<small>{said}</small>'


def _sparkline(curve: Sequence[Mapping[str, Any]], width: int = 420, height: int = 90) -> str:
    """Train and validation loss over the steps as SVG; nothing before there are two points."""
    points = {
        key: [(line["step"], line[key]) for line in curve if key in line]
        for key in ("loss", "eval_loss")
    }
    every = points["loss"] + points["eval_loss"]
    if len(every) < 2:
        return ""
    last, top = max(x for x, _ in every), max(y for _, y in every) or 1
    lines = []
    for key, name, colour, x in (
        ("loss", "train", "other", 130),
        ("eval_loss", "validation", "tuned", 260),
    ):
        at = " ".join(
            f"{step / last * width:.1f},{height - y / top * (height - 14):.1f}"
            for step, y in points[key]
        )
        ink = show.COLOURS[colour]
        lines.append(f'<polyline fill="none" stroke="{ink}" stroke-width="2" points="{at}"/>')
        if points[key]:
            lines.append(
                f'<text x="{x}" y="11" font-size="12" fill="{ink}">{name} {points[key][-1][1]:.3f}</text>'
            )
    return (
        f'<svg width="{width}" height="{height + 4}" style="display:block">{"".join(lines)}</svg>'
    )


def loss_figure(lines: Sequence[Mapping[str, Any]], n_train: int, n_validation: int) -> Figure:
    """Loss per supervised token over the steps, on train batches and on the validation rows; the lowest is marked."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    train = {line["step"]: line["loss"] for line in lines if "loss" in line}
    validation = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    axis.plot(
        train.keys(),
        train.values(),
        "-",
        color=show.COLOURS["other"],
        label=_rows("train", n_train),
    )
    if validation:
        label = _rows("validation", n_validation)
        axis.plot(
            validation.keys(),
            validation.values(),
            "o-",
            color=show.COLOURS["tuned"],
            label=label,
            markersize=5,
        )
        best = min(validation, key=validation.__getitem__)
        label = f"lowest: step {best}, {validation[best]:.3f}"
        axis.axvline(best, color=show.COLOURS["target"], linestyle=":", linewidth=1, label=label)
    axis.set(xlabel="optimiser step", ylabel="loss per learnt token (nats)", ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(loc="upper right", frameon=False)
    plt.close(figure)
    return figure
