"""The widget's button while its cell waits, as JupyterLab 4.4 and later send it: by a subshell."""

from __future__ import annotations

import queue
import time

from jupyter_client.manager import start_new_kernel

from helpers import processes

CELL = """
import time
from helpers.show.train import JobView
asked = []
view = JobView("ftjob-1", lambda job_id: asked.append(job_id) or "cancelled")
until = time.monotonic() + 60
while not asked and time.monotonic() < until:
    view.look({"status": "running", "ended": False, "minutes": 0.1, "usd": 0.0, "curve": []})
    time.sleep(0.2)
print("asked:", asked)
"""


def test_cancel_is_heard_while_the_cell_waits(tmp_path):
    env = processes.child_environment({"WORKBOOK_HEADLESS": "0", "WORKBOOK_HOME": str(tmp_path)})
    manager, client = start_new_kernel(kernel_name="python3", env=env, startup_timeout=120)
    try:
        control = client.session.msg("create_subshell_request", {})
        client.control_channel.send(control)
        subshell = client.get_control_msg(timeout=60)["content"]["subshell_id"]
        client.execute(CELL)
        printed, until = "", time.monotonic() + 120
        while "asked" not in printed and time.monotonic() < until:
            try:
                message = client.get_iopub_msg(timeout=1)
            except queue.Empty:
                continue
            content = message["content"]
            printed += content.get("text", "") if message["msg_type"] == "stream" else ""
            if (
                message["msg_type"] == "comm_open"
                and content["data"]["state"]["_model_name"] == "ButtonModel"
            ):
                button = content["comm_id"]
            elif message["msg_type"] == "display_data":  # it is on the screen: click
                data = {"method": "custom", "content": {"event": "click"}}
                click = client.session.msg("comm_msg", {"comm_id": button, "data": data})
                click["header"]["subshell_id"] = subshell
                client.shell_channel.send(click)
        assert "asked: ['ftjob-1']" in printed
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
