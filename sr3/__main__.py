"""`python -m sr3`: the command line."""

from sr3.cli import app

if __name__ == "__main__":
    app(prog_name="python -m sr3")
