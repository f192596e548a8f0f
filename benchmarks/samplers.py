"""Quality against network evaluations for samplers and settings, into `checkpoints/curves`.

    SR3_DATA=... SR3_LPIPS_WEIGHTS=... python -m benchmarks.samplers --checkpoint lite
    SR3_DATA=... SR3_LPIPS_WEIGHTS=... python -m benchmarks.samplers --split test --goal

The recommended settings of a checkpoint are chosen from the validation images' table. `--goal`
measures only the recommended settings at 4 and 10 evaluations and the paper's chain of 2,000, and
prints their paired differences. Stopped, it goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import sr3
from sr3 import results
from sr3.checkpoints import find_checkpoint
from sr3.curve import FOLDER, METRICS, Line, compare, curve, lines, measure
from sr3.devices import for_tables
from sr3.domains import load_domain
from sr3.evaluate import sampler_label, split_named
from sr3.folder import hash_of

GOAL = (4, 10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="lite")
    parser.add_argument("--domain", default="aaf+stylegan2-faces")
    parser.add_argument("--split", default="validation")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--goal", action="store_true")
    parser.add_argument("--long", action="store_true", help="the chain of 2,000 steps too")
    parser.add_argument("--most", type=int, default=50, help="evaluations, of the other lines")
    arguments = parser.parse_args()
    model = sr3.load(arguments.checkpoint, arguments.device)
    model.device = for_tables(model.device)
    digest = hash_of(find_checkpoint(arguments.checkpoint))
    domain, last = load_domain(arguments.domain), model.schedule.steps
    every = lines(model.config.sampling, last)
    most = last if arguments.long else arguments.most
    what = [_short(line, most) for line in every]
    if arguments.goal:
        first, paper = every[0], every[-1]
        what = [dataclasses.replace(first, steps=GOAL), dataclasses.replace(paper, steps=(last,))]
    for title, steps in measure(
        model, domain, digest, what, split=split_named(arguments.split), images=arguments.images,
        folder=arguments.out,
    ):  # fmt: skip
        print(f"{title}, {steps} evaluations", flush=True)
    table = results.read(arguments.out)
    table = table[table["domain"] == domain.name]
    if arguments.goal:
        usual = model.config.sampling
        labels = [sampler_label(model.settings(**line.changes), usual) for line in what]
        for steps in GOAL:
            found = compare(table, digest, (labels[0], steps), (labels[1], last))
            for metric, gap in found.items():
                print(
                    f"{metric}: {steps} minus {last} evaluations {gap.mean:+.4f} "
                    f"[{gap.low:+.4f}, {gap.high:+.4f}], {gap.n} {arguments.split} images"
                )
        return
    for metric in METRICS:
        print(f"\n{metric} on {arguments.domain}, {arguments.split}")
        print(curve(table, model.config, digest, metric, domain.name).to_string(index=False))


def _short(line: Line, most: int) -> Line:
    return dataclasses.replace(line, steps=tuple(steps for steps in line.steps if steps <= most))


if __name__ == "__main__":
    main()
