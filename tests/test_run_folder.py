"""The folder of a run: what is there is neither written over unasked nor read as another run's."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager

import pytest
import torch
from typer.testing import CliRunner

from sr3 import study_task, training_run
from sr3.cli import app
from sr3.run_folder import RunFolder
from sr3.study_plan import read_plan
from tests.outcomes import contents, refusal
from tests.places import furnish


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return furnish(tmp_path_factory.mktemp("runs"), ["faces"], images=12)


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("SR3_OFFLINE", "1")
    monkeypatch.setenv("SR3_LPIPS_WEIGHTS", "nowhere")


COMMANDS = {
    "train": ["train", "--preset", "tiny"],
    "distil": ["distil", "--checkpoint", "parent", "--evaluations", "1", "--substeps", "1"],
    "finetune": ["finetune", "--checkpoint", "parent", "--images", "4", "--evaluation-images", "0"],
}


def call(command, out, *words, steps=2):
    given = [*COMMANDS[command], "--domain", "faces", "--out", out, "--steps", steps, "--batch", 2,
             "--device", "cpu", "--precision", "float32", *words]  # fmt: skip
    return CliRunner().invoke(app, [str(word) for word in given])


# -------------------------------------------------------------------------------- a removed state
@pytest.mark.parametrize("command", COMMANDS)
def test_what_a_run_made_outlives_its_state(command, tmp_path):
    out, made = tmp_path / "run", "step-000002" if command == "finetune" else "checkpoint"
    assert call(command, out).exit_code == 0
    (out / "state.pt").unlink()  # as one does to save disk
    before = contents(out)
    for words in ((), ("--seed", 1), *(() if command == "finetune" else [("--resume",)])):
        told = refusal(call(command, out, *words))
        assert f"holds {made}, but no state.pt" in told and "choose another folder" in told
        assert ("--resume" in told) is (command == "finetune"), "only where it would do something"
        assert contents(out) == before
    (out / made).rename(tmp_path / "elsewhere")
    assert call(command, out).exit_code == 0, "as the sentence said"


def test_a_command_of_another_kind_spares_it_too(tmp_path):
    assert call("finetune", tmp_path / "tuned").exit_code == 0
    assert call("train", tmp_path / "trained").exit_code == 0
    for out, command in ((tmp_path / "tuned", "train"), (tmp_path / "trained", "finetune")):
        (out / "state.pt").unlink()
        before = contents(out)
        for words in ((), ("--resume",)):
            refusal(call(command, out, *words))
            assert contents(out) == before


def test_snapshots_of_a_run_cut_short_are_resumed_and_stay(tmp_path):
    out = tmp_path / "run"
    assert call("finetune", out, "--snapshots", 1).exit_code == 0
    (out / "state.pt").unlink()
    shutil.rmtree(out / "step-000002")
    (out / "step-000001" / "README.md").write_text("# The very one\n")
    kept = contents(out / "step-000001")
    (out / "step-000002.partial").mkdir()  # of one that was killed while it wrote
    resumed = call("finetune", out, "--snapshots", 1, "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert contents(out / "step-000001") == kept and (out / "step-000002").exists()
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2]


@pytest.mark.parametrize("damage", [b'{"step": 2, "lo', b"null\n", b"\xff\xfe\x00\n"])
def test_a_log_that_was_damaged_is_no_hindrance(tmp_path, damage):
    out = tmp_path / "run"
    assert call("finetune", out, "--snapshots", 1).exit_code == 0
    for name in ("log.jsonl", "curve.jsonl"):
        with (out / name).open("ab") as log:
            log.write(damage)
    resumed = call("finetune", out, "--snapshots", 1, "--resume")
    assert resumed.exit_code == 0, resumed.output
    for name in ("log.jsonl", "curve.jsonl"):
        rows = [json.loads(line) for line in (out / name).read_text().splitlines()]
        assert {row["step"] for row in rows} <= {0, 1, 2} and rows


def test_a_state_is_there_before_a_checkpoint(tmp_path, monkeypatch):
    """Else a training cut short between the two could not go on."""
    seen = []

    def save(path, *rest, **more):
        seen.append((path.parent / "state.pt").exists())
        raise KeyboardInterrupt  # cut short, where nothing saves a state

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(training_run, "save_checkpoint", save)
        call("train", out, "--validate-every", 0)
    assert seen == [True]
    assert call("train", out, "--resume").exit_code == 0


# ------------------------------------------------------------------------- a GPU's state, on a CPU
@pytest.fixture
def on_a_gpu(monkeypatch):
    """Within the block it gives, files say that their tensors were on a GPU."""

    @contextmanager
    def tagged():
        with monkeypatch.context() as patch:
            patch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
            yield

    return tagged


@pytest.mark.parametrize("command", ["train", "finetune"])
def test_a_run_of_a_gpu_is_resumed_on_a_cpu(command, tmp_path, on_a_gpu):
    out = tmp_path / "run"
    with on_a_gpu():
        assert call(command, out, "--precision", "bfloat16").exit_code == 0
    assert RunFolder(out).precision() == "bfloat16"
    resumed = call(command, out, "--precision", "auto", "--resume", steps=3)
    assert resumed.exit_code == 0, resumed.output


def test_a_study_goes_on_from_a_gpus_state(tmp_path, monkeypatch, on_a_gpu):
    plan = tmp_path / "one.toml"
    plan.write_text(
        'checkpoint = "parent"\nsource = "faces"\n[evaluation.domains]\nfaces = 1\n'
        '[[grid]]\ntarget = "faces"\nimages = 2\nsnapshots = [1, 2]\n'
    )
    made = study_task.Workplace(read_plan(str(plan)), tmp_path / "table", tmp_path / "work")
    (run,) = made.plan.runs
    made.folder(run).mkdir(parents=True)
    state, seen = made.folder(run) / "state.pt", []

    class Tuning:
        def __init__(self, plan, resume):
            seen.append(state.exists())

        def run(self):
            return iter(())

    monkeypatch.setattr(study_task, "FinetuneRun", Tuning)
    for step in (1, 2):
        with on_a_gpu():
            torch.save({"step": step, "network": {"w": torch.zeros(1)}}, state)
        study_task._tune(made, run, (1, 2), print)
    assert seen == [True, False], "past a missing snapshot it begins again"


# ---------------------------------------------------------------------------------- other settings
def test_what_differs_is_named_with_both_values(tmp_path):
    trained, tuned = tmp_path / "trained", tmp_path / "tuned"
    assert call("train", trained, "--seed", 3).exit_code == 0
    told = refusal(call("train", trained, "--batch", 4, "--resume"))
    assert "(batch 2 there, 4 here; seed 3 there, 0 here)" in told
    told = refusal(call("train", trained, "--seed", 3, "--init", "parent", "--resume"))
    assert "(init None there, parent here)" in told
    assert call("finetune", tuned).exit_code == 0
    told = refusal(call("finetune", tuned, "--range", "0:500", "--images", 5, "--resume"))
    assert "images 4 there, 5 here; file_list_hash " in told and len(told) < 300
    assert "training.range [0, 2000] there, [0, 500] here)" in told
