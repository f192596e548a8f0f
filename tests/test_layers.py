"""The layers: a module imports only from the lines under its own, and import stays light.

Sources are parsed, never run, so a module that cannot be imported here is checked all the same. An
import counts wherever it stands: at the top, inside a function, or under TYPE_CHECKING.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Top to bottom, as in the README. `sr3` is sr3/__init__.py, the public names; a package
# (`pages`, `sr3.ui`) counts as one module.
LAYERS = (
    {"app", "pages"},
    {"sr3.ui", "sr3.cli", "sr3.__main__"},
    {
        "sr3.cli_training",
        "sr3.cli_checkpoints",
        "sr3.cli_report",
        "sr3.cli_generate",
        "sr3.cli_bench",
    },
    {"sr3"},
    {"sr3.study", "sr3.poster"},
    {"sr3.study_task"},
    {"sr3.report", "sr3.effort"},
    {"sr3.charts", "sr3.markup"},
    {"sr3.figures", "sr3.observations"},
    {"sr3.axes"},
    {"sr3.views"},
    {"sr3.study_plan", "sr3.answers", "sr3.curve"},
    {"sr3.gains", "sr3.verdicts"},
    {"sr3.training_run", "sr3.finetune", "sr3.gap", "sr3.catalogue", "sr3.pull", "sr3.push"},
    {"sr3.run_folder", "sr3.people", "sr3.distil"},
    {
        "sr3.train",
        "sr3.generate",
        "sr3.evaluate",
        "sr3.upscale",
        "sr3.lora",
        "sr3.tuning",
    },
    {"sr3.bench"},
    {"sr3.crowd"},
    {"sr3.engine"},
    {"sr3.jobs", "sr3.shelf"},
    {"sr3.pipeline", "sr3.turns", "sr3.shifts"},
    {"sr3.pretrained"},
    {"sr3.samplers", "sr3.checkpoints", "sr3.hub_card"},
    {"sr3.folder"},
    {
        "sr3.combine",
        "sr3.public_format",
        "sr3.floor",
        "sr3.plain",
        "sr3.bootstrap",
        "sr3.quick",
        "sr3.devices",
    },
    {"sr3.schedule", "sr3.unet", "sr3.denoiser", "sr3.optimizers", "sr3.parallel"},
    {"sr3.domains", "sr3.faces", "sr3.metrics", "sr3.results", "sr3.presets", "sr3.cards"},
    {"sr3.cells", "sr3.terminal"},
    {"sr3.perceptual", "sr3.batches", "sr3.srga", "sr3.cluster", "sr3.looks", "sr3.finder"},
    {"sr3.differences", "sr3.takeaway", "sr3.convolutions", "sr3.graphs"},
    {"sr3.hub_images"},
    {"sr3.images", "sr3.hub"},
    {"sr3.config", "sr3.hub_errors"},
    {"sr3.pins"},
    {"sr3.errors", "sr3.cores", "sr3.files", "sr3.background", "sr3.timing"},
)
LINE = {unit: line for line, units in enumerate(LAYERS) for unit in units}

# Imports along one line, each with its reason.
ALLOWED = {
    ("sr3.__main__", "sr3.cli"): "`python -m sr3` is the command line",
    ("sr3.results", "sr3.metrics"): "summaries carry the bootstrap intervals of metrics",
}

# Third-party modules that live in one place, and the modules that are that place.
CONFINED = {
    "streamlit": {"app", "pages", "sr3.ui"},
    "huggingface_hub": {"sr3.hub"},
    "requests": {"sr3.hub"},
    "urllib.request": {"sr3.hub"},
    "http.client": {"sr3.hub"},
    "ray": {"sr3.cluster"},
    "accelerate": {"sr3.parallel"},
}

# What `import sr3` leaves alone: interfaces, the network, and what only some commands pay for.
HEAVY = {
    "accelerate",
    "diffusers",
    "huggingface_hub",
    "lpips",
    "plotly",
    "ray",
    "streamlit",
    "torchvision",
}


def sources() -> dict[str, str]:
    """Dotted name -> source of each module of the product."""
    paths = [ROOT / "app.py", *(ROOT / "pages").rglob("*.py"), *(ROOT / "sr3").rglob("*.py")]
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path.read_text(encoding="utf-8")
        for path in paths
        if path.exists()
    }


def unit_of(module: str) -> str:
    """The line's entry that a dotted name belongs to: `sr3.ui.charts` -> `sr3.ui`."""
    parts = module.split(".")
    if parts[0] != "sr3":
        return parts[0]
    return "sr3" if parts[1:2] in ([], ["__init__"]) else ".".join(parts[:2])


def imported(module: str, source: str) -> set[str]:
    """Absolute dotted names that a module imports, `from a import b` as `a.b`."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import():
                names |= {alias.name for alias in node.names}
            case ast.ImportFrom():
                base = module.split(".")[: -node.level] if node.level else []
                origin = ".".join([*base, *([node.module] if node.module else [])])
                names |= {f"{origin}.{alias.name}" for alias in node.names}
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__")
                | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names.add(name)
    return names


def our_units(names: set[str]) -> set[str]:
    """The product's modules among imported names; `sr3.load`, a public name, is `sr3` itself."""
    ours = {name for name in names if name.split(".")[0] in {"app", "pages", "sr3"}}
    units = {unit_of(name) for name in ours}
    known = set(LINE) | {unit_of(module) for module in sources()}
    return {unit if unit in known else "sr3" for unit in units}


def wrong_imports(module: str, source: str) -> list[str]:
    unit = unit_of(module)
    names = imported(module, source)
    wrong = [
        f"{module} imports {target}, which is not under it"
        for target in sorted(our_units(names) - {unit})
        if LINE.get(target, -1) <= LINE[unit] and (unit, target) not in ALLOWED
    ]
    return wrong + [
        f"{module} imports {library}, which belongs in {', '.join(sorted(places))}"
        for library, places in CONFINED.items()
        if unit not in places and any(f"{name}.".startswith(f"{library}.") for name in names)
    ]


def test_every_module_is_in_the_diagram():
    strangers = sorted({unit_of(module) for module in sources()} - set(LINE))
    assert not strangers, f"give {', '.join(strangers)} a line in LAYERS and in the README"


def test_imports_point_down():
    known = {module: text for module, text in sources().items() if unit_of(module) in LINE}
    wrong = [line for module, text in known.items() for line in wrong_imports(module, text)]
    assert not wrong, "\n".join(wrong)


def test_every_allowance_joins_one_line():
    assert [pair for pair in ALLOWED if LINE[pair[0]] != LINE[pair[1]]] == []


def test_every_allowance_is_used():
    text = sources()
    idle = [
        (source, target)
        for source, target in ALLOWED
        if source in text
        and target in text
        and target not in our_units(imported(source, text[source]))
    ]
    assert not idle, f"remove from ALLOWED: {idle}"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("sr3.unet", "from sr3.samplers import ddim"),
        ("sr3.unet", "from sr3 import samplers"),
        ("sr3.unet", "from sr3 import load"),
        ("sr3.unet", "import sr3"),
        ("sr3.unet", "from . import samplers"),
        ("sr3.unet", "from .samplers import ddim"),
        ("sr3.unet", "def f():\n    import sr3.samplers"),
        ("sr3.unet", "import importlib\nimportlib.import_module('sr3.samplers')"),
        ("sr3.unet", "from sr3.schedule import levels"),  # its own line
        ("sr3.cli", "from sr3.ui.charts import bars"),
        ("sr3.ui.charts", "from ..cli import app"),
        ("sr3.ui.charts", "from pages import study"),
        ("sr3.cli", "import streamlit as st"),
        ("sr3.report", "from streamlit.testing.v1 import AppTest"),
        ("sr3.checkpoints", "def f():\n    from huggingface_hub import hf_hub_download"),
        ("sr3.metrics", "from urllib.request import urlopen"),
        ("sr3.metrics", "from urllib import request"),
    ],
)
def test_a_wrong_import_is_found(module, source):
    assert len(wrong_imports(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("app", "import streamlit as st\nfrom sr3.ui.frame import page\nimport sr3"),
        ("pages.1_Resolve", "from sr3 import load"),
        ("sr3.ui.charts", "from .theme import BLUE\nfrom sr3.ui import words"),
        ("sr3.__init__", "from .pipeline import load\nfrom sr3.samplers import Step"),
        ("sr3.pipeline", "from sr3 import samplers, errors"),
        ("sr3.hub", "import huggingface_hub.errors\nimport huggingface_hub"),
        ("sr3.metrics", "import urllib.parse\nimport streamlit_free_name"),
    ],
)
def test_a_right_import_passes(module, source):
    assert wrong_imports(module, source) == []


def test_import_is_light():
    code = "import json, sys, sr3; print(json.dumps([name.split('.')[0] for name in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert HEAVY & set(json.loads(done.stdout)) == set()
