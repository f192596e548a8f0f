"""Send what was made here to the Hub: checkpoints with their cards, measurements as a data set.

Invariants: weights and settings are sent byte for byte, so what is pulled back has the same hash;
a table that comes back is added as parts of its own, once, and never replaces a row that is newer.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from sr3 import results
from sr3.checkpoints import REPLACED, ROOT, find_checkpoint, find_parent, load_whole, registry
from sr3.combine import Recipe
from sr3.config import ModelConfig
from sr3.errors import CheckpointError, HubError
from sr3.folder import (
    CARD,
    COLOURS,
    CONFIG,
    INDEX,
    read_settings,
    save_checkpoint,
    weight_files,
    weights_hash,
)
from sr3.hub import fetch, files_of, front_matter, send
from sr3.hub_card import hub_card
from sr3.pins import Pin, Progress, digest_of
from sr3.pretrained import card_of, colours_of, exact_dtype

TABLE = "data/metrics.parquet"


# --------------------------------------------------------------------------------- checkpoints
def push_checkpoint(
    name: str,
    repo: str,
    *,
    whole: bool = False,
    private: bool | None = None,
    token: str | None = None,
    metrics: Path | None = None,
) -> Pin:
    """Make a registered checkpoint or a folder the content of a Hub repository; its new commit.

    `whole` puts one that is made of others together first, into one `model.safetensors` that needs
    none of them. `metrics` is the table's folder. Raises CheckpointError and HubError.
    """
    path = find_checkpoint(name)
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is a public file: turn it into a folder with `python -m sr3 checkpoints "
            "import`, then push that."
        )
    if not whole:
        _refuse_orphan(path)
    table = results.read(metrics or ROOT / "metrics")
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary) / "checkpoint"
        stage(path, staged, repo, table, whole=whole)
        return send(staged, repo, message=f"Push {path.name} from SR3 Lab", private=private,
                    token=token, replacing=REPLACED)  # fmt: skip


def _refuse_orphan(path: Path) -> None:
    """Raises CheckpointError for one that nobody could load: made of what no registry names."""
    settings = read_settings(path)
    known = registry()
    for parent in settings.parents if isinstance(settings, Recipe) else ():
        if parent.name not in known:
            whole = isinstance(settings, Recipe) and settings.kind != "spliced"
            raise CheckpointError(
                f"{path.name} is made of {parent.name}, which the registry does not list, so it "
                "could not be loaded from the Hub: register that first"
                + (", or push with --whole, which needs no parent." if whole else ".")
            )
        find_parent(path, parent)


def stage(path: Path, staged: Path, repo: str, table: pd.DataFrame, *, whole: bool = False) -> None:
    """Write into the folder `staged` what the repository is to hold. Raises CheckpointError."""
    card, settings, digest = card_of(path), read_settings(path), weights_hash(path)
    if whole:
        config, network = load_whole(path)
        weights = network.state_dict()
        save_checkpoint(staged, config, weights, "", exact_dtype(weights), shard_bytes=1 << 40)
        if (colours := colours_of(path)) is not None:
            (staged / COLOURS).write_bytes(colours)
        # Its numbers are those of the checkpoint that it was put together from.
        text = hub_card(repo, card, config, digest, table)
    else:
        staged.mkdir(parents=True)
        for file in _files(path, settings):
            shutil.copyfile(file, staged / file.name)
        text = hub_card(repo, card, settings, digest, table, _base_models(settings))
    (staged / CARD).write_text(text, encoding="utf-8")


def _files(path: Path, settings: ModelConfig | Recipe) -> list[Path]:
    bare = isinstance(settings, Recipe) and settings.kind != "delta"
    beside = [path / name for name in (INDEX, COLOURS) if (path / name).exists()]
    return [path / CONFIG, *([] if bare else [*beside, *weight_files(path)])]


def _base_models(settings: ModelConfig | Recipe) -> tuple[str, ...]:
    """The repositories of a recipe's parents that are registered from the Hub."""
    known = registry()
    parents = settings.parents if isinstance(settings, Recipe) else ()
    entries = [known.get(parent.name) for parent in parents]
    return tuple(entry.pin.repo for entry in entries if entry and entry.pin)


def registry_text(name: str, pin: Pin) -> str:
    """The lines that offer a pushed checkpoint, for `registry.toml`. Its files must be here
    (`sr3.pull.pull`). Raises HubError and CheckpointError."""
    colours = [COLOURS] if (pin.folder / COLOURS).exists() else []
    names = [CONFIG, *colours, *(file.name for file in pin.folder.glob("*.safetensors*"))]
    digests = {each: digest_of(pin.folder / each, "0" * 64) for each in sorted(names)}
    listed = ", ".join(f'"{each}" = "{digest}"' for each, digest in digests.items())
    size = sum((pin.folder / each).stat().st_size for each in names)
    return (
        f'[{name}]\ntitle = "{name}"\nsource = "{pin}"\nsha256 = "{weights_hash(pin.folder)}"\n'
        f"size = {size}\nfiles = {{ {listed} }}\n"
    )


# ------------------------------------------------------------------------------------- metrics
def push_metrics(
    folder: Path, repo: str, *, private: bool | None = None, token: str | None = None
) -> Pin:
    """Send the table in a folder as a Hub data set of one Parquet file; its new commit.

    Raises SR3Error for an empty or damaged table, HubError.
    """
    table = results.read(folder)
    if table.empty:
        raise HubError(f"There are no measurements in {folder}: run `python -m sr3 evaluate`.")
    with tempfile.TemporaryDirectory() as temporary:
        results.write(table, Path(temporary) / TABLE)
        (Path(temporary) / CARD).write_text(_metrics_card(table), encoding="utf-8")
        return send(Path(temporary), repo, "dataset", message="Push measurements of SR3 Lab",
                    private=private, token=token)  # fmt: skip


def pull_metrics(pin: Pin, folder: Path, token: str | None = None) -> Iterator[Progress]:
    """Add the table of a data set's commit to the one in a folder, where the charts read it.

    Raises HubError, and SR3Error for a file that is no table of results.
    """
    files = {k: v for k, v in files_of(pin, token).items() if k.endswith(".parquet")}
    if not files:
        raise HubError(f"{pin} holds no Parquet file: it is no table of measurements.")
    yield from fetch(pin, files, token)
    for name in files:
        source = pin.folder / name
        rows = results.read(source)  # refuses other columns before anything is added
        target = folder / f"hub-{digest_of(source, '0' * 64)[:16]}.parquet"
        if not target.exists():
            results.write(rows, target)


def _metrics_card(table: pd.DataFrame) -> str:
    header = {
        "pretty_name": "SR3 Lab measurements", "license": "apache-2.0",
        "tags": ["super-resolution", "diffusion", "sr3", "faces"],
        "configs": [{"config_name": "default", "data_files": TABLE}],
    }  # fmt: skip
    return (
        front_matter(header)
        + "\n# SR3 Lab: measurements\n\n"
        + f"{len(table):,} measured values: a row per checkpoint, domain, image, seed and metric. "
        + f"{table['checkpoint_hash'].nunique()} checkpoints on {table['domain'].nunique()} "
        + "domains. Image names are those of each domain's file list; no image is in here.\n\n"
        + "Read it with `pandas.read_parquet`, or add it to the charts with "
        + "`python -m sr3 metrics pull hub:org/name@COMMIT`.\n"
    )
