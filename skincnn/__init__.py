"""Training, evaluation and serving of skin-lesion classifiers."""

__version__ = "0.1.0"
