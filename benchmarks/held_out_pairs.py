"""Numbers in place of categories: answers to contexts that were never measured, and to few measured rows.

Suzuki couplings: each pair of electrophile and nucleophile is left out once, or all pairs with one of them. An
estimator is fitted on the other pairs, an agent is trained on them, and both answer what was left out. Categories are
one-hot, or described by numbers. A category of which nothing was measured can only be described.

Direct arylation: an estimator of 100 random rows names the best of all 1,728. Temperature and concentration are
numbers, or categories.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.landscapes import LANDSCAPES, split, validation_split
from benchmarks.reproductions.results import RESULTS, Place, refuse_missing, run_each
from slot_rl.agents import GumbelAgent
from slot_rl.compare.statistics import t_quantile
from slot_rl.console import print_table, say
from slot_rl.estimators.described import ColumnKinds
from slot_rl.estimators.encoding import TableEncoding
from slot_rl.estimators.fitting import TableFit, TableRows, encode_rows, fit_on_table, network_for
from slot_rl.estimators.net import EstimatorNet
from slot_rl.estimators.store import context_tensor
from slot_rl.estimators.table import Table, read_table
from slot_rl.io import write_json
from slot_rl.places import fresh_folder
from slot_rl.problems import Observation, RowProblem
from slot_rl.problems.truth_table import TruthTable
from slot_rl.provenance import provenance
from slot_rl.search import enumerate_landscape
from slot_rl.seeding import generator_from

Part = Literal["suzuki", "new-category", "direct-arylation"]
Key = tuple[str, int, int]
"""A variant, and what is left out: an electrophile and a nucleophile by their numbers, -1 for any."""
PAIR = ("electrophile", "nucleophile")
PAIR_FIT = TableFit(epochs=40)
"""The default network, with fewer epochs to save time; ``validation`` is its share of the rows seen."""
DESCRIBED: dict[str, tuple[str, ...]] = {
    "one-hot": (),
    "contexts described": PAIR,
    "all described": (*PAIR, "ligand", "base", "solvent"),
}
"""The columns that are described by numbers, by variant."""
NUMERIC: dict[str, tuple[str, ...]] = {"categories": (), "numbers": ("temperature", "concentration")}
ANY = -1
LEFT_OUT: dict[str, list[tuple[int, int]]] = {
    "suzuki": [(electrophile, nucleophile) for electrophile in range(4) for nucleophile in range(3)],
    "new-category": [
        *((electrophile, ANY) for electrophile in range(4)),
        *((ANY, nucleophile) for nucleophile in range(3)),
    ],
}
TITLES = {"suzuki": "normalised yield on a pair left out", "new-category": "on a new electrophile or nucleophile"}
ANSWERS = ("argmax of one estimator", "argmax of their mean", "gumbel, one pass")
SPLITS = 10


@dataclass(frozen=True)
class HeldOutPairsConfig:
    """Numbers in place of categories, on a context left out and on few rows; takes a quarter of an hour.

    Attributes:
        data: Folder with suzuki.csv, suzuki_descriptors and direct_arylation.csv.
        parts: What to measure.
        seeds: Estimators and agents of each pair left out.
        timesteps: Estimator calls of an agent's training; with a third of them, agents fall short on their own pairs.
        place: Where the results go.
    """

    data: Path
    parts: tuple[Part, ...] = ("suzuki", "new-category", "direct-arylation")
    seeds: int = 3
    timesteps: int = 60_000
    place: Place = Place()

    def __post_init__(self) -> None:
        """Refuses missing files, and nothing to do."""
        if self.seeds < 1 or self.timesteps < 1 or not self.parts:
            raise ValueError(f"expected seeds, timesteps and parts >= 1, got {self}")
        described = [str(descriptor_file(Path(), name)) for name in DESCRIBED["all described"]]
        suzuki = ["suzuki.csv", *described]
        files = {"suzuki": suzuki, "new-category": suzuki, "direct-arylation": ["direct_arylation.csv"]}
        refuse_missing(self.data, [file for part in self.parts for file in files[part]])


@dataclass(frozen=True)
class LeftOutAnswers:
    """True normalised yields of the answers to pairs that were left out, means over these pairs.

    Attributes:
        yields: By the names of :data:`ANSWERS`.
        constant: Of the best constant of the other pairs.
        landscape: Of every configuration, ``(configurations,)``.
    """

    yields: Mapping[str, float]
    constant: float
    landscape: Tensor


def measure_held_out_pairs(config: HeldOutPairsConfig) -> None:
    """Measures, prints one table, and writes the figures.

    Raises:
        ValueError: If the folder of results holds other files.
    """
    folder = config.place.folder("held-out-pairs")
    rows: list[list[str]] = []
    figures: dict[str, object] = {}
    for part in LEFT_OUT:
        if part in config.parts:
            # Nothing is learned of the embedding of a category that was never seen.
            variants = [name for name in DESCRIBED if part == "suzuki" or DESCRIBED[name]]
            keys = [(variant, *left_out) for variant in variants for left_out in LEFT_OUT[part]]
            found = run_each(keys, config.seeds, lambda key, tick: answer_left_out(config, key, tick))
            rows += _left_out_rows(TITLES[part], variants, found)
            figures[part] = {", ".join(map(str, key)): each.yields for key, each in found.items()}
    if "direct-arylation" in config.parts:
        splits = [(variant, str(seed)) for variant in NUMERIC for seed in range(SPLITS)]
        scores = run_each(splits, 1, lambda key, tick: answer_split(config.data, key[0], int(key[1]), tick))
        yields = {variant: [scores[variant, str(seed)] for seed in range(SPLITS)] for variant in NUMERIC}
        rows.append(["yield of the argmax after 100 rows", "", ""])
        rows += _variant_rows(yields, "categories")
        figures["direct-arylation"] = yields
    with fresh_folder(folder):
        write_json(folder / RESULTS, {**provenance(config), "figures": figures})
    print_table("numbers in place of categories", ["", "mean", "difference, 95 %"], rows)
    say(f"figures: {folder}")


def descriptor_file(data: Path, column: str) -> Path:
    """Returns the file that describes a column of the Suzuki couplings."""
    return data / "suzuki_descriptors" / f"{column}.csv"


def answer_left_out(config: HeldOutPairsConfig, key: Key, tick: Callable[[], None]) -> LeftOutAnswers:
    """Fits and trains on all pairs but those left out, and asks for these."""
    variant, *left_out = key
    path = config.data / "suzuki.csv"
    table = read_table(path, "yield", PAIR)
    kinds = ColumnKinds(descriptors={name: descriptor_file(config.data, name) for name in DESCRIBED[variant]})
    encoding = TableEncoding.of(table, "yield", PAIR, kinds)
    contexts, truth = encoding.encode_contexts(table), TruthTable.read(path, encoding)
    pairs = context_tensor(contexts)
    asked, seen = pairs[_matches(pairs, left_out)], pairs[~_matches(pairs, left_out)]
    rows = encode_rows(table, encoding)[(~_matches(contexts, left_out)).nonzero().squeeze(1)]
    problem = RowProblem(network_for(encoding, PAIR_FIT, 0), asked, truth, "asked", encoding)
    request, landscape = _landscape(problem)
    _, elsewhere = _landscape(RowProblem(network_for(encoding, PAIR_FIT, 0), seen, truth, "seen", encoding))
    scores, argmax, passes = torch.zeros_like(landscape), [], []
    for seed in range(config.seeds):
        trained = RowProblem(_fitted(rows, encoding, seed), seen, truth, "seen", encoding)
        found = trained.score(request, _choices(trained, len(asked)))
        scores += found
        argmax.append(_at(landscape, found))
        agent = GumbelAgent(trained, GumbelAgent.independent_slots, seed).learn(config.timesteps)
        passes.append(float(_normalised(problem, request, agent.choose(request)).mean()))
        tick()
    answers = (float(np.mean(argmax)), _at(landscape, scores), float(np.mean(passes)))
    constant = landscape[elsewhere.mean(dim=1).argmax()].mean()
    return LeftOutAnswers(dict(zip(ANSWERS, answers, strict=True)), float(constant), landscape.mean(dim=1))


def _matches(contexts: Tensor, left_out: Sequence[int]) -> Tensor:
    wanted = torch.tensor(left_out)
    return ((contexts == wanted) | (wanted == ANY)).all(dim=1)


def _choices(problem: RowProblem, requests: int) -> Tensor:
    """Returns every configuration for each request, ``(configurations, requests, slots)``."""
    choices = torch.cartesian_prod(*(torch.arange(size) for size in problem.sizes))
    return choices.unsqueeze(1).expand(-1, requests, -1)


def _landscape(problem: RowProblem) -> tuple[Observation, Tensor]:
    """Returns the requests of a problem, and the true normalised yields ``(configurations, requests)``."""
    requests = problem.evaluation_observations(len(problem.contexts), generator_from(0))
    return requests, _normalised(problem, requests, _choices(problem, len(requests)))


def _at(landscape: Tensor, scores: Tensor) -> float:
    """Returns the mean yield of each request's configuration with the highest score."""
    return float(landscape.gather(0, scores.argmax(dim=0, keepdim=True)).mean())


def _fitted(seen: TableRows, encoding: TableEncoding, seed: int) -> EstimatorNet:
    net = network_for(encoding, PAIR_FIT, seed)
    order = torch.randperm(len(seen), generator=generator_from(seed))
    few = round(PAIR_FIT.validation * len(seen))
    parts = seen[order[few:]], seen[order[:few]]
    fit_on_table(net, *parts, PAIR_FIT, generator_from(seed), lambda step, error: None)
    return net


def _normalised(problem: RowProblem, observation: Observation, choice: Tensor) -> Tensor:
    found = problem.true_scores(observation, choice).normalised
    assert found is not None
    return found


def answer_split(data: Path, variant: str, seed: int, tick: Callable[[], None]) -> float:
    """Fits on 100 random rows of the direct arylation; returns the true yield of the best of all by the estimator."""
    landscape = LANDSCAPES["arylation-100"]
    path = data / landscape.file
    table: Table = read_table(path, landscape.score)
    encoding = TableEncoding.of(table, landscape.score, (), ColumnKinds(NUMERIC[variant]))
    generator = generator_from(seed)
    seen, _ = split(encode_rows(table, encoding), landscape, generator)
    net = network_for(encoding, landscape.fit, seed)
    parts = validation_split(seen, landscape.fit.validation)
    fit_on_table(net, *parts, landscape.fit, generator, lambda step, error: None)
    problem = RowProblem(net, None, TruthTable.read(path, encoding), "arylation", encoding)
    request = problem.evaluation_observations(1, generator)
    best = enumerate_landscape(problem, request, problem.score).choice
    tick()
    return float(problem.true_score(request, best)[0])


def _left_out_rows(title: str, variants: Sequence[str], found: Mapping[Key, LeftOutAnswers]) -> list[list[str]]:
    known = [each for (variant, *_), each in found.items() if variant == variants[0]]
    hindsight = torch.stack([each.landscape for each in known]).mean(dim=0).max()
    rows = [
        [title, "", ""],
        ["  best constant elsewhere", f"{np.mean([each.constant for each in known]):.3f}", ""],
        ["  best constant with hindsight", f"{float(hindsight):.3f}", ""],
    ]
    for answer in ANSWERS:
        by_variant = {v: [each.yields[answer] for (name, *_), each in found.items() if name == v] for v in variants}
        rows += [[f" {answer}", "", ""], *_variant_rows(by_variant, variants[0])]
    return rows


def _variant_rows(found: Mapping[str, Sequence[float]], base: str) -> list[list[str]]:
    """Returns a row a variant: its mean, and its paired difference from the base with a 95 % interval."""
    rows = []
    for variant, values in found.items():
        paired = np.subtract(values, found[base])
        half = t_quantile(len(paired) - 1) * float(paired.std(ddof=1)) / len(paired) ** 0.5
        mean = float(paired.mean())
        difference = "" if variant == base else f"{mean:+.3f} [{mean - half:+.3f}, {mean + half:+.3f}]"
        rows.append([f"  {variant}", f"{np.mean(values):.3f}", difference])
    return rows
