"""What leaves by notebooks/more/03_export: the adapter, the merged model, or one GGUF file."""

from __future__ import annotations

import shutil
from pathlib import Path

from helpers import models, store
from helpers.records import TrainedModel, WorkbookError


def export_model(model: TrainedModel, form: str, kind: str = "f16") -> Path:
    """Write `form` (adapter, merged or gguf) of a trained model; returns the folder or file.

    It appears by one rename beside the adapter, in models/<version>/. `kind` is that of a GGUF
    file's matrices.
    """
    from helpers.extras import gguf

    if not model.adapter:
        raise WorkbookError(
            f"{model.model_id} lives at its provider; only what was trained here can be exported"
        )
    adapter = store.home() / model.adapter
    if form == "adapter":
        return adapter
    if form not in ("merged", "gguf") or kind not in gguf.KINDS:
        raise WorkbookError(
            f"export takes adapter, merged or gguf, and for gguf {', '.join(gguf.KINDS)};"
            f" got {form}, {kind}"
        )
    base = models.base_path(model.base_model)
    network = models.load_network(base, adapter)
    tokenizer = models.load_tokenizer(base)
    target = adapter.with_name("merged")
    if form == "gguf":
        target = adapter.with_name(f"{model.version}-{kind}.gguf")
    partial = target.with_name(f"{target.name}.partial")
    try:
        if form == "gguf":
            gguf.write_gguf(partial, network, tokenizer, kind, model.version)
        else:
            network.save_pretrained(str(partial))
            tokenizer.save_pretrained(str(partial))
            shutil.rmtree(target, ignore_errors=True)
        partial.replace(target)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        partial.unlink(missing_ok=True)
    return target
