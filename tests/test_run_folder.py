"""The folder of a run: what is there is neither written over unasked nor read as another run's."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from sr3 import training_run
from sr3.cli import app
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


def refusal(result):
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in result.output
    return line


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
