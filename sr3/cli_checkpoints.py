"""To and from the Hub on the command line: `checkpoints pull | push`, `metrics pull | push`; and
`checkpoints cards`, which fills in what a card can say of them.

Invariant: what is here is never asked for; progress goes to standard error, what another program
may read to standard output.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from sr3.catalogue import checkpoints
from sr3.errors import CheckpointError, MetricUnavailable, SR3Error
from sr3.pins import PREFIX, Pin, Progress, go_offline, parse_pin
from sr3.terminal import EVERY, Json, print_json, say

metrics = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Measurements to and from the Hub."
)

Repo = Annotated[str, typer.Option("--repo", help="org/name on the Hub; made if need be.")]
Private = Annotated[bool | None, typer.Option("--private/--public", help="Of a new repository.")]
Folder = Annotated[Path | None, typer.Option(help="The table's folder; else the charts' own.")]


class _Lines(logging.Handler):
    """Lines of a download that a name such as hub:org/name@commit asked for, one every EVERY."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.shown = -EVERY

    def emit(self, record: logging.LogRecord) -> None:
        if (now := time.monotonic()) - self.shown >= EVERY:
            self.shown = now
            say(record.getMessage())


def prepare(offline: bool) -> None:
    """What every command begins with: the network off if asked for, downloads shown."""
    if offline:
        go_offline()
    log = logging.getLogger("sr3.pull")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.handlers = [_Lines()]


def show(progress: Iterable[Progress], what: str) -> bool:
    """Drain a fetch with lines of progress; whether anything was fetched."""
    shown, last = -EVERY, None
    for last in progress:
        if (now := time.monotonic()) - shown >= EVERY:
            shown = now
            say(f"{what}: {last.describe()}")
    return last is not None


# --------------------------------------------------------------------------------- checkpoints
@checkpoints.command("pull")
def pull_checkpoints(
    names: Annotated[
        list[str] | None, typer.Argument(help="Registered names, or hub:org/name@COMMIT.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All that is registered, and the weights of LPIPS.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch checkpoints from the Hub, verified; `--all` readies a machine for no network."""
    from sr3.checkpoints import find_checkpoint, registry
    from sr3.domains import fetch_registered
    from sr3.pull import pull

    if not names and not everything:
        raise CheckpointError("Say what to pull: one or more names, or --all.")
    rows, failed = [], []
    for name in [*registry(), *(names or ())] if everything else names or ():
        try:
            fresh = show(pull(name), name)
            path = find_checkpoint(name)
        except SR3Error as error:
            failed.append(str(error))
            continue
        rows.append({"name": name, "path": str(path), "fetched": fresh})
        say(f"{name}: {'fetched and verified' if fresh else 'was here'}")
    if everything:
        failed += _pull_the_rest(fetch_registered())
    if as_json:
        print_json(rows)
    if failed:
        raise CheckpointError(" ".join(failed))


def _pull_the_rest(domains: Iterable[tuple[str, Iterable[Progress]]]) -> list[str]:
    """Registered data sets of the Hub, and LPIPS; what went wrong."""
    from sr3.metrics import load_lpips

    failed = []
    for name, progress in domains:
        try:
            say(f"{name}: {'fetched and verified' if show(progress, name) else 'was here'}")
        except SR3Error as error:
            failed.append(str(error))
    try:
        say(f"LPIPS: {load_lpips().backbone} is here")
    except MetricUnavailable as error:
        say(str(error))  # all else works without it
    return failed


@checkpoints.command("push")
def push_to_hub(
    name: Annotated[str, typer.Argument(help="A registered name or a checkpoint folder.")],
    repo: Repo,
    whole: Annotated[
        bool,
        typer.Option(
            "--whole", help="Put one made of others together first: one file, no parents needed."
        ),
    ] = False,
    private: Private = None,
    as_json: Json = False,
) -> None:
    """Make a checkpoint the content of a Hub repository: settings, weights and a card."""
    from sr3.pull import pull
    from sr3.push import push_checkpoint, registry_text

    pin = push_checkpoint(name, repo, whole=whole, private=private)
    show(pull(str(pin)), "reading it back")
    text = registry_text(Path(name).name, pin)
    if as_json:
        print_json({"repo": pin.repo, "commit": pin.commit, "source": str(pin), "registry": text})
        return
    say(f"Pushed to {pin}, read back and verified. To offer it, add to checkpoints/registry.toml:")
    typer.echo(text)


@checkpoints.command("cards")
def fill_cards(
    names: Annotated[
        list[str] | None, typer.Argument(help="Registered names or folders; else all in folders.")
    ] = None,
    folder: Folder = None,
) -> None:
    """Write what the table of measurements holds of each checkpoint into its card."""
    from sr3 import results
    from sr3.checkpoints import ROOT, find_checkpoint, registry
    from sr3.files import write_text
    from sr3.folder import CARD, weights_hash
    from sr3.hub_card import filled_card

    table = results.read(folder or ROOT / "metrics")
    here = [entry.name for entry in registry().values() if entry.available and entry.pin is None]
    for name in names or here:
        path = find_checkpoint(name)
        if not (path / CARD).exists():
            raise CheckpointError(f"{name} has no card: there is no {path / CARD}.")
        before = (path / CARD).read_text(encoding="utf-8")
        after = filled_card(before, weights_hash(path), table)
        if after != before:
            write_text(path / CARD, after)
        say(f"{name}: {'filled in' if after != before else 'nothing new'}")


# ------------------------------------------------------------------------------------- metrics
@metrics.command("push")
def push_table(repo: Repo, folder: Folder = None, private: Private = None) -> None:
    """Send the table of measurements as a Hub data set (Parquet)."""
    from sr3.checkpoints import ROOT
    from sr3.push import push_metrics

    pin = push_metrics(folder or ROOT / "metrics", repo, private=private)
    say("Pushed the table. To add it to the charts elsewhere: python -m sr3 metrics pull")
    typer.echo(str(pin))


@metrics.command("pull")
def pull_table(
    source: Annotated[str, typer.Argument(help="hub:org/name@COMMIT of a data set.")],
    folder: Folder = None,
) -> None:
    """Add a table of measurements from the Hub to the one that the charts read."""
    from sr3.checkpoints import ROOT
    from sr3.push import pull_metrics

    pin: Pin = parse_pin(source if source.startswith(PREFIX) else PREFIX + source, "dataset")
    place = folder or ROOT / "metrics"
    show(pull_metrics(pin, place), "measurements")
    say(f"The measurements of {pin} are in {place}.")
