"""Files in, files out: photographs and folders, super-resolved into a folder of PNGs.

Invariants: no input is ever overwritten and no two inputs share an output; a PNG appears whole or
not at all; a file that cannot be used fails alone, and the others' bits do not depend on it.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sr3.errors import ConfigError, ImageError
from sr3.faces import Crop, crop_face, crop_found, detect
from sr3.files import write_bytes
from sr3.images import Pixels, decode, encode_png, resize
from sr3.metrics import TOLD, Scorer, Scores
from sr3.pipeline import Result, SuperResolver

# What a name is refused with by the file system of `out`, such as one that it holds no ":" in.
UNNAMEABLE = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif"}


@dataclass(frozen=True)
class Face:
    """An input, ready for the network, and the original where there is one to compare with."""

    source: Path
    stem: str
    image: Pixels  # square, RGB: the low-resolution input, or a larger face
    original: Pixels | None  # (high, high, 3)
    note: str  # how it was cropped


@dataclass(frozen=True)
class Upscaled:
    """One written PNG."""

    source: Path
    output: Path
    seconds: float  # this PNG's share of the time that its batch took
    scores: Scores
    note: str


@dataclass(frozen=True)
class Failed:
    """An input that could not be used, or whose PNG could not be named, and why."""

    source: Path
    error: ImageError


def find_images(paths: Sequence[Path]) -> list[Path]:
    """The files named, and the images directly in the folders named, each once, in this order.

    Raises ImageError for a folder without images.
    """
    found: dict[str, Path] = {}
    for path in paths:
        files = [path]
        # os.path, here and below: pathlib raises for a name too long and for links in a circle.
        if os.path.isdir(path):
            files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        if not files:
            raise ImageError(f"The folder {path} holds no images: give one that does.")
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    return list(found.values())


def output_stems(files: Sequence[Path], out: Path, samples: int) -> list[str]:
    """A stem for each input's results: its own, or with -2, -3, ... where that one is taken.

    Taken are the outputs of inputs before it and the inputs that lie in `out`. Case is ignored,
    as some file systems do.
    """
    here = os.path.realpath(out)
    taken = {f.name.lower() for f in files if os.path.dirname(os.path.realpath(f)) == here}
    stems = []
    for file in files:
        stem, count = file.stem, 1
        while not taken.isdisjoint(name.lower() for name in output_names(stem, samples)):
            count += 1
            stem = f"{file.stem}-{count}"
        taken.update(name.lower() for name in output_names(stem, samples))
        stems.append(stem)
    return stems


def output_names(stem: str, samples: int) -> list[str]:
    """`NAME.png`, or `NAME-0.png`, `NAME-1.png`, ... for several samples."""
    return [f"{stem}.png"] if samples == 1 else [f"{stem}-{k}.png" for k in range(samples)]


def upscale_files(
    model: SuperResolver,
    paths: Sequence[Path],
    out: Path,
    *,
    seed: int = 0,
    samples: int = 1,
    align: bool = True,
    face: int = 1,
    low_res: bool = False,
    scorer: Scorer,
    batch: int = 8,
    **changes: Any,
) -> Iterator[Upscaled | Failed]:
    """Super-resolve files into `out`, a record a PNG or a failed input, as they come.

    `align`, `face`, `low_res`: see `prepare`; `seed`, `samples`, `changes`: see
    `SuperResolver.upscale`.
    Raises ConfigError for bad settings, ImageError for an empty folder, before anything is written.
    """
    model.settings(**changes)
    if face != 1 and not align:
        raise ConfigError("Faces are looked for only with --align: leave out --face or --no-align.")
    files = find_images(paths)
    stems = output_stems(files, out, samples)
    for start in range(0, len(files), batch):
        faces = []
        for file, stem in zip(
            files[start : start + batch], stems[start : start + batch], strict=True
        ):
            try:
                faces.append(prepare(model, file, stem, align=align, face=face, low_res=low_res))
            except ImageError as error:
                yield Failed(file, error)
        if faces:
            images = [face.image for face in faces]
            result = model.upscale(images, seed=seed, samples=samples, batch=batch, **changes)
            for index, each in enumerate(faces):
                try:
                    yield from _keep(each, result, index, out, scorer)
                except OSError as error:
                    if error.errno not in UNNAMEABLE:
                        raise
                    yield Failed(each.source, _unnameable(each.source, error))


def prepare(
    model: SuperResolver,
    file: Path,
    stem: str,
    *,
    align: bool = True,
    face: int = 1,
    low_res: bool = False,
) -> Face:
    """Decode and crop a file. Raises ImageError.

    One of the network's low resolution (with `low_res`: any, and other sizes are refused) is taken
    as the low-resolution input itself. A larger one is a face in high resolution: cropped (as
    FFHQ does where a face is found and `align`, else the centre square; `face` 1 is the largest, 2
    the next) and, if it is no smaller than the network's result, reduced to that and kept as the
    original to compare with.
    """
    image = decode(file)
    small, large = model.low_size, model.high_size
    if low_res and image.size != (small, small):
        raise ImageError(
            f"{file.name} is {image.width}x{image.height}, but a low-resolution input must be "
            f"{small}x{small}: reduce it, or leave out --low-res."
        )
    if image.size == (small, small):
        return Face(file, stem, np.asarray(image), None, "taken as the low-resolution input")
    crop = _crop(image, file.name, face) if align else crop_face(image, align=False)
    pixels = np.asarray(crop.image)
    if min(pixels.shape[:2]) < small:
        raise ImageError(
            f"The face in {file.name} has only {pixels.shape[1]}x{pixels.shape[0]} pixels, and "
            f"{small}x{small} are needed: crop it yourself and use --no-align."
        )
    if len(pixels) < large:  # enlarging it would give an original that never was
        return Face(file, stem, pixels, None, crop.note)
    original = resize(pixels, large)
    return Face(file, stem, original, original, crop.note)


def _crop(image: Image.Image, name: str, face: int) -> Crop:
    faces = detect(image)
    found = len(faces or [])
    if face != 1 and not 1 <= face <= found:
        raise ImageError(
            f"{name[:60]} has no face number {face}, as {found} {'was' if found == 1 else 'were'} "
            "found: give another --face, or none."
        )
    return crop_found(image, faces, face - 1)


def _keep(face: Face, result: Result, index: int, out: Path, scorer: Scorer) -> Iterator[Upscaled]:
    images = result.images[index]
    samples = len(images)
    original = None if face.original is None else face.original[None].repeat(samples, axis=0)
    scores = scorer(images, original, result.low_res[index][None].repeat(samples, axis=0))
    for image, name, score in zip(images, output_names(face.stem, samples), scores, strict=True):
        output = out / name
        write_bytes(output, encode_png(image))
        seconds = result.seconds / (len(result.images) * samples)
        yield Upscaled(face.source, output, seconds, score, face.note)


def _unnameable(source: Path, error: OSError) -> ImageError:
    reason = os.strerror(error.errno or 0)
    return ImageError(f"The result of {source.name[:60]} cannot be named ({reason}): rename it.")


def json_row(
    record: Upscaled, checkpoint: str, sampler: str, steps: int, seed: int
) -> dict[str, Any]:
    """A record as the command line prints it; null for what is not known, or infinite."""
    scores = {name: getattr(record.scores, name) for name in TOLD}
    return {
        "input": str(record.source),
        "output": str(record.output),
        "checkpoint": checkpoint,
        "sampler": sampler,
        "steps": steps,
        "seed": seed,
        "seconds": round(record.seconds, 4),
        **{k: v if v is not None and math.isfinite(v) else None for k, v in scores.items()},
    }
