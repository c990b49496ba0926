"""WORKBOOK_STORE: what a team's machines share, by its content: a folder, or s3://bucket/prefix.

A folder's files are objects under their sha256, and the list of its files is a tree under the
sha256 of that list (for an adapter: the `artifact_sha256` of the registry). The objects are there
and whole before the tree is, and the tree before anybody names it; so what is named can be fetched,
whatever was killed in between. Nothing is changed or overwritten, and an unchanged file of the next
dataset version is not written again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from helpers import processes, store
from helpers.records import WorkbookError


def address() -> str:
    """The store of this machine; "" when it has none."""
    return os.environ.get("WORKBOOK_STORE", "")


def upload(folder: Path, files: Iterable[Path]) -> str:
    """Put these files of a folder into the store; the name of their tree."""
    entries = []
    with _opened() as (system, root):
        for path in sorted(files):
            digest = store.sha256_file(path)
            _put(system, path, f"{root}/{_object(digest)}")
            if store.sha256_file(path) != digest:
                raise WorkbookError(f"{path} was changed while it was uploaded; do it again")
            entries.append([path.relative_to(folder).as_posix(), digest])
        tree = store.fingerprint(entries)
        with tempfile.TemporaryDirectory() as temporary:
            listing = store.write_text(Path(temporary) / tree, store.canonical(entries))
            _put(system, listing, _tree(root, tree))
    return tree


def download(tree: str, folder: Path) -> None:
    """Fetch the files of a tree that a folder lacks; they appear when all of them were checked.

    One process at a time fetches a folder, by a lock that holds across containers, where pids say
    nothing. So what lies beside it under the fetching's own names was left by a killed process.
    """
    from filelock import FileLock

    lock = f"{store.fingerprint(os.path.relpath(folder, store.home()))[:16]}.lock"
    with FileLock(store.make_folder(store.home() / "cache") / lock):
        for kind in ("partial", "fetch"):  # of 0.1.0, and of now
            processes.discard(folder.with_name(f".{folder.name}.{kind}"))
        _fetch(tree, folder, store.make_folder(folder.with_name(f".{folder.name}.fetch")))


def _fetch(tree: str, folder: Path, partial: Path) -> None:
    try:
        with _opened() as (system, root):
            entries = json.loads(_get(system, _tree(root, tree), partial / tree).read_text("utf-8"))
            (partial / tree).unlink()
            if store.fingerprint(entries) != tree:
                raise _torn(tree)
            missing = [(name, digest) for name, digest in entries if not (folder / name).exists()]
            for name, digest in missing:
                target = partial / name
                if not target.resolve().is_relative_to(partial.resolve()):
                    raise WorkbookError(f"{tree} in the store names {name!r}, outside its folder")
                store.make_folder(target.parent)
                _get(system, f"{root}/{_object(digest)}", target)
                if store.sha256_file(target) != digest:
                    raise _torn(digest)
        if not folder.exists():
            partial.rename(folder)
            return
        for name, _ in missing:
            store.make_folder((folder / name).parent)
            (partial / name).replace(folder / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _object(digest: str) -> str:
    return f"objects/{digest[:2]}/{digest}"


def _tree(root: str, name: str) -> str:
    return f"{root}/trees/{name}.json"


def _torn(name: str) -> WorkbookError:
    return WorkbookError(
        f"{name} in the store {_shown()} is not what its name says; delete it there and share the"
        " version again from the machine that made it"
    )


def _shown() -> str:
    return store.redact(address())


@contextlib.contextmanager
def _opened() -> Iterator[tuple[Any, str]]:
    """The store's file system and root; whatever its driver throws becomes one sentence."""
    try:
        yield _system(address())
    except WorkbookError:
        raise
    except Exception as error:  # each driver has errors of its own
        problem = store.redact(f"{type(error).__name__}: {error}")
        raise WorkbookError(
            f"the store {_shown()} cannot be used ({problem}); look at WORKBOOK_STORE and its keys"
        ) from error


def _system(place: str) -> tuple[Any, str]:
    """Of a bucket with the keys, region and endpoint that the AWS tools take from the environment.

    pyarrow has the driver in its wheels, so nothing more is to be installed.
    """
    from pyarrow import fs

    if not place.startswith("s3://"):
        uri = place if "://" in place else Path(place).resolve().as_uri()
        system, root = fs.FileSystem.from_uri(uri)
        if system.type_name == "local" and not Path(root).is_dir():
            raise WorkbookError(
                f"the store {_shown()} is not there; is it mounted? A new one is made by hand,"
                f" once: mkdir -p '{root}'"
            )
        return system, root.rstrip("/")
    root = place.removeprefix("s3://").rstrip("/")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    if endpoint:
        parts = urlsplit(endpoint)
        compatible = {"scheme": parts.scheme, "endpoint_override": parts.netloc}
        return fs.S3FileSystem(region=region or "us-east-1", **compatible), root
    region = region or fs.resolve_s3_region(root.partition("/")[0])
    return fs.S3FileSystem(region=region), root


def _put(system: Any, path: Path, target: str) -> None:
    """Write an object unless it is there; a reader sees all of it or nothing."""
    there = system.get_file_info(target)
    if there.is_file and there.size == path.stat().st_size:
        return
    if system.type_name != "local":
        with open(path, "rb") as source, system.open_output_stream(target) as copy:
            shutil.copyfileobj(source, copy)  # there when its last part is
        return
    partial = Path(f"{target}.{uuid.uuid4().hex}.partial")
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "rb") as source, open(partial, "wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _get(system: Any, source: str, target: Path) -> Path:
    """Read an object into a file."""
    try:
        with system.open_input_stream(source) as stream, open(target, "wb") as copy:
            shutil.copyfileobj(stream, copy)
    except FileNotFoundError:
        name = source.rpartition("/")[2]
        raise WorkbookError(
            f"{name} is missing in the store {_shown()}; is that mounted? if so, share it again"
        ) from None
    return target
