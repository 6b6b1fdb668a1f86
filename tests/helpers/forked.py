"""Commands in processes of their own that begin at once, because everything is imported, so that they can be killed."""

import os
import runpy
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ROOT


class Forked:
    """A call in a process of its own; what it prints goes to a file.

    Attributes:
        pid: The process.
    """

    def __init__(self, call: Callable[[], object], log: Path, cwd: Path | None = None) -> None:
        """Begins the call; the process exits with what it raises as SystemExit, 0 after its end, 70 after an error."""
        self._log = log
        self.pid = os.fork()
        if self.pid == 0:
            _child(call, log, cwd)

    def kill(self, sent: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal, unless the process has ended."""
        try:
            os.kill(self.pid, sent)
        except ProcessLookupError:
            pass

    def wait(self) -> int:
        """Waits for the end; returns the exit code, that of a killed process below 0."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._log.read_text(errors="replace")


def _child(call: Callable[[], object], log: Path, cwd: Path | None) -> None:
    code = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        if cwd is not None:
            os.chdir(cwd)
        call()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 70
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def command(name: str, *flags: object) -> Callable[[], None]:
    """Returns a call of a script with flags."""

    def call() -> None:
        sys.argv = [name, *map(str, flags)]
        runpy.run_path(str(ROOT / "scripts" / name), run_name="__main__")

    return call
