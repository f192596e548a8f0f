"""Every exception that SR3 Lab raises for a user's mistake or a missing thing.

Invariant: the message is one plain sentence (or two) that says what was found, what was expected
and what to do next. The command line prints it and exits with 2; the app shows it in one box.
"""

from __future__ import annotations


class SR3Error(Exception):
    """Root of the tree: catch this to catch everything that SR3 Lab raises on purpose."""


class ConfigError(SR3Error, ValueError):
    """A setting has a value outside what is allowed."""


class ImageError(SR3Error, ValueError):
    """A file or byte string is not an image that can be used."""


class DomainError(SR3Error, ValueError):
    """A set of images is missing, too small, or not what its recorded hash says."""


class CheckpointError(SR3Error, ValueError):
    """A checkpoint is missing, damaged, or of a kind that cannot be used here."""


class TrainingError(SR3Error, RuntimeError):
    """Training cannot start, go on or resume."""


class MetricUnavailable(SR3Error, RuntimeError):
    """A metric cannot be computed here; the message says why."""


class DownloadError(SR3Error, OSError):
    """A file could not be fetched whole; the message is the reason alone."""


class HubError(SR3Error, RuntimeError):
    """Something could not be fetched from the Hub or sent there; the message says what to do."""


class HubUnreachable(HubError):
    """The Hub does not answer, or the network is not to be used: what is here still works."""


class HubBusy(HubError):
    """The Hub answers, but wants to be asked less often: what is here still works."""


class ReportError(SR3Error):
    """A report or poster that cannot be made."""
