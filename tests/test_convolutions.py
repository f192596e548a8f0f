"""Quick convolutions: torch's values in float64 are the oracle; the network stays as it was."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import nn

from sr3 import convolutions
from sr3.bench import AGREES
from sr3.combine import Spliced
from sr3.config import ModelConfig, UNetConfig
from sr3.convolutions import (
    Along,
    Doubled,
    Packed,
    Winograd,
    doubles,
    gain_of_tiles,
    portions,
    tile_of,
)
from sr3.devices import Device, pick_device
from sr3.images import to_uint8
from sr3.metrics import psnr
from sr3.pipeline import SuperResolver
from sr3.quick import Quick, QuickBlock, QuickLinear, QuickNorm, quick_parts, quicken
from sr3.schedule import NoiseSchedule
from sr3.unet import ResidualBlock, UNet, Upsample

# Wide enough for both kinds of tiles, and small.
WIDE = UNetConfig(low_res=4, high_res=32, channels=128, multipliers=(1, 2), blocks=1,
                  attention_sizes=(16,), norm_groups=8, dropout=0.0)  # fmt: skip
CONFIG = ModelConfig(network=WIDE)
CPU = torch.device("cpu")
PLAIN, TILES = (Device(CPU, torch.float32, "a test", kind) for kind in ("plain", "tiles"))  # type: ignore[arg-type]


def layer(inputs=6, outputs=5, kernel=3, stride=1, bias=True):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)
        return conv.requires_grad_(False)


def noise(*shape, seed=1):
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return values.to(memory_format=torch.channels_last)


@pytest.fixture
def network() -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = UNet(WIDE).eval().requires_grad_(False)
        return made.to(memory_format=torch.channels_last)


def asked(batch=2):
    return noise(batch, 3, 32, 32), noise(batch, 3, 32, 32, seed=2), torch.full((batch,), 0.6)


@pytest.mark.parametrize("outputs", [2, 4])
@pytest.mark.parametrize("size", [(16, 16), (5, 7), (1, 1), (33, 18)])
@pytest.mark.parametrize("bias", [True, False])
def test_tiles_are_the_convolution_at_any_size(outputs, size, bias):
    conv, x = layer(bias=bias), noise(2, 6, *size)
    exact = layer(bias=bias).double()(x.double())
    found = Winograd(conv.weight, conv.bias, outputs)(x)
    assert found.shape == exact.shape
    assert found.stride(1) == 1  # channels last
    torch.testing.assert_close(found.double(), exact, atol=2e-5, rtol=0)


@pytest.mark.parametrize("outputs", [2, 4])
def test_tiles_in_small_portions_are_the_same(outputs, monkeypatch):
    conv, x = layer(), noise(2, 6, 21, 13)
    whole = Winograd(conv.weight, conv.bias, outputs)(x)
    monkeypatch.setattr(convolutions, "WORK", 1)  # a row of tiles at a time
    torch.testing.assert_close(
        Winograd(conv.weight, conv.bias, outputs)(x), whole, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 1), (2, 9)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("work", [1, convolutions.WORK])  # a row at a time, or all at once
def test_a_doubled_picture_is_convolved_from_the_small_one(batch, size, bias, work, monkeypatch):
    monkeypatch.setattr(convolutions, "WORK", work)
    conv, x = layer(bias=bias), noise(batch, 6, *size)
    upsample = Upsample(6)
    upsample.conv = layer(bias=bias).double()
    found = Doubled(conv.weight, conv.bias)(x)
    assert found.stride(1) == 1  # channels last
    torch.testing.assert_close(found.double(), upsample(x.double()), atol=2e-6, rtol=0)


@pytest.mark.parametrize("kind", ["packed", 2, 4])
@pytest.mark.parametrize("size", [(8, 12), (5, 7)])
@pytest.mark.parametrize(("batch", "shifts"), [(1, (1,)), (3, (3,)), (3, ()), (3, None)])
@pytest.mark.parametrize("bias", [True, False])
def test_what_a_convolution_takes_with_it(kind, size, batch, shifts, bias, monkeypatch):
    conv, x, rest = layer(bias=bias), noise(batch, 6, *size), noise(batch, 5, *size, seed=2)
    norm = nn.GroupNorm(2, 6).requires_grad_(False)
    shift = None if shifts is None else noise(*(shifts or (1,)), 5, 1, 1, seed=3).view(*shifts, 5)
    exact = layer(bias=bias).double()(nn.functional.silu(norm(x)).double()) + rest
    exact = exact if shift is None else exact + shift[..., None, None]
    monkeypatch.setattr(convolutions, "WORK", 6000)  # in several portions
    monkeypatch.setattr(convolutions, "SHARED", 50)  # one size's pictures one by one
    ready = Packed(conv, x.shape) if kind == "packed" else Winograd(conv.weight, conv.bias, kind)
    kept = rest.clone()
    given = x.contiguous(memory_format=torch.channels_last)
    found = ready(given, Along(shift, rest, norm))
    torch.testing.assert_close(found.double(), exact, atol=2e-5, rtol=0)
    assert torch.equal(rest, kept) and torch.equal(given, x)


@pytest.mark.parametrize(
    ("batch", "rows", "row"), [(1, 7, 9), (5, 3, 10), (4, 20, 30), (3, 1, 500)]
)
@pytest.mark.parametrize("weights", [0, 120])
def test_portions_are_all_of_it_once(batch, rows, row, weights, monkeypatch):
    monkeypatch.setattr(convolutions, "WORK", 100)
    parts = list(portions(batch, rows, row, weights))
    done = [(n, r) for some, first, count in parts
            for n in range(batch)[some] for r in range(first, first + count)]  # fmt: skip
    assert done == [(n, r) for n in range(batch) for r in range(rows)]
    sizes = [(some.stop - some.start) * count * row for some, _, count in parts]
    assert max(sizes) == sizes[0] < 2 * max(100, weights, row)  # equal parts may be a bit larger


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_layout_made_once_gives_torch_s_values_at_any_batch(kernel, stride):
    conv = layer(32, 48, kernel, stride).to(memory_format=torch.channels_last)
    packed = Packed(conv, torch.Size((1, 32, 16, 16)))
    for batch in (1, 3):
        x = noise(batch, 32, 16, 16)
        torch.testing.assert_close(packed(x), conv(x), atol=1e-5, rtol=0)


def test_tiles_are_for_wide_layers_of_large_pictures():
    wide = layer(192, 192)
    assert [tile_of(wide, side) for side in (8, 16, 64)] == [0, 4, 4]
    assert [tile_of(layer(512, 512), side) for side in (8, 16, 32)] == [0, 2, 4]
    assert tile_of(layer(192, 64), 64) == 4
    others = layer(64, 64), layer(192, 192, kernel=1), layer(192, 192, stride=2), layer(512, 3)
    assert [tile_of(other, 64) for other in others] == [0] * 4


def test_doubling_is_for_layers_with_work():
    assert [doubles(layer(192, 192), side) for side in (4, 8, 32)] == [False, True, True]
    others = layer(192, 192, kernel=1), layer(192, 192, stride=2), layer(16, 16)
    assert not any(doubles(other, 64) for other in others)


def test_a_quick_network_is_the_same_function_and_leaves_its_own_alone(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    quick = quicken(network)
    torch.testing.assert_close(quick(*asked()), network(*asked()), atol=1e-4, rtol=0)
    kinds = {type(each).__name__ for part in quick_parts(network) for each in part._ready.values()}
    assert kinds == {"Winograd", "Packed", "Doubled"}
    assert isinstance(quick.down[1], QuickBlock) and type(network.down[1]) is ResidualBlock
    assert isinstance(network.head, nn.Conv2d) and isinstance(quick.head, Quick)
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert quicken(network) is quick


@pytest.mark.parametrize("tiles", [True, False])
def test_nothing_is_laid_out_twice(network, tiles):
    def ready():
        return [id(each) for part in quick_parts(network) for each in part._ready.values()]

    quicken(network, tiles)(*asked())
    before = ready()
    quicken(network, tiles)(*asked(1))
    assert ready() == before and len(set(before)) == len(before)
    for part in quick_parts(network):
        assert part.nbytes == sum(each.nbytes for each in part._ready.values())


@pytest.mark.parametrize("tiles", [True, False])
@pytest.mark.parametrize("size", [(32, 32), (17, 19)])
def test_a_quick_block_is_the_block_and_leaves_its_input(network, tiles, size):
    for where, inputs in ((1, 128), (3, 128)):  # the same channels, and other ones
        x, embedding = noise(2, inputs, *size), noise(2, 128, 1, 1)[:, :, 0, 0]
        kept, block = x.clone(), network.down[where]
        found = quicken(network, tiles).down[where](x, embedding)
        exact = block.double()(x.double(), embedding.double())
        torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=0)
        assert torch.equal(x, kept)
        block.float()


@pytest.mark.parametrize("tiles", [True, False])
def test_a_quick_upsampling_is_the_same(network, tiles):
    (where,) = (n for n, each in enumerate(network.up) if isinstance(each, Upsample))
    quick, x = quicken(network, tiles), noise(3, 256, 16, 16)
    torch.testing.assert_close(quick.up[where](x), network.up[where](x), atol=2e-5, rtol=0)
    with torch.no_grad():
        network.up[where].conv.weight.mul_(2)  # as an optimizer does
        network.up[where].conv.bias.add_(1)
    again = quicken(network, tiles)
    assert again is not quick
    torch.testing.assert_close(again.up[where](x), network.up[where](x), atol=4e-5, rtol=0)


def test_a_network_in_training_keeps_its_blocks(network):
    assert not any(isinstance(each, QuickBlock) for each in quicken(network.train()).modules())


@pytest.mark.parametrize("side", [8, 32, 48])
def test_a_quick_norm_and_a_quick_linear_layer_give_the_same_bits_in_any_batch(network, side):
    """Torch's own do not: the reason of their being."""
    quick = quicken(network)
    norm, x = quick.down[1].norm1, noise(5, 128, side, side)
    expand, rows = quick.embedding.expand, noise(5, 128, 1, 1).flatten(1)
    assert type(norm) is QuickNorm and type(expand) is QuickLinear
    torch.testing.assert_close(norm(x), network.down[1].norm1(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(expand(rows), network.embedding.expand(rows), atol=1e-5, rtol=0)
    for layer_, given in ((norm, x), (expand, rows)):
        for count in (1, 2, 3):
            alone = torch.cat([layer_(part) for part in given.split(count)])
            assert torch.equal(alone, layer_(given))


def test_a_picture_alone_and_in_company(network):
    quick, (condition, x, level) = quicken(network), asked(3)
    together = quick(condition, x, level)
    alone = torch.cat([quick(condition[k : k + 1], x[k : k + 1], level[:1]) for k in range(3)])
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=0)


def test_weights_that_change_are_laid_out_anew(network):
    quicken(network)(*asked())
    with torch.no_grad():
        network.head.weight.mul_(2)  # as an optimizer does
        network.down[1].conv1.weight = nn.Parameter(-network.down[1].conv1.weight, False)
    torch.testing.assert_close(quicken(network)(*asked()), network(*asked()), atol=1e-4, rtol=0)


def test_a_splice_shares_what_its_parents_have(network):
    other = UNet(WIDE).eval().requires_grad_(False)
    both = Spliced(network, other, NoiseSchedule(CONFIG.schedule), 500).eval()
    for each in (network, other, both):
        quicken(each)(*asked())
    parts = {id(part) for parent in (network, other) for part in quick_parts(parent)}
    assert {id(part) for part in quick_parts(both)} == parts


def test_what_was_laid_out_goes_with_its_network():
    network = UNet(WIDE)
    quick = weakref.ref(quicken(network).head)
    part = weakref.ref(quick_parts(network)[0])
    del network
    gc.collect()
    assert quick() is None and part() is None


def halved(network, count=2):
    """What a network gives in bfloat16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return network(*asked(count))


def test_in_bfloat16_a_quick_network_gives_the_bits_of_autocast(network):
    if not convolutions.supported(torch.bfloat16):  # an older CPU: then it is never asked for
        with pytest.raises(RuntimeError, match="bf16"):
            halved(quicken(network, False, torch.bfloat16))
        return
    quick = quicken(network, False, torch.bfloat16)
    assert torch.equal(halved(quick), halved(network))
    assert torch.equal(halved(quick, 3), halved(network, 3))  # laid out for another size
    parts = quick_parts(network)
    assert {type(each) for part in parts for each in part._ready.values()} == {Packed}
    convs = [each for each in network.modules() if isinstance(each, nn.Conv2d)]
    assert sum(part.nbytes for part in parts) == sum(each.weight.nbytes // 2 for each in convs)
    with torch.no_grad():
        network.head.weight.mul_(2)
        network.down[1].conv1.bias.add_(1)  # of which it has a copy in 16 bits
    assert torch.equal(halved(quicken(network, False, torch.bfloat16)), halved(network))


@pytest.mark.parametrize(("laid_out", "kind"), [(True, "packed"), (False, "plain")])
def test_bfloat16_is_laid_out_where_that_is_supported(monkeypatch, measured_anew, laid_out, kind):
    monkeypatch.setattr(convolutions, "gain_of_bfloat16", lambda: 2.5)
    monkeypatch.setattr(convolutions, "supported", lambda precision: laid_out)
    chosen = pick_device("cpu")
    assert chosen.precision == torch.bfloat16 and chosen.convolutions == kind
    assert ("laid out once" in chosen.reason) == laid_out


def test_the_picture_agrees_and_the_exact_one_stays_exact(network):
    ours, plain = (SuperResolver(network, CONFIG, device) for device in (TILES, PLAIN))
    condition, x, level = asked()
    assert torch.equal(ours.denoise(x, condition, level), plain.denoise(x, condition, level))
    low = to_uint8(torch.nn.functional.avg_pool2d(condition, 8))
    fast, slow = (model.upscale(list(low), steps=4).images[:, 0] for model in (ours, plain))
    assert psnr(fast, slow).min() >= AGREES


@pytest.mark.parametrize(("gain", "kind"), [(1.5, "tiles"), (1.0, "packed")])
def test_tiles_are_chosen_where_they_were_measured_faster(monkeypatch, measured_anew, gain, kind):
    monkeypatch.setattr("sr3.convolutions.gain_of_bfloat16", lambda: 0.5)
    monkeypatch.setattr(convolutions, "gain_of_tiles", lambda: gain)
    chosen = pick_device("cpu")
    assert chosen.convolutions == kind and ("1.5x" in chosen.reason) == (gain > 1.1)
    monkeypatch.setattr(convolutions, "supported", lambda: False)
    measured_anew()
    assert pick_device("cpu").convolutions == "plain"


@pytest.fixture
def clock(monkeypatch):
    """Layers whose calls take so long, by a clock of our own."""
    now = [0.0]
    monkeypatch.setattr("sr3.timing.perf_counter", lambda: now[0])

    def way(seconds):
        left = iter(seconds)

        def call(x):
            assert x.shape == (1, 8, 4, 4)
            now[0] += next(left)

        return lambda *_: call

    return way


def test_the_gain_of_tiles_is_that_of_the_shortest_times(monkeypatch, clock):
    monkeypatch.setattr(convolutions, "supported", lambda precision: True)
    monkeypatch.setattr(convolutions, "Packed", clock([5.0, 3.0, 90.0]))
    monkeypatch.setattr(convolutions, "Winograd", clock([7.0, 4.0, 2.0]))
    assert gain_of_tiles.__wrapped__(8, 4, 3) == 1.5  # not kept as this machine's


def test_the_gain_of_bfloat16_is_over_the_fastest_float32(monkeypatch, clock):
    packed = {torch.float32: clock([5.0, 3.0])(), torch.bfloat16: clock([0.5, 9.0])()}
    monkeypatch.setattr(convolutions, "supported", lambda precision: True)
    monkeypatch.setattr(convolutions, "Packed", lambda layer, shape, precision: packed[precision])
    monkeypatch.setattr(convolutions, "Winograd", clock([7.0, 2.0]))
    assert convolutions.gain_of_bfloat16(8, 4, 2) == 4.0


def test_what_is_measured_draws_nothing_and_needs_no_layout(monkeypatch):
    """As on a machine whose torch has no such kernels."""
    monkeypatch.setattr(convolutions, "supported", lambda precision: False)
    state = torch.get_rng_state()
    assert convolutions.gain_of_bfloat16(8, 4, 1) > 0
    assert torch.equal(torch.get_rng_state(), state)
