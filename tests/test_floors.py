"""The house's floors: no module imports from a floor above its own, and no imports run in a circle.

The imports are read from the source, those inside functions as well, so that a late import is no way around the rule;
only what stands under ``if TYPE_CHECKING`` is left out. Made-up sources show that the checker sees what it shall see.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLOORS = {
    "slot_rl.selectors": 0,
    "slot_rl.bundles": 0,
    "slot_rl.seeding": 0,
    "slot_rl.problems": 1,
    "slot_rl.estimators": 1,
    "slot_rl.policies": 1,
    "slot_rl.search": 1,
    "slot_rl.envs": 2,
    "slot_rl.agents": 3,
    "slot_rl.experiments": 4,
    "scripts": 5,
}
# The door of the house is no room: it leads to the registration of the environments and so stands on their floor.
DOOR, BEHIND_THE_DOOR = "slot_rl", {"slot_rl.envs.registration"}
HIGH_ONLY = {"gymnasium", "stable_baselines3", "wandb"}


@dataclass(frozen=True)
class Source:
    """A module's text, and whether it is a package's ``__init__``."""

    text: str
    package: bool = False


Sources = Mapping[str, Source]


def floor_of(module: str) -> int | None:
    if module == DOOR:
        return FLOORS["slot_rl.envs"]
    rooms = [room for room in FLOORS if module == room or module.startswith(f"{room}.")]
    return FLOORS[rooms[0]] if rooms else None


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """Walks a tree, leaving out the bodies of ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in (
            getattr(child.test, "id", None),
            getattr(child.test, "attr", None),
        ):
            for other in child.orelse:
                yield from statements(ast.Module([other], []))
            continue
        yield child
        yield from statements(child)


def imports_of(module: str, sources: Sources) -> set[str]:
    """Returns what a module imports: modules of ours by full name, others by the name that stands there."""
    found: set[str] = set()
    package = module.split(".") if sources[module].package else module.split(".")[:-1]
    for node in statements(ast.parse(sources[module].text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            home = ".".join([*base, *([node.module] if node.module else [])])
            # "from a import b" imports the module a.b where there is one, and otherwise a name out of a.
            names = {f"{home}.{alias.name}" for alias in node.names}
            found |= {name if name in sources else home for name in names}
    return found


def ours(name: str) -> bool:
    return name.split(".")[0] in ("slot_rl", "scripts", "envs", "agents")


def complaints(sources: Sources) -> list[str]:
    """Returns every breach of the floors, in words."""
    found = []
    for module in sorted(sources):
        floor = floor_of(module)
        if module == DOOR:
            outside = {name for name in imports_of(module, sources) if ours(name)} - BEHIND_THE_DOOR
            found += [f"{module} imports {name}" for name in sorted(outside)]
            continue
        if floor is None:
            found.append(f"{module} is on no floor")
            continue
        for name in sorted(imports_of(module, sources)):
            found += breaches(module, floor, name)
    return found + [f"circle: {' -> '.join(circle)}" for circle in circles(sources)]


def breaches(module: str, floor: int, name: str) -> list[str]:
    top = name.split(".")[0]
    found = []
    if ours(name):
        other = floor_of(name)
        if other is None or other > floor:
            found.append(f"{module} on floor {floor} imports {name} on floor {other}")
    elif floor <= 1 and top in HIGH_ONLY:
        found.append(f"{module} on floor {floor} imports {top}")
    if module.split(".")[:2] == ["slot_rl", "selectors"]:
        allowed = top == "torch" or top in sys.stdlib_module_names or name.startswith("slot_rl.selectors")
        found += [] if allowed else [f"{module} imports {name}, expected torch and the standard library alone"]
    return found


def circles(sources: Sources) -> list[list[str]]:
    """Returns one circle for each import that closes one, found by walking depth first."""
    edges = {module: sorted(imports_of(module, sources) & set(sources)) for module in sources}
    done: set[str] = set()
    found: list[list[str]] = []

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for other in edges[module]:
                walk(other, [*path, module])
            done.add(module)

    for module in sorted(sources):
        walk(module, [])
    return found


def read_house() -> dict[str, Source]:
    """Reads every module by its installed name; the links are left aside for the folders that they lead to."""
    sources = {}
    tops = {"slot_rl": "slot_rl", "envs": "slot_rl.envs", "agents": "slot_rl.agents", "scripts": "scripts"}
    for top, prefix in tops.items():
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT / top).with_suffix("").parts
            if top == "slot_rl" and parts[0] in ("envs", "agents"):
                continue
            package = parts[-1] == "__init__"
            name = ".".join([prefix, *(parts[:-1] if package else parts)])
            sources[name] = Source(path.read_text(encoding="utf-8"), package)
    return sources


def test_nothing_imports_upward_and_nothing_runs_in_a_circle() -> None:
    house = read_house()
    assert complaints(house) == []


def test_the_whole_house_is_read() -> None:
    house = read_house()
    for module in ("slot_rl", "slot_rl.envs", "slot_rl.envs.single", "slot_rl.agents.ppo", "scripts.train_agent"):
        assert module in house
    assert house["slot_rl.envs"].package and not house["slot_rl.envs.single"].package
    rooms = {room for room in FLOORS for module in house if module == room or module.startswith(f"{room}.")}
    assert rooms == set(FLOORS)
    # Imports that are known to be there are seen.
    assert {"slot_rl.envs.episodes", "slot_rl.problems", "gymnasium"} <= imports_of("slot_rl.envs.single", house)
    assert imports_of("slot_rl", house) == BEHIND_THE_DOOR


def made_up(**texts: str) -> dict[str, Source]:
    """Returns a small sound house with some modules added or replaced; ``__`` in a name stands for a dot."""
    sound = {
        "slot_rl": "from slot_rl.envs.registration import register_envs",
        "slot_rl.envs.registration": "import gymnasium",
        "slot_rl.selectors": "from slot_rl.selectors.base import Selector",
        "slot_rl.selectors.base": "import math\nimport torch\nfrom torch import nn",
        "slot_rl.problems": "from slot_rl.problems import base\nfrom .base import Problem",
        "slot_rl.problems.base": "import numpy\nfrom slot_rl.selectors import Selector",
        "slot_rl.agents": "from slot_rl import __version__, problems\nfrom slot_rl.envs import registration",
        "scripts.train": "from slot_rl.agents import Agent",
    }
    packages = ("slot_rl", "slot_rl.selectors", "slot_rl.problems", "slot_rl.agents")
    house = {name: Source(text, name in packages) for name, text in sound.items()}
    return {**house, **{name.replace("__", "."): Source(text) for name, text in texts.items()}}


def test_a_sound_house_draws_no_complaint() -> None:
    assert complaints(made_up()) == []


@pytest.mark.parametrize(
    ("module", "text", "expected"),
    [
        pytest.param(
            "slot_rl__problems__x",
            "from slot_rl.agents import Agent",
            ["slot_rl.problems.x on floor 1 imports slot_rl.agents on floor 3"],
            id="upward",
        ),
        pytest.param(
            "slot_rl__problems__x",
            "def f():\n    if True:\n        import slot_rl.experiments.training",
            ["slot_rl.problems.x on floor 1 imports slot_rl.experiments.training on floor 4"],
            id="upward within a function",
        ),
        pytest.param(
            "slot_rl__envs__x",
            "from ..agents import ppo",
            ["slot_rl.envs.x on floor 2 imports slot_rl.agents on floor 3"],
            id="upward and relative",
        ),
        pytest.param(
            "slot_rl__seeding",
            "from slot_rl import problems",
            ["slot_rl.seeding on floor 0 imports slot_rl.problems on floor 1"],
            id="a room out of the package",
        ),
        pytest.param(
            "slot_rl__problems__x",
            "from slot_rl import __version__",
            ["slot_rl.problems.x on floor 1 imports slot_rl on floor 2"],
            id="through the door",
        ),
        pytest.param(
            "slot_rl__search__x",
            "try:\n    from gymnasium import spaces\nexcept ImportError:\n    import wandb.sdk",
            ["slot_rl.search.x on floor 1 imports gymnasium", "slot_rl.search.x on floor 1 imports wandb"],
            id="gymnasium and wandb low down",
        ),
        pytest.param(
            "slot_rl__bundles",
            "import stable_baselines3 as sb3",
            ["slot_rl.bundles on floor 0 imports stable_baselines3"],
            id="stable_baselines3 low down",
        ),
        pytest.param(
            "slot_rl__selectors__x",
            "import numpy",
            ["slot_rl.selectors.x imports numpy, expected torch and the standard library alone"],
            id="numpy in a selector",
        ),
        pytest.param(
            "slot_rl__selectors__x",
            "from slot_rl.seeding import generator_from",
            ["slot_rl.selectors.x imports slot_rl.seeding, expected torch and the standard library alone"],
            id="a neighbour in a selector",
        ),
        pytest.param("slot_rl__attic__x", "", ["slot_rl.attic.x is on no floor"], id="no floor"),
        pytest.param(
            "slot_rl__agents__x",
            "import scripts.train",
            ["slot_rl.agents.x on floor 3 imports scripts.train on floor 5"],
            id="a script",
        ),
        pytest.param(
            "slot_rl__agents__x",
            "import envs.single",
            ["slot_rl.agents.x on floor 3 imports envs.single on floor None"],
            id="a plain name",
        ),
    ],
)
def test_a_breach_is_named(module: str, text: str, expected: list[str]) -> None:
    assert complaints(made_up(**{module: text})) == expected


def test_the_door_may_only_register() -> None:
    house = {**made_up(), "slot_rl": Source("from slot_rl.problems import make_problem", True)}
    assert complaints(house) == ["slot_rl imports slot_rl.problems"]


@pytest.mark.parametrize(
    ("texts", "circle"),
    [
        pytest.param(
            {"slot_rl__search__a": "import slot_rl.search.b", "slot_rl__search__b": "from slot_rl.search import a"},
            "slot_rl.search.a -> slot_rl.search.b -> slot_rl.search.a",
            id="two modules",
        ),
        pytest.param(
            {
                "slot_rl__search__a": "from slot_rl.search.b import x",
                "slot_rl__search__b": "from .c import y",
                "slot_rl__search__c": "def late():\n    from slot_rl.search.a import z",
            },
            "slot_rl.search.a -> slot_rl.search.b -> slot_rl.search.c -> slot_rl.search.a",
            id="three modules, the last one late",
        ),
        pytest.param(
            {"slot_rl__problems__base": "from slot_rl.problems import Problem"},
            "slot_rl.problems -> slot_rl.problems.base -> slot_rl.problems",
            id="a module and its package",
        ),
        pytest.param(
            {"slot_rl__envs__registration": "from slot_rl import __version__"},
            "slot_rl -> slot_rl.envs.registration -> slot_rl",
            id="back through the door",
        ),
        pytest.param(
            {"slot_rl__search__a": "import slot_rl.search.a"}, "slot_rl.search.a -> slot_rl.search.a", id="itself"
        ),
    ],
)
def test_a_circle_is_named(texts: dict[str, str], circle: str) -> None:
    assert complaints(made_up(**texts)) == [f"circle: {circle}"]


@pytest.mark.parametrize(
    "text",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from slot_rl.agents import Agent",
        "import typing\nif typing.TYPE_CHECKING:\n    from slot_rl.agents import Agent",
    ],
)
def test_imports_for_type_checkers_alone_do_not_count(text: str) -> None:
    assert complaints(made_up(slot_rl__problems__x=text)) == []
    beside = f"{text}\nelse:\n    from slot_rl.agents import Agent"
    expected = ["slot_rl.problems.x on floor 1 imports slot_rl.agents on floor 3"]
    assert complaints(made_up(slot_rl__problems__x=beside)) == expected


def test_no_module_is_imported_by_a_name_that_is_put_together() -> None:
    # Such an import would be invisible here. The envs load their classes late, from modules on their own floor.
    by_name = {
        module
        for module, source in read_house().items()
        for node in ast.walk(ast.parse(source.text))
        if (isinstance(node, ast.Attribute) and node.attr in ("import_module", "__import__"))
        or (isinstance(node, ast.Name) and node.id in ("import_module", "__import__"))
    }
    assert by_name <= {"slot_rl.envs"}
