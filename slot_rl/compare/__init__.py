"""Comparing agents at equal budget: plan the runs, launch them, conclude what can be concluded, show it.

The module can be called: ``slot_rl.compare(problem, ["gumbel", "ppo"], out="comparison")`` does what
``slot-rl compare`` does; see :func:`slot_rl.compare.command.compare_problems`.
"""

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    """The package as a function, so that its name can be the command's."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compares agents; see :func:`slot_rl.compare.command.compare_problems`."""
        from slot_rl.compare.command import compare_problems

        return compare_problems(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
