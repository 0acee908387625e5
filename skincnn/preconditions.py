"""Conditions without which TensorFlow or the packages of this project cannot be imported.

This module is imported with `skincnn`, because it observes forks from then on.
"""

from __future__ import annotations

import contextlib
import importlib.util
import mmap
import os
import platform
import re
import socket
import sys
import threading

from skincnn.errors import ADDRESS_SPACE, ConfigError
from skincnn.write_errors import describe_cause

EXECUTABLE = "/proc/self/exe"
"""A link that TensorFlow reads on Linux. Without it, TensorFlow aborts the process."""
CPU_INFO = "/proc/cpuinfo"
"""A file in which Linux lists the instruction sets of the CPU. Without AVX, the import of
TensorFlow kills the process."""
NUM_THREADS = min(40 + 2 * (os.cpu_count() or 1), 100)
"""Number of threads that must be available: training has 42 threads on two cores. The
maximum limits the time of the check to about 20 ms."""
MIN_ADDRESS_SPACE = 5_000_000 << 10
"""Number of bytes of address space with which small models are trained on two cores. With
4_500_000 KiB, prediction works, but TensorFlow aborts the training."""
is_after_tensorflow = False
"""Whether the parent of this process, or an earlier one, had initialized TensorFlow."""


def _record() -> None:
    """Sets `is_after_tensorflow` in a new process, before it can use TensorFlow."""
    global is_after_tensorflow
    module = sys.modules.get("tensorflow.python.eager.context")
    context = getattr(module, "_context", None)
    is_after_tensorflow |= getattr(context, "_initialized", False)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_record)


def require_unforked() -> None:
    """Raises a `ConfigError` if TensorFlow would wait forever for threads of the parent."""
    if is_after_tensorflow:
        raise ConfigError(
            "TensorFlow cannot run in a process that was forked after TensorFlow had been "
            'initialized. Start processes with the method "spawn", as in '
            'multiprocessing.get_context("spawn").Pool().'
        )


def require_machine() -> None:
    """Raises a `ConfigError` if the import of TensorFlow would end this process."""
    if sys.platform == "linux" and not os.path.lexists(EXECUTABLE):
        raise ConfigError(
            f"TensorFlow requires the file system /proc: {EXECUTABLE} does not exist. "
            "Mount it (mount -t proc proc /proc), or use a container that has it."
        )
    _require_avx()
    _require_threads()
    _require_address_space()
    for package in ("tensorflow", "keras"):
        spec = importlib.util.find_spec(package)
        if spec and os.path.basename(spec.origin or "") == f"{package}.py":
            raise _hidden(str(spec.origin), package)


def _require_avx() -> None:
    """Raises a `ConfigError` if Linux lists the flags of an x86-64 CPU, but not "avx"."""
    with contextlib.suppress(OSError), open(CPU_INFO, encoding="utf-8") as file:
        flags = re.search(r"^flags\s*:(.*)$", file.read(), re.MULTILINE)
        if platform.machine() == "x86_64" and flags and "avx" not in flags[1].split():
            raise ConfigError(
                "TensorFlow requires a CPU with AVX, which this computer or virtual "
                "machine does not have. Set the CPU model of the virtual machine to "
                '"host", or use another computer.'
            )


def _require_threads() -> None:
    """Raises a `ConfigError` if `NUM_THREADS` threads cannot run at the same time.

    TensorFlow and LLVM abort the process if they cannot start a thread.
    """
    stop = threading.Event()
    started = []
    try:
        for _ in range(NUM_THREADS):
            thread = threading.Thread(target=stop.wait)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise ConfigError(
            f"TensorFlow and Keras cannot be imported: {error}. {describe_cause(error)}"
        ) from error
    finally:
        stop.set()
        for thread in started:
            thread.join()


def _require_address_space() -> None:
    """Raises a `ConfigError` if the address space is limited to `MIN_ADDRESS_SPACE`.

    With less, TensorFlow aborts the process, or OpenBLAS waits forever.
    """
    if sys.platform != "win32":
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY and limit < MIN_ADDRESS_SPACE:
            raise ConfigError(
                "TensorFlow requires at least "
                f"{MIN_ADDRESS_SPACE / 1e9:.1f} GB of address space, and perhaps more with "
                f"many cores. Received: {limit / 1e9:.1f} GB. {ADDRESS_SPACE}"
            )


def require_executable_memory() -> None:
    """Raises a `ConfigError` if Linux would kill XLA when it compiles functions."""
    if sys.platform == "linux":
        try:
            mmap.mmap(
                *(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS),
                mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC,
            ).close()
        except OSError as error:
            raise ConfigError(
                "Training compiles functions, but this system forbids memory that is "
                f"writable and executable: {error}. Remove MemoryDenyWriteExecute=yes from "
                "the systemd unit, or permit execmem in SELinux. Prediction works without."
            ) from error


def require_local_sockets() -> None:
    """Raises a `ConfigError` if asyncio, on which the server is based, cannot start."""
    try:
        for end in socket.socketpair():
            end.close()
    except OSError as error:
        raise ConfigError(
            f"The server requires local sockets (AF_UNIX), which this system forbids: "
            f"{error}. Permit them, for example in RestrictAddressFamilies of the systemd "
            "unit, or in the AppArmor profile."
        ) from error


def _hidden(path: str, package: str) -> ConfigError:
    return ConfigError(
        f"{path} hides the package {package}, because Python finds it first. Rename it, "
        "start Python in another directory, or remove its directory from PYTHONPATH."
    )


def require_own(package: str) -> None:
    """Raises a `ConfigError` if a module of the user hides another package of this project.

    The package is not imported.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return
    folders = (os.path.dirname(spec.origin), os.path.dirname(__file__))
    received, own = map(os.path.realpath, folders)
    if received != os.path.join(os.path.dirname(own), package):
        name = "__init__.py"
        path = folders[0] if os.path.basename(spec.origin) == name else spec.origin
        raise _hidden(path, f"{package} of skincnn")
