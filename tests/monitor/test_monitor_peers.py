"""The comparison with other monitors: what is skipped, when an alarm counts, and what is sent."""

import sys

import numpy as np
import pytest

from benchmarks import monitor_peers as peers
from benchmarks.monitor import AFTER

FAKE = """
import json, sys
answer = lambda said: print("@@" + json.dumps(said), flush=True)
answer({"version": "0"})
for line in sys.stdin:
    asked = json.loads(line)
    found = {}
    for name, each in asked["columns"].items():
        means = [sum(map(float.__mul__, map(float, each["values"]), map(float, c))) / max(1, sum(c))
                 for c in each["counts"]]
        first = sum(means[: asked["reference"]]) / asked["reference"]
        found[name] = [asked["never"] if day < asked["reference"] else first - mean - 0.4
                       for day, mean in enumerate(means)]
    answer(found)
"""


def test_a_peer_that_is_not_there_is_skipped_with_the_reason(tmp_path, monkeypatch, capsys):
    """Neither is named nor in the cache; one that is named cannot start."""
    monkeypatch.setenv("WORKBOOK_PEERS", str(tmp_path))
    monkeypatch.delenv("WORKBOOK_EVIDENTLY", raising=False)
    monkeypatch.setenv("WORKBOOK_NANNYML", sys.executable)
    monkeypatch.setitem(peers.PROGRAMS, "nannyml", "raise SystemExit(3)")
    assert list(peers.peers(make=False)) == []
    said = capsys.readouterr().err
    assert "evidently: skipped, not installed (--install, or WORKBOOK_EVIDENTLY" in said
    assert "nannyml: skipped, the peer ended with 3" in said


def test_peers_see_the_very_same_series_as_06(monkeypatch):
    """A peer that watches daily means: over a tiny comparison, ours is beside every figure."""
    monkeypatch.setenv("WORKBOOK_EVIDENTLY", sys.executable)
    monkeypatch.setattr(peers, "PROGRAMS", {"evidently": FAKE})
    monkeypatch.setattr(peers, "CHANGES", ("ratings_one",))
    out = peers.compare(7, 2, peers.peers(make=False))
    one = out["evidently_delay_ratings_one_30"]
    assert (one["found"], one["n"]) == (1.0, 2)
    assert 1 <= one["ours"] <= AFTER
    assert out["evidently_false_30"]["value"] == 1.0
    assert {"evidently_84_tuned_delay_ratings_one_30", "evidently_84_false_looks_30"} <= set(out)


@pytest.mark.parametrize(
    ("flags", "cut", "nights"),
    [([1, -1, -1, 2], 0, 2), ([1, -1, -1, 2], 3, AFTER), ([1, 1, 1, 1], 0, 1)],
)
def test_an_alarm_counts_from_the_change(flags, cut, nights):
    """A flag before the change is no finding; one in its first night is one night."""
    assert peers.since(np.array(flags, float), 2, cut) == nights
