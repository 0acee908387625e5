"""Exit codes, output and help of the commands."""

from __future__ import annotations

import os
import pty
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest
from conftest import ROOT, run_here

from skincnn import __version__
from skincnn.cli import common, main
from skincnn.interruption import StopRequest

START = "from skincnn import errors\nfrom skincnn.cli import process\nimport time\n"
LIMIT = (
    "import resource\nfrom skincnn.interruption import StopRequest\n"
    "def set_limit(*values): resource.setrlimit(resource.RLIMIT_CPU, values)\n"
    "def burn(until=lambda: False):\n    while not until(): pass\n"
)


def run(
    body: str, stdout: int | TextIO = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    code = f"{START}{LIMIT}def command():\n    {body}\nprocess.main(command)"
    return subprocess.run(
        [sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize(
    ("body", "code", "stderr"),
    [
        ("pass", 0, ""),
        ("raise errors.ConfigError('wrong')", 2, "error: wrong\n"),
        ("raise errors.DataError('bad')", 3, "error: bad\n"),
        ("raise errors.DivergedError('nan')", 4, "error: nan\n"),
        ("raise KeyboardInterrupt", 130, "interrupted\n"),
    ],
)
def test_exit_codes(body: str, code: int, stderr: str) -> None:
    done = run(body)
    assert (done.returncode, done.stderr) == (code, stderr)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import os; r, w = os.pipe(); os.close(r); os.write(w, b'x')", "BrokenPipeError"),
    ],
)
def test_unexpected_error_keeps_its_traceback(body: str, error: str) -> None:
    done = run(body)
    assert done.returncode == 1
    assert "Traceback (most recent call last):" in done.stderr
    assert error in done.stderr


@pytest.mark.parametrize("session", ["sys.ps1 = '>>> '", "builtins.__IPYTHON__ = True"])
def test_ctrl_c_does_not_end_an_interactive_session_after_a_command(session: str) -> None:
    code = (
        "import builtins, signal, sys\n"
        f"{session}\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # unlike nohup\n"
        "from skincnn.cli import process\n"
        "process.main(lambda: None)\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('continued')"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "continued\n"


@pytest.mark.parametrize(
    "body", ["print('x' * 100_000)", "print('x')", "print('x'); sys.exit(0)"]
)
@pytest.mark.parametrize("buffered", ["", "1"])
def test_closed_standard_output_prints_no_error(
    body: str, buffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", buffered)
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:
        done = run(f"import sys; {body}", stdout=closed)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_closed_standard_error_has_the_exit_code_of_a_closed_pipe() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = "def command(): print('x', file=sys.stderr, flush=True)\nprocess.main(command)"
    with open(writing, "w") as closed:
        command = [sys.executable, "-c", f"import sys\n{START}{code}"]
        assert subprocess.run(command, stderr=closed).returncode == 128 + signal.SIGPIPE


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_exits_with_143(number: int) -> None:
    code = (
        f"{START}import signal\nsignal.signal({number:d}, signal.SIG_DFL)  # unlike nohup\n"
        "def command():\n    print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code + "process.main(command)"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(timeout=30) == 143


INTERRUPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
class Finder:
    def find_spec(name, *_):
        if name == os.environ["SLOW"]:
            try:
                os.kill(os.getpid(), signal.Signals[os.environ["SIGNAL"]])
            except KeyboardInterrupt as error:  # like some modules in C
                raise ImportError("cannot be imported") if "." in name else error
sys.meta_path.insert(0, Finder)
"""
CONSOLE = "import sys; from skincnn.cli.main import main; sys.exit(main())"
ENTRANCES = {
    "console": ("-c", CONSOLE, "train"),
    "module": ("-m", "skincnn", "train"),
    "script": ("scripts/train.py",),
}


@pytest.mark.parametrize("entrance", ENTRANCES)
@pytest.mark.parametrize("name", ["tyro", "tyro.constructors", "skincnn.cli.train"])
@pytest.mark.parametrize(
    ("number", "expected"),
    [("SIGINT", (130, "interrupted\n")), ("SIGTERM", (143, "terminated\n"))],
)
def test_a_signal_during_the_imports_prints_one_line(
    entrance: str, name: str, number: str, expected: tuple[int, str], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT)
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    env = {"PYTHONPATH": path, "SLOW": name, "SIGNAL": number}
    command = [sys.executable, *ENTRANCES[entrance], "--help"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env}
    )
    assert (done.returncode, done.stderr) == expected


CPU_LIMIT = (
    "terminated: the limit of CPU time (`ulimit -t`) is reached. Use a higher limit.\n"
)


@pytest.mark.parametrize(("soft", "hard"), [(2, 2), (1, resource.RLIM_INFINITY)])
def test_a_limit_of_cpu_time_is_named(soft: int, hard: int) -> None:
    """At the hard limit, the process would be killed."""
    done = run(f"set_limit({soft}, {hard})\n    process.main(burn)")
    assert (done.returncode, done.stderr) == (143, CPU_LIMIT)


def test_after_the_limit_of_cpu_time_the_state_is_saved() -> None:
    body = (
        "set_limit(1, -1)\n"
        "    with StopRequest() as stop:\n"
        "        burn(until=lambda: stop.requested)\n"
        "        end = time.process_time() + 1.5  # SIGXCPU would be repeated\n"
        "        burn(until=lambda: time.process_time() > end)\n"
        "    print('saved')\n"
        "    stop.exit()"
    )
    done = run(body)
    assert (done.returncode, done.stdout) == (143, "saved\n")
    assert done.stderr == f"\nfinishing the step, then saving ...\n{CPU_LIMIT}"


@pytest.mark.parametrize(("is_ignored", "expected"), [(False, 143), (True, 0)])
def test_a_closed_terminal_ends_a_command_after_the_step(
    is_ignored: bool, expected: int
) -> None:
    """Output to the closed terminal is no error. After `nohup`, the command continues."""
    reading, writing = os.pipe()
    terminal, side = pty.openpty()
    action = "SIG_IGN" if is_ignored else "SIG_DFL"
    code = (
        f"{START}import os, signal\nfrom skincnn.interruption import StopRequest\n"
        "os.open(os.ttyname(0), os.O_RDWR)  # becomes the terminal that sends SIGHUP\n"
        f"signal.signal(signal.SIGHUP, signal.{action})\ndef command():\n"
        "    with StopRequest() as stop:\n"
        f"        os.write({writing}, b'ready')\n"
        f"        for _ in range({10 if is_ignored else 1000}):\n"
        "            time.sleep(0 if stop.requested else 0.05)\n"
        "    if stop.requested: print('x' * 9999, flush=True); stop.exit()\n"
        "process.main(command)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        **{"stdin": side, "stdout": side, "stderr": side},
        start_new_session=True,
        pass_fds=[writing],
    ) as process:
        os.close(side)
        assert os.read(reading, 5) == b"ready"
        os.close(terminal)
        assert process.wait(timeout=30) == expected
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("channel", ["os.pipe()", "map(socket.socket.detach, S())"])
@pytest.mark.parametrize("first", ["reader", "signal"])
def test_after_ctrl_c_has_ended_the_reader_the_state_is_saved(
    first: str, channel: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `2>&1 | tee log`: Ctrl-C also ends tee."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    steps = {"reader": "os.close(reader)", "signal": "os.kill(os.getpid(), signal.SIGINT)"}
    code = (
        f"{START}import os, signal, socket, sys\nfrom socket import socketpair as S\n"
        "from pathlib import Path\nfrom skincnn.interruption import StopRequest\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\ndef command():\n"
        f"    reader, writer = {channel}\n"
        "    for number in (1, 2): os.dup2(writer, number)\n"
        "    os.close(writer)\n"
        "    with StopRequest() as stop:\n"
        "        print('buffered')\n"
        f"        {steps.pop(first)}; {steps.popitem()[1]}\n"
        "        for file in (sys.stdout, sys.stderr):\n"
        "            print('progress', file=file, flush=True)\n"
        f"        if stop.requested: Path({str(tmp_path / 'saved')!r}).touch()\n"
        "        stop.exit()\n"
        "process.main(command)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 130
    assert (tmp_path / "saved").exists()


def test_a_notebook_keeps_its_streams_after_ctrl_c() -> None:
    """The cell ends, but not the process."""
    streams = sys.stdout, sys.stderr
    # Commands that a shell runs in the background ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
    assert stop.requested
    assert (sys.stdout, sys.stderr) == streams


def test_a_signal_during_an_output_does_not_interrupt_the_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Standard error is full: its reader waits until the signal has arrived."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    body = (
        "import os, signal, sys, threading\n"
        "    reader, writer = os.pipe(); os.dup2(writer, 2); os.close(writer)\n"
        "    def read():\n"
        "        time.sleep(0.5)\n"
        "        main = threading.main_thread().ident\n"
        "        signal.pthread_kill(main, signal.SIGTERM); time.sleep(0.5)\n"
        "        while os.read(reader, 9999): pass\n"
        "    with StopRequest() as stop:\n"
        "        threading.Thread(target=read, daemon=True).start()\n"
        "        print('x' * 10**6, file=sys.stderr, flush=True)\n"
        "        print('saved'); sys.stdout.flush()\n"
        "        os._exit(int(stop.requested))"
    )
    done = run(body)
    assert (done.returncode, done.stdout) == (1, "saved\n")


def test_only_known_startup_messages_are_dropped() -> None:
    body = (
        "import os, sys\n"
        "    from skincnn.startup import _without_noise\n"
        "    with _without_noise():\n"
        "        os.write(2, b'I0000 oneDNN custom operations are on. ...\\n')\n"
        "        os.write(2, b'W0000 something is wrong with your disk\\n')\n"
        "        print('python warning', file=sys.stderr)"
    )
    assert run(body).stderr.splitlines() == [
        "W0000 something is wrong with your disk",
        "python warning",
    ]


CU_INIT = "failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit"
NO_DRIVER = (
    "Could not find cuda drivers on your machine, GPU will not be used.",
    f"{CU_INIT}: UNKNOWN ERROR (303)",
)


@pytest.mark.parametrize(("driver", "shown"), [(os.devnull, NO_DRIVER), ("missing", ())])
def test_errors_of_an_nvidia_driver_are_shown(driver: str, shown: tuple[str, ...]) -> None:
    errors = (f"{CU_INIT}: UNKNOWN ERROR (803)", f"{CU_INIT}: CUDA_ERROR_UNKNOWN: unknown")
    hidden = f"{CU_INIT}: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected"
    text = "\n".join([*NO_DRIVER, *errors, hidden, ""])
    done = run(
        f"import sys; from skincnn import startup; startup.DRIVER = {driver!r}\n"
        "    with startup._without_noise():\n"
        f"        print({text!r}, file=sys.stderr)"
    )
    assert done.stderr.split("\n") == [*shown, *errors, "", ""]


def test_only_retracing_warnings_are_filtered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import tensorflow as tf

    common.load_tensorflow()
    logger = tf.get_logger()
    logger.warning("5 out of the last 5 calls triggered tf.function retracing.")
    logger.warning("something else")
    assert [record.message for record in caplog.records] == ["something else"]


def run_skincnn(*arguments: str) -> subprocess.CompletedProcess[str]:
    code = "from skincnn.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True
    )


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_usage_lists_every_command(arguments: list[str]) -> None:
    done = run_skincnn(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for name, text in main.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", done.stdout, re.M)


def test_version_is_shown() -> None:
    assert run_skincnn("--version").stdout == f"skincnn {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["trian"],
            r"COMMAND must be one of: prepare-data, train, .*"
            r"Received: 'trian'. Did you mean 'train'\?",
        ),
        (["train", "nosuch"], "PRESET must be one of: quickstart, .*"),
    ],
)
def test_wrong_command_or_argument_exits_with_2(arguments: list[str], message: str) -> None:
    done = run_skincnn(*arguments)
    assert done.returncode == 2
    assert re.fullmatch(f"error: {message}\n", done.stderr)


SCRIPTS = [path.name for path in sorted((ROOT / "scripts").glob("[a-z]*.py"))]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_examples(script: str) -> None:
    shown = run_here(script, "--help")
    assert shown.returncode == 0
    _, examples = re.split("^(?:For e|E|e)xamples?:", shown.stdout, maxsplit=1, flags=re.M)
    name = script.removesuffix(".py").replace("_", "-")
    assert f"skincnn {name} " in examples
