"""What Stable-Baselines3 reads and writes as pickles is refused: reading one executes whatever is in it."""

from collections.abc import Mapping
from typing import Any, NoReturn

_INSTEAD = "expected agent.save(folder) and Agent.load(folder, env), which hold numbers and text alone, got {}"


class NoFile:
    """Goes before a class of Stable-Baselines3 that an agent uses inside: its policy, or an algorithm."""

    def save(self, path: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: it is saved with its agent.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(_INSTEAD.format(f"{type(self).__name__}.save({str(path)!r})"))

    @classmethod
    def load(cls, path: Any, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses: it is loaded with its agent.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(_INSTEAD.format(f"{cls.__name__}.load({str(path)!r}), which would execute a pickle"))


class NoParameterFile:
    """Goes before an algorithm class of Stable-Baselines3."""

    def set_parameters(self, load_path_or_dict: Any, *args: Any, **kwargs: Any) -> None:
        """Sets parameters that are given as a dictionary.

        Raises:
            NotImplementedError: If they are given as a file.
        """
        if not isinstance(load_path_or_dict, Mapping):
            raise NotImplementedError(_INSTEAD.format(f"set_parameters({str(load_path_or_dict)!r})"))
        super().set_parameters(load_path_or_dict, *args, **kwargs)  # type: ignore[misc]
