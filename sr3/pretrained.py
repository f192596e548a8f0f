"""`from_pretrained`, `save_pretrained` and `push_to_hub`, as the Hub's own mixin names them.

Invariants: what is saved loads to the same weights, bit for bit (float16 where that loses nothing,
float32 else); a commit's files are verified as by `sr3.pull`; nothing here imports a Hub client
until one of the methods needs it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from sr3.checkpoints import REPLACED, ROOT, hub_files, load_checkpoint
from sr3.config import ModelConfig
from sr3.devices import Device, pick_device
from sr3.errors import CheckpointError
from sr3.folder import CARD, COLOURS, hash_of, read_settings, save_checkpoint, weights_hash
from sr3.hub import fetch, page_of, resolve, send
from sr3.pins import Pin, no_network
from sr3.unet import UNet


class Pretrained:
    """What a `SuperResolver` can do with the Hub."""

    config: ModelConfig
    name: str
    source: Path | None = None  # where it was loaded from: its card goes along when it is saved

    @property
    def network(self) -> nn.Module:
        raise NotImplementedError

    def __init__(self, network: nn.Module, config: ModelConfig, device: Device, name: str) -> None:
        raise NotImplementedError

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        device: str = "auto",
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Self:
        """A checkpoint from a folder, a public file, or a Hub repository at a branch or commit.

        Without `revision`, the last commit of the branch main; a full commit that is in the cache
        is loaded without a request. Raises CheckpointError, HubError and ConfigError.
        """
        path, name = Path(pretrained_model_name_or_path), str(pretrained_model_name_or_path)
        if not path.exists():
            root = Path(cache_dir) if cache_dir else None
            with no_network() if local_files_only else nullcontext():
                path = _fetched(name, revision or "main", token, root, force_download)
        config, network = load_checkpoint(path)
        made = cls(network, config, pick_device(device), name)
        made.source = path
        return made

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **settings: str | bool | None,
    ) -> str | None:
        """Write `config.json`, `model.safetensors` and a card into a folder; `push_to_hub` then
        sends it to `repo_id` (the folder's name by default), and the commit's page is returned.

        The card is that of the checkpoint that this was loaded from, with its scores, as long as
        the weights are the same.

        Raises CheckpointError where it cannot be written, or is spliced of two networks.
        """
        from sr3.hub_card import hub_card, identity_of  # pandas: only those who save pay for it
        from sr3.results import read

        folder = Path(save_directory).resolve()  # "." has no name, and is another one once replaced
        weights = self._weights()
        source = self._unchanged(weights)  # read before the folder is written: it may be this one
        card = card_of(source) if source else ""
        colours = colours_of(source) if source else None
        digest = (identity_of(card) or hash_of(source)) if source else None
        save_checkpoint(folder, self.config, weights, "", exact_dtype(weights), shard_bytes=1 << 40)
        if colours is not None:
            (folder / COLOURS).write_bytes(colours)
        repo = repo_id or folder.name
        table = read(ROOT / "metrics")
        text = hub_card(repo, card, read_settings(folder), digest or weights_hash(folder), table)
        (folder / CARD).write_text(text, encoding="utf-8")
        if not push_to_hub:
            return None
        message = str(settings.pop("commit_message", None) or "Push a checkpoint of SR3 Lab.")
        pin = send(folder, repo, message=message, replacing=REPLACED, **settings)  # type: ignore[arg-type]
        return page_of(pin)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Push a checkpoint of SR3 Lab.",
        private: bool | None = None,
        token: str | None = None,
        branch: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Send the whole network with a card to a Hub repository, made if need be; the address of
        the commit's page. Raises HubError and CheckpointError."""
        with tempfile.TemporaryDirectory() as temporary:
            page = self.save_pretrained(
                Path(temporary) / "checkpoint", repo_id=repo_id, push_to_hub=True,
                commit_message=commit_message, private=private, token=token, branch=branch,
                create_pr=create_pr,
            )  # fmt: skip
        assert page is not None
        return page

    def _weights(self) -> dict[str, Tensor]:
        if isinstance(self.network, UNet):
            return self.network.state_dict()
        raise CheckpointError(
            f"{self.name} is spliced of two networks and has no weights of its own: push its "
            "folder with `python -m sr3 checkpoints push`, or one of its parents."
        )

    def _unchanged(self, weights: Mapping[str, Tensor]) -> Path | None:
        """Where this was loaded from, if what is there is still this network: a card and scores
        of other weights would be wrong."""
        if self.source is None:
            return None
        try:
            _, there = load_checkpoint(self.source)
        except CheckpointError:
            return None
        theirs = there.state_dict()
        same = theirs.keys() == weights.keys() and all(
            torch.equal(weight.cpu(), theirs[name]) for name, weight in weights.items()
        )
        return self.source if same else None


def card_of(path: Path) -> str:
    """The card of a checkpoint; empty where it has none."""
    file = path / CARD
    return file.read_text(encoding="utf-8") if file.is_file() else ""


def colours_of(path: Path) -> bytes | None:
    """What lies beside a first stage's weights, and goes where they go; None of another one."""
    return (path / COLOURS).read_bytes() if (path / COLOURS).is_file() else None


def exact_dtype(weights: dict[str, Tensor]) -> torch.dtype:
    """float16 where all weights are float16 numbers, as they are in most folders; else float32."""
    same = all(torch.equal(weight.half().float(), weight.float()) for weight in weights.values())
    return torch.float16 if same else torch.float32


def _fetched(repo: str, revision: str, token: str | None, root: Path | None, force: bool) -> Path:
    if re.fullmatch(r"[0-9a-f]{40}", revision):
        pin = Pin(repo, revision, root=root)
    else:
        pin = resolve(repo, revision, token=token, root=root)
    for _ in fetch(pin, hub_files(pin, token), token, force):
        pass
    return pin.folder
