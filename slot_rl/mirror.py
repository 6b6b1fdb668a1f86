"""A mirror of a run on Weights & Biases, which can fail, hang or be killed without harm to the run itself.

W&B is called in a process of its own (:mod:`slot_rl.mirror_process`), which a thread feeds: neither an error of W&B,
nor a service that was killed or stopped, nor an exit hook that waits for it can reach the process that trains.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import IO, Any

from slot_rl.wandb_labels import VARIABLES

MIRROR_SECONDS = 7.0
"""Seconds that the end of a run waits for its mirror, so that it costs ten at most."""
_START = "import sys; sys.path[:] = sys.argv[1:]; from slot_rl.mirror_process import main; main()"
_LEFT_OUT = (*VARIABLES, "WANDB_SERVICE", "WANDB_RESUME")
"""Variables that labels hold already, and those of a run of the caller's own, which must not take hold of this one."""


class Mirror:
    """One run on Weights & Biases.

    Attributes:
        failure: Why the run is not mirrored any more; None while it is.
    """

    def __init__(
        self,
        folder: Path,
        labels: Mapping[str, Any],
        config: Mapping[str, Any],
        mode: str,
        axis: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """Starts a run, and does not wait for it.

        A folder that had a mirror before gives its run the same id. W&B replaces that run, so it needs all its points.

        Args:
            folder: Where the run's files go, as ``<folder>/wandb``; must exist.
            labels: Project, entity, name, group, job_type and tags, by which the run is found.
            config: JSON-ready values to show with the run; ``git`` holds the commit.
            mode: ``"offline"`` or ``"online"``.
            axis: The key that all others are drawn over.
            variables: Environment variables to set for W&B.
        """
        self.failure: str | None = None
        self._orders: SimpleQueue[str | None] = SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        environment = {name: value for name, value in os.environ.items() if name not in _LEFT_OUT}
        start = {"folder": str(folder), "axis": axis, "labels": labels, "config": config, "mode": mode}
        # WANDB_RUN_ID would give every run the same one.
        self.send({**start, "commit": (config.get("git") or {}).get("commit"), "id": _run_id(folder)})
        self._thread = Thread(target=self._feed, args=({**environment, **(variables or {})},), daemon=True)
        self._thread.start()

    def send(self, order: Mapping[str, Any]) -> None:
        """Hands something over, JSON-ready: a ``point``, or ``tables`` and ``pictures``; never waits."""
        self._orders.put(json.dumps(order))

    def finish(self, summary: Mapping[str, Any], exit_code: int, patience: float | None = MIRROR_SECONDS) -> str | None:
        """Ends the run.

        Args:
            summary: What to show as its result, JSON-ready.
            exit_code: 0 for a run that went well.
            patience: How many seconds it may take; None for as long as it takes.

        Returns:
            Why the run is not mirrored; None if it is.
        """
        self.send({"summary": summary, "exit_code": exit_code})
        self._orders.put(None)
        try:
            self._thread.join(patience)
            return f"no answer within {patience:g} seconds" if self._thread.is_alive() else self.failure
        finally:
            if self._process is not None:
                self._process.kill()  # nothing once it has ended
            self._thread.join(1)

    def _feed(self, environment: Mapping[str, str]) -> None:
        try:
            with tempfile.TemporaryFile("w+") as errors:
                # A broken pipe: it has ended, and has said why.
                with suppress(BrokenPipeError), _mirror_process(environment, errors) as self._process:
                    for order in iter(self._orders.get, None):
                        print(order, file=self._process.stdin, flush=True)
                    self._process.wait()
                assert self._process is not None
                if code := self._process.wait():
                    errors.seek(0)
                    self.failure = (errors.read().splitlines() or [f"its process ended with {code}"])[-1]
        except OSError as error:
            self.failure = str(error)


def _mirror_process(environment: Mapping[str, str], errors: IO[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _START, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the training
        text=True,
        encoding="utf-8",
    )


def _run_id(folder: Path) -> str:
    earlier = sorted(path.name for path in folder.glob("wandb/*run-*-*"))
    return earlier[-1].rpartition("-")[2] if earlier else secrets.token_hex(4)
