"""The Python API: what most commands do, in Python. Use the names in `skincnn`.

The import of this package loads TensorFlow, also if a `Run` is unpickled.
"""

from skincnn import preconditions, startup

preconditions.require_own("tfds_ham10000")
startup.ignore_missing_plot_backend()
startup.load_tensorflow()
