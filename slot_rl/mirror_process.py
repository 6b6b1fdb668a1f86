"""The process behind a :class:`slot_rl.mirror.Mirror`: it alone calls Weights & Biases.

It takes orders from its standard input, a line of JSON each, and ends once the run has ended. Whatever W&B raises is
one line on its standard error and exit code 1. It also ends when the process that gives the orders is gone.
"""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Literal

Orders = SimpleQueue[dict[str, Any]]


def main() -> None:
    """Does what it is told; never returns."""
    orders = Orders()
    Thread(target=_receive, args=(orders,), daemon=True).start()
    try:
        _perform(orders)
    except BaseException as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)  # wandb's own exit hooks can wait for ever


def _receive(orders: Orders) -> None:
    for line in sys.stdin:
        orders.put(json.loads(line))
    os._exit(1)  # The other end never closes: its process is gone, and its run must not look finished.


def _perform(orders: Orders) -> None:
    import wandb

    run = _start(**orders.get())
    while True:
        match orders.get():
            case {"point": point}:
                # Never step=: it drops rows that arrive out of order.
                run.log(point)
            case {"tables": tables, "pictures": pictures}:
                run.log({**{key: _table(table) for key, table in tables.items()}, **_pictures(pictures)})
            case {"summary": summary, "exit_code": exit_code}:
                run.summary.update(summary)
                run.finish(exit_code=exit_code)
                wandb.teardown()
                _remove_earlier(Path(run.dir).parent)
                return


def _start(
    folder: str,
    axis: str | None,
    labels: Mapping[str, Any],
    config: Mapping[str, Any],
    mode: Literal["offline", "online"],
    commit: str | None,
    id: str,
) -> Any:
    import wandb

    run = wandb.init(
        dir=folder, **labels, config=dict(config), mode=mode, id=id, settings=wandb.Settings(**_settings(mode, commit))
    )
    if axis is not None:
        run.define_metric("*", step_metric=axis)
    return run


def _settings(mode: str, commit: str | None) -> dict[str, Any]:
    """Returns wandb's settings: the commit without a patch of files, and, online, system metrics of what trains."""
    settings: dict[str, Any] = {"silent": True, "console": "off", "disable_git": True, "x_stats_pid": os.getppid()}
    if commit is not None and not {"WANDB_GIT_COMMIT", "WANDB_DISABLE_GIT"} & os.environ.keys():
        settings["git_commit"] = commit
    return settings if mode == "online" else {**settings, "x_disable_stats": True}


def _table(frame: Mapping[str, Any]) -> Any:
    import pandas as pd
    import wandb

    return wandb.Table(dataframe=pd.DataFrame(**frame))


def _pictures(paths: Mapping[str, str]) -> dict[str, Any]:
    import wandb

    return {key: wandb.Image(path, caption=Path(path).stem) for key, path in paths.items()}


def _remove_earlier(folder: Path) -> None:
    """Removes the offline run of an earlier mirror of the same run: this one begins with the same points."""
    for earlier in folder.parent.glob(f"offline-run-*-{folder.name.rpartition('-')[2]}"):
        if earlier != folder:
            shutil.rmtree(earlier, ignore_errors=True)
