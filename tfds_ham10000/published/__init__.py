"""Published datasets that are read as tables, and are recognized by their files."""
