"""The ``slot-rl`` command: it parses flags, calls one function, and returns its exit code."""
