"""Runs `skincnn make-folds` from a checkout."""

from skincnn.cli.main import run

if __name__ == "__main__":
    run("make-folds")
