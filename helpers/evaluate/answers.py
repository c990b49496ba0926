"""Answers to prompts: remembered, or asked for, paid and written down one by one.

What a model was asked before in the same way (the same Asking) is remembered. A kill -9 costs no
more than the requests that were on their way, and their money stays reserved on the run's budget.
"""

from __future__ import annotations

import contextlib
import json
import platform
import time
from collections import Counter, deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

from helpers import models, show, store
from helpers.evaluate.session import MOST_AT_ONCE, Session
from helpers.models import Answer, Model
from helpers.records import Asking, Message, WorkbookError

CHUNK = 64  # answers asked for between two writes of the cache: what a kill can cost
RATE_RETRIES = 5  # times a request is asked again after 429
RATE_PAUSE = 0.5  # seconds before that, doubled each time
CACHE_VERSION = "answers-3"  # raise it when the meaning of a stored answer changes
Chats = Sequence[list[Message]]
Prompts = dict[str, list[Message]]  # by the fingerprint of everything that decides their answers
Answers = dict[str, Answer]


def ask(prompts: Chats, asking: Asking, session: Session, who: str, alone: int = 0) -> list[Answer]:
    """Answers in the order of `prompts`; `who` pays for them on the session's budget.

    The first `alone` prompts are asked one by one, since that is how latency is timed; those that
    were asked among others, or on another machine, are asked again for the time alone: what was
    answered first stays.
    """
    model = model_for(asking, session)
    models.check_may_send(session.task, model)
    keys = _keys(prompts, asking, model, session)
    path = _cache_of(model)
    known = {}
    timed = {}
    for key, answer, timed_in in _remembered(path):
        known.setdefault(key, answer)
        if timed_in:
            timed[key] = answer.latency_ms
    chats = dict(zip(keys, prompts, strict=True))
    first = list(chats)[:alone]
    single = [key for key in first if key not in timed]
    new = {key: chats[key] for key in chats if key not in known or key in single}
    if model.provider == "api":
        till = Till(model, asking, session, who)
        if session.offline:
            batches = _ask_offline(till, new, single or list(new)[:1], session)
        else:
            till.check(new.values())
            batches = _ask_endpoint(till, new, single)
    else:
        batches = _ask_local(model, asking, new, single)
    progress = show.Progress(asking.rung or model.name, len(new), session.say)
    way = _way(asking, session)
    given = {}
    store.make_folder(path.parent)  # for its owner alone, since answers are example text
    with models.follow_rows(progress.add), open(path, "ab", buffering=0) as memory:
        for batch in batches:
            memory.write(_as_lines(batch, single, way))
            given |= batch
            progress.reach(len(given))
    _judge_failures(given, len(chats), model, session)
    known = given | known
    timed |= {key: given[key].latency_ms for key in single if given[key].finish != "error"}
    for key in first:  # 0: what was answered among others, and failed alone, has no time
        known[key] = known[key].model_copy(update={"latency_ms": timed.get(key, 0.0)})
    return [known[key] for key in keys]


def timed_before(asking: Asking, session: Session) -> list[float]:
    """Milliseconds of a row that this run has asked alone in this way, on this machine; or []."""
    if not session.latency_rows:
        return []
    way = _way(asking, session)
    remembered = _remembered(_cache_of(model_for(asking, session)))
    times = [answer.latency_ms for _, answer, timed_in in remembered if timed_in == way]
    return [milliseconds for milliseconds in times[:1] if milliseconds]  # a log has 0


def _cache_of(model: Model) -> Path:
    return store.home() / "cache" / "answers" / f"{store.fingerprint(model.fingerprint)[:24]}.jsonl"


def _way(asking: Asking, session: Session) -> str:
    return store.fingerprint([session.run.id, store.fingerprint(asking)])


def _judge_failures(given: Answers, asked: int, model: Model, session: Session) -> None:
    """Say what was held back; WorkbookError where none of the `asked` has an answer at all."""
    errors = [answer.error or "" for answer in given.values() if answer.finish == "error"]
    held_back = [error for error in errors if error.startswith(models.HELD_BACK)]
    if held_back:
        kinds = ", ".join(sorted({error.removeprefix(models.HELD_BACK) for error in held_back}))
        session.say(f"{model.name}: {len(held_back)} of {len(given)} chats were not sent{kinds}")
    if errors and len(errors) == asked:
        code = 2 if held_back == errors else 5
        raise WorkbookError(f"{model.name} answered none of {asked} requests: {errors[0]}", code)


def model_for(asking: Asking, session: Session) -> Model:
    """The model that is asked, told what the asking says beside the chat."""
    model = session.model_of(asking)
    if hasattr(model, "with_asking"):
        return model.with_asking(asking)
    if asking.stop:
        raise WorkbookError(
            f"rung {asking.rung} is to be asked with stop, which {model.name} does not take; leave"
            " it out"
        )
    return model


def _keys(prompts: Chats, asking: Asking, model: Model, session: Session) -> list[str]:
    """What each answer is remembered by: everything that decides it."""
    # what answers behind a name can change, so an endpoint's answers are good for one run
    run_id = session.run.id if model.provider == "api" else ""
    decided_by = [model.fingerprint, store.fingerprint(asking), CACHE_VERSION, run_id]
    keys = []
    for prompt in prompts:
        tools = models.tools_of(prompt)
        chat = [models.as_dicts(prompt), tools] if tools else [models.as_dicts(prompt)]
        keys.append(store.fingerprint([*decided_by, *chat]))
    return keys


def _ask_local(
    model: Model, asking: Asking, new: Prompts, single: Sequence[str]
) -> Iterator[Answers]:
    """Those of `single` alone, after a warm-up, then chunks of prompts of like length."""
    if single and hasattr(model, "warm_up"):
        model.warm_up(new[single[0]])
    for key in single:
        yield {key: model.answer([new[key]], asking.max_new_tokens)[0]}
    keys = _shortest_first(new, single)
    for start in range(0, len(keys), CHUNK):
        chunk = keys[start : start + CHUNK]
        answers = model.answer([new[key] for key in chunk], asking.max_new_tokens)
        yield dict(zip(chunk, answers, strict=True))


def _shortest_first(new: Prompts, asked: Collection[str]) -> list[str]:
    """The keys that were not asked yet."""
    lengths = {key: sum(len(turn.content or "") for turn in new[key]) for key in new}
    return sorted(lengths.keys() - set(asked), key=lambda key: (lengths[key], key))


class Till:
    """Asks one endpoint and books each request on the run's budget; a free one books nothing."""

    def __init__(self, model: Model, asking: Asking, session: Session, who: str) -> None:
        self.model = model
        self.asking = asking
        self.task = session.task
        self.budget = session.budget
        self.who = who
        self.at_once = max(1, session.at_once)
        self.is_paid = models.is_paid(session.task, model)

    def worst(self, prompt: list[Message]) -> float:
        """USD that one request costs at most."""
        return models.worst_cost(self.task, self.model, prompt, self.asking.max_new_tokens)

    def check(self, prompts: Collection[list[Message]]) -> None:
        """Refuse to start what could cost more than what is left of the run's limit."""
        if self.is_paid and prompts:
            total = sum(self.worst(prompt) for prompt in prompts)
            key = self.budget.reserve(total, self.who)
            self.budget.settle(key, 0.0)  # each request reserves its own

    def ask(self, prompt: list[Message]) -> Answer:
        """One request: reserved before it is sent, settled with what it cost."""
        if not self.is_paid:
            return self.model.answer([prompt], self.asking.max_new_tokens)[0]
        worst = self.worst(prompt)
        key = self.budget.reserve(worst, self.who)
        try:
            answer = self.model.answer([prompt], self.asking.max_new_tokens)[0]
        except WorkbookError:  # nobody was reached, or nobody is served
            self.budget.settle(key, 0.0)
            raise
        self.budget.settle(key, models.real_cost(self.task, self.model, answer, worst))
        return answer


class _Window:
    """How many requests are side by side: as many as the endpoint bears.

    A refusal for its rate (429) halves that number, and every answer raises it by one, up to
    `most`.
    """

    def __init__(self, most: int, width: int) -> None:
        self._most = most
        self._width = width
        self._refused = Counter[str]()
        self.pause = 0.0  # seconds before the next request

    @property
    def room(self) -> int:
        """Requests to hand over; at full width the next ones wait at hand, so no thread waits."""
        return 2 * self._most if self._width == self._most else self._width

    def is_to_wait(self, key: str, answer: Answer) -> bool:
        """Whether this was a refusal for the rate, which is asked again after the pause."""
        error = answer.error or ""
        is_for_rate = error.startswith("429") and "quota" not in error
        if not is_for_rate or self._refused[key] >= RATE_RETRIES:
            self._width = min(self._most, self._width + 1)
            return False
        self._width = max(1, self._width // 2)
        self._refused[key] += 1
        self.pause = max(self.pause, RATE_PAUSE * 2 ** self._refused[key])
        return True


def _ask_endpoint(till: Till, new: Prompts, single: Sequence[str]) -> Iterator[Answers]:
    """What has come since the last time, again and again; `single` first, each asked alone."""
    for key in single:
        yield {key: till.ask(new[key])}
    waiting = deque(_shortest_first(new, single))
    window = _Window(till.at_once, min(MOST_AT_ONCE, till.at_once) if single else 1)
    running: dict[Future[Answer], str] = {}
    finished: SimpleQueue[Future[Answer]] = SimpleQueue()
    with ThreadPoolExecutor(till.at_once) as pool:
        try:
            while waiting or running:
                while waiting and len(running) < window.room:
                    key = waiting.popleft()
                    future = pool.submit(till.ask, new[key])
                    running[future] = key
                    future.add_done_callback(finished.put)
                window.pause = 0.0
                batch = {}
                for future in _all_of(finished):
                    key = running.pop(future)
                    if future.cancelled() or window.is_to_wait(key, future.result()):
                        waiting.append(key)
                    else:
                        batch[key] = future.result()
                if batch:
                    yield batch
                if window.pause:  # after what came beside the refusal has been kept
                    _cancel(running)
                    time.sleep(window.pause)
        finally:
            _cancel(running)


def _ask_offline(
    till: Till, new: Prompts, single: Sequence[str], session: Session
) -> Iterator[Answers]:
    """`single` one by one at once, which also tells what the endpoint takes; the rest in batches.

    All money is set aside before anything is sent.
    """
    rest = {key: chat for key, chat in new.items() if key not in single}
    till.check([new[key] for key in single])
    offline = models.Batches(
        rest, till.model, till.task, till.budget, till.who, till.asking.max_new_tokens,
        session.run.path("batches"), session.say,
    )  # fmt: skip
    for key in single:
        yield {key: till.ask(new[key])}
    yield from offline.answers()


def _cancel(futures: Iterable[Future[Answer]]) -> None:
    """Take back what no thread has begun."""
    for future in futures:
        future.cancel()


def _all_of(finished: SimpleQueue[Future[Answer]]) -> list[Future[Answer]]:
    """What has finished; waits until something has."""
    futures = [finished.get()]
    while not finished.empty():
        futures.append(finished.get())
    return futures


def _remembered(path: Path) -> Iterator[tuple[str, Answer, str]]:
    """(key, answer, the way in which this machine timed it alone or "") of one model, in order.

    A line that a kill has torn is only lost work.
    """
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                timed_in = row.get("way", "") if row.get("alone") == platform.node() else ""
                yield row["key"], Answer(**row["answer"]), timed_in


def _as_lines(answers: Answers, single: Collection[str], way: str) -> bytes:
    """What is kept of them; the empty line before the first one ends whatever a kill has torn."""
    lines = [""]
    for key, answer in answers.items():
        alone = {"alone": platform.node(), "way": way} if key in single else {}
        if answer.finish != "error":
            lines.append(store.dumps({"key": key, "answer": answer} | alone))
    return "\n".join([*lines, ""]).encode("utf-8", "replace")
