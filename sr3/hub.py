"""The one place with a network: files of the Hub at a pinned commit, repositories sent to it.

Invariants: a file counts as present only after its hash was verified, and then no request is made
for it; nothing waits longer than `PATIENCE` for a server that does not answer; what was fetched
before an interruption is kept and continued; importing this module opens no connection and loads
no client. Every failure is a `HubError` of one sentence (`download` alone gives a bare reason).

Files lie where every Hub client keeps them (`sr3.pins`), so others find what was fetched here. The
client's own `hf_hub_download` is not used for the bytes: since its 2.x it keeps no partial file.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from sr3.background import in_background
from sr3.errors import DownloadError, HubBusy, HubError, HubUnreachable
from sr3.hub_errors import sentence
from sr3.pins import (
    PART,
    Kind,
    Pin,
    Progress,
    is_right,
    linked_files,
    make_room,
    offline,
    place,
    safe_name,
    write_note,
)

PATIENCE = 3.0  # seconds until a server that does not answer is told of
INDEXED = "model-index"  # where a card's metadata hold scores
LONGEST_DOWNLOAD = 600.0  # seconds, of `download`
TRIES = 4  # in a row without new data
_REQUEST = 2.5  # seconds a connection or a read may take: ends before PATIENCE does
_state = {"silent": False}
T = TypeVar("T")


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT or the public one."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def silent() -> bool:
    """Whether the network is off, or the last request to a server went unanswered."""
    return offline() or _state["silent"]


# --------------------------------------------------------------------------------------- pull
def fetch(
    pin: Pin, files: Mapping[str, str], token: str | None = None, force: bool = False
) -> Iterator[Progress]:
    """Bring files of a pin into the cache: those that are not here with the right hash.

    `files` maps names to SHA-256 (64 hex digits) or git blob hashes (40). Nothing is asked where
    all are here. An abandoned iterator keeps what it fetched. Raises HubError.
    """
    wanted = {
        name: digest
        for name, digest in files.items()
        if force or not is_right(pin.folder / safe_name(name), digest)
    }
    if not wanted:
        return
    try:
        found = {name: _metadata(pin, name, wanted[name], token) for name in wanted}
        total = sum(each.size for each in found.values())
        make_room(pin, total)
        done, began, kept = 0, time.monotonic(), 0
        for name, each in found.items():
            for here, fresh in _stream(pin, name, wanted[name], each, token):
                fresh_all = kept + fresh
                spent = time.monotonic() - began
                rate = fresh_all / spent if fresh_all and spent > 0.2 else None
                yield Progress(name, done + here, total, rate and (total - done - here) / rate)
            done, kept = done + each.size, fresh_all
    except HubError:
        raise
    except Exception as error:
        raise _told(error, str(pin)) from error


def files_of(pin: Pin, token: str | None = None) -> dict[str, str]:
    """The files of a commit with their hashes (`fetch`); asked once, then kept in the cache.

    Raises HubError.
    """
    listing = pin.storage / ".sr3" / f"{pin.commit}.json"
    try:
        known: dict[str, str] = json.loads(listing.read_text())
        return known
    except (OSError, ValueError):
        pass
    try:
        info = _repository(pin.repo, pin.commit, pin.kind, token)
    except (HubBusy, HubUnreachable):
        if files := linked_files(pin):  # another client fetched them
            return files
        raise
    if info.sha != pin.commit:
        raise HubError(f"{pin} is another commit on the Hub ({info.sha}): choose one that exists.")
    files = {
        each.rfilename: each.lfs.sha256 if each.lfs else each.blob_id for each in info.siblings
    }
    write_note(listing, json.dumps(files))
    return files


def resolve(
    repo: str,
    revision: str = "main",
    kind: Kind = "model",
    token: str | None = None,
    root: Path | None = None,
) -> Pin:
    """The commit that a branch or tag is at now; the last known one where the Hub does not tell.

    Raises HubError.
    """
    reference = Pin(repo, "", kind, root).storage / "refs" / safe_name(revision)
    try:
        commit = _repository(repo, revision, kind, token).sha
    except (HubBusy, HubUnreachable):
        if not reference.is_file():
            raise
        return Pin(repo, reference.read_text().strip(), kind, root)
    write_note(reference, commit)
    return Pin(repo, commit, kind, root)


def page_of(pin: Pin) -> str:
    """The address of a commit's page."""
    kind = "" if pin.kind == "model" else f"{pin.kind}s/"
    return f"{endpoint()}/{kind}{pin.repo}/commit/{pin.commit}"


def _repository(repo: str, revision: str, kind: Kind, token: str | None) -> Any:
    from huggingface_hub import HfApi

    api = HfApi(endpoint(), token=token)
    return _ask(
        lambda: api.repo_info(
            repo, revision=revision, repo_type=kind, files_metadata=True, timeout=_REQUEST
        ),
        f"hub:{repo}@{revision}",
    )


@dataclass(frozen=True)
class _Remote:
    url: str
    etag: str
    size: int


def _metadata(pin: Pin, name: str, wanted: str, token: str | None) -> _Remote:
    """What the Hub has under this name. Raises HubError."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(pin.repo, name, repo_type=pin.kind, revision=pin.commit, endpoint=endpoint())
    found = _ask(
        lambda: get_hf_file_metadata(url, token=token, timeout=_REQUEST, endpoint=endpoint()),
        f"{name} of {pin}",
    )
    etag = found.etag or ""
    if not etag.isalnum() or found.size is None or found.commit_hash not in (None, pin.commit):
        raise HubError(f"The Hub's answer about {name} of {pin} is not usable: try again later.")
    if len(etag) == len(wanted) and etag != wanted:
        raise _mismatch(pin, name, wanted, etag)
    return _Remote(url, etag, found.size)


def _stream(
    pin: Pin, name: str, wanted: str, remote: _Remote, token: str | None
) -> Iterator[tuple[int, int]]:
    """Bytes here and bytes fetched by this call, until the file is in place and right."""
    from huggingface_hub.utils._fixes import WeakFileLock

    blob = pin.storage / "blobs" / remote.etag
    part = blob.with_name(f"{remote.etag}{PART}")
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock = pin.storage.parent / ".locks" / pin.storage.name / f"{remote.etag}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        fresh, continued = 0, part.exists()
        if is_right(blob, wanted):  # the bytes are here under another name or commit
            yield remote.size, 0
        else:
            for here, fresh in _append(part, remote, token):
                yield here, fresh
            if not is_right(part, wanted) and continued:  # what was kept was not its beginning
                part.unlink()
                for here, fresh in _append(part, remote, token):
                    yield here, fresh
            if not is_right(part, wanted):
                part.unlink()
                raise _mismatch(pin, name, wanted, "other bytes")
            os.replace(part, blob)
        place(pin.folder / name, blob)


def _append(part: Path, remote: _Remote, token: str | None) -> Iterator[tuple[int, int]]:
    """Continue a partial file to its end; a connection that breaks is taken up again, but not one
    that never brought anything: a server that is silent is told of at once."""
    import httpx2

    fresh, failures, furthest = 0, 0, 0
    while (here := part.stat().st_size if part.exists() else 0) != remote.size or not part.exists():
        try:
            held, continues, pieces = _within(partial(_opened, remote, here, token))
            with held, part.open("ab" if continues else "wb") as file:
                here = here if continues else 0
                for piece in pieces:
                    file.write(piece)
                    here, fresh = here + len(piece), fresh + len(piece)
                    if here > furthest:  # a server may begin anew each time, and always end early
                        furthest, failures = here, 0
                    yield here, fresh
            if here != remote.size:
                raise httpx2.RemoteProtocolError("the file ended too soon")
        except (TimeoutError, httpx2.TimeoutException, httpx2.NetworkError,
                httpx2.RemoteProtocolError):  # fmt: skip
            failures += 1
            if not fresh or failures >= TRIES:
                raise
            time.sleep(0.2 * failures)
    yield here, fresh


def _opened(
    remote: _Remote, here: int, token: str | None
) -> tuple[ExitStack, bool, Iterator[bytes]]:
    """What closes the connection, whether it goes on at byte `here` (else it begins anew), and the
    bytes, the first of which are there."""
    from huggingface_hub import get_session
    from huggingface_hub.utils._headers import build_hf_headers
    from huggingface_hub.utils._http import hf_raise_for_status

    headers = build_hf_headers(token=token) | {"Accept-Encoding": "identity"}
    if 0 < here < remote.size:
        headers["Range"] = f"bytes={here}-"
    with ExitStack() as stack:
        stream = get_session().stream("GET", remote.url, headers=headers, timeout=_REQUEST)
        answer = stack.enter_context(stream)
        hf_raise_for_status(answer)
        pieces = answer.iter_raw()
        first = next(pieces, b"")
        return stack.pop_all(), answer.status_code == 206, chain([first], pieces)


def _mismatch(pin: Pin, name: str, wanted: str, found: str) -> HubError:
    return HubError(
        f"{name} of {pin} has hash {found[:12]}, expected is {wanted[:12]}: it was not kept. If "
        "the registry is wrong, correct it; else tell the repository's owner."
    )


# --------------------------------------------------------------------------------------- push
def send(
    folder: Path,
    repo: str,
    kind: Kind = "model",
    *,
    message: str,
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool = False,
    replacing: Sequence[str] = (),
) -> Pin:
    """Put a folder's files into a Hub repository, which is created if need be; its new commit.

    The repository's other files stay, but for those of `replacing` (names, with * for any
    characters), which go in the same commit. Raises HubError.
    """
    from huggingface_hub import HfApi

    if offline():
        raise HubUnreachable(
            f"{repo} cannot be written, since SR3 Lab is offline (--offline or HF_HUB_OFFLINE=1): "
            "run this again without."
        )
    api = HfApi(endpoint(), token=token)
    _ask(api.whoami, f"The account that may write to {repo}")
    try:
        name = api.create_repo(repo, private=private, repo_type=kind, exist_ok=True).repo_id
        if branch:
            api.create_branch(name, branch=branch, repo_type=kind, exist_ok=True)
        commit = api.upload_folder(
            folder_path=folder, repo_id=name, repo_type=kind, revision=branch,
            commit_message=message, create_pr=create_pr, delete_patterns=list(replacing) or None,
        )  # fmt: skip
    except Exception as error:
        raise _told(error, f"{repo} on the Hub") from error
    return Pin(name, str(commit.oid), kind)


def front_matter(values: Mapping[str, Any]) -> str:
    """YAML of a card's metadata, as the Hub's own client writes it."""
    from huggingface_hub import DatasetCardData, ModelCardData

    make = DatasetCardData if "configs" in values else ModelCardData
    return f"---\n{make(**values).to_yaml().strip()}\n---\n"


def metadata_of(card: str) -> dict[str, Any]:
    """What `front_matter` wrote, or a hand."""
    from huggingface_hub import ModelCard

    data: Any = ModelCard(card, ignore_metadata_errors=True).data
    return dict(data.to_dict())


# ------------------------------------------------------------------------------------ patience
def _ask(question: Callable[[], T], what: str) -> T:
    """The answer to a short question to the Hub, or HubError within PATIENCE seconds."""
    if offline():
        raise sentence(None, what, endpoint())
    try:
        answer = _within(question)
    except Exception as error:
        raise _told(error, what) from error
    _state["silent"] = False
    return answer


def _told(error: Exception, what: str) -> HubError:
    told = sentence(error, what, endpoint())
    _state["silent"] = isinstance(told, HubUnreachable)
    return told


def _within(question: Callable[[], T], seconds: float | None = None) -> T:
    """Its answer in time: looking up a name without a network obeys no timeout of a socket."""
    answer = in_background("sr3-hub", question)
    wait([answer], PATIENCE if seconds is None else seconds)
    if not answer.done():
        raise TimeoutError("no answer from the server")
    return answer.result()


# ------------------------------------------------------------------- a file from another host
def download(url: str, path: Path) -> None:
    """Fetch into `path` in one piece or not at all, checked against the hash in its name.

    As torchvision names its files, NAME-xxxxxxxx.pth: the SHA-256 begins with those digits.
    Raises DownloadError, within seconds where nothing answers.
    """
    try:
        if offline():
            raise OSError("offline mode is on")
        _fetch(url, path)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError((str(error).splitlines() or [type(error).__name__])[0]) from error


def _fetch(url: str, path: Path) -> None:
    expected = path.stem.rsplit("-", 1)[1]  # torchvision's convention
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    deadline = time.monotonic() + LONGEST_DOWNLOAD
    digest = hashlib.sha256()
    try:
        with _open(url) as answer, part.open("wb") as file:
            while piece := answer.read(1 << 20):
                file.write(piece)
                digest.update(piece)
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not done after {LONGEST_DOWNLOAD:.0f} s")
        if not digest.hexdigest().startswith(expected):
            raise OSError(f"the file from {url} has the wrong SHA-256")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _open(url: str) -> Any:
    try:
        answer = _within(lambda: urllib.request.urlopen(url, timeout=PATIENCE), PATIENCE + 1)
    except (OSError, http.client.HTTPException) as error:
        _state["silent"] = not isinstance(error, urllib.error.HTTPError)
        raise
    _state["silent"] = False
    return answer
