"""The package: what a wheel holds, that it works on its own, that nothing collides, and that every version is pinned.

Wheels are built from copies of the source tree, so that no build folder appears in the checkout.
"""

import ast
import json
import os
import shutil
import subprocess
import sys
import zipfile
from email import message_from_bytes
from importlib.metadata import requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import slot_rl
from slot_rl.envs import SlotsEnv, SlotsVectorEnv, SlotVecEnv

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
LINKS = ("slot_rl/envs", "slot_rl/agents")
BY_TORCH = ("nvidia-", "cuda-", "triton")
SKIPPED = (".*", "runs", "wandb", "build", "dist", "*.egg-info", "__pycache__", "docs", "tests")


def built(source: Path, out: Path) -> tuple[Path, str]:
    """Builds a wheel; returns it and what the build printed."""
    call = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(call, capture_output=True, text=True, timeout=300, check=False)
    shown = done.stdout + done.stderr
    assert done.returncode == 0, shown
    (wheel,) = out.glob("*.whl")
    return wheel, shown


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


@pytest.fixture(scope="module")
def wheel_and_output(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", symlinks=True, ignore=shutil.ignore_patterns(*SKIPPED))
    assert all((folder / "source" / link).is_symlink() for link in LINKS)
    return built(folder / "source", folder / "dist")


@pytest.fixture(scope="module")
def wheel(wheel_and_output: tuple[Path, str]) -> Path:
    return wheel_and_output[0]


def packages() -> list[str]:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = configuration["tool"]["setuptools"]["packages"]
    assert isinstance(listed, list)
    return listed


def real_folder(package: str) -> Path:
    """Returns a package's folder by its name, with links resolved."""
    top, *rest = package.split(".")[1:] or [""]
    return ROOT.joinpath(top, *rest) if top in ("envs", "agents") else ROOT.joinpath(*package.split("."))


def test_a_wheel_brings_one_top_level_name(wheel: Path) -> None:
    assert {name.split("/")[0] for name in names_in(wheel)} == {
        "slot_rl",
        f"slot_rl-{version('slot_rl')}.dist-info",
    }


def test_a_wheel_holds_every_module_and_the_shipped_estimators(wheel: Path) -> None:
    names = set(names_in(wheel))
    assert {"slot_rl/py.typed", "slot_rl/envs/single.py", "slot_rl/agents/ppo.py"} <= names
    modules = {
        f"{package.replace('.', '/')}/{path.name}"
        for package in packages()
        for path in real_folder(package).glob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules
    shipped = ROOT / "slot_rl" / "estimators" / "shipped"
    expected = {
        path.relative_to(ROOT).as_posix()
        for path in shipped.rglob("*")
        if path.name == "card.json" or path.suffix == ".safetensors"
    }
    assert len(expected) == 6
    assert {name for name in names if "/shipped/" in name and not name.endswith(".png")} == expected


def test_a_wheel_is_built_without_a_warning_about_its_packages(wheel_and_output: tuple[Path, str]) -> None:
    assert "is absent from the `packages` configuration" not in wheel_and_output[1]


def test_the_version_stands_in_one_place(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        described = message_from_bytes(archive.read(name))
    assert described["Version"] == version("slot_rl") == slot_rl.__version__
    for file in ("pyproject.toml", "CITATION.cff"):
        assert slot_rl.__version__ not in (ROOT / file).read_text(encoding="utf-8")
    assert f"## [{slot_rl.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_a_wheel_says_where_it_comes_from(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        described = message_from_bytes(archive.read(name))
    urls = dict(url.split(", ") for url in described.get_all("Project-URL", []))
    assert urls.keys() == {"Homepage", "Documentation", "Changelog", "Issues"}
    assert all(url.startswith("https://") for url in urls.values())
    assert described["Author"] == "The slot_rl authors"
    assert described["Author"] in (ROOT / "LICENSE").read_text(encoding="utf-8")
    pythons = [line.split(":: ")[-1] for line in described.get_all("Classifier", []) if "Python :: 3." in line]
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    assert pythons == workflow["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert described["Requires-Python"] == f">={pythons[0]}"


def test_a_wheel_works_on_its_own(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = """
import json
import gymnasium as gym
env = gym.make("slot_rl:SlotRL/SlotsLarge-v0")
env.reset(seed=0)
env.step([0] * 12)
import slot_rl, slot_rl.agents, slot_rl.envs.single
print(json.dumps([slot_rl.__file__, slot_rl.agents.__file__, slot_rl.envs.single.__file__]))
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    site = tmp_path / "site" / "slot_rl"
    files = [site / "__init__.py", site / "agents" / "__init__.py", site / "envs" / "single.py"]
    assert json.loads(done.stdout) == [str(file) for file in files]


def test_a_clone_without_links_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(*SKIPPED))
    for link in LINKS:
        target = os.readlink(source / link)
        (source / link).unlink()
        (source / link).write_text(target)  # what git leaves where links are switched off
    assert names_in(built(source, tmp_path / "dist")[0]) == names_in(wheel)


def test_the_links_lead_to_the_real_folders() -> None:
    for link in LINKS:
        path = ROOT / link
        assert path.is_symlink()
        assert os.readlink(path) == f"../{path.name}"
        assert path.resolve() == ROOT / path.name


def test_every_package_is_listed() -> None:
    found = set()
    for prefix, top in (("slot_rl", "slot_rl"), ("slot_rl.envs", "envs"), ("slot_rl.agents", "agents")):
        for path in (ROOT / top).rglob("__init__.py"):
            parts = path.parent.relative_to(ROOT / top).parts
            if not (top == "slot_rl" and parts[:1] in (("envs",), ("agents",))):
                found.add(".".join((prefix, *parts)))
    assert {"slot_rl.envs", "slot_rl.agents", "slot_rl.selectors"} <= found
    assert found <= set(packages())
    assert len(packages()) == len(set(packages()))


def test_classes_know_their_installed_home() -> None:
    assert [face.__module__ for face in (SlotsEnv, SlotsVectorEnv, SlotVecEnv)] == [
        "slot_rl.envs.single",
        "slot_rl.envs.vector",
        "slot_rl.envs.vec",
    ]
    assert not {"envs", "agents"} & set(sys.modules)


def top_level_imports(source: str) -> set[str]:
    """Returns the first part of every absolute import's name."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_nothing_imports_plain_envs_or_agents() -> None:
    assert top_level_imports("def f():\n    from envs.single import x\nimport slot_rl.agents") == {"envs", "slot_rl"}
    files = [
        path for top in ("slot_rl", "envs", "agents", "scripts", "tests") for path in sorted((ROOT / top).rglob("*.py"))
    ]
    assert {"single.py", "ppo.py", "train_agent.py", "test_packaging.py"} <= {path.name for path in files}
    offenders = [path for path in files if {"envs", "agents"} & top_level_imports(path.read_text(encoding="utf-8"))]
    assert offenders == []


def closure(name: str, extras: set[str]) -> set[str]:
    """Returns everything that installing a distribution with extras brings into this environment, itself included."""
    asked: dict[str, set[str]] = {}
    waiting = [(name, extras)]
    while waiting:
        key, wanted = canonicalize_name(waiting[-1][0]), waiting.pop()[1] | {""}
        new = wanted - asked.get(key, set())
        asked.setdefault(key, set()).update(new)
        for requirement in map(Requirement, requires(key) or []):
            if any(requirement.marker is None or requirement.marker.evaluate({"extra": extra}) for extra in new):
                waiting.append((requirement.name, set(requirement.extras)))
    return set(asked)


def pins(name: str = "constraints.txt") -> dict[str, Requirement]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    found = [Requirement(line) for line in lines if line.strip() and not line.startswith("#")]
    assert len({canonicalize_name(pin.name) for pin in found}) == len(found)
    return {canonicalize_name(pin.name): pin for pin in found}


def test_every_distribution_that_is_installed_is_pinned_exactly() -> None:
    pinned = pins()
    # A torch built for CUDA brings libraries that it pins itself.
    needed = {name for name in closure("slot_rl", {"dev"}) - {"slot-rl"} if not name.startswith(BY_TORCH)}
    assert {"torch", "pytest", "numpy", "packaging"} <= needed
    assert sorted(needed - set(pinned)) == []
    for name, pin in pinned.items():
        assert [specifier.operator for specifier in pin.specifier] == ["=="], name
        assert "*" not in str(pin.specifier), name


def test_the_pins_are_what_the_tests_run_on() -> None:
    pinned = pins()
    installed = {name: version(name) for name in closure("slot_rl", {"dev"}) & set(pinned)}
    assert len(installed) > 50
    assert {n: v for n, v in installed.items() if not pinned[n].specifier.contains(v, prereleases=True)} == {}


def test_the_lowest_versions_that_are_tried_are_those_allowed() -> None:
    """Not of torch: the Makefile says which one is tried."""
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*configuration["dependencies"], *configuration["optional-dependencies"]["contrib"]]
    allowed = {
        canonicalize_name(each.name): Version(one.version)
        for each in map(Requirement, asked)
        for one in each.specifier
        if one.operator == ">="
    }
    assert len(allowed) == len(asked) == 18
    del allowed[canonicalize_name("torch")]
    tried = pins("constraints-lowest.txt")
    assert {name: Version(str(tried[name].specifier)[2:]) for name in allowed if name in tried} == allowed


def test_torch_is_pinned_where_it_was_tried() -> None:
    assert str(pins()["torch"].specifier) == "==2.13.0"


def test_an_extra_widens_the_closure() -> None:
    plain = closure("slot_rl", set())
    assert "torch" in plain
    assert "hypothesis" not in plain
    assert "hypothesis" in closure("slot_rl", {"dev"})
