from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import pytest
from conftest import run_here

from skincnn.cli import common

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


def test_an_unexpected_error_keeps_its_traceback() -> None:
    done = run("1 / 0")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize(
    "body", ["print('x' * 100_000)", "print('x')", "print('x'); sys.exit(0)"]
)
@pytest.mark.parametrize("buffered", ["", "1"])
def test_who_reads_no_more_is_told_nothing(
    body: str, buffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", buffered)
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed:
        done = run(f"import sys; {body}", stdout=closed)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_another_broken_pipe_keeps_its_traceback() -> None:
    done = run("import os; r, w = os.pipe(); os.close(r); os.write(w, b'x')")
    assert done.returncode == 1
    assert "BrokenPipeError" in done.stderr


def test_sigterm_exits_with_143() -> None:
    code = f"{START}def command():\n    print('ready', flush=True); time.sleep(60)\n"
    with subprocess.Popen(
        [sys.executable, "-c", code + "common.main(command)"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143


def test_noise_is_dropped_and_real_warnings_are_not() -> None:
    body = (
        "import os, sys\n"
        "    with common._without_noise():\n"
        "        os.write(2, b'I0000 oneDNN custom operations are on. ...\\n')\n"
        "        os.write(2, b'W0000 something is wrong with your disk\\n')\n"
        "        print('python warning', file=sys.stderr)"
    )
    assert run(body).stderr.splitlines() == [
        "W0000 something is wrong with your disk",
        "python warning",
    ]


def test_warnings_of_retracing_are_kept_from_the_user_and_no_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import tensorflow as tf

    common.load_tensorflow()
    logger = tf.get_logger()
    logger.warning("5 out of the last 5 calls triggered tf.function retracing.")
    logger.warning("something else")
    assert [record.message for record in caplog.records] == ["something else"]


SCRIPTS = Path(__file__).parents[1] / "scripts"
TAUGHT = sorted(path.name for path in SCRIPTS.glob("[a-z]*.py"))


@pytest.mark.parametrize("script", TAUGHT)
def test_help_teaches_by_examples(script: str) -> None:
    shown = run_here(script, "--help")
    assert shown.returncode == 0
    _, examples = re.split("^(?:For e|E|e)xamples?:", shown.stdout, maxsplit=1, flags=re.M)
    assert f"{script} " in examples
