"""Training of a classifier with the Python API."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

import keras

from skincnn.api.data import PathLike, require_config
from skincnn.api.rehearsal import rehearse
from skincnn.api.run import Run
from skincnn.config import Config
from skincnn.data.cache import Cache
from skincnn.errors import ConfigError
from skincnn.model.reproducibility import deterministic_ops
from skincnn.startup import own_settings
from skincnn.training import run as training
from skincnn.training.devices import leave_processes, run_folder


@own_settings()
def train(
    config: Config,
    workdir: PathLike,
    data_dir: PathLike | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    cache: Cache = "auto",
    callbacks: keras.callbacks.Callback | Sequence[keras.callbacks.Callback] = (),
) -> Run:
    """Trains a classifier without evaluating it, and returns its run.

    In distributed training, all processes but the first exit when they have finished.
    Unless a run is resumed, custom parts (docs/guides/extending.md) other than callbacks
    are tested before the first epoch, and so are saving and exporting a model with a custom
    backbone.

    Args:
        config: The configuration, such as `skincnn.preset("mobilenet_160")`.
        workdir: The run directory.
        data_dir: The directory of built datasets; by default the data directory of TFDS.
        overwrite: Whether to replace an existing run.
        resume: Whether to resume an interrupted run. A finished run does not change; if
            there is no run, a new one starts.
        cache: Where decoded images are kept: "memory", "disk", or "auto"; see
            `skincnn.data.cache.cached_images`.
        callbacks: One or several Keras callbacks, which are called after those of
            `train.callbacks`. For them, the epochs of all stages are one call to `fit`.

    Raises:
        ConfigError: The configuration or the initial weights are invalid, the dataset does
            not exist, the teacher or `workdir` cannot be used, the devices do not support
            the configuration or have too little memory, a callback or another custom part
            raised an exception, or writing a file failed.
        DataError: The dataset has not been built or is damaged, the splits do not pass the
            leakage audit or are too small, required lesion_ids or clinical metadata are
            missing or invalid, a model of the teacher is damaged or was trained on other
            images, or the run to resume is damaged or has other data, software or devices.
        DivergedError: The loss has diverged, or the weights or outputs are not finite.
        OSError: A temporary file cannot be created.
        Terminated, KeyboardInterrupt: A signal or Ctrl-C stopped training; the run can be
            resumed.
    """
    require_config(config)
    run, given = Run(workdir, data_dir, cache), _to_callbacks(callbacks)
    path = run.path
    with (
        run_folder(path) as folder,
        deterministic_ops(config.train.deterministic),
    ):
        training.train(
            config,
            folder,
            run.data_dir,
            overwrite=overwrite,
            resume=resume,
            cache=cache,
            callbacks=given,
            rehearse=rehearse,
        )
        leave_processes()
    if folder != path:
        sys.exit()
    return run


def _to_callbacks(
    callbacks: keras.callbacks.Callback | Sequence[keras.callbacks.Callback],
) -> Sequence[keras.callbacks.Callback]:
    # An iterator can be read only once.
    given = tuple(callbacks) if isinstance(callbacks, Iterable) else (callbacks,)
    for callback in given:
        if isinstance(callback, type) or not hasattr(callback, "set_model"):
            raise ConfigError(
                "`callbacks` must be Keras callbacks: objects, and not their classes. "
                f"Received: {callback!r}."
            )
    return given
