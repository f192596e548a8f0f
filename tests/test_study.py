"""A study end to end: the same numbers whatever the processes, kills, resumptions and deletions."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from sr3 import results, study_task
from sr3 import study as study_module
from sr3.cells import Cell
from sr3.cli import app
from sr3.domains import Domain, Entry, load_domain
from sr3.folder import hash_of, save_checkpoint
from sr3.metrics import Scorer
from sr3.pins import Pin
from sr3.presets import MODELS
from sr3.study import Study
from sr3.study_plan import PLANS, read_plan
from sr3.unet import UNet
from tests.outcomes import refusal
from tests.places import drawn_network, furnish

ROOT = Path(__file__).resolve().parent.parent
SMOKE = (PLANS / "smoke.toml").read_text()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with what the smoke plan names: a checkpoint and two domains."""
    return furnish(tmp_path_factory.mktemp("smoke"), ("faces", "drawings"))


@pytest.fixture(autouse=True)
def _there(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setenv("SR3_OFFLINE", "1")
    monkeypatch.setenv("SR3_LPIPS_WEIGHTS", "nowhere")
    study_task.domain_of.cache_clear()  # other folders may have had the same names


def words(name, *more, plan="smoke"):
    given = ["study", "--plan", plan, "--out", f"{name}/metrics", "--work", f"{name}/work", *more]
    return [str(word) for word in given]


def study(name, *more, plan="smoke"):
    return CliRunner().invoke(app, words(name, *more, plan=plan))


def table(name):
    """The table of a study, without what tells when and from which code a row is."""
    return results.read(f"{name}/metrics").drop(columns=["created", "code_commit"])


@pytest.fixture(scope="module")
def whole(place):
    """The smoke plan, done in one process without a break."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setenv("SR3_LPIPS_WEIGHTS", "nowhere")
        patch.setenv("SR3_OFFLINE", "1")
        study_task.domain_of.cache_clear()  # this comes before what is done for each test
        result = study("whole")
        assert result.exit_code == 0, result.output
        return table("whole"), result


def same(one, other):
    pd.testing.assert_frame_equal(one, other, check_exact=True)


# -------------------------------------------------------------------------------------- the numbers
def test_the_table_holds_every_cell_once(whole):
    frame, result = whole
    names = [name for name in frame["checkpoint"].unique() if Cell.parse(name)]
    cells = sorted(Cell.parse(name).title for name in names)
    assert cells == sorted([
        "parent on drawings images=2 updates=1 range=0:2000 seed=0",
        "parent on drawings images=2 updates=3 range=0:2000 seed=0",
        "parent on drawings images=all updates=1 range=0:2000 seed=0",
        "parent on drawings images=all updates=3 range=0:2000 seed=0",
        "parent on drawings images=2 updates=2 range=0:500 seed=0 replay=0.5",
        "parent on drawings images=2 updates=1 range=0:2000 seed=0 scratch",
    ])  # fmt: skip
    assert set(frame["checkpoint"]) == {*names, "parent", "bicubic", "regression"}
    counts = frame.groupby(["checkpoint", "domain", "metric"])["image"].agg(["size", "nunique"])
    assert (counts == 2).all(axis=None), "each image once, on both domains"
    assert set(frame["domain"]) == {"faces", "drawings"}
    assert {"psnr", "ssim", "consistency_psnr"} <= set(frame["metric"])
    assert frame.groupby("checkpoint")["checkpoint_hash"].nunique().eq(1).all()
    tuned = frame[frame["checkpoint"].isin(names)]
    assert tuned["checkpoint_hash"].nunique() == 6, "and no two are the same weights"
    assert not list(Path("whole/work").glob("*/*")), "snapshots are gone once measured"
    assert "14 of 14 cells" in result.stderr and "nothing to do" not in result.stderr


@pytest.fixture
def one_thread():
    """As a study's processes have it: sums depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_cell_is_what_the_other_commands_give(whole, tmp_path, one_thread):
    """The same fine-tuning and evaluation, asked for by hand."""
    out, rows = tmp_path / "run", tmp_path / "rows.parquet"
    common = ["--device", "cpu"]
    tune = ["finetune", "--checkpoint", "parent", "--domain", "drawings", "--images", "2",
            "--steps", "2", "--range", "0:500", "--replay", "0.5", "--replay-domain", "faces",
            "--batch", "2", "--precision", "float32", "--out", str(out)]  # fmt: skip
    assert CliRunner().invoke(app, tune + common).exit_code == 0
    (cell,) = whole[0][whole[0]["checkpoint"].str.contains("0:500")].groupby("checkpoint")
    _, theirs = cell
    assert len(theirs)
    evaluate = ["evaluate", "--checkpoint", str(out / "step-000002"), "--domain", "drawings",
                "--images", "2", "--steps", "2", "--no-baselines", "--out", str(rows)]  # fmt: skip
    assert CliRunner().invoke(app, evaluate + common).exit_code == 0
    ours = results.read(rows)
    # The digest of a delta is of its parents' hashes and its change: the very same weights.
    assert set(ours["checkpoint_hash"]) == set(theirs["checkpoint_hash"])
    both = ours.merge(theirs, on=["domain", "file_list_hash", "image", "seed", "metric", "steps"])
    assert len(both) == len(ours) > 0
    loud = both["metric"] == "psnr"  # evaluate may have chosen bfloat16
    assert (both["value_x"] - both["value_y"])[loud].abs().max() < 0.5


def test_two_processes_give_the_same(whole):
    result = study("two", "--workers", 2)
    assert result.exit_code == 0, result.output
    same(table("two"), whole[0])


def on_ray(name, address, folder, *more, **settings):
    """A study on a Ray cluster, from a process of its own, as a user starts it."""
    environment = ray_environment() | {"PYTHONPATH": str(ROOT)} | settings
    return subprocess.run(
        [sys.executable, "-m", "sr3", *words(name, "--ray", address, *more)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def ray_environment():
    """This environment with a token for Ray that is nobody's, so that none is made at home."""
    return os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "5" * 64}


def test_a_local_ray_cluster_gives_the_same(whole, place):
    result = on_ray("ray", "local", place)
    assert result.returncode == 0, result.stderr
    assert "14 of 14 cells" in result.stderr
    assert all(" on " in line for line in result.stdout.splitlines()), "answers and nothing else"
    same(table("ray"), whole[0])


def test_a_ray_cluster_that_was_there_gives_the_same(whole, place, tmp_path):
    """It was started elsewhere, and knows nothing of the study's folder, settings or package."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--block",
               f"--port={port}", "--num-cpus=2", "--include-dashboard=false",
               "--disable-usage-stats"]  # fmt: skip
    alien = {k: v for k, v in ray_environment().items() if not k.startswith(("SR3_", "PYTHON"))}
    cluster = subprocess.Popen(
        command, cwd=tmp_path, env=alien | {"RAY_worker_niceness": "0"}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert any("runtime started" in line for line in cluster.stdout)
        frame = whole[0].assign(created=None, code_commit="before")
        lost = frame["checkpoint"].str.contains("images=all") & (frame["domain"] == "drawings")
        results.append(frame[~lost].drop(columns="created"), "there/metrics")
        result = on_ray("there", f"127.0.0.1:{port}", place, "--resume")
    finally:
        cluster.terminate()
        cluster.communicate(timeout=60)
    assert result.returncode == 0, result.stderr
    assert "2 of 14 cells" in result.stderr
    same(table("there"), whole[0])


def test_ray_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    told = {
        "nonsense": "auto, local or host:port",
        "127.0.0.1:1": "No Ray cluster answers at 127.0.0.1:1",
    }
    for address, part in told.items():
        result = study(tmp_path / "x", "--ray", address)
        assert result.exit_code == 2 and part in result.stderr, result.output
    with monkeypatch.context() as noted:
        noted.setenv("RAY_ADDRESS", "127.0.0.1:1")  # of a cluster that is gone
        result = study(tmp_path / "x", "--ray", "auto")
    assert result.exit_code == 2 and "127.0.0.1:1" in result.stderr, result.output
    result = study(tmp_path / "x", "--ray", "local", "--workers", 2)
    assert result.exit_code == 2 and "not both" in result.stderr
    monkeypatch.setitem(sys.modules, "ray", None)
    result = study(tmp_path / "x", "--ray", "local")
    assert result.exit_code == 2
    assert "pip install -r requirements-scale.txt" in result.stderr
    assert not (tmp_path / "x").exists()


def test_kill_9_changes_nothing(whole):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "sr3", *words("cut", "--workers", 1)],
        env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        # In the middle of a run: a state is there, and some parts of the table.
        if list(Path("cut/work").glob("*/state.pt")) and len(results.read("cut/metrics")) > 50:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = len(table("cut"))
    assert 0 < done < len(whole[0]), "it was killed in the middle"
    parts = {path.name: path.stat().st_mtime_ns for path in Path("cut/metrics").glob("*.parquet")}
    refused = study("cut")
    assert refused.exit_code == 2 and "--resume" in refused.stderr
    made = Study(read_plan("smoke"), Path("cut/metrics"), Path("cut/work"))
    tasks = made.tasks()
    left = sum(len(task.pending) for task in tasks)
    assert left == 14 - len(parts), "a part is a cell"
    resumed = study("cut", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert f"{left} of 14 cells" in resumed.stderr
    same(table("cut"), whole[0])


def test_the_processes_of_a_killed_study_die_with_it():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "sr3", *words("orphans", "--workers", 2)],
        env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("needs Linux's list of children")
    started: set[int] = set()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and len(started) < 3:
        started |= {int(pid) for pid in children.read_text().split()}  # two, and a tracker
        if len(started) >= 3 and list(Path("orphans").glob("metrics/*.parquet")):
            break
        time.sleep(0.01)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in started) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert started and not [pid for pid in started if Path(f"/proc/{pid}").exists()]


def test_a_complete_study_does_nothing_and_says_so(whole):
    before = {p: p.stat().st_mtime_ns for p in Path("whole").rglob("*")}
    for more in (("--resume",), ("--workers", 2, "--json")):
        result = study("whole", *more)
        assert result.exit_code == 0, result.output
        assert "All 14 cells of smoke are in" in result.stderr
        assert "nothing to do" in result.stderr
    assert {p: p.stat().st_mtime_ns for p in Path("whole").rglob("*")} == before
    assert "PSNR on drawings" in result.stdout


def test_a_deleted_cell_is_made_again(whole):
    shutil.copytree("whole", "deleted")
    frame = results.read("deleted/metrics")
    lost = frame["checkpoint"].str.contains("updates=1 .*", regex=True) & (
        frame["domain"] == "drawings"
    ) & frame["checkpoint"].str.contains("images=all", regex=False)  # fmt: skip
    assert lost.sum() > 0
    gap = frame[lost & (frame["metric"] == "psnr")].assign(
        metric="x0_mse@t=10", sampler="one-step draws=4", steps=1, file_list_hash="fewer"
    )  # measured of the same cell by another command, on another number of images
    shutil.rmtree("deleted/metrics")
    results.append(pd.concat([frame[~lost], gap]), "deleted/metrics")
    result = study("deleted", "--resume")
    assert result.exit_code == 0, result.output
    assert "1 of 14 cells" in result.stderr
    again = table("deleted")
    same(again[again["file_list_hash"] != "fewer"].reset_index(drop=True), whole[0])


class Brightness:
    """Stands for LPIPS, whose weights are not in the repository."""

    backbone = "made up"

    def __call__(self, results, references):
        return torch.tensor([abs(float(a.mean()) - float(b.mean())) / 255
                             for a, b in zip(results, references, strict=True)])  # fmt: skip


def test_cells_without_lpips_are_measured_again_where_it_can_be(whole, monkeypatch):
    """And where it cannot, a table without it is as whole as it will be."""
    shutil.copytree("whole", "unscored")
    result = study("unscored", "--resume")
    assert result.exit_code == 0, result.output
    assert "nothing to do" in result.stderr
    assert "14 of the cells in the table lack LPIPS: it cannot be measured here" in result.stderr
    monkeypatch.setattr(study_task, "scorer", lambda: Scorer(Brightness()))
    frame = results.read("unscored/metrics")
    done = frame[~frame["checkpoint"].str.contains("scratch")]
    scores = done[done["metric"] == "psnr"].assign(metric="lpips", lpips_backbone="made up")
    results.append(scores.drop(columns="created"), "unscored/metrics")
    result = study("unscored", "--resume")
    assert result.exit_code == 0, result.output
    assert "2 of 14 cells of smoke are to be measured" in result.stderr
    assert "2 of the cells in the table lack LPIPS: they are measured again" in result.stderr
    again = results.read("unscored/metrics")
    assert (again[again["metric"] == "lpips"].groupby("checkpoint")["image"].count() >= 4).all()
    old = again[again["metric"] != "lpips"].drop(columns=["created", "code_commit"])
    same(old.reset_index(drop=True), whole[0])
    result = study("unscored", "--resume")
    assert "nothing to do" in result.stderr and "lack" not in result.stderr


def test_what_the_plan_keeps_stays(whole, tmp_path):
    title = "drawings images=2 updates=1 range=0:2000 seed=0"
    plan = tmp_path / "kept.toml"
    plan.write_text(f'keep = ["{title}"]\n' + "\n".join(SMOKE.split("[[grid]]")[:2]).replace(
        "\n\n\ntarget", "\n[[grid]]\ntarget"
    ))  # fmt: skip
    made = read_plan(str(plan))
    assert len(made.runs) == 2
    result = study("kept", plan=plan)
    assert result.exit_code == 0, result.output
    (path,) = Path("kept/work").glob("*/step-*")
    assert path.name == "step-000001" and not list(Path("kept/work").glob("*/state.pt"))
    rows = whole[0][whole[0]["checkpoint"].str.startswith(f"parent on {title} #")]
    assert {hash_of(path)} == set(rows["checkpoint_hash"])


# --------------------------------------------------------------------------------------- the plans
def test_a_name_is_read_as_it_was_written():
    cell = Cell("lite", "aaf+x y", None, 300, (0, 500), 2, 8, 0.25, 3e-4, True, "0123abcd")
    plain = Cell("a on b", "anime", 16, 1, (500, 2000), 0)
    for each in (cell, plain, plain.after(10)):
        assert Cell.parse(str(each)) == each
    assert Cell.parse("lite") is None and Cell.parse(f"{plain} more") is None
    assert plain.plain and not cell.plain


def test_other_settings_are_other_cells(tmp_path):
    base = read_plan("smoke")
    digests = {run.cell.digest for run in base.runs}
    assert len(digests) == len(base.runs) == 4
    changes = {"batch = 2": "batch = 3", "steps = 2": "steps = 3", "batch = 4": "samples = 2",
               '"0:500"': '"0:501"'}  # fmt: skip
    for old, new in changes.items():
        file = tmp_path / "other.toml"
        file.write_text(SMOKE.replace(old, new))
        others = {run.cell.digest for run in read_plan(str(file)).runs}
        assert others != digests, new
    file.write_text(SMOKE.replace("save_every = 0", "save_every = 9").replace("batch = 4", ""))
    assert {run.cell.digest for run in read_plan(str(file)).runs} == digests, "no number changes"


def test_overlapping_grids_are_one_run(tmp_path):
    file = tmp_path / "twice.toml"
    file.write_text(
        SMOKE + '\n[[grid]]\ntarget = "drawings"\nimages = [2, 4]\nsnapshots = [2, 3, 9]\n'
    )
    runs = {run.cell.images: run for run in read_plan(str(file)).runs if run.cell.plain}
    assert runs[2].snapshots == (1, 2, 3, 9) and runs[4].snapshots == (2, 3, 9)


def test_the_poster_plan_holds_what_was_asked():
    plan = read_plan("poster")
    plain = [run for run in plan.runs if run.cell.plain and run.cell.range == (0, 2000)]
    first = {run.cell.images for run in plain if run.cell.seed == 0}
    assert first == {1, 4, 16, 64, 256, None}
    assert {run.cell.range for run in plan.runs} == {
        (0, 2000), (0, 500), (0, 1000), (500, 2000), (1000, 2000), (1500, 2000),
    }  # fmt: skip
    assert {run.cell.seed for run in plain} == {0, 1, 2}
    names = {tested.name: tested.images for tested in plan.evaluation.domains}
    assert {"aaf+stylegan2-faces", "ffhq", "celebahq", "anime"} == set(names)
    assert names["anime"] >= 200
    assert any(run.cell.scratch for run in plan.runs) and any(run.cell.lora for run in plan.runs)


def stand_in(name, train, validation, test):
    """A domain with so many images, none of which is ever read."""
    splits = [
        tuple(Entry(f"{split}-{k}", f"{name}-{split}-{k}", bytes) for k in range(count))
        for split, count in (("train", train), ("validation", validation), ("test", test))
    ]
    return Domain(name, name, *splits)


# The images of the registered domains that are there, by split; other names are a user's own.
THERE = {"ffhq": (0, 0, 60), "celebahq": (0, 0, 80), "anime": (3136, 64, 200),
         "aaf+stylegan2-faces": (9308, 128, 400)}  # fmt: skip


@pytest.mark.parametrize("name", sorted(path.stem for path in PLANS.glob("*.toml")))
def test_every_plan_can_be_run_to_its_end(name, tmp_path, monkeypatch):
    """Every task has the images, the source and the settings that it asks for."""
    monkeypatch.chdir(tmp_path)
    text = (PLANS / f"{name}.toml").read_text()
    checkpoint = tomllib.loads(text)["checkpoint"]
    if not (PLANS.parent / checkpoint).exists():  # what a user imports first
        network = drawn_network().state_dict()
        save_checkpoint(tmp_path / checkpoint, MODELS["tiny"], network, "# Public\n")
        assert checkpoint == "parent" or f"import I640000_E37_gen.pth --out {checkpoint}" in text
    plan = read_plan(name)
    targets = {run.target for run in plan.runs}
    wanted = {plan.source, *targets, *(tested.name for tested in plan.evaluation.domains)}
    for own in wanted - set(THERE) if name != "smoke" else ():
        assert f"#      [{own}]" in text, "how to register it stands in the head"
    read = []
    monkeypatch.setattr(study_task, "domain_of", lambda name: stand_in(
        name, *THERE.get(name, (2000, 64, 500))))  # fmt: skip
    monkeypatch.setattr(study_module, "load_pixels", lambda entries, size: read.append(size))
    made = Study(plan, tmp_path / "metrics", tmp_path / "work")
    tasks = made.tasks()
    made.check(tasks)
    assert sum(len(task.pending) for task in tasks) == made.total
    assert set(read) == {plan.model.network.high_res}
    assert plan.source in {tested.name for tested in plan.evaluation.domains}, "forgetting"
    for task in tasks[1:]:
        settings = plan.settings("lora" if task.run.cell.lora else "full", task.run.cell.range,
                                 max(task.run.snapshots), task.run.cell.seed, 0.0)  # fmt: skip
        assert settings.steps == max(updates for updates, _ in task.pending)
        assert Cell.parse(str(task.run.cell)) == task.run.cell


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("images = [2,", "imges = [2,", "imges"),
        ("[training]", "colour = 1\n[training]", "colour"),
        ("[evaluation]", "[evaluation]\nmagic = 1", "magic"),
        ('checkpoint = "parent"', 'checkpoint = "nobody"', "nobody"),
        ('checkpoint = "parent"', "", "checkpoint"),
        ('[2, "all"]', "[2, 500]", "500 were asked for"),
        ('[2, "all"]', "[0]", "at least 1"),
        ("drawings = 2", "drawings = 90", "90 were asked for"),
        ("0:500", "0:2001", "2000"),
        ("0:500", "700:300", "700:300"),
        ('target = "drawings"', 'target = "nothing"', "nothing"),
        ("snapshots = [1, 3]", "snapshots = [0, 3]", "at least 1"),
        ("replay = 0.5", "replay = 1.5", "[0, 1)"),
        ('"scratch"', '"nowhere"', "nowhere"),
        ('title = "Smoke"', 'keep = ["all of it"]', "all of it"),
        ("steps = 2", "steps = 0", "steps"),
        ("steps = 2", "start = 2001", "2000"),
        ("images = [2,", "images = [2,,", "TOML"),
    ],
)
def test_a_bad_plan_is_one_sentence_and_leaves_nothing(tmp_path, old, new, told):
    assert old in SMOKE
    plan = tmp_path / "bad.toml"
    plan.write_text(SMOKE.replace(old, new))
    assert told in refusal(study(tmp_path / "bad", plan=plan))
    assert not (tmp_path / "bad").exists()


def test_there_is_no_such_plan(tmp_path):
    result = study(tmp_path / "x", plan="nonsense")
    assert result.exit_code == 2 and "poster" in result.stderr


def test_another_list_of_images_is_refused(whole, tmp_path):
    """Numbers of two lists of files would not compare."""
    shutil.copytree("whole", tmp_path / "whole")
    frame = results.read(tmp_path / "whole" / "metrics")
    shutil.rmtree(tmp_path / "whole" / "metrics")
    kept = frame[~frame["checkpoint"].str.contains("scratch")].assign(file_list_hash="other")
    results.append(kept, tmp_path / "whole" / "metrics")
    result = study(tmp_path / "whole", "--resume")
    assert result.exit_code == 2 and "not the list of images" in result.stderr


def test_a_domain_of_the_hub_is_done_once(place, tmp_path, monkeypatch):
    """Its rows are known again by the name that the plan gives it."""
    pin = Pin("lab/drawings", "a" * 40, "dataset", tmp_path)
    pin.folder.mkdir(parents=True)
    images = [file.read_bytes() for file in sorted((place / "drawings").iterdir())]
    pq.write_table(pa.table({"image": images}), pin.folder / "train.parquet")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("sr3.domains.fetch_images", lambda pin: ())
    plan = tmp_path / "hub.toml"
    plan.write_text(f"""
        checkpoint = "parent"
        source = "faces"
        device = "cpu"
        training = {{ batch = 2 }}
        evaluation = {{ domains = {{ faces = 1, "{pin}" = 1 }}, steps = 1 }}
        grid = [{{ target = "{pin}", images = 2, snapshots = 1 }}]
    """)
    first, again = (study(tmp_path / "out", *more, plan=plan) for more in ((), ("--resume",)))
    assert "4 of 4 cells" in first.stderr and f"PSNR on {pin}" in first.stdout, first.output
    assert "nothing to do" in again.stderr, again.output


def test_bicubic_of_other_sizes_is_known_again(tmp_path):
    network = dataclasses.replace(MODELS["tiny"].network, low_res=32)
    config = dataclasses.replace(MODELS["tiny"], network=network)
    save_checkpoint(tmp_path / "wide", config, UNet(network).state_dict(), "# A card\n")
    plan = tmp_path / "wide.toml"
    plan.write_text(SMOKE.replace('"parent"', f'"{tmp_path / "wide"}"', 1))
    made = Study(read_plan(str(plan)), tmp_path / "metrics", tmp_path / "work")
    first, *others = made.tasks()
    assert first.run is None and len(list(made.run([first], 1, print))) == 1
    assert list(made.tasks()) == others
    rows = results.read(made.table)
    hashes = set(rows.loc[rows["checkpoint"] == "bicubic", "checkpoint_hash"])
    assert hashes == {"bicubic 32-128"}


# -------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("folder", "split"), [("faces", "test"), ("drawings", "train"), ("faces", "train")]
)
def test_an_unreadable_image_is_named_first(place, tmp_path, monkeypatch, folder, split):
    for name in ("parent", "faces", "drawings"):
        shutil.copytree(place / name, tmp_path / name)
    broken = tmp_path / folder / "broken.png"
    monkeypatch.chdir(tmp_path)
    for number in range(500):  # its hash decides what it is for
        broken.write_bytes(f"no image {number}".encode())
        domain = load_domain(folder)
        if broken.name in {e.name for e in domain.subset(split, 2 if split == "test" else None)}:
            break
    line = refusal(study("out"))
    assert "broken.png cannot be used" in line and "holds text" in line
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["table.parquet", "table.txt"])
def test_a_table_that_is_a_file_is_refused_before_anything_is_measured(tmp_path, name):
    if name.endswith(".txt"):
        (tmp_path / name).write_text("mine")
    given = ["study", "--plan", "smoke", "--out", str(tmp_path / name), "--work", str(tmp_path)]
    assert "is a folder of parts" in refusal(CliRunner().invoke(app, given))
    assert {file.name for file in tmp_path.iterdir()} <= {"table.txt"}


@pytest.mark.parametrize("command", ["study", "evaluate"])
def test_a_full_disk_is_one_sentence_and_leaves_no_part(tmp_path, monkeypatch, command):
    def full(table, path, **more):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] a long story")

    monkeypatch.setattr("sr3.results.pq.write_table", full)
    evaluate = ["evaluate", "--checkpoint", "parent", "--domain", "faces", "--images", "1",
                "--steps", "1", "--device", "cpu", "--out", f"{tmp_path}/metrics"]  # fmt: skip
    given = words(tmp_path) if command == "study" else evaluate
    line = refusal(CliRunner().invoke(app, given))
    assert "No space left on device" in line and "story" not in line
    assert not list((tmp_path / "metrics").iterdir())


@pytest.mark.parametrize("cells", [True, False])
def test_a_parent_measured_on_other_images_is_measured_again(whole, tmp_path, cells):
    """As many rows of another split are not the study's; more images than the study's are."""
    plan, work = read_plan("smoke"), tmp_path / "work"
    frame = whole[0].assign(code_commit="c" * 40)
    tuned = frame["checkpoint"].str.startswith("parent on ")
    frame = frame if cells else frame[~tuned]
    others = frame.assign(image=frame["image"].where(tuned, "another-" + frame["image"]))
    results.append(others, tmp_path / "other")
    results.append(pd.concat([frame, others[others["image"] != frame["image"]]]), tmp_path / "more")
    first = Study(plan, tmp_path / "more", work).tasks()
    assert not first if cells else first[0].run is not None
    again = Study(plan, tmp_path / "other", work).tasks()
    assert again[0].run is None and len(again[0].pending) == len(plan.evaluation.domains)
