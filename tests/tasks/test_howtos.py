"""The commands of the how-tos are commands: each is parsed, and those of `new` are carried out."""

import json
import re
import shlex

import pytest

from helpers import cli, parameters, tasks
from helpers.store import PROJECT

PAGES = ("docs/task.md", "README.md", "docs/serving.md", "docs/headless.md", "docs/scaling.md")
ROWS = {
    "tickets.csv": "text,queue,priority,opened\n"
    + "".join(f"a b {n},{'xyz'[n % 3]},{n % 2},{n % 9 + 15}/5/2026\n" for n in range(30)),
    "letters.csv": "question,reply\n" + "".join(f"q {n},we say {n}\n" for n in range(30)),
}
CALL = {"id": "c", "type": "function", "function": {"name": "find", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "tool_calls": [CALL]}]


def commands(page):
    """The lines of a page's code blocks that call `workbook`, without their comments."""
    text = (PROJECT / page).read_text().replace("\\\n", " ")
    blocks = re.split(r"^```.*$", text, flags=re.MULTILINE)[1::2]
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("workbook ")]


def is_whole(words):
    """A command with no placeholder of the kind of DIR, ID … in it, nor an ellipsis or a pipe."""
    return not any(re.fullmatch(r"[A-Z]{2,}|.*[…|<>\[\]·&].*", word) for word in words)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_how_to_is_one(page):
    for words in filter(is_whole, commands(page)):
        if words[1] in ("practice-api", "serve"):  # programs of their own
            continue
        args = cli._parser().parse_args(words[1:])
        for pair in getattr(args, "overrides", None) or ():
            name = pair.partition("=")[0]
            assert name in parameters.known_parameters(), f"{page}: {name} is no parameter"


def test_the_commands_of_new_write_tasks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in ROWS.items():
        (tmp_path / name).write_text(text)
    row = json.dumps({"messages": CHAT, "tools": [TOOL]})
    (tmp_path / "chats.jsonl").write_text(f"{row}\n" * 9)
    lines = [words for words in commands("docs/task.md") if words[1] == "new"]
    assert len(lines) >= 5
    for number, words in enumerate(lines):
        assert cli.main(["new", f"t{number}", *words[3:]]) == 0
        tasks.load_examples(tasks.load_task(f"t{number}"))
