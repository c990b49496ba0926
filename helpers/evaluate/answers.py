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
Chat = list[Message]
Chats = Sequence[Chat]
Prompts = dict[str, Chat]  # by the fingerprint of everything that decides their answers
Answers = dict[str, Answer]
Times = dict[str, float]  # milliseconds


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
    known, timed, _ = _remembered(path)
    chats = dict(zip(keys, prompts, strict=True))
    first = list(chats)[:alone]
    single = [key for key in first if key not in timed]
    new = {key: chats[key] for key in chats if key not in known or key in single}
    if model.provider == "api":
        batches = _ask_api(Till(model, asking, session, who), new, single, session)
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
    ways = _remembered(_cache_of(model_for(asking, session)))[2]
    milliseconds = ways.get(_way(asking, session))
    return [milliseconds] if milliseconds else []  # a log has 0


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
    lengths = []
    for key in new.keys() - set(asked):
        lengths.append((sum(len(turn.content or "") for turn in new[key]), key))
    return [key for _, key in sorted(lengths)]


class Till:
    """Asks one endpoint and books each request on the run's budget; a free one books nothing."""

    def __init__(self, model: Model, asking: Asking, session: Session, who: str) -> None:
        self.model = model
        self.limit = asking.max_new_tokens
        self.task = session.task
        self.budget = session.budget
        self.who = who
        self.is_paid = models.is_paid(session.task, model)

    def worst(self, prompt: Chat) -> float:
        """USD that one request costs at most."""
        return models.worst_cost(self.task, self.model, prompt, self.limit)

    def check(self, prompts: Collection[Chat]) -> None:
        """Refuse to start what could cost more than what is left of the run's limit."""
        if self.is_paid and prompts:
            key = self.budget.reserve(sum(map(self.worst, prompts)), self.who)
            self.budget.settle(key, 0.0)  # each request reserves its own

    def ask(self, prompt: Chat) -> Answer:
        """One request: reserved before it is sent, settled with what it cost."""
        if not self.is_paid:
            return self.model.answer([prompt], self.limit)[0]
        worst = self.worst(prompt)
        key = self.budget.reserve(worst, self.who)
        try:
            answer = self.model.answer([prompt], self.limit)[0]
        except WorkbookError:  # nobody was reached, or nobody is served
            self.budget.settle(key, 0.0)
            raise
        self.budget.settle(key, models.real_cost(self.task, self.model, answer, worst))
        return answer


class _Window:
    """How many requests are side by side: as many as the endpoint bears.

    A refusal for its rate (429) halves that number, and every answer raises it by one, up to
    `most`; a failure that ends all closes it.
    """

    def __init__(self, most: int, width: int) -> None:
        self._most = most
        self._width = width
        self._refused = Counter[str]()
        self.pause = 0.0  # seconds before the next request
        self.failed: Future[Answer] | None = None

    @property
    def room(self) -> int:
        """Requests to hand over; at full width the next ones wait at hand, so no thread waits."""
        if self.failed:
            return 0
        return 2 * self._most if self._width == self._most else self._width

    def answer_of(self, key: str, future: Future[Answer]) -> Answer | None:
        """The answer; None where it has to be asked for again, after the pause."""
        if future.cancelled():
            return None
        if future.exception():
            self.failed = future
            return None
        answer = future.result()
        error = answer.error or ""
        is_for_rate = error.startswith("429") and "quota" not in error
        if not is_for_rate or self._refused[key] >= RATE_RETRIES:
            self._width = min(self._most, self._width + 1)
            return answer
        self._width = max(1, self._width // 2)
        self._refused[key] += 1
        self.pause = max(self.pause, RATE_PAUSE * 2 ** self._refused[key])
        return None


def _ask_endpoint(
    till: Till, new: Prompts, single: Sequence[str], at_once: int
) -> Iterator[Answers]:
    """What has come since the last time, again and again; `single` first, each asked alone.

    Where one fails for good, what is on its way is waited for, since it is paid.
    """
    for key in single:
        yield {key: till.ask(new[key])}
    waiting = deque(_shortest_first(new, single))
    window = _Window(at_once, min(MOST_AT_ONCE, at_once) if single else 1)
    running = {}  # future -> key
    finished = SimpleQueue()  # futures
    with ThreadPoolExecutor(at_once) as pool:
        try:
            while running or (waiting and window.room):
                while waiting and len(running) < window.room:
                    key = waiting.popleft()
                    future = pool.submit(till.ask, new[key])
                    running[future] = key
                    future.add_done_callback(finished.put)
                window.pause = 0.0
                batch = {}
                for future in _all_of(finished):
                    key = running.pop(future)
                    answer = window.answer_of(key, future)
                    if answer is None:
                        waiting.append(key)
                    else:
                        batch[key] = answer
                if batch:
                    yield batch
                if window.pause or window.failed:  # after what came beside it has been kept
                    _cancel(running)
                    time.sleep(window.pause)
        finally:
            _cancel(running)
    if window.failed:
        window.failed.result()


def _all_of(finished: SimpleQueue[Future[Answer]]) -> list[Future[Answer]]:
    """What has finished; waits until something has."""
    futures = [finished.get()]
    while not finished.empty():
        futures.append(finished.get())
    return futures


def _ask_api(
    till: Till, new: Prompts, single: Sequence[str], session: Session
) -> Iterator[Answers]:
    """`single` one by one at once, the rest side by side, or offline in the provider's batches.

    All money of batches is set aside before anything is sent; the first answer tells what the
    endpoint takes.
    """
    if not session.offline:
        till.check(new.values())
        yield from _ask_endpoint(till, new, single, max(1, session.at_once))
        return
    single = single or list(new)[:1]
    rest = {key: chat for key, chat in new.items() if key not in single}
    till.check([new[key] for key in single])
    offline = models.Batches(
        rest, till.model, till.task, till.budget, till.who, till.limit,
        session.run.path("batches"), session.say,
    )  # fmt: skip
    for key in single:
        yield {key: till.ask(new[key])}
    yield from offline.answers()


def _cancel(futures: Iterable[Future[Answer]]) -> None:
    """Take back what no thread has begun."""
    for future in futures:
        future.cancel()


def _remembered(path: Path) -> tuple[Answers, Times, Times]:
    """(answers of one model by their key, milliseconds of those that this machine gave alone).

    The same of the first one of each `_way`. A line that a kill has torn is only lost work.
    """
    known = {}
    timed = {}
    ways = {}
    if not path.exists():
        return known, timed, ways
    with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
        for line in file:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                known.setdefault(row["key"], Answer(**row["answer"]))
                if row.get("alone") == platform.node():
                    timed[row["key"]] = row["answer"]["latency_ms"]
                    ways.setdefault(row["way"], timed[row["key"]])
    return known, timed, ways


def _as_lines(answers: Answers, single: Collection[str], way: str) -> bytes:
    """What is kept of them; the empty line before the first one ends whatever a kill has torn."""
    lines = [""]
    for key, answer in answers.items():
        alone = {"alone": platform.node(), "way": way} if key in single else {}
        if answer.finish != "error":
            lines.append(store.dumps({"key": key, "answer": answer} | alone))
    return "\n".join([*lines, ""]).encode("utf-8", "replace")
