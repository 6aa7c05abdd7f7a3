"""Results on disk: written whole or not at all, sealed by checksums, read with one sentence for whatever is odd.

A manifest is a JSON beside some files: how they were made, the SHA-256 of each (`files`), and a checksum of itself.
Every output of the graph has one: `run.json` of a step, `provenance.json` of a claim's tables and of a ledger, and a
JSON of the same name for a figure, a notebook and the report. It is written last: files without one are not finished.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from candor.core.errors import CandorError, CorruptError, MissingError
from candor.core.settings import results_root

T = TypeVar("T")
_NOT_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_EDITED = "does not match its checksum (truncated, edited by hand or of an older version)"


def digest(value: Any) -> str:
    """Sixteen hexadecimal digits of something that JSON can say."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- Reading ----------------------------------------------------------------------------------------


def read(path: Path, parse: Callable[[Path], T]) -> T:
    """What `parse` makes of the file.

    Raises: `MissingError` if nothing is there, `CorruptError` naming whatever is there instead of a file that can be
    read: a folder, a link to nowhere, an unreadable, empty, truncated or binary file, a file where a folder belongs.
    """
    try:
        if path.is_file():
            return parse(path)
    except FileNotFoundError:
        pass
    except Exception as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _NOT_THE_FILE:
            raise
        reason = getattr(error, "strerror", None) or "truncated or edited by hand"
        raise corrupt(path, f"cannot be read ({reason})") from None
    there = next(place for place in (path, *path.parents) if os.path.lexists(place))
    if there == path:
        raise corrupt(path, "is not a file")
    if not there.is_dir():
        raise corrupt(there, "is not a folder")
    raise MissingError(f"There is no {path}: {_remedy(path)}.")


def read_json(path: Path, kind: type = dict) -> Any:
    """The object (`dict`) or list in a JSON file; raises what `read` does, also for JSON of another kind."""

    def parse(path: Path) -> Any:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, kind):
            raise TypeError(f"no {kind.__name__}")
        return found

    return read(path, parse)


def unseal(manifest: Path, *, check: bool = True) -> dict[str, Any]:
    """What a manifest says, after it and all its files were found as they were sealed.

    `check` False looks only whether the files are there. Raises: `MissingError` if there is no manifest, `CorruptError`
    naming what is missing, odd, truncated or edited.
    """
    about = read_json(manifest)
    if about.pop("checksum", None) != digest(about):
        raise corrupt(manifest, _EDITED)
    for name, wanted in about["files"].items():
        path = manifest.parent / name
        try:
            found = read(path, sha256 if check else lambda _, wanted=wanted: wanted)
        except MissingError:
            raise corrupt(path, "is missing") from None
        if found != wanted:
            raise corrupt(path, _EDITED)
    return about


def corrupt(path: Path, what: str) -> CorruptError:
    return CorruptError(path, what, _remedy(path))


def _remedy(path: Path) -> str:
    if not path.is_relative_to(results_root()):
        return "restore it, e.g. with git"
    scale = path.relative_to(results_root()).parts[0]
    if os.path.lexists(path):
        return f"run `python -m candor repair --scale {scale}` to make it again"
    return f"run `make replicate SCALE={scale}`"


# --- Writing ----------------------------------------------------------------------------------------


def write_json(path: Path, content: Any) -> None:
    """A JSON file that nobody ever sees half written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    try:
        draft.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def seal(manifest: Path, about: Mapping[str, Any], files: Iterable[Path]) -> None:
    """Write a manifest that says `about` and has the checksums of `files`, which lie beside it or below."""
    sums = {str(path.relative_to(manifest.parent)): sha256(path) for path in sorted(files)}
    about = json.loads(json.dumps({**about, "files": sums}, default=str))
    about.pop("checksum", None)
    write_json(manifest, {**about, "checksum": digest(about)})


def remove(path: Path) -> None:
    """Remove whatever is there, if anything is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def alone(lock: Path, wait: bool = True) -> Iterator[None]:
    """The only process with this lock file, which the kernel frees however the process ends.

    Raises: `BlockingIOError` if another has it and `wait` is False.
    """
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            try:
                if not os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                    continue
            except FileNotFoundError:  # whoever had it before has taken the file away
                continue
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
            return


@contextmanager
def draft(manifest: Path) -> Iterator[Path]:
    """An empty folder for what `manifest` will seal, gone when the block ends; waits while another process has it."""
    folder = manifest.with_name(f".{manifest.name}.draft")
    with alone(folder.with_suffix(".lock")):
        remove(folder)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def put(folder: Path, manifest: Path, about: Mapping[str, Any]) -> None:
    """Seal what is in a draft's `folder` and move it beside `manifest`; what the manifest there named goes."""
    place, first = manifest.parent, folder / manifest.name
    seal(first, about, [path for path in folder.rglob("*") if path.is_file() and path != first])
    gone: Iterable[str] = ()
    with suppress(CandorError):
        gone = unseal(manifest, check=False)["files"]
    for old in (manifest, *(place / name for name in gone)):
        remove(old)
    for path in sorted(folder.iterdir(), key=lambda path: path == first):
        remove(place / path.name)
        path.rename(place / path.name)


def sweep(folder: Path) -> None:
    """Remove the drafts and locks in `folder` that belong to no living process."""
    for path in [path for kind in ("draft", "lock") for path in folder.rglob(f".*.{kind}")]:
        with suppress(BlockingIOError), alone(path.with_suffix(".lock"), wait=False):
            remove(path.with_suffix(".draft"))
