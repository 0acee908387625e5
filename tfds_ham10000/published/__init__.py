"""Published datasets that are read as tables, recognized by the files that are found."""
