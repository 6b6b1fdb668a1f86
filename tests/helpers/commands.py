"""The ``slot-rl`` command inside this process."""

from slot_rl.cli.entry import slot_rl_command


def exit_code(*words: object) -> int:
    """Runs ``slot-rl`` with some words and returns its exit code."""
    try:
        return slot_rl_command([*map(str, words)])
    except SystemExit as stop:
        assert isinstance(stop.code, int)
        return stop.code
