"""Runs `skincnn tune` from a checkout."""

from skincnn.cli.main import run

if __name__ == "__main__":
    run("tune")
