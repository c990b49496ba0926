"""What fault tests share (see fault_points.py); ROOM=name takes one room's tests alone."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "registry"))  # registry_toys

from fault_points import every_point, points, record  # noqa: F401


def pytest_collection_modifyitems(items):
    room = os.environ.get("ROOM", "").strip()
    for item in items:
        name = item.path.name
        if room and item.path.parent.name == "faults" and not name.startswith(f"test_{room}_"):
            item.add_marker(pytest.mark.skip(reason=f"not of room {room}"))
