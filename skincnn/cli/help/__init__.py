"""The help of the commands, and commands that list names."""
