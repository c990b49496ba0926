from __future__ import annotations

from types import SimpleNamespace

from helpers.records import WorkbookError
from helpers.show import train as views

SECRET_TEXT = "My hub at 12 Elm Street is offline again"


def report() -> SimpleNamespace:
    pieces = [(SECRET_TEXT, False), ('{"category": "KE"}<|im_end|>', True)]
    return SimpleNamespace(samples={"r1": pieces})


def test_the_loss_mask_is_shown_in_colour_by_hand_and_masked_headless(monkeypatch):
    monkeypatch.delenv("WORKBOOK_HEADLESS", raising=False)
    page = views.seen_rows(report(), show_text=True).data
    assert SECRET_TEXT in page and page.count(views.LEARNT) == 2  # the key, and the answer
    assert "&lt;|im_end|&gt;" in page, "control tokens are shown, not interpreted"
    monkeypatch.setenv("WORKBOOK_HEADLESS", "1")
    assert "Elm Street" not in views.seen_rows(report(), show_text=True).data


def test_progress_is_a_line_per_event_evaluation_and_tenth(capsys, monkeypatch):
    monkeypatch.setenv("WORKBOOK_HEADLESS", "1")
    tell = views.progress()
    tell({"event": "started", "steps": 100, "path": "prefix"})
    for step in range(1, 101):
        tell({"step": step, "steps": 100, "loss": 2.0, "seconds": step})
    tell({"step": 100, "steps": 100, "eval_loss": 1.0})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training 100 steps (prefix path)" and "validation loss 1.000" in lines[-1]
    assert len(lines) == 13


def test_a_jobs_messages_come_one_by_one_and_its_metrics_by_tenths(capsys):
    tell = views.progress()
    tell({"type": "message", "message": "Created fine-tuning job", "data": {}})
    for step in range(1, 101):
        tell(
            {
                "type": "metrics",
                "message": f"Step {step}/100",
                "data": {"step": step, "total_steps": 100},
            }
        )
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0] == "Created fine-tuning job" and len(lines) == 12 and lines[-1] == "Step 100/100"
    )


def test_the_loss_figure_names_its_rows_and_marks_the_lowest_validation_loss():
    lines = [{"step": s, "loss": 3 - s / 5} for s in range(1, 11)]
    lines += [
        {"step": 4, "eval_loss": 1.5},
        {"step": 8, "eval_loss": 1.2},
        {"step": 10, "eval_loss": 1.4},
    ]
    axis = views.loss_figure(lines, 48, 12).axes[0]
    labels = [text.get_text() for text in axis.get_legend().get_texts()]
    assert labels == ["train, 48 rows", "validation, 12 rows", "lowest: step 8, 1.200"]
    assert views.loss_figure([], 0, 0).axes


def test_by_hand_the_curve_tells_the_pace_and_the_time_left(monkeypatch, capsys):
    monkeypatch.delenv("WORKBOOK_HEADLESS", raising=False)
    lines = [
        {"step": s, "steps": 100, "loss": 2.0, "seconds": 3.0 * s, "tokens": 600 * s}
        for s in (10, 20, 30)
    ]
    tell = views.progress()
    for line in lines:
        tell(line)
    assert "loss" not in capsys.readouterr().out
    clock = iter([0.0, 3000.0])
    monkeypatch.setattr(views.show.time, "monotonic", lambda: next(clock))
    resumed = views.show.Progress("training", 100, unit="steps", done=40)
    assert resumed.text(0.0) == "training: 40 of 100 steps", "nothing is known of its pace"
    resumed.reach(70)
    assert resumed.text(3000.0) == "training: 70 of 100 steps, 0.01 a second, 50 min left"


def test_what_the_adapter_cost_elsewhere_is_a_note_and_a_warning_when_it_is_much():
    agreement = {"4bit": {"nats_per_token": 0.2, "bound": 0.05, "within": False}}
    general = {"questions": 40, "base": 30, "tuned": 29, "lost": 2, "gained": 1, "forgot": False}
    note = views.after_note(
        SimpleNamespace(details={"agreement": agreement, "general": general})
    ).data
    assert "BEYOND 0.05" in note and "29 of 40 right, the base 30" in note


def looks() -> dict:
    curve = [
        {"step": s, "loss": 3 - s / 5, **({"eval_loss": 2.5 - s / 9} if s % 4 == 0 else {})}
        for s in range(1, 11)
    ]
    return {"status": "running", "ended": False, "minutes": 1.5, "usd": 0.25, "curve": curve}


def test_a_job_is_shown_by_hand_with_status_cost_and_curve_and_nothing_of_it_is_markup(monkeypatch):
    monkeypatch.delenv("WORKBOOK_HEADLESS", raising=False)
    asked = []
    view = views.JobView("ftjob-1", asked.append)
    view.event({"type": "message", "message": "<b>started</b>"})
    page = view.page(looks())
    assert (
        "running" in page
        and "0.25 USD" in page
        and page.count("<img alt=") == 1
        and "&lt;b&gt;started" in page
    )
    assert "<img" not in view.page(looks() | {"curve": []})
    view.look(looks())
    assert not view._button.disabled
    view.look(looks() | {"status": "succeeded", "ended": True})
    assert view._button.disabled, "there is nothing left to cancel"


def test_a_cancel_that_is_refused_says_why(monkeypatch):
    monkeypatch.delenv("WORKBOOK_HEADLESS", raising=False)

    def cancel(job_id: str) -> str:
        raise WorkbookError(f"the provider did not cancel job {job_id}", 5)

    view = views.JobView("ftjob-1", cancel)
    view._button.click()
    assert "did not cancel job ftjob-1" in view.page(looks())


def test_a_job_headless_is_a_line_per_change_and_one_each_half_minute_that_it_lasts(
    monkeypatch, capsys
):
    monkeypatch.setenv("WORKBOOK_HEADLESS", "1")
    view = views.JobView("ftjob-1", str)
    for status in ("queued", "queued", "running", "running", "succeeded"):
        view.look(looks() | {"status": status})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["queued", "running", "succeeded"]
    for tenth_of_minute in range(15, 2400):
        view.look(looks() | {"status": "stuck", "minutes": tenth_of_minute / 10})
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [f"ftjob-1: stuck after {m} min" for m in ("1.5", "2.1", "2.7")]
    assert len(lines) < 60, "four hours make no thousand lines"


def test_by_hand_it_is_said_that_training_outlives_the_tab(monkeypatch, capsys):
    for headless, times in (("0", 1), ("1", 0)):
        monkeypatch.setenv("WORKBOOK_HEADLESS", headless)
        views.progress()({"event": "started", "steps": 100, "path": "prefix"})
        assert capsys.readouterr().out.count(views.GOES_ON) == times
