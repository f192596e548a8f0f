"""The command `bench`: how fast it is here, with the floor beside each figure."""

from __future__ import annotations

from typing import Annotated

import typer

from sr3.terminal import DeviceName, Json, print_json, say

Numbers = Annotated[str, typer.Option(help="Numbers, with commas.")]


def bench(
    checkpoint: Annotated[str, typer.Option(help="Name, folder or public file.")] = "lite",
    device: DeviceName = "auto",
    batches: Numbers = "1,2,4,8,16",
    visitors: Numbers = "1,2,4,8,16,32,64",
    repeats: Annotated[int, typer.Option(min=1, help="Times each thing is measured.")] = 5,
    reference: Annotated[
        bool, typer.Option("--reference/--no-reference", help="The 97.8M public network too.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Measure latency, throughput, visitors and memory on this machine; leave it idle meanwhile."""
    from sr3.bench import BenchSettings, circumstances, table
    from sr3.bench import bench as measure
    from sr3.tuning import parse_steps

    settings = BenchSettings(
        checkpoint, device, parse_steps(batches), parse_steps(visitors), repeats, reference
    )
    rows = []
    for row in measure(settings):
        value = row.note if row.value is None else f"{row.value:.4g} {row.unit}"
        say(f"{row.figure}, {row.setting}: {value}")
        rows.append(row)
    if as_json:
        print_json(circumstances(settings) | {"rows": [row.to_json() for row in rows]})
    else:
        typer.echo(table(rows))
