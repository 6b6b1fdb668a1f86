"""Values of documents are read as the declared types, and documents of earlier versions are read or refused."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from typing_extensions import NotRequired, TypedDict

from slot_rl.campaign import Campaign
from slot_rl.documents import as_declared, read_yaml
from slot_rl.estimators import load_estimator
from slot_rl.io import BundleError, read_json
from slot_rl.reevaluation import ReevaluationConfig, reevaluate
from slot_rl.runs import load
from tests.conftest import ROOT

EARLIER = ROOT / "tests" / "data" / "earlier"


@dataclass(frozen=True)
class Size:
    """A dataclass with a check of its own."""

    width: int
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"expected width >= 1, got {self.width}")


class Known(TypedDict):
    """A document with a part that may be missing."""

    size: Size
    path: NotRequired[Path | None]


GOOD: list[tuple[Any, Any, Any]] = [
    (int, 3, 3),
    (float, 3, 3),
    (float, 0.5, 0.5),
    (bool, True, True),
    (int | None, None, None),
    (Literal["a", "b"], "b", "b"),
    (Path, "x/y", Path("x/y")),
    (tuple[int, ...], [1, 2], (1, 2)),
    (tuple[int, str], [1, "a"], (1, "a")),
    (list[float], [1, 0.5], [1, 0.5]),
    (Mapping[str, tuple[str, ...]], {"a": ["b"]}, {"a": ("b",)}),
    (Size, {"width": 2, "names": ["a"]}, Size(2, ("a",))),
    (Known, {"size": {"width": 2}, "more": 1}, {"size": Size(2), "more": 1}),
    (Known, {"size": {"width": 2}, "path": "a"}, {"size": Size(2), "path": Path("a")}),
]
BAD: list[tuple[Any, Any, str]] = [
    (int, True, "expected int at here, got True"),
    (int, 2.0, "expected int at here, got 2.0"),
    (int, 2**63, "expected int at here, got 9223372036854775808"),
    (float, "1", "expected float at here, got '1'"),
    (float, float("nan"), "expected float at here, got nan"),
    (float, float("inf"), "expected float at here, got inf"),
    (str, None, "expected str at here, got None"),
    (str, ["x" * 99], "expected str at here, got .*…"),
    (int | None, "a", "expected int at here, got 'a'"),
    (Literal[1, 2], True, "expected one of 1, 2 at here, got True"),
    (Path, "a\0b", "expected Path at here"),
    (tuple[int, ...], "12", "expected a list at here, got '12'"),
    (tuple[int, ...], [1, "2"], r"expected int at here\[1\], got '2'"),
    (tuple[int, str], [1], r"expected a list of 2 at here, got \[1\]"),
    (Mapping[str, int], [1], r"expected a mapping of texts at here, got \[1\]"),
    (Mapping[str, int], {1: 1}, "expected a mapping of texts at here"),
    (Mapping[str, int], {"a": "b"}, r"expected int at here\.a, got 'b'"),
    (Size, {}, "expected here as it was written, got one without width"),
    (Size, {"width": 1, "depth": 1}, "expected here as it was written, got one with 'depth'"),
    (Size, {"width": 0}, "expected here as it was written, got: expected width >= 1, got 0"),
    (Size, [1], r"expected a mapping at here, got \[1\]"),
    (Known, {}, "expected here as it was written, got one without size"),
    (Known, {"size": {"width": 1}, "path": 3}, r"expected Path at here\.path, got 3"),
]


@pytest.mark.parametrize(("kind", "value", "expected"), GOOD)
def test_values_are_read_as_declared(kind: Any, value: Any, expected: Any) -> None:
    assert as_declared(kind, value, "here") == expected


@pytest.mark.parametrize(("kind", "value", "message"), BAD)
def test_values_of_other_types_are_refused(kind: Any, value: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        as_declared(kind, value, "here")


def test_a_number_with_too_many_digits_to_show_is_refused() -> None:
    with pytest.raises(BundleError, match="expected int at here, got int"):
        as_declared(int, 16**5_000, "here")


def test_a_type_that_no_document_holds_is_a_mistake_in_the_code() -> None:
    with pytest.raises(TypeError, match="expected a type that documents can hold, got <class 'complex'>"):
        as_declared(complex, 1, "here")


@pytest.mark.parametrize("text", ["[1", "a: !!python/name:os.system", "2024-99-99", "[" * 5_000, "1" * 5_000])
def test_what_is_no_yaml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(BundleError, match=r"expected a list in .*a\.yaml, got: .") as error:
        read_yaml(tmp_path / "a.yaml", "a list")
    assert "\n" not in str(error.value)
    with pytest.raises(BundleError, match="expected a file in .*, got something else"):
        read_yaml(tmp_path, "a list")


def test_documents_without_a_hash_of_earlier_versions_are_read() -> None:
    stored = load_estimator(EARLIER / "estimator")
    assert (stored.card["rows"], stored.encoding and stored.encoding.score) == (18, "yield")
    assert Campaign.load(EARLIER / "campaign").best.to_dict("records") == [
        {"solvent": "water", "base": "Et3N", "temperature": "100", "yield": 17.5}
    ]
    run = load(EARLIER / "run", estimator=str(EARLIER / "estimator"))
    assert (run.agent.name, run.agent.num_timesteps, run.summary["status"]) == ("best_constant", 384, "finished")
    summary = reevaluate(ReevaluationConfig(EARLIER / "run", estimator=str(EARLIER / "estimator")))
    assert summary["optimality"] == pytest.approx(read_json(EARLIER / "run" / "summary.json")["optimality"])


def test_earlier_files_that_no_more_fit_are_refused() -> None:
    # Its network has other layers.
    with pytest.raises(BundleError, match=r"expected a checkpoint of an agent .* got one whose weights do not fit"):
        load(EARLIER / "first_run")
