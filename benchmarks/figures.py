"""How dense the code is: statements, tokens a statement, long lines, what is hard to read.

`python -m benchmarks.figures [--json] [ROOM]`; `make lint` prints it. The figures are for looking
at, not for gaming: tests/test_architecture.py holds only those that the contract names.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import tokenize
from collections import Counter, defaultdict
from pathlib import Path

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
OUTSIDE_THE_CORE = ("extras", "serve", "practice")
COLUMNS = 100
MANY_PARAMETERS = 6
COMPLEX = 15
NOT_TOKENS = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.Assert)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def room_of(path: Path) -> str:
    """The room that a file of helpers/ belongs to."""
    return path.relative_to(HELPERS).parts[0].removesuffix(".py")


def complexity(function: ast.AST) -> int:
    """1 + branches, further operands of and/or, comprehensions and their conditions (McCabe)."""
    count = 1
    for node in ast.walk(function):
        if isinstance(node, BRANCHES):
            count += 1
        elif isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        elif isinstance(node, ast.comprehension):
            count += 1 + len(node.ifs)
    return count


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Parameters that a caller may give, self and cls left out."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    own = bool(named) and named[0].arg in ("self", "cls")
    return len(named) - own + bool(arguments.vararg) + bool(arguments.kwarg)


def counts_of(text: str) -> Counter[str]:
    """The raw counts of one file's source."""
    counts: Counter[str] = Counter()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        counts["tokens"] += token.type not in NOT_TOKENS
    for line in text.splitlines():
        counts["lines"] += bool(line.strip())
        counts["long_lines"] += len(line) > COLUMNS
    for node in ast.walk(ast.parse(text)):
        counts["statements"] += isinstance(node, ast.stmt)
        counts["ternaries"] += isinstance(node, ast.IfExp)
        counts["comprehensions"] += isinstance(node, COMPREHENSIONS)
        if isinstance(node, FUNCTIONS):
            counts["many_parameters"] += parameters(node) > MANY_PARAMETERS
            counts["complex_functions"] += complexity(node) >= COMPLEX
    return counts


def by_room() -> dict[str, Counter[str]]:
    """The counts of every room."""
    rooms: dict[str, Counter[str]] = defaultdict(Counter)
    for path in sorted(HELPERS.rglob("*.py")):
        rooms[room_of(path)] += counts_of(path.read_text(encoding="utf-8"))
    return dict(rooms)


def figures(counts: Counter[str]) -> dict[str, float]:
    """The figures of issue and contract, from raw counts."""
    statements = max(1, counts["statements"])
    return {
        "statements": counts["statements"],
        "tokens_a_statement": round(counts["tokens"] / statements, 2),
        "long_lines_percent": round(100 * counts["long_lines"] / max(1, counts["lines"]), 2),
        "ternaries_per_1000": round(1000 * counts["ternaries"] / statements, 1),
        "comprehensions_per_1000": round(1000 * counts["comprehensions"] / statements, 1),
        "functions_of_many_parameters": counts["many_parameters"],
        "complex_functions": counts["complex_functions"],
    }


def totals() -> dict[str, dict[str, float]]:
    """The figures of the core rooms, of those outside the core, and of all."""
    core: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    for room, counts in by_room().items():
        if room in OUTSIDE_THE_CORE:
            outside += counts
        else:
            core += counts
    return {"core": figures(core), "outside": figures(outside), "helpers": figures(core + outside)}


def functions(room: str) -> list[str]:
    """The functions of a room that are complex or take many parameters, with their place."""
    lines = []
    for path in sorted(HELPERS.rglob("*.py")):
        if room_of(path) != room:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, FUNCTIONS):
                continue
            hard, many = complexity(node), parameters(node)
            if hard >= COMPLEX or many > MANY_PARAMETERS:
                place = f"{path.relative_to(HELPERS.parent)}:{node.lineno}"
                lines.append(f"{place} {node.name}: complexity {hard}, {many} parameters")
    return lines


def main() -> None:
    """Print the figures, of all rooms or of one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("room", nargs="?", default="")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.json:
        named = {
            f"{group}_{name}": {"kind": "count", "value": value, "better": "lower"}
            for group, values in totals().items()
            for name, value in values.items()
        }
        print(json.dumps(named))
        return
    rooms = {room: figures(counts) for room, counts in by_room().items()}
    table = rooms | totals() if not arguments.room else {arguments.room: rooms[arguments.room]}
    titles = ("statements", "tokens", "long %", "ternaries", "compr.", ">6 par.", "complex")
    print(f"{'':14}" + "".join(f"{title:>11}" for title in titles))
    for name, values in table.items():
        print(f"{name:14}" + "".join(f"{value:>11}" for value in values.values()))
    for line in functions(arguments.room) if arguments.room else []:
        print(line)


if __name__ == "__main__":
    main()
