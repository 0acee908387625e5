"""The reader of the user's own tables: one row per image, and images in any directory."""
