"""Training in several processes: the loss curve and the weights of one, at the same batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from sr3 import parallel
from sr3.cli import app
from sr3.errors import ConfigError
from tests.places import furnish

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ("accelerate.commands.launch", "--multi_gpu", "--num_machines=1", "--main_process_port=0",
          "--mixed_precision=no", "--dynamo_backend=no", "-m", "sr3")  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a checkpoint and a domain."""
    return furnish(tmp_path_factory.mktemp("parallel"), ["faces"])


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("SR3_OFFLINE", "1")
    monkeypatch.setenv("SR3_LPIPS_WEIGHTS", "nowhere")
    for name in parallel._LAUNCHED:
        monkeypatch.delenv(name, raising=False)


TRAIN = ("train", "--preset", "tiny", "--domain", "faces", "--save-every", 0)
TUNE = ("finetune", "--checkpoint", "parent", "--domain", "faces", "--images", "all",
        "--replay", 0.25, "--replay-domain", "faces", "--method", "lora")  # fmt: skip
COMMON = ("--batch", 4, "--precision", "float32", "--device", "cpu")


def alone(out, *command):
    result = CliRunner().invoke(app, [str(word) for word in (*command, *COMMON, "--out", out)])
    assert result.exit_code == 0, result.output


def start(count, out, *command):
    """The same by `accelerate launch`, in processes on this CPU."""
    words = [sys.executable, "-m", LAUNCH[0], f"--num_processes={count}", *LAUNCH[1:],
             *command, *COMMON, "--out", out]  # fmt: skip
    settings = {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [str(word) for word in words], env=os.environ | settings, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def together(out, *command):
    process = start(2, out, *command)
    _, errors = process.communicate(timeout=200)
    return process.returncode, errors


def log(out):
    return [json.loads(line) for line in Path(out, "log.jsonl").read_text().splitlines()]


def alike(one, other):
    """The curves to rounding, which few updates amplify little."""
    first, second = log(one), log(other)
    assert [row["step"] for row in second] == [row["step"] for row in first]
    for name in ("loss", "gradient_norm", "learning_rate"):
        curves = [[row[name] for row in rows] for rows in (first, second)]
        assert curves[0] == pytest.approx(curves[1], rel=1e-4), name
    assert len({row["loss"] for row in first}) == len(first)
    states = [torch.load(Path(out, "state.pt"), weights_only=True) for out in (one, other)]
    for part in ("network", "ema"):
        for name, tensor in states[0][part].items():
            assert float((tensor - states[1][part][name]).abs().max()) < 2e-5, (part, name)


def test_two_processes_train_like_one(place):
    alone("one", *TRAIN, "--steps", 6)
    code, errors = together("two", *TRAIN, "--steps", 6)
    assert code == 0, errors
    alike("one", "two")
    assert errors.count("Reading ") == errors.count("The checkpoint is in") == 1
    assert "2 x CPU" in Path("two/checkpoint/README.md").read_text()


def test_two_processes_killed_and_resumed_tune_like_one(place):
    alone("whole", *TUNE, "--steps", 6, "--evaluation-images", 1)
    command = (*TUNE, "--steps", 6, "--evaluation-images", 1, "--save-every", 0)
    process = start(2, "parts", *command)
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline and process.poll() is None:
        if Path("parts/log.jsonl").exists() and len(log_lines("parts")) >= 2:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # the launcher passes it on
    process.communicate(timeout=60)
    assert Path("parts/state.pt").exists()
    done = torch.load("parts/state.pt", weights_only=True)["step"]
    assert 0 < done < 6, "it was stopped in the middle"
    code, errors = together("parts", *command, "--resume")
    assert code == 0, errors
    alike("whole", "parts")
    one, two = (load_file(f"{out}/step-000006/model.safetensors") for out in ("whole", "parts"))
    for name, tensor in one.items():  # stored in float16
        assert float((tensor.float() - two[name].float()).abs().max()) < 1e-3, name


def log_lines(out):
    return Path(out, "log.jsonl").read_text().splitlines()


def test_each_process_takes_its_share():
    class Two:
        process_index, num_processes, device = 1, 2, torch.device("cpu:0")  # as accelerate has it

    team = parallel.Team(Two())
    assert (
        team.mine(6) == slice(3, 6) and not team.writes and parallel.Team().mine(5) == slice(0, 5)
    )
    with pytest.raises(ConfigError, match="multiple of 2"):
        team.mine(5)
    assert team.device("auto") == team.device("cpu") == "cpu"
    with pytest.raises(ConfigError, match="leave --device out"):
        team.device("cuda:1")


def test_without_accelerate_it_is_one_sentence(monkeypatch):
    for name in parallel._LAUNCHED:
        monkeypatch.setenv(name, "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    given = [str(word) for word in (*TRAIN, *COMMON, "--steps", 1, "--out", "nothing")]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 2, result.output
    assert "pip install -r requirements-scale.txt" in result.stderr
    assert not Path("nothing").exists()
