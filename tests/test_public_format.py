"""Public `*_gen.pth` files: a synthetic one, written from the format's rules, against a plain
functional network in float64 that reads the public names; and the refusals.

Names, shapes and layer order are spelled out here from the description of the public format, never
taken from `sr3`, so that a wrong table there cannot agree with itself.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from sr3.checkpoints import load_checkpoint
from sr3.cli import app
from sr3.errors import CheckpointError
from sr3.presets import MODELS
from sr3.public_format import load_public

BUFFERS = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
)


@dataclass(frozen=True)
class Block:
    """A residual block, with attention after it or not."""

    inputs: int
    outputs: int
    attends: bool = False


@dataclass(frozen=True)
class Resize:
    """A strided convolution on the way down, an enlarging one on the way up."""

    width: int


@dataclass(frozen=True)
class Plan:
    """A public network, layer by layer; `downs` without its stem."""

    preset: str
    groups: int
    downs: tuple[Block | Resize, ...]
    mid: tuple[Block, ...]
    ups: tuple[Block | Resize, ...]
    parameters: int
    tensors: int


SMALL = Plan(
    "sr3-16-128",
    32,
    downs=(
        *(Block(64, 64), Block(64, 64), Resize(64)),
        *(Block(64, 128), Block(128, 128), Resize(128)),
        *(Block(128, 256), Block(256, 256), Resize(256)),
        *(Block(256, 512, True), Block(512, 512, True), Resize(512)),
        *(Block(512, 512), Block(512, 512)),
    ),
    mid=(Block(512, 512, True), Block(512, 512)),
    ups=(
        *(Block(1024, 512), Block(1024, 512), Block(1024, 512), Resize(512)),
        *(Block(1024, 512, True), Block(1024, 512, True), Block(768, 512, True), Resize(512)),
        *(Block(768, 256), Block(512, 256), Block(384, 256), Resize(256)),
        *(Block(384, 128), Block(256, 128), Block(192, 128), Resize(128)),
        *(Block(192, 64), Block(128, 64), Block(128, 64)),
    ),
    parameters=97_807_491,
    tensors=362,
)
LARGE = Plan(
    "sr3-64-512",
    16,
    downs=(
        *(Block(64, 64), Resize(64), Block(64, 128), Resize(128), Block(128, 256), Resize(256)),
        *(Block(256, 512), Resize(512), Block(512, 1024)),
    ),
    mid=(Block(1024, 1024, True), Block(1024, 1024)),
    ups=(
        *(Block(2048, 1024), Block(1536, 1024), Resize(1024)),
        *(Block(1536, 512), Block(768, 512), Resize(512)),
        *(Block(768, 256), Block(384, 256), Resize(256)),
        *(Block(384, 128), Block(192, 128), Resize(128)),
        *(Block(192, 64), Block(128, 64)),
    ),
    parameters=155_334_339,
    tensors=229,
)


def affine(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def layer_shapes(name: str, layer: Block | Resize) -> dict[str, tuple[int, ...]]:
    if isinstance(layer, Resize):
        return affine(f"{name}.conv", layer.width, layer.width, 3, 3)
    inputs, outputs = layer.inputs, layer.outputs
    block = f"{name}.res_block"
    shapes = {
        **affine(f"{block}.noise_func.noise_func.0", outputs, 64),
        **affine(f"{block}.block1.block.0", inputs),
        **affine(f"{block}.block1.block.3", outputs, inputs, 3, 3),
        **affine(f"{block}.block2.block.0", outputs),
        **affine(f"{block}.block2.block.3", outputs, outputs, 3, 3),
    }
    if inputs != outputs:
        shapes |= affine(f"{block}.res_conv", outputs, inputs, 1, 1)
    if layer.attends:
        shapes |= affine(f"{name}.attn.norm", outputs)
        shapes |= {f"{name}.attn.qkv.weight": (3 * outputs, outputs, 1, 1)}
        shapes |= affine(f"{name}.attn.out", outputs, outputs, 1, 1)
    return shapes


def public_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    """Every network tensor of a public file, by name."""
    shapes = affine("noise_level_mlp.1", 256, 64) | affine("noise_level_mlp.3", 64, 256)
    shapes |= affine("downs.0", 64, 6, 3, 3)
    for k, layer in enumerate(plan.downs, 1):
        shapes |= layer_shapes(f"downs.{k}", layer)
    for k, layer in enumerate(plan.mid):
        shapes |= layer_shapes(f"mid.{k}", layer)
    for k, layer in enumerate(plan.ups):
        shapes |= layer_shapes(f"ups.{k}", layer)
    shapes |= affine("final_conv.block.0", 64) | affine("final_conv.block.3", 3, 64, 3, 3)
    return {f"denoise_fn.{name}": shape for name, shape in shapes.items()}


def state_dict(plan: Plan) -> dict[str, Tensor]:
    """Random weights, each tensor different: the large ones are windows on one buffer, which keeps
    the file small (storage is saved once)."""
    generator = torch.Generator().manual_seed(0)
    shapes = public_shapes(plan)
    room = max(math.prod(shape) for shape in shapes.values())
    buffer = torch.randn(room + 1000 * len(shapes), generator=generator) * 0.03
    weights: dict[str, Tensor] = {}
    for k, (name, shape) in enumerate(shapes.items()):
        if len(shape) == 1:
            centre = 1.0 if name.endswith("weight") else 0.0  # of a norm, or a bias
            weights[name] = centre + 0.3 * torch.randn(shape, generator=generator)
        else:
            weights[name] = buffer[1000 * k : 1000 * k + math.prod(shape)].view(shape)
    betas = torch.linspace(1e-6, 1e-2, 2000)
    return weights | dict.fromkeys(BUFFERS, betas)


def zeros(plan: Plan) -> dict[str, Tensor]:
    """The right names and shapes at no cost: every tensor is one stored zero."""
    weights = {name: torch.zeros(1).expand(shape) for name, shape in public_shapes(plan).items()}
    return weights | dict.fromkeys(BUFFERS, torch.zeros(1).expand(2000))


class Reference:
    """The public network in float64, from its formulas and its own names."""

    def __init__(self, weights: dict[str, Tensor], plan: Plan) -> None:
        self.weights, self.plan = weights, plan

    def get(self, name: str) -> tuple[Tensor, Tensor | None]:
        bias = self.weights.get(f"denoise_fn.{name}.bias")
        weight = self.weights[f"denoise_fn.{name}.weight"]
        return weight.double(), None if bias is None else bias.double()

    def has(self, name: str) -> bool:
        return f"denoise_fn.{name}.weight" in self.weights

    def conv(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        weight, bias = self.get(name)
        return F.conv2d(x, weight, bias, stride=stride, padding=weight.shape[-1] // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, self.plan.groups, *self.get(name), eps=1e-5)

    def embedding(self, level: Tensor) -> Tensor:
        rates = torch.tensor([math.exp(-math.log(1e4) * k / 32) for k in range(32)]).double()
        angles = level.double()[:, None] * rates
        values = torch.cat([angles.sin(), angles.cos()], dim=1)
        hidden = F.linear(values, *self.get("noise_level_mlp.1"))
        return F.linear(hidden * hidden.sigmoid(), *self.get("noise_level_mlp.3"))

    def block(self, name: str, x: Tensor, embedding: Tensor) -> Tensor:
        inner = f"{name}.res_block"
        h = self.norm(f"{inner}.block1.block.0", x)
        h = self.conv(f"{inner}.block1.block.3", h * h.sigmoid())
        added = F.linear(embedding, *self.get(f"{inner}.noise_func.noise_func.0"))
        h = self.norm(f"{inner}.block2.block.0", h + added[:, :, None, None])
        h = self.conv(f"{inner}.block2.block.3", h * h.sigmoid())
        h = h + (self.conv(f"{inner}.res_conv", x) if self.has(f"{inner}.res_conv") else x)
        return self.attend(f"{name}.attn", h) if self.has(f"{name}.attn.qkv") else h

    def attend(self, name: str, x: Tensor) -> Tensor:
        q, k, v = self.conv(f"{name}.qkv", self.norm(f"{name}.norm", x)).chunk(3, dim=1)
        scores = torch.einsum("bchw,bcyx->bhwyx", q, k) / math.sqrt(x.shape[1])
        share = scores.flatten(3).softmax(dim=3).view_as(scores)
        return x + self.conv(f"{name}.out", torch.einsum("bhwyx,bcyx->bchw", share, v))

    def __call__(self, condition: Tensor, noisy: Tensor, level: Tensor) -> Tensor:
        embedding = self.embedding(level)
        x = self.conv("downs.0", torch.cat([condition, noisy], dim=1).double())
        kept = [x]
        for k, layer in enumerate(self.plan.downs, 1):
            if isinstance(layer, Resize):
                x = self.conv(f"downs.{k}.conv", x, stride=2)
            else:
                x = self.block(f"downs.{k}", x, embedding)
            kept.append(x)
        for k in range(2):
            x = self.block(f"mid.{k}", x, embedding)
        for k, layer in enumerate(self.plan.ups):
            if isinstance(layer, Resize):
                larger = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
                x = self.conv(f"ups.{k}.conv", larger)
            else:
                x = self.block(f"ups.{k}", torch.cat([x, kept.pop()], dim=1), embedding)
        x = self.norm("final_conv.block.0", x)
        return self.conv("final_conv.block.3", x * x.sigmoid())


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected).abs().max() / expected.abs().max())


def inputs(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    """A small image does: the network is fully convolutional."""
    generator = torch.Generator().manual_seed(1)
    condition = torch.rand(batch, 3, 32, 32, generator=generator) * 2 - 1
    noisy = torch.randn(batch, 3, 32, 32, generator=generator)
    return condition, noisy, torch.tensor([0.9, 0.2])[:batch]


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


# --------------------------------------------------------------------------------- right files
@pytest.mark.parametrize("plan", [SMALL, LARGE], ids=lambda plan: plan.preset)
def test_the_plan_has_the_published_size(plan):
    shapes = public_shapes(plan)
    assert sum(math.prod(shape) for shape in shapes.values()) == plan.parameters
    assert len(shapes) == plan.tensors


@torch.no_grad()
def test_the_16_to_128_network_computes_the_public_formulas(tmp_path):
    weights = state_dict(SMALL)
    config, network = load_public(save(tmp_path / "I640000_E37_gen.pth", weights))
    assert config == MODELS["sr3-16-128"]
    assert not network.training
    assert not any(weight.requires_grad for weight in network.parameters())
    condition, noisy, level = inputs(2)
    expected = Reference(weights, SMALL)(condition, noisy, level)
    levels_matter = Reference(weights, SMALL)(condition[:1], noisy[:1], level[1:])
    assert relative_error(levels_matter, expected[:1]) > 1e-3
    assert relative_error(network(condition, noisy, level), expected) < 1e-5
    found = network.double()(condition.double(), noisy.double(), level.double())
    assert relative_error(found, expected) < 1e-10


@torch.no_grad()
def test_the_64_to_512_network_computes_the_public_formulas(tmp_path):
    weights = state_dict(LARGE)
    config, network = load_public(save(tmp_path / "I830000_E32_gen.pth", weights))
    assert config == MODELS["sr3-64-512"]
    condition, noisy, level = inputs(1)
    expected = Reference(weights, LARGE)(condition, noisy, level)
    assert relative_error(network(condition, noisy, level), expected) < 1e-5
    found = network.double()(condition.double(), noisy.double(), level.double())
    assert relative_error(found, expected) < 1e-10


def test_a_file_is_a_checkpoint_like_a_folder(tmp_path):
    config, _ = load_checkpoint(save(tmp_path / "x_gen.pth", zeros(SMALL)))
    assert config == MODELS["sr3-16-128"]


# ------------------------------------------------------------------------------------ refusals
def refusal(path: Path) -> str:
    """The message with which a file is refused: one line that names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_public(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")
    return message


def test_the_unconditional_model_is_refused(tmp_path):
    weights = zeros(SMALL) | {"denoise_fn.downs.0.weight": torch.zeros(64, 3, 3, 3)}
    message = refusal(save(tmp_path / "I1560000_E91_gen.pth", weights))
    assert "unconditional" in message and "3 input channels" in message


@pytest.mark.parametrize("plan", [SMALL, LARGE], ids=lambda plan: plan.preset)
@pytest.mark.parametrize(
    "name",
    [
        "downs.1.res_block.block1.block.3.weight",
        "mid.0.attn.qkv.weight",
        "ups.13.res_block.block2.block.0.bias",
        "noise_level_mlp.3.bias",
        "final_conv.block.3.weight",
    ],
)
def test_a_missing_tensor_is_refused(tmp_path, plan, name):
    weights = zeros(plan)
    del weights[f"denoise_fn.{name}"]
    message = refusal(save(tmp_path / "x_gen.pth", weights))
    assert "1 missing, 0 too many" in message and f"denoise_fn.{name} " in message


def test_a_missing_attention_is_not_taken_for_the_other_network(tmp_path):
    weights = zeros(SMALL)
    del weights["denoise_fn.downs.10.attn.qkv.weight"]
    assert "1 missing, 0 too many" in refusal(save(tmp_path / "x_gen.pth", weights))


@pytest.mark.parametrize("name", ["mid.2.conv.weight", "down.0.weight", "head.weight", "x"])
def test_a_tensor_too_many_is_refused(tmp_path, name):
    weights = zeros(SMALL) | {f"denoise_fn.{name}": torch.zeros(1)}
    message = refusal(save(tmp_path / "x_gen.pth", weights))
    assert name in message and "0 missing, 1 too many" in message


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("downs.0.weight", (64, 8, 3, 3)),
        ("downs.4.res_block.res_conv.weight", (128, 64, 3, 3)),
        ("ups.18.res_block.block2.block.0.weight", (32,)),
        ("final_conv.block.3.bias", (1, 3)),
        ("mid.0.attn.qkv.weight", (512, 1536, 1, 1)),  # as many numbers, in another order
    ],
)
def test_a_wrong_shape_is_refused(tmp_path, name, shape):
    weights = zeros(SMALL) | {f"denoise_fn.{name}": torch.zeros(1).expand(shape)}
    message = refusal(save(tmp_path / "x_gen.pth", weights))
    assert str(shape) in message and "expected" in message and f"denoise_fn.{name} " in message


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_none_are_refused(tmp_path, value):
    name = "denoise_fn.mid.1.res_block.block1.block.0.bias"
    weights = zeros(SMALL)
    weights[name] = weights[name].clone()
    weights[name][7] = value
    assert f"{name} holds NaN or infinite" in refusal(save(tmp_path / "x_gen.pth", weights))


# ------------------------------------------------------------------------------------- importing
def test_an_imported_file_is_a_checkpoint_with_equal_tensors(tmp_path):
    weights = state_dict(SMALL)  # windows on one buffer: tensors that share memory
    file, out = save(tmp_path / "I640000_E37_gen.pth", weights), tmp_path / "imported"
    assert call("import", file, "--out", out).exit_code == 0
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    assert "loads" in call("verify", out).stdout
    config, network = load_checkpoint(out)
    assert config == MODELS["sr3-16-128"]
    found, direct = network.state_dict(), load_public(file)[1].state_dict()
    assert len(found) == SMALL.tensors and found.keys() == direct.keys()
    assert all(torch.equal(tensor, direct[name]) for name, tensor in found.items())
    shown = json.loads(call("show", file, "--json").stdout)
    assert shown["config"]["network"]["low_res"] == 16
    assert shown["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()


def call(*words: object) -> Any:
    return CliRunner().invoke(app, ["checkpoints", *map(str, words)])


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.path, "code ran")


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_code_in_a_file_is_refused_and_never_runs(tmp_path, writer):
    sprung, path = tmp_path / "sprung", tmp_path / "x_gen.pth"
    content = {"denoise_fn.downs.0.weight": torch.zeros(64, 6, 3, 3), "x": Trap(sprung)}
    if writer == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    assert "never run" in refusal(path)
    assert not sprung.exists()
    torch.load(path, weights_only=False) if writer == "torch" else pickle.loads(path.read_bytes())
    assert sprung.exists()  # the trap was a real one


@pytest.mark.parametrize(
    "content",
    [
        {"epoch": 37, "iter": 640000, "scheduler": None, "optimizer": {"state": {}}},
        {"betas": torch.zeros(2000)},
        {0: torch.zeros(1)},
        {},
        [torch.zeros(1)],
        torch.zeros(3),
        {"denoise_fn.downs.0.weight": torch.zeros(64)},
    ],
    ids=["optimizer", "buffers", "numbered", "empty", "list", "tensor", "flat-stem"],
)
def test_something_else_is_refused(tmp_path, content):
    refusal(save(tmp_path / "I640000_E37_opt.pth", content))


@functools.cache
def small_file() -> bytes:
    stream = io.BytesIO()
    torch.save({"denoise_fn.downs.0.weight": torch.zeros(64, 6, 3, 3)}, stream)
    return stream.getvalue()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(tmp_path, share):
    path = tmp_path / "x_gen.pth"
    path.write_bytes(small_file()[: int(share * len(small_file()))])
    refusal(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"<!DOCTYPE html>\n<title>Sign in</title>\n",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"PK\x03\x04",
        bytes(range(256)),
        b"s" * 40,  # an opcode without its operands
        b"\x80\x02G\x01\x02\x03.",  # a number cut short
        b"\x80\x02\x87.",
    ],
    ids=["empty", "line", "html", "lfs", "zip", "bytes", "opcodes", "cut", "operands"],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "x_gen.pth"
    path.write_bytes(content)
    refusal(path)
