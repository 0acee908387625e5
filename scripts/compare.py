"""Runs `skincnn compare` from a checkout."""

from skincnn.cli.main import run

if __name__ == "__main__":
    run("compare")
