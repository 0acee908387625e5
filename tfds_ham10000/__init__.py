"""The TFDS builder `ham10000`; importing this package registers it with TFDS."""

from tfds_ham10000.ham10000_dataset_builder import Builder

__all__ = ["Builder"]
