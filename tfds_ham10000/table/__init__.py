"""The reader of tables with one row per image, and of the images that they list."""
