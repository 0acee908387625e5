"""Runs `skincnn` as `python -m skincnn`."""

from skincnn.cli.main import main

if __name__ == "__main__":
    main()
