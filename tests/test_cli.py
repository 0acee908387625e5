"""Exit codes, output and help of the commands."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
from typing import TextIO

import pytest
from conftest import ROOT, run_here

from skincnn import __version__
from skincnn.cli import common, main

START = "from skincnn import errors\nfrom skincnn.cli import common\nimport time\n"


def run(
    body: str, stdout: int | TextIO = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    code = f"{START}def command():\n    {body}\ncommon.main(command)"
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_termination_exits_with_143(number: int) -> None:
    code = (
        f"{START}import signal\nsignal.signal({number:d}, signal.SIG_DFL)  # unlike nohup\n"
        "def command():\n    print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code + "common.main(command)"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.wait(timeout=30) == 143


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
        "common.main(command)"
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
def test_usage_lists_every_subcommand(arguments: list[str]) -> None:
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
            r"SUBCOMMAND must be one of: prepare-data, train, .*"
            r"Received: 'trian'. Did you mean 'train'\?",
        ),
        (["train", "nosuch"], "PRESET must be one of: quickstart, .*"),
    ],
)
def test_wrong_subcommand_or_argument_exits_with_2(
    arguments: list[str], message: str
) -> None:
    done = run_skincnn(*arguments)
    assert done.returncode == 2
    assert re.fullmatch(f"error: {message}\n", done.stderr)


SCRIPTS = [path.name for path in sorted((ROOT / "scripts").glob("[a-z]*.py"))]


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_has_examples(script: str) -> None:
    shown = run_here(script, "--help")
    assert shown.returncode == 0
    _, examples = re.split("^(?:For e|E|e)xamples?:", shown.stdout, maxsplit=1, flags=re.M)
    assert f"{script} " in examples
