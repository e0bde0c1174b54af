"""Repositories of the Hugging Face Hub as sources: `hf://owner/name@revision/file`, by way of `huggingface_hub`.

Cache, token, mirror (`HF_ENDPOINT`) and the switch that keeps it offline (`HF_HUB_OFFLINE`) are that library's own; the
extra `hub` brings it. Without a file the weights are those that `formats.folders` would take of a folder, and only they
and what is read beside them is fetched. A revision is a branch, a tag, `refs/pr/1` or a commit; without one it is the
default branch. Where the Hub cannot be reached, what the cache has of the revision is taken, and said.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from densenet_port.errors import DiskError, MisfitError, NetworkError, PortError, UsageError
from densenet_port.extras import framework
from densenet_port.fetch.download import offline
from densenet_port.formats import folders

SCHEME = "hf:/"  # a path has one slash left of the two
_PLACE = re.compile(r"hf:/{1,2}([^/@]+)/([^/@]+)(?:@(refs/[^/]+/[^/]+|[^/]+))?(?:/(.+?))?/*")
_OTHERS = ("datasets", "spaces", "buckets", "kernels", "models")  # where owners stand in addresses of other kinds
_SHOWN = 6  # files of a repository that an error names
_UNAUTHORISED, _FORBIDDEN = 401, 403


class Place(NamedTuple):
    """A repository of the Hub, a revision of it, and a file in it; None for the default, and for no one file."""

    repo: str
    revision: str | None
    file: str | None

    def __str__(self) -> str:
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repo}{revision}" + (f"/{self.file}" if self.file else "")


class Fetched(NamedTuple):
    """A place that is here now: its path, the commit that it was fetched at, and what must be said of that."""

    path: Path
    place: Place
    commit: str
    note: str | None


def is_place(source: str | PathLike[str]) -> bool:
    """Whether a source is a place on the Hub."""
    return os.fspath(source).replace("\\", "/").startswith(SCHEME)


def place_of(source: str | PathLike[str]) -> Place:
    """The place that a source means. Raises UsageError for none."""
    text = os.fspath(source).replace("\\", "/")
    match = _PLACE.fullmatch(text)
    if match is None or match[1] in _OTHERS or ".." in (match[4] or "").split("/"):
        shown = text.replace(SCHEME, "hf://", 1).replace("///", "//")
        hint = "name a model's repository: hf://OWNER/NAME, hf://OWNER/NAME@REVISION or hf://OWNER/NAME@REVISION/FILE"
        raise UsageError(f"{shown} is no place on the Hub", hint=hint)
    return Place(f"{match[1]}/{match[2]}", unquote(match[3]) if match[3] else None, match[4])


def fetched(source: str | PathLike[str]) -> Fetched:
    """What a place holds, fetched into huggingface_hub's cache, or found there.

    Raises UsageError without huggingface_hub, NetworkError for what the Hub refuses, does not have or does not answer,
    MisfitError for a repository without weights of a known name, DiskError for a cache that cannot be written.
    """
    place = place_of(source)
    hub = framework("huggingface_hub")
    with explained(place):
        try:
            if offline() or hub.constants.is_offline_mode():
                return _cached(hub, place, None)
            names = [file.rfilename for file in hub.HfApi().repo_info(place.repo, revision=place.revision).siblings]
        except PortError:
            raise
        except Exception as error:
            if not _is_unreachable(hub, error):
                raise
            return _cached(hub, place, error)
        needed = _needed(place, names)
        folder = _download(hub, place, needed)
        if needed[0].endswith(folders.INDEX):
            shards = sorted(set(folders.shards(folder / needed[0]).values()))
            folder = _download(hub, place, [*needed, *(name for name in shards if name in names)])
        return Fetched(folder / place.file if place.file else folder, place, folder.name, None)


def _needed(place: Place, names: list[str]) -> list[str]:
    """The files of a repository that are fetched: the weights, and what is read beside them."""
    if place.file is not None:
        if place.file not in names:
            raise NetworkError(f"{place}: the repository has no such file", hint=f"it has {_few(names)}")
        folder = place.file.rpartition("/")[0]
        inside = [name.rpartition("/")[2] for name in names if name.rpartition("/")[0] == folder]
        return [place.file, *(f"{folder}/{name}" if folder else name for name in folders.beside(inside))]
    if needed := folders.wanted(names):
        return needed
    what = f"{place}: no file in it has one of the names that weights have on the Hub"
    raise MisfitError(what, hint=f"name one, such as {place}/{names[0]}; it has {_few(names)}" if names else None)


def _download(hub: Any, place: Place, names: list[str]) -> Path:
    """The folder of the revision in the cache, with these files in it."""
    patterns = [escape(name) for name in names]
    return Path(hub.snapshot_download(place.repo, revision=place.revision, allow_patterns=patterns))


def _cached(hub: Any, place: Place, why: Exception | None) -> Fetched:
    """What the cache has of a place. Raises NetworkError where that is not enough."""
    reason = f"the Hub cannot be reached ({_line(why)})" if why else f"{offline() or 'HF_HUB_OFFLINE'} is set"
    hint = "go online once, or copy the Hub's cache from where it was fetched (HF_HOME)"
    try:
        cached = hub.snapshot_download(place.repo, revision=place.revision, local_files_only=True, allow_patterns=[])
    except FileNotFoundError as error:
        raise NetworkError(f"{place}: {reason}, and its cache has nothing of it", hint=hint) from error
    folder = Path(cached)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    if place.file not in (None, *names) or not (place.file or folders.wanted(names)):
        raise NetworkError(f"{place}: {reason}, and its cache has {_few(names)} of it", hint=hint)
    note = f"{place}: {reason}: taken from its cache, revision {folder.name}" if why else None
    return Fetched(folder / place.file if place.file else folder, place, folder.name, note)


def _few(names: list[str]) -> str:
    """The first names of a list in one line."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more


# -- errors ------------------------------------------------------------------------------------------------------------


@contextmanager
def explained(place: Place) -> Iterator[None]:
    """Turn what huggingface_hub and its transports raise into errors of ours, without their traces and addresses.

    Its bars are shown on a terminal only.
    """
    bars = framework("huggingface_hub.utils")
    quiet = not sys.stderr.isatty() and not bars.are_progress_bars_disabled()
    if quiet:
        bars.disable_progress_bars()
    try:
        yield
    except PortError:
        raise
    except Exception as error:  # noqa: BLE001 (each transport of huggingface_hub has a family of its own)
        raise _error(place, error) from None  # what it was raised from may show headers
    finally:
        if quiet:
            bars.enable_progress_bars()


LOGIN = "`hf auth login`, or a token in HF_TOKEN"


def _error(place: Place, error: Exception) -> PortError:
    """The error of ours for one of huggingface_hub's."""
    errors = framework("huggingface_hub").errors
    if isinstance(error, errors.HFValidationError):
        return UsageError(f"{place} is no place on the Hub: {_line(error)}", hint="name it as hf://OWNER/NAME")
    if isinstance(error, errors.HfHubHTTPError) and getattr(error, "response", None) is not None:
        return _refusal(errors, place, error)
    if isinstance(error, OSError) and error.filename and not isinstance(error, errors.EntryNotFoundError):
        return DiskError(f"{error.filename}: cannot be written: {error.strerror}")
    return NetworkError(f"{place}: {_line(error)}", hint="try again; what arrived is kept")


def _refusal(errors: Any, place: Place, error: Any) -> NetworkError:
    """What an answer of the Hub that is no success means."""
    repo, status = f"hf://{place.repo}", error.response.status_code
    if isinstance(error, errors.GatedRepoError):
        hint = f"accept its terms on its page, https://huggingface.co/{place.repo}; then {LOGIN}"
        return NetworkError(f"{repo}: the repository is gated, and you have no access", hint=hint)
    if isinstance(error, errors.RepositoryNotFoundError):
        hint = f"is it spelled right? a private one needs {LOGIN}"
        return NetworkError(f"{repo}: no such repository that you may see", hint=hint)
    if isinstance(error, errors.RevisionNotFoundError):
        hint = "name a branch, a tag or a commit of it, or none for its default branch"
        return NetworkError(f"{repo}: has no revision {place.revision!r}", hint=hint)
    hint = LOGIN if status in (_UNAUTHORISED, _FORBIDDEN) else "try again later; is HF_ENDPOINT right?"
    return NetworkError(f"{place}: the Hub answers with HTTP {status}", hint=hint)


def _is_unreachable(hub: Any, error: Exception) -> bool:
    """Whether an error says that there was no answer: the library is offline, or its transport has no connection."""
    if isinstance(error, hub.errors.HfHubHTTPError):
        return False
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, ConnectionError) or not names.isdisjoint({"TransportError", "ConnectionError"})


def _line(error: Exception) -> str:
    """The first line of an error's text, or its class."""
    text = " ".join(str(error).partition("\n")[0].split())
    return text[:200] or type(error).__name__
