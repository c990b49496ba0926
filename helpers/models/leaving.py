"""The one gate for text that leaves this machine: permission, personal data, secrets, whose key.

`ApiModel` asks nobody elsewhere without a task's permission, and sends no chat that the permission
holds back; so no rung, judge, generator or server can go around it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from helpers.models.providers import host_of
from helpers.records import WorkbookError
from helpers.redaction import find_personal_data, find_secrets, has_sign_of_code, without_surrogates

if TYPE_CHECKING:
    from helpers.tasks import Task

OPENAI_HOST = "api.openai.com"
HELD_BACK = "held back"  # how the error of a request begins that was not sent


@dataclass(frozen=True)
class Permission:
    """A task's word that its text may leave, and what only looks as if it should not."""

    own: str  # the task's instructions and articles: written to be sent
    allow: tuple[re.Pattern[str], ...]  # task.yaml's `allow`

    def held_back(self, texts: Iterable[str]) -> str:
        """The kinds of what may not leave in these texts; "" when all may go."""
        kinds = set()
        for text in map(without_surrogates, texts):
            kinds |= {span.kind for span in find_secrets(text) if span.certain}
            for span in find_personal_data(text):
                words = text[span.start : span.end]
                is_allowed = any(pattern.search(words) for pattern in self.allow)
                is_allowed |= span.kind == "PHONE_NUMBER" and has_sign_of_code(text, span)
                if words not in self.own and not is_allowed:
                    kinds.add(span.kind)
        return ", ".join(sorted(kinds))


def permission_of(task: Task) -> Permission:
    """What a task whose `data_may_leave` is true lets out."""
    from helpers import tasks

    articles = [article.text for article in tasks.knowledge(task)]
    own = "\n".join([task.instructions_full, task.instructions_short, *task.wordings, *articles])
    return Permission(own, tuple(map(re.compile, task.allow.values())))


def key_for(base_url: str) -> str:
    """The key that was given for this host; WorkbookError where none was.

    OPENAI_API_KEY is for OpenAI (and OPENAI_BASE_URL), WORKBOOK_API_KEY for the hosts that
    WORKBOOK_API_HOST names (by default OpenAI's): an address that came out of a file or a backup
    gets no key.
    """
    host = host_of(base_url)
    hosts = re.split(r"[\s,]+", os.environ.get("WORKBOOK_API_HOST", "") or OPENAI_HOST)
    key = os.environ.get("WORKBOOK_API_KEY", "")
    if key and host in hosts:
        return key
    official = host_of(os.environ.get("OPENAI_BASE_URL", ""))
    if host in (OPENAI_HOST, official) and os.environ.get("OPENAI_API_KEY"):
        return os.environ["OPENAI_API_KEY"]
    if key:
        raise WorkbookError(
            f"WORKBOOK_API_KEY was given for {', '.join(hosts)}, not for {host}; if it is meant for"
            f" {host}, set WORKBOOK_API_HOST={host} in the environment"
        )
    raise WorkbookError(
        f"{host} needs a key: set WORKBOOK_API_KEY, and WORKBOOK_API_HOST={host}, in the"
        " environment (OPENAI_API_KEY is used for OpenAI alone)"
    )
