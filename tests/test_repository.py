"""The repository itself: small files, and no address that ties it to one package registry."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MEGABYTE = 1_000_000

# In parts, so that this file passes its own test.
REGISTRIES = tuple(
    ".".join(parts)
    for parts in (
        ("pythonhosted", "org"),
        ("pypi", "org"),
        ("download", "pytorch", "org"),
        ("registry", "npmjs", "org"),
        ("deb", "debian", "org"),
    )
)


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """The files that git tracks and that are there."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60).stdout
    paths = [ROOT / name for name in listed.decode().split("\0") if name]
    return [path for path in paths if path.is_file()]


def mentions(content: bytes) -> list[str]:
    """The registry hosts that a text names, whatever the case; a binary file names none."""
    try:
        text = content.decode("utf-8").lower()
    except UnicodeDecodeError:
        return []
    return [host for host in REGISTRIES if host in text]


def test_every_file_is_under_10_megabytes(tracked):
    sizes = {str(path.relative_to(ROOT)): path.stat().st_size for path in tracked}
    assert {name: size for name, size in sizes.items() if size > 10 * MEGABYTE} == {}


def test_checkpoints_are_under_80_megabytes(tracked):
    folder = ROOT / "checkpoints"
    total = sum(path.stat().st_size for path in tracked if path.is_relative_to(folder))
    assert total < 80 * MEGABYTE


def test_no_file_names_a_package_registry(tracked):
    found = {str(path.relative_to(ROOT)): mentions(path.read_bytes()) for path in tracked}
    assert {name: hosts for name, hosts in found.items() if hosts} == {}


def test_a_registry_in_a_text_is_found():
    address = f"see https://FILES.{REGISTRIES[0]}/x.whl"
    assert mentions(address.encode()) == [REGISTRIES[0]]
    assert mentions(b"\xff\xfe" + address.encode()) == []
