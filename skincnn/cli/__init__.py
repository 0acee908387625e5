"""The commands. Each is a module with a dataclass `Arguments` and a function `command`.

`command` does not handle errors: `skincnn.cli.process.main` prints their messages, and
exits with their exit codes.
"""
