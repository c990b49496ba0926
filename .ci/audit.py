"""Look for known holes in requirements.hashes by pip-audit; say so when nobody could be asked.

Exit 1 when a locked version has one that .ci/accepted.txt does not name (an id a line, and why).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MOST_UNKNOWN = 0.1  # of the packages; more, and nothing was looked up


def accepted() -> set[str]:
    """The ids of holes that do not concern the workbook."""
    lines = (ROOT / ".ci" / "accepted.txt").read_text(encoding="utf-8").splitlines()
    return {line.split()[0] for line in lines if line and not line.startswith("#")}


def judge(report: str, known: set[str]) -> tuple[int, list[str]]:
    """The exit code and the lines to print for a report of pip-audit (JSON; "" for none)."""
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 0, ["not audited: no list of known holes could be reached"]
    unknown = [package for package in packages if "skip_reason" in package]
    if len(unknown) > MOST_UNKNOWN * len(packages):
        reason = unknown[0]["skip_reason"]
        return 0, [f"not audited: {len(unknown)} of {len(packages)} packages: {reason}"]
    lines = []
    for package in packages:
        for hole in package.get("vulns", []):
            if known.isdisjoint({hole["id"], *hole.get("aliases", [])}):
                fixed = ", ".join(hole.get("fix_versions", [])) or "no version yet"
                name = f"{package['name']} {package['version']}"
                lines.append(f"{name}: {hole['id']}; mended in {fixed}")
    if lines:
        return 1, lines
    return 0, [f"{len(packages) - len(unknown)} packages, no known hole"]


def main() -> int:
    """Audit, print, and return the exit code."""
    command = [str(Path(sys.executable).with_name("pip-audit")), "--disable-pip"]
    command += ["--require-hashes", "-r", str(ROOT / "requirements.hashes"), "-f", "json"]
    done = subprocess.run(command, capture_output=True, text=True)
    code, lines = judge(done.stdout, accepted())
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
