"""The benchmark: its arithmetic, its yardstick against our own sampler, and what it prints."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import json
import os
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import sr3.checkpoints
from benchmarks import speed
from sr3 import floor
from sr3.bench import SCORES_AGREE, Row, table
from sr3.cli import app
from sr3.config import ModelConfig, SamplerConfig, UNetConfig
from sr3.crowd import crowd
from sr3.denoiser import Denoiser
from sr3.engine import Engine
from sr3.errors import ConfigError
from sr3.floor import Rates, Work, measure_rates, work_of
from sr3.metrics import METRICS
from sr3.pipeline import load
from sr3.plain import plain_chain, plain_forward
from sr3.presets import MODELS
from sr3.samplers import ancestral
from sr3.schedule import NoiseSchedule
from sr3.timing import Took
from sr3.unet import UNet
from tests.app_server import make_checkpoints

ROOT = Path(__file__).resolve().parent.parent
SMALL = UNetConfig(low_res=2, high_res=16, channels=8, multipliers=(1, 2), blocks=1,
                   attention_sizes=(8,), norm_groups=4, dropout=0.0)  # fmt: skip


@pytest.fixture
def network() -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet(SMALL).eval().requires_grad_(False)


# -------------------------------------------------------------------------------------- yardstick
def test_the_plain_forward_is_the_same_function(network):
    generator = torch.Generator().manual_seed(1)
    condition, noisy = (torch.randn(2, 3, 16, 16, generator=generator) for _ in range(2))
    level = torch.tensor([0.2, 0.9])
    ours = network(condition, noisy, level)
    torch.testing.assert_close(
        plain_forward(network, condition, noisy, level), ours, atol=1e-5, rtol=1e-5
    )


def test_the_plain_chain_is_the_paper_s_sampler(network):
    config = dataclasses.replace(MODELS["sr3-16-128"].schedule, steps=12, beta_end=0.3)
    schedule = NoiseSchedule(config)
    condition = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(2)) * 2 - 1
    *_, plain = plain_chain(network, schedule, condition, torch.Generator().manual_seed(3))
    sampling = SamplerConfig(sampler="ancestral", steps=12, start=12)
    model = ModelConfig(network=SMALL, schedule=config, sampling=sampling)
    denoise = Denoiser(network, model)
    generator = torch.Generator().manual_seed(3)
    chain = ancestral(
        torch.randn(1, 3, 16, 16, generator=generator), schedule.levels(12),
        noise=lambda: torch.randn(1, 3, 16, 16, generator=generator),
    )  # fmt: skip
    x, level = next(chain)
    with torch.no_grad():
        for _ in range(11):
            x, level = chain.send(denoise(x, condition, level).clamp(-1, 1))
        with pytest.raises(StopIteration) as stop:
            chain.send(denoise(x, condition, level).clamp(-1, 1))
    torch.testing.assert_close(plain, stop.value.value, atol=1e-4, rtol=1e-4)


# ------------------------------------------------------------------------------------------ floor
def test_the_operations_of_a_forward_are_counted():
    config = dataclasses.replace(SMALL, multipliers=(1,), attention_sizes=(), channels=4)
    work = work_of(UNet(config).eval(), config, torch.float32)
    pixels = 16 * 16
    convolutions = 6 * 4 + 2 * 4 * 4 + 2 * 2 * 4 * 4 + 2 * (8 * 4 + 4 * 4) + 4 * 3  # 3x3
    ones = 2 * 8 * 4 + 4 * 12 + 4 * 4  # of the skips, and of the attention in the middle
    attention = 2 * 4 * pixels
    linear = 4 * 16 + 16 * 4 + 5 * 4 * 4
    expected = 2 * (pixels * (9 * convolutions + ones + attention) + linear)
    assert work.operations == expected
    assert work.weight_bytes == 4 * sum(p.numel() for p in UNet(config).parameters())
    assert work.image_bytes == 3 * 4 * 3 * pixels


def test_the_floor_is_the_slower_of_two_quotients():
    work = Work(operations=100.0, weight_bytes=50.0, image_bytes=10.0)
    assert work.floor(Rates(10.0, 60.0, ""), 1) == 10.0  # operations
    assert work.floor(Rates(1000.0, 6.0, ""), 1) == 10.0  # bytes
    assert work.floor(Rates(1000.0, 10.0, ""), 5) == 10.0  # the weights are read once
    assert work.floor(Rates(10.0, 1000.0, ""), 3) == 30.0


def test_the_rates_are_what_was_done_in_the_shortest_time(monkeypatch):
    seconds = {8: 1.0, 16: 2.0, 32: 32.0, 1 << 20: 0.5}  # by the length of what is made

    def took(run, device):
        return Took(seconds[len(run())], 0.0)

    monkeypatch.setattr(floor, "took", took)
    monkeypatch.setattr(floor, "SIZES", (8, 16, 32))
    monkeypatch.setattr(floor, "COPY_BYTES", 1 << 20)
    rates = measure_rates(torch.device("cpu"), torch.bfloat16, 0)
    assert rates == Rates(2 * 16**3 / 2.0, 2 * 2**20 / 0.5, "bfloat16")  # read and written


def test_other_work_on_the_machine_only_adds(monkeypatch):
    clock, taken = itertools.count(), iter([3.0, 1.0, 2.0])
    monkeypatch.setattr(floor, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr(floor, "took", lambda *_: Took(next(taken), 0.0))
    assert floor._shortest(lambda: None, torch.device("cpu"), 4.0) == 1.0
    assert next(taken, None) is None, "it goes on for as long as it was told"


def test_what_was_reached():
    assert Row("a", "", 4.0, "s", floor=1.0).reached == 0.25
    assert Row("a", "", 2.0, "images/s", floor=8.0).reached == 0.25
    assert Row("a", "", 2.0, "images/s").reached is None
    assert Row("a", "", None, "s", floor=1.0).reached is None


# ----------------------------------------------------------------------------------------- output
@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.setattr(sr3.checkpoints, "ROOT", make_checkpoints(tmp_path))


QUICK = ["bench", "--checkpoint", "tiny", "--device", "cpu", "--batches", "1,2",
         "--visitors", "1,3", "--repeats", "1", "--no-reference"]  # fmt: skip


def test_the_command_prints_json(tiny, monkeypatch):
    monkeypatch.setattr("sr3.bench.measure_rates", lambda *_: Rates(1e9, 1e9, "float32"))
    done = CliRunner().invoke(app, [*QUICK, "--json"])
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["device"] == "cpu" and found["settings"]["repeats"] == 1
    rows = {(row["figure"], row["setting"]): row for row in found["rows"]}
    steps = MODELS["tiny"].sampling.steps
    image, three = rows["image", f"{steps} steps"], rows["all served", "3 visitors"]
    assert 0 < image["value"] < 60 and image["reached"] == image["floor"] / image["value"]
    assert image["low"] <= image["value"] <= image["high"]
    after = rows["one after another", "3 visitors"]
    assert three["value"] > 0 and three["note"].endswith("times as fast as one after another")
    assert float(three["note"].split()[0]) == pytest.approx(
        after["value"] / three["value"], abs=0.01
    )
    assert rows["throughput", "3 visitors"]["value"] == pytest.approx(3 / three["value"])
    assert rows["latency p50", "3 visitors"]["value"] <= rows["latency p95", "3 visitors"]["value"]
    assert rows["latency p95", "3 visitors"]["value"] <= three["value"]
    assert rows["agreement", "fast against float32, worst of 7"]["value"] is None or (
        rows["agreement", "fast against float32, worst of 7"]["value"] >= 45
    )
    assert rows["agreement", "3 visitors, against each alone"]["value"] <= 1
    # In the second where the engine took the first visitor before the others had come.
    ticks = rows["first frame", "3 visitors, last one's"]["note"]
    assert ticks in ("in tick 1 of its turn", "in tick 2 of its turn")
    scores = {m: rows["agreement", f"{METRICS[m].title} of 3 photographs"] for m in SCORES_AGREE}
    assert all(scores[m]["value"] <= SCORES_AGREE[m] for m in ("psnr", "ssim"))
    assert scores["lpips"]["value"] is not None or "not measured" in scores["lpips"]["note"]
    assert rows["threads", "left over"]["value"] == 0
    gpu = [row for row in found["rows"] if row["figure"] == "all of it"]
    assert gpu == [] or (gpu[0]["value"] is None and "not measured" in gpu[0]["note"])


def test_a_crowd_is_served_in_groups_and_each_gets_its_own_picture(tiny, monkeypatch):
    monkeypatch.setattr(Engine, "MAX_BATCH", 2)
    monkeypatch.setattr(
        Engine.__init__, "__kwdefaults__", Engine.__init__.__kwdefaults__ | {"max_batch": 2}
    )
    model = load("tiny", "cpu")
    faces = np.random.default_rng(0).integers(
        0, 256, (5, model.low_size, model.low_size, 3), np.uint8
    )
    found = crowd(model, faces)
    assert found.ticks in (1, 2) and len(found.latencies) == len(found.first_frames) == 5
    assert (
        max(found.latencies) <= found.together and found.gain == found.one_by_one / found.together
    )
    alone = model.upscale(list(faces), batch=1).images[:, 0]
    assert found.difference(alone) <= 1
    assert found.difference(alone[::-1]) > 1


def test_a_crowd_whose_pictures_would_take_too_long_is_told_so(tiny, monkeypatch):
    short = Engine.__init__.__kwdefaults__ | {"max_seconds": 1e-6}
    monkeypatch.setattr(Engine.__init__, "__kwdefaults__", short)
    monkeypatch.setattr(Engine, "_sweep", lambda _: None)  # the first one, of unknown pace, ends
    model = load("tiny", "cpu")
    faces = np.zeros((2, model.low_size, model.low_size, 3), np.uint8)
    with pytest.raises(ConfigError, match=r"10 steps would take .* choose a smaller checkpoint"):
        crowd(model, faces)


def test_the_table_is_aligned_and_says_what_was_not_measured():
    rows = [Row("image", "10 steps", 0.5, "s", floor=0.1, low=0.4, high=0.6, note="x"),
            Row("GPU", "", None, "", note="not measured: there is none here")]  # fmt: skip
    head, image, gpu = table(rows).splitlines()
    assert image.split() == ["image", "10", "steps", "0.5", "s", "0.1", "20%", "0.4", "..", "0.6",
                             "x"]  # fmt: skip
    assert gpu.split(maxsplit=1)[1] == "not measured: there is none here"
    assert head.index("value") == image.index("0.5") == gpu.index("not")


def test_the_readme_s_figures_are_the_file_s():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.count(speed.BEGIN) == text.count(speed.END) == 1
    assert text.split(speed.BEGIN)[1].split(speed.END)[0] == speed.block(speed.runs(speed.FOLDER))


def test_a_run_goes_into_the_readme(tmp_path):
    rows = [Row("matrix rate", "float32", 150.0, "GFLOP/s"), Row("copy rate", "", 9.0, "GB/s"),
            Row("image", "10 steps", 0.5, "s", floor=0.1, low=0.4, high=0.6, note="x"),
            Row("agreement", "worst", None, "dB", note="the same bits"),
            Row("agreement", "LPIPS", None, "", note="not measured: not here"),
            Row("step, ours", "97.8M, batch 1", 0.2, "s", note="3 times the plain loop's images"),
            Row("all of it", "on a GPU", None, "", note="not measured: none")]  # fmt: skip
    run = {"choice": "CPU, float32", "threads": 2, "cores": 2, "torch": "9", "load": 0.04,
           "rows": [row.to_json() for row in rows]}  # fmt: skip
    file = tmp_path / "README.md"
    file.write_text(f"before\n{speed.BEGIN}old\n{speed.END}after\n", encoding="utf-8")
    (tmp_path / "bench-cpu-float32.json").write_text(json.dumps(run), encoding="utf-8")
    speed.write_readme(file, speed.runs(tmp_path))
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"before\n{speed.BEGIN}") and text.endswith(f"{speed.END}after\n")
    assert "| image | 10 steps | 0.5 s | 0.4 to 0.6 | 20% | x |\n" in text
    assert "| all of it | on a GPU | not measured: none |" in text and "old" not in text
    assert "| agreement | worst | the same bits |" in text and "load 0.0" in text
    assert "| agreement | LPIPS | not measured: not here |" in text
    assert (
        "There a picture in 10 steps takes 0.5 s; a step of the public network has 3 times the "
        "plain loop's images.\n" in text
    )
    speed.write_readme(file, speed.runs(tmp_path / "none"))
    assert "not measured yet" in file.read_text(encoding="utf-8")


def test_a_wrong_number_is_one_sentence():
    done = CliRunner().invoke(app, ["bench", "--batches", "1,two"])
    assert done.exit_code == 2 and "'two' is not a whole number" in done.stderr


# ------------------------------------------------------------------------------------------ cores
@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_idle_threads_spin_shortly_unless_the_environment_says_else(monkeypatch, given, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    runpy.run_path(str(ROOT / "sr3" / "cores.py"))
    assert os.environ.get("GOMP_SPINCOUNT") == expected
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that it is put back, whatever was set


def test_the_environment_is_set_before_torch_reads_it():
    body = ast.parse((ROOT / "sr3" / "__init__.py").read_text()).body
    imports = [ast.unparse(node) for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert imports[0] == "import sr3.cores"
