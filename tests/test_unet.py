"""The network: its sizes and names as published, and one continuous noise level an image."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sr3.config import UNetConfig
from sr3.presets import MODELS
from sr3.public_format import public_name
from sr3.unet import Attention, NoiseEmbedding, UNet

# Hand-written pairs: ours, the public checkpoints'.
NAMES = (
    ("embedding.expand.weight", "denoise_fn.noise_level_mlp.1.weight"),
    ("embedding.project.bias", "denoise_fn.noise_level_mlp.3.bias"),
    ("down.0.weight", "denoise_fn.downs.0.weight"),
    ("down.3.conv.bias", "denoise_fn.downs.3.conv.bias"),
    ("down.4.norm1.weight", "denoise_fn.downs.4.res_block.block1.block.0.weight"),
    ("down.4.conv1.weight", "denoise_fn.downs.4.res_block.block1.block.3.weight"),
    ("down.4.norm2.bias", "denoise_fn.downs.4.res_block.block2.block.0.bias"),
    ("down.4.conv2.bias", "denoise_fn.downs.4.res_block.block2.block.3.bias"),
    ("down.4.embed.weight", "denoise_fn.downs.4.res_block.noise_func.noise_func.0.weight"),
    ("down.4.skip.weight", "denoise_fn.downs.4.res_block.res_conv.weight"),
    ("down.10.attention.norm.weight", "denoise_fn.downs.10.attn.norm.weight"),
    ("middle.0.attention.qkv.weight", "denoise_fn.mid.0.attn.qkv.weight"),
    ("middle.1.conv1.weight", "denoise_fn.mid.1.res_block.block1.block.3.weight"),
    ("up.4.attention.out.bias", "denoise_fn.ups.4.attn.out.bias"),
    ("up.15.conv.weight", "denoise_fn.ups.15.conv.weight"),
    ("head_norm.weight", "denoise_fn.final_conv.block.0.weight"),
    ("head.bias", "denoise_fn.final_conv.block.3.bias"),
)


def shapes(config: UNetConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in UNet(config).state_dict().items()}


def tiny(embedding: str = "level", seed: int = 0) -> UNet:
    """A small network in float64 with attention at every size and nothing at zero."""
    config = UNetConfig(
        low_res=4,
        high_res=16,
        channels=8,
        multipliers=(1, 2),
        blocks=1,
        attention_sizes=(8,),
        norm_groups=4,
        dropout=0.5,  # off in eval mode
        embedding=embedding,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return UNet(config).double().eval()


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("preset", "parameters"), [("sr3-16-128", 97_807_491), ("sr3-64-512", 155_334_339)]
)
def test_parameter_counts_are_the_published_ones(preset, parameters):
    found = shapes(MODELS[preset].network)
    assert sum(math.prod(shape) for shape in found.values()) == parameters


def test_defaults_are_the_public_network():
    assert UNetConfig() == MODELS["sr3-16-128"].network
    assert len(shapes(UNetConfig())) == 362


@pytest.mark.parametrize(("ours", "theirs"), NAMES)
def test_names_match_the_public_ones(ours, theirs):
    assert ours in shapes(UNetConfig())
    assert public_name(ours) == theirs


def test_public_names_are_unique():
    names = [public_name(name) for name in shapes(UNetConfig())]
    assert len(set(names)) == 362
    assert all(name.startswith("denoise_fn.") for name in names)


# ----------------------------------------------------------------------------- noise embedding
LEVELS = (1.0, 1 - 5e-7, 0.9, 0.5, 0.1, 0.00662)


def test_sinusoids_of_the_level_are_the_closed_form():
    found = NoiseEmbedding(64, "level").sinusoids(torch.tensor(LEVELS, dtype=torch.float64))
    for row, level in zip(found.tolist(), LEVELS, strict=True):
        angles = [level * math.exp(-math.log(1e4) * k / 32) for k in range(32)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert max(abs(a - b) for a, b in zip(row, expected, strict=True)) < 1e-14


def test_sinusoids_of_the_log_snr_are_the_closed_form():
    levels = LEVELS[1:]
    found = NoiseEmbedding(16, "log_snr").sinusoids(torch.tensor(levels, dtype=torch.float64))
    for row, level in zip(found.tolist(), levels, strict=True):
        half_log_snr = math.log(level) - 0.5 * math.log1p(-(level**2))
        angles = [50 * half_log_snr * 10 ** (-4 * k / 8) for k in range(8)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        assert max(abs(a - b) for a, b in zip(row, expected, strict=True)) < 1e-6


def test_a_clean_level_embeds_to_finite_numbers():
    assert NoiseEmbedding(16, "log_snr").sinusoids(torch.ones(1)).isfinite().all()


def test_embedding_is_linear_swish_linear():
    embedding = NoiseEmbedding(8, "level").double()
    level = torch.tensor([0.3, 0.8], dtype=torch.float64)
    values = embedding.sinusoids(level)
    hidden = values @ embedding.expand.weight.T + embedding.expand.bias
    assert hidden.shape == (2, 32)
    hidden = hidden / (1 + (-hidden).exp())
    expected = hidden @ embedding.project.weight.T + embedding.project.bias
    torch.testing.assert_close(embedding(level), expected, rtol=0, atol=1e-12)


# ------------------------------------------------------------------------------------- forward
@pytest.mark.parametrize("embedding", ["level", "log_snr"])
@torch.no_grad()
def test_each_image_has_its_own_continuous_level(embedding):
    network = tiny(embedding)
    levels = torch.tensor([0.999, 0.7, 0.7001, 0.01], dtype=torch.float64)
    condition = normal(1, 3, 16, 16).expand(4, -1, -1, -1)
    noisy = normal(1, 3, 16, 16, seed=1).expand(4, -1, -1, -1)
    together = network(condition, noisy, levels)
    for k, level in enumerate(levels):
        alone = network(condition[k : k + 1], noisy[k : k + 1], level[None])
        assert float((together[k] - alone[0]).abs().max()) < 1e-12
    gaps = [float((together[a] - together[b]).abs().max()) for a, b in ((0, 1), (1, 2), (2, 3))]
    assert min(gaps) > 1e-7  # even 0.7 and 0.7001 differ
    assert gaps[1] < min(gaps[0], gaps[2])


@torch.no_grad()
def test_condition_comes_first():
    network = tiny()
    seen = []
    network.down[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    condition, noisy = normal(1, 3, 16, 16), normal(1, 3, 16, 16, seed=1)
    network(condition, noisy, torch.tensor([0.5]))
    assert torch.equal(seen[0], torch.cat([condition, noisy], dim=1))


@torch.no_grad()
def test_attention_is_the_written_out_formula():
    attention = Attention(8, 4).double()
    x = normal(2, 8, 3, 5)
    normed = x.reshape(2, 4, -1)
    normed = (normed - normed.mean(2, keepdim=True)) / (
        normed.var(2, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    normed = normed.reshape(2, 8, 15)  # norm's weight is 1 and its bias 0
    q, k, v = (attention.qkv.weight[:, :, 0, 0] @ normed).split(8, dim=1)
    scores = (q.transpose(1, 2) @ k) / math.sqrt(8)  # (2, asked, looked at)
    mixed = v @ scores.softmax(dim=2).transpose(1, 2)
    out = attention.out.weight[:, :, 0, 0] @ mixed + attention.out.bias[:, None]
    torch.testing.assert_close(attention(x), x + out.reshape(2, 8, 3, 5), rtol=0, atol=1e-12)


@pytest.mark.parametrize("preset", ["lite", "tiny"])
@torch.no_grad()
def test_a_patch_network_keeps_the_image_size(preset):
    network = UNet(MODELS[preset].network).eval()
    image = torch.zeros(2, 3, 128, 128)
    assert network(image, image, torch.tensor([0.5, 0.9])).shape == (2, 3, 128, 128)


@torch.no_grad()
def test_zeroed_residuals_give_a_zero_output():
    network = tiny()
    network.zero_residuals()
    image = normal(1, 3, 16, 16)
    assert float(network(image, image, torch.tensor([0.5])).abs().max()) == 0
