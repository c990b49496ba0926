"""What 03 shows: the rows with their loss mask, what will happen and how long it takes, and how the loss fell."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from helpers import show

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

LEARNT = "#F6C9A8"  # behind the tokens that carry loss: a tint of the tuned model's colour
EVENTS = {
    "loading": "loading {base} and {rows} rows",
    "started": "training {steps} steps ({path} path)",
    "restored": "kept the adapter of step {step}, where the validation loss was lowest",
    "finished": "trained {steps} steps on {tokens:,} tokens",
}


def seen_rows(report: Any, show_text: bool) -> HTML:
    """Some rows exactly as the model gets them; what carries loss stands on colour (headless: masked excerpts)."""
    from IPython.display import HTML

    blocks = []
    for row in report.samples:
        pieces = []
        for text, carries in row.pieces:
            style = f"background:{LEARNT};font-weight:600" if carries else "color:#555"
            pieces.append(f'<span style="{style}">{escape(show.masked(text, show_text, 2000))}</span>')
        blocks.append(
            f'<p style="margin:.6em 0 .1em"><b>{escape(row.id)}</b></p>'
            f'<pre style="white-space:pre-wrap;margin:0;padding:.5em;border:1px solid #ddd">{"".join(pieces)}</pre>'
        )
    key = f'<p>Grey: given. <span style="background:{LEARNT};font-weight:600">On colour: carries loss.</span></p>'
    return HTML(key + "".join(blocks))


def checks_table(report: Any) -> Styler:
    """What the preflight found, one line per question."""
    per_row, n = report.trained_tokens, len(report.train)
    rows = [
        ("rows that are trained on", f"{n} (validation {len(report.validation)})"),
        ("rows refused", f"{len(report.refused)}" + "".join(f"; {r.id}: {r.reason}" for r in report.refused[:3])),
        ("rows beyond the token budget", str(report.left_out)),
        ("answers cut at max_length", f"{len(report.shortened)}" + "".join(f"; {i}" for i in report.shortened[:3])),
        ("tokens, all epochs together", f"{report.tokens:,}"),
        ("tokens with loss, per row", f"{per_row['min']:g} to {per_row['max']:g}, median {per_row['median']:g}"),
        ("end of turn is learnt", f"{'yes' if report.end_trained else 'NO'} ({report.end_token})"),
        ("same tokens as the template's", f"{report.round_trip} of {n} rows"),
        ("prompt shared by all rows", f"{report.common_prefix} tokens"),
    ]
    return _table([{"question": q, "answer": a} for q, a in rows], "What the model will see")


def settings_table(config: Any, schedule: Any = None) -> Styler:
    """Hyperparameters as asked for and, where the schedule changed one, as used."""
    used = schedule.model_dump() if schedule is not None else {}
    rows = []
    for name, asked in config.model_dump().items():
        value = used.get(name, asked)
        rows.append({"parameter": name, "asked": _plain(asked), "used": "" if value == asked else _plain(value)})
    return _table(rows, "Settings; `used` is empty where it equals what was asked for")


def estimate_table(estimate: Any) -> Styler:
    """How long and at what cost, with the basis of the forecast."""
    rows = [{"what": name.replace("_", " "), "forecast": _plain(value)} for name, value in dict(estimate).items()]
    return _table(rows, "Before it starts")


def result_table(model: Any) -> Styler:
    """model.json in short: what came out and what it took."""
    names = ("version", "model_id", "provider", "tokens", "seconds", "cost_usd")
    rows = [{"what": name.replace("_", " "), "value": _plain(getattr(model, name))} for name in names]
    rows += [{"what": f"loss, {part}", "value": _plain(value)} for part, value in model.losses.items()]
    return _table(rows, "What training made")


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else f"{value:,}" if type(value) is int else str(value)


def _table(rows: Sequence[Mapping[str, Any]], caption: str) -> Styler:
    frame = show.table(rows, caption)
    return (
        frame.style.hide(axis="index")
        .set_caption(caption)
        .set_properties(**{"text-align": "left"})
        .format(escape="html")
    )


def progress() -> Callable[[dict[str, Any]], None]:
    """A callback for training lines: one quiet line per event, evaluation and tenth of the steps."""
    done = -1

    def on_line(line: dict[str, Any]) -> None:
        nonlocal done
        if line.get("event") in EVENTS:
            show.say(EVENTS[line["event"]].format(**line))
        elif "eval_loss" in line:
            show.say(f"step {line['step']}/{line['steps']}: validation loss {line['eval_loss']:.3f}")
        elif "step" in line and (tenth := 10 * line["step"] // max(1, line["steps"])) > done:
            done = tenth
            show.say(f"step {line['step']}/{line['steps']}: loss {line['loss']:.3f}, {line['seconds']:.0f} s")

    return on_line


def job_progress() -> Callable[[dict[str, Any]], None]:
    """A callback for a job's events: messages one by one, metrics only at every tenth of the steps."""
    done = -1

    def on_event(event: dict[str, Any]) -> None:
        nonlocal done
        data = event.get("data") or {}
        if event.get("type") != "metrics":
            show.say(event["message"])
        elif data.get("total_steps") and (tenth := 10 * data["step"] // data["total_steps"]) > done:
            done = tenth
            show.say(event["message"])

    return on_event


def loss_figure(lines: Sequence[Mapping[str, Any]], n_train: int, n_validation: int) -> Figure:
    """Loss per supervised token over the steps, on train batches and on the validation rows; the lowest is marked."""
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    curves = [
        ("loss", f"train, {n_train} rows", "other", "-"),
        ("eval_loss", f"validation, {n_validation} rows", "tuned", "o-"),
    ]
    for key, label, colour, style in curves:
        points = [(line["step"], line[key]) for line in lines if key in line]
        if points:
            axis.plot(*zip(*points, strict=True), style, color=show.COLOURS[colour], label=label, markersize=5)
    evaluated = [(line["eval_loss"], line["step"]) for line in lines if "eval_loss" in line]
    if evaluated:
        low, step = min(evaluated)
        axis.axvline(step, color=show.COLOURS["target"], linestyle=":", linewidth=1)
        right = step < 0.5 * max(line["step"] for line in lines if "step" in line)
        where = {"xytext": (6 if right else -6, -6), "textcoords": "offset points", "ha": "left" if right else "right"}
        axis.annotate(f"lowest: step {step}, {low:.3f}", (step, axis.get_ylim()[1]), va="top", **where)
    axis.set(xlabel="optimiser step", ylabel="loss per learnt token (nats)")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    if lines:
        axis.legend(loc="lower left" if evaluated else "upper right", frameon=False)
    plt.close(figure)
    return figure
