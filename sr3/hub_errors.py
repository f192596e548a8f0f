"""What went wrong with the Hub, as one sentence that says what to do.

Invariant: every failure of the client, the connection or the disk becomes a HubError; a server
that does not answer is always told apart (HubUnreachable) from one that says no.
"""

from __future__ import annotations

import errno

from sr3.errors import HubBusy, HubError, HubUnreachable
from sr3.pins import offline

# What a disk says and a connection never does, also where no file is named.
_DISK = (
    errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EIO, errno.ENAMETOOLONG, errno.EACCES,
    errno.EPERM, errno.EFBIG, errno.EMFILE, errno.ENFILE, errno.ESTALE,
)  # fmt: skip
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to a token that may read it"


def sentence(error: Exception | None, what: str, endpoint: str) -> HubError:
    """The HubError for a failure while `what` was wanted; None: the network is off."""
    if error is None or type(error).__name__ == "OfflineModeIsEnabled" or offline():
        return HubUnreachable(
            f"{what} is not here, and SR3 Lab is offline (--offline or HF_HUB_OFFLINE=1): fetch "
            "it first where there is a network, with `python -m sr3 checkpoints pull --all`."
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HubError(
            f"The disk is full: {what} does not fit; free some space, or set HF_HOME to a folder "
            "on another disk. What was fetched is kept and continued."
        )
    if isinstance(error, OSError) and (error.filename or error.errno in _DISK):
        return HubError(
            f"{error.filename or 'The cache of the Hub'} cannot be used ({error.strerror}), which "
            f"is needed for {what}: set HF_HOME to a folder of a disk that can be written."
        )
    return _answered(error, what) or HubUnreachable(
        f"The Hub ({endpoint}) does not answer ({_reason(error)}): check the network and try "
        f"again for {what}. Everything that is here works on, and what was fetched is kept."
    )


def _answered(error: Exception, what: str) -> HubError | None:
    """The sentence where the Hub did answer. The client's classes are compared by name, since
    GatedRepoError is also a RepositoryNotFoundError."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if "GatedRepoError" in kinds:
        return HubError(
            f"{what} is gated: accept its terms on its page on the Hub, then {_LOG_IN}."
        )
    if "RevisionNotFoundError" in kinds:
        return HubError(
            f"{what}: this commit is gone from the Hub or never was there: choose another commit "
            "of the repository."
        )
    if "RepositoryNotFoundError" in kinds:
        return HubError(
            f"{what} was not found on the Hub, or is private: check the name; if it is private, "
            f"{_LOG_IN}."
        )
    if "EntryNotFoundError" in kinds:
        return HubError(f"{what} is not in the repository: check the file's name and the commit.")
    if "LocalTokenNotFoundError" in kinds or status in (401, 403):
        return HubError(f"{what}: the Hub does not know you or does not allow it: {_LOG_IN}.")
    if "HFValidationError" in kinds:
        return HubError(f"{what} is no valid name on the Hub: {_reason(error)}.")
    if status == 429:
        return HubBusy(
            f"{what}: the Hub was asked too often and wants a pause ({_reason(error)}): wait a few "
            "minutes, or log in with `hf auth login`, which allows more. What is here works on."
        )
    if status is not None and status < 500:
        return HubError(f"{what}: the Hub refuses ({status}, {_reason(error)}): check the request.")
    if status is None and not _network(error):
        return HubError(f"{what} failed: {_reason(error)}.")
    return None


def _network(error: Exception) -> bool:
    """Whether it is a connection's failure: the standard library's or httpx's."""
    modules = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
    return isinstance(error, ConnectionError | TimeoutError | OSError) or bool(
        modules & {"httpx", "httpx2", "httpcore", "httpcore2"}
    )


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".")
