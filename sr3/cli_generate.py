"""The command `generate`: faces of people who do not exist."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from sr3.terminal import DeviceName, Json, Seed, print_json, say


def generate(
    out: Annotated[Path, typer.Option(help="Folder for face-SEED-INDEX.png, 128x128.")],
    count: Annotated[int, typer.Option(min=1, help="How many faces.")] = 1,
    checkpoint: Annotated[str, typer.Option(help="The second stage, 16 to 128.")] = "lite",
    first: Annotated[
        str | None,
        typer.Option(help="The first stage: a folder, a name or hub:...; else faces-16."),
    ] = None,
    gallery: Annotated[
        bool, typer.Option("--gallery", help="List them in people.json too, as the app's gallery.")
    ] = False,
    low_res: Annotated[
        bool, typer.Option("--low-res", help="Write the 16x16 faces too: ...-16.png.")
    ] = False,
    seed: Seed = 0,
    device: DeviceName = "auto",
    as_json: Json = False,
) -> None:
    """Generate faces: a mean colour becomes 16x16 pixels, and these become 128x128."""
    from sr3 import people
    from sr3.checkpoints import find_checkpoint
    from sr3.files import write_bytes
    from sr3.folder import hash_of
    from sr3.generate import FIRST, load_colours
    from sr3.generate import generate as make
    from sr3.images import encode_png
    from sr3.pipeline import load

    stage, name = (find_checkpoint(first), first) if first else (FIRST, FIRST.name)
    colours = load_colours(stage)
    model = load(checkpoint, device)
    faces = make(load(stage, device), model, colours, count, seed)
    say(f"Running on {model.device.reason}.")
    second = find_checkpoint(checkpoint)
    stages = Path(name).name, hash_of(stage), Path(checkpoint).name, hash_of(second)
    rows, origins, began = [], [], time.monotonic()
    for face in faces:
        path = out / f"face-{seed}-{face.index}.png"
        picture = encode_png(face.image)
        write_bytes(path, picture)
        origins.append(people.Origin(path.name, people.digest(picture), seed, face.index, *stages))
        small = out / f"face-{seed}-{face.index}-16.png" if low_res else None
        if small:
            write_bytes(small, encode_png(face.low_res))
        say(f"{path} ({time.monotonic() - began:.1f} s)")
        rows.append({
            "output": str(path), "low_res": str(small) if small else None, "seed": seed,
            "index": face.index, "first": name, "checkpoint": checkpoint,
        })  # fmt: skip
    if gallery:
        say(f"Listed in {people.add(out, origins)}.")
    if as_json:
        print_json(rows)
