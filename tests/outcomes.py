"""What a command left: its one sentence of refusal, and the files of a folder."""

from __future__ import annotations

from pathlib import Path

from click.testing import Result


def refusal(result: Result) -> str:
    """The one sentence of a refusal: exit code 2, nothing of Python in it."""
    assert result.exit_code == 2, result.output
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in result.output
    return line


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path within it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
