"""What the reference makes of docstrings: roles of Sphinx become code, and checks of options are left out."""

import re
from typing import Any

from griffe import Class, Extension, Object

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?([^`]+)`")


class Docstrings(Extension):
    """An extension of griffe, which mkdocs.yml names."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Rewrites the roles of an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(r"`\1`", obj.docstring.value)

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        """Leaves out what a dataclass calls after it was built."""
        cls.members.pop("__post_init__", None)
