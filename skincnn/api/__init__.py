"""The Python API: what the commands do, as functions. Use the names in `skincnn`."""
