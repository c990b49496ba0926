"""Which profile, where nobody named one: by the task, the trainer and the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from helpers import parameters, tasks
from helpers.records import WorkbookError

TUTORIAL = "tutorial"
GPUS = {  # MB that the card has -> the profile that fits it, largest first
    40_000: ("lora_8b_open", "LoRA on an 8B model from the hub"),
    20_000: ("qlora_8b", "QLoRA on an 8B model from the hub"),
}


def choose_profile(profile: str, overrides: Sequence[str] = ()) -> tuple[str, str]:
    """(the profile to run, why it and no other was chosen; "" where it was named).

    The tutorial's limits are made for its own task, so that another task gets its profile chosen as
    if none had been named.
    """
    pairs = [text.partition("=") for text in overrides]
    wanted = {name.strip(): value for name, _, value in pairs}
    task = wanted.get("task", "")
    if profile not in ("", TUTORIAL):
        return profile, ""
    try:
        is_own = bool(task) and not tasks.load_task(task).shipped
    except WorkbookError:
        if profile:  # the run refuses it, and writes that down
            return profile, ""
        raise
    if profile and not is_own:
        return profile, ""
    if not is_own:
        has_own = (parameters.PROFILES / f"{task}.yaml").exists()
        name = task if task and has_own else TUTORIAL
        return name, f"profile {name}: made for the shipped task {task or 'support_triage'}"
    name, reason = _for_own_task(wanted)
    if profile:
        reason += f"; {profile}'s limits are made for its own task"
    return name, f"profile {name}: {reason} (params/{name}.yaml)"


def _for_own_task(wanted: Mapping[str, str]) -> tuple[str, str]:
    from helpers.train import gpu_state

    if wanted.get("trainer") == "openai":
        return "openai", "trainer is openai"
    gpu = gpu_state()
    small = "small steps, which suit some hundred rows, and no limits"
    if gpu is None:
        return "laptop", f"no GPU here; {small}"
    if "base_model" in wanted:
        return "laptop", f"base_model is {wanted['base_model']}; {small}"
    for least, (name, method) in GPUS.items():
        if gpu.total_mb >= least:
            return name, f"a GPU with {gpu.total_mb / 1000:.0f} GB: {method}"
    return "laptop", f"the GPU's {gpu.total_mb / 1000:.0f} GB are few for an 8B model"
