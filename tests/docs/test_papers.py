"""What the papers promise is there: links, commands, rooms, profiles, packages, words, licence."""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from packaging.requirements import Requirement

from helpers import cli, parameters, records, store
from helpers.evaluate import LADDER
from helpers.learn import BREAKS

ROOT = store.PROJECT
PAPERS = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("helpers/tasks/*/README.md")]
)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEPENDENCIES = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
FOLDERS = ("helpers", "docs", "params", "notebooks", "tests", "benchmarks", "deploy", ".ci")
FILE = re.compile(rf"(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./-]*\w")
CODE = "\n".join(
    path.read_text(encoding="utf-8")
    for folder in ("helpers", "tests", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)


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


def typed() -> list[tuple[str, str]]:
    """(paper, text) of all that stands in backticks, or on a line of a block of code."""
    texts = []
    for paper in PAPERS:
        text = paper.read_text(encoding="utf-8")
        for block in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S):
            texts += [(paper.name, line.partition("#")[0]) for line in block.splitlines()]
        prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
        texts += [(paper.name, span) for span in re.findall(r"`([^`\n]+)`", prose)]
    return texts


def test_files_that_the_papers_name_exist():
    for paper, text in typed():
        for name in FILE.findall(text):
            stem = Path(name)
            there = [ROOT / name, *(ROOT / stem.parent).glob(f"{stem.name}.*")]
            assert any(path.exists() for path in there), f"{paper}: {name}"


def test_options_that_the_papers_name_are_taken():
    known = commands()
    elsewhere = {"serve": "serve/__main__.py", "practice-api": "practice/__main__.py"}
    for paper, text in typed():
        for name, rest in re.findall(r"workbook ((?:registry |logs )?[a-z-]+)([^·&;]*)", text):
            if name not in known:
                continue  # a word of a sentence; the names are judged above
            options = {o for action in known[name]._actions for o in action.option_strings}
            program = elsewhere.get(name)
            if program:
                source = (ROOT / "helpers" / program).read_text(encoding="utf-8")
                options |= set(re.findall(r'"(--[a-z-]+)"', source))
            for option in re.findall(r"(?<!\S)--[a-z][a-z-]*", rest):
                assert option in options, f"{paper}: workbook {name} {option}"


def test_parameters_variables_and_targets_that_the_papers_name_exist():
    declared = json.loads(parameters.DECLARED.read_text(encoding="utf-8"))
    names = set(parameters.RUN_LEVEL).union(*declared.values())
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for paper, text in typed():
        for name in re.findall(r"-p ([a-z_]+)=", text):
            assert name in names, f"{paper}: -p {name}"
        for name in re.findall(r"WORKBOOK_[A-Z_]+[A-Z]", text):
            assert name in CODE or name in makefile, f"{paper}: {name}"
        for name in re.findall(r"^(?:\S*=\S* )?make ([a-z]+)", text):
            assert re.search(rf"^{name}:", makefile, re.M), f"{paper}: make {name}"
        for name in re.findall(r"python -m ((?:benchmarks|helpers)\.[a-z_.]*[a-z_])", text):
            place = ROOT / name.replace(".", "/")
            assert place.is_dir() or place.with_suffix(".py").exists(), f"{paper}: {name}"


def test_the_breaks_that_the_papers_name_are_those_of_the_code():
    text = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \| 0", text, re.M)) == set(BREAKS)


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
