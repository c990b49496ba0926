"""What the papers promise is there: links, commands, rooms, profiles, packages, words, licence."""

from __future__ import annotations

import argparse
import re
import tomllib
from typing import get_args

import pytest
from packaging.requirements import Requirement

from helpers import cli, records, store
from helpers.evaluate import LADDER

ROOT = store.PROJECT
PAPERS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("helpers/tasks/*/README.md")]
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEPENDENCIES = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")


def anchor(title: str) -> str:
    """A heading's anchor, as the usual renderers of Markdown make it."""
    kept = re.sub(r"[^\w\- ]", "", title.replace("&lt;", "<").replace("&gt;", ">").lower())
    return kept.strip().replace(" ", "-")


@pytest.mark.parametrize("paper", PAPERS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(paper):
    text = paper.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        name, _, fragment = target.partition("#")
        there = paper.parent / name if name else paper
        assert there.exists(), f"{paper.name}: {target}"
        if fragment:
            there_text = there.read_text(encoding="utf-8")
            anchors = [anchor(title) for title in re.findall(r"^#+ (.+)$", there_text, re.M)]
            anchors += re.findall(r'<a id="([\w-]+)"></a>', there_text)
            assert fragment in anchors, f"{paper.name}: {target}"


def commands() -> dict[str, argparse.ArgumentParser]:
    """Every command of `workbook`, also those of a group, with its parser."""
    known: dict[str, argparse.ArgumentParser] = {}
    waiting = [("", cli._parser())]
    while waiting:
        name, parser = waiting.pop()
        known[name] = parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                waiting += [(f"{name} {key}".strip(), sub) for key, sub in action.choices.items()]
    return known


def test_commands_that_the_papers_name_exist():
    known = commands()
    for paper in PAPERS:
        for name in re.findall(r"`workbook ([a-z-]+)", paper.read_text(encoding="utf-8")):
            assert name in known, f"{paper.name}: workbook {name}"
    for name in re.search(r"workbook registry ([a-z|]+)", README)[1].split("|"):
        assert f"registry {name}" in known


def test_every_command_takes_json_but_for_five():
    without = {
        name
        for name, parser in commands().items()
        if name not in ("", "registry", "logs")
        and not any("--json" in action.option_strings for action in parser._actions)
    }
    assert without == {"new", "learner", "practice-api", "rate", "serve"}


def test_the_readme_names_every_room_and_profile():
    folders = {path.parent.name for path in (ROOT / "helpers").glob("*/__init__.py")}
    modules = {path.stem for path in (ROOT / "helpers").glob("*.py")} - {"__init__"}
    for room in folders | modules | {"extras"}:
        assert f"`{room}`" in README, room
    for profile in (ROOT / "params").glob("*.yaml"):
        assert f"`{profile.stem}`" in README, profile.stem


def test_every_package_has_its_reason_and_keeper():
    extras = PROJECT["optional-dependencies"]
    wanted = {(Requirement(text).name, "") for text in PROJECT["dependencies"]}
    for extra, texts in extras.items():
        if extra != "all":
            wanted |= {(Requirement(text).name, extra) for text in texts}
    base = re.findall(r"^\| `([\w.-]+)` \| [^|`]+\| [^|]+\| [^|]+\|$", DEPENDENCIES, re.M)
    with_extra = re.findall(
        r"^\| `(\w+)` \| `([\w.-]+)` \| [^|]+\| [^|]+\| [^|]+\|$", DEPENDENCIES, re.M
    )
    assert {(name, "") for name in base} | {(name, extra) for extra, name in with_extra} == wanted


def test_the_glossary_knows_the_words_of_the_records():
    words = {*records.ISSUE_CODES, *records.PARTS, *LADDER, "incumbent", "fine_tuned"}
    for vocabulary in (
        records.FindingVerdict,
        records.Verdict,
        records.Severity,
        records.HealthVerdict,
        records.Recommendation,
        records.Trainer,
        records.Status,
        records.Source,
        records.Quality,
    ):
        words |= set(get_args(vocabulary))
    silent = [word for word in sorted(words) if not re.search(rf"\b{word}\b", GLOSSARY)]
    assert not silent


def test_the_licence_is_apache_and_travels_with_the_package():
    assert PROJECT["license"] == "Apache-2.0"
    assert PROJECT["license-files"] == ["LICENSE", "NOTICE"]
    licence = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in licence and "END OF TERMS AND CONDITIONS" in licence
    assert "SmolLM2-135M-Instruct" in (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_the_changelog_begins_with_what_is_not_released_yet():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, re.M)[0].endswith("(unreleased)")


def test_every_decision_stands_in_the_index_and_older_ones_say_whether_they_hold():
    text = (ROOT / "docs" / "decisions.md").read_text(encoding="utf-8")
    index, _, entries = text.partition("\n## 20")
    names = re.findall(r'^<a id="([\w-]+)"></a>\*\*', entries, re.M)
    assert len(names) == len(set(names))
    assert set(re.findall(r"\]\(#([\w-]+)\)", index)) == set(names)
    assert not re.findall(r"^\*\*", entries, re.M), (
        "give the entry an id, and put it into the index"
    )
    _, _, older = entries.partition("\n## 2026-11-28: the other library")
    statuses = re.findall(r"\*(?:Still true|Changed 20|Superseded)[^*]+\*", older)
    assert len(statuses) == len(re.findall(r"^<a id", older, re.M))
