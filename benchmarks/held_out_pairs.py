"""Numbers in place of categories: answers to a pair of contexts that was never measured, and to few measured rows.

Suzuki couplings: each pair of electrophile and nucleophile is left out once. An estimator is fitted on the other 11
pairs, an agent is trained on them, and both answer the pair left out. Categories are one-hot, or described by numbers.

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
from slot_rl.io import fresh_folder, write_json
from slot_rl.problems import Observation, RowProblem
from slot_rl.problems.truth_table import TruthTable
from slot_rl.provenance import provenance
from slot_rl.search import enumerate_landscape
from slot_rl.seeding import generator_from

Part = Literal["suzuki", "direct-arylation"]
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
ANSWERS = ("argmax of one estimator", "argmax of their mean", "gumbel, one pass")
SPLITS = 10


@dataclass(frozen=True)
class HeldOutPairsConfig:
    """Numbers in place of categories, on a context left out and on few rows; takes half an hour.

    Attributes:
        data: Folder with suzuki.csv, suzuki_descriptors and direct_arylation.csv.
        parts: What to measure.
        seeds: Estimators and agents of each pair left out.
        timesteps: Estimator calls of an agent's training.
        place: Where the results go.
    """

    data: Path
    parts: tuple[Part, ...] = ("suzuki", "direct-arylation")
    seeds: int = 3
    timesteps: int = 20_000
    place: Place = Place()

    def __post_init__(self) -> None:
        """Refuses missing files, and nothing to do."""
        if self.seeds < 1 or self.timesteps < 1 or not self.parts:
            raise ValueError(f"expected seeds, timesteps and parts >= 1, got {self}")
        described = [str(descriptor_file(Path(), name)) for name in DESCRIBED["all described"]]
        files = {"suzuki": ["suzuki.csv", *described], "direct-arylation": ["direct_arylation.csv"]}
        refuse_missing(self.data, [file for part in self.parts for file in files[part]])


@dataclass(frozen=True)
class PairAnswers:
    """True normalised yields of the answers to a pair that was left out.

    Attributes:
        yields: By the names of :data:`ANSWERS`.
        constant: Of the best constant of the other pairs.
        landscape: Of every configuration, ``(configurations,)``.
    """

    yields: Mapping[str, float]
    constant: float
    landscape: Tensor


def measure_held_out_pairs(config: HeldOutPairsConfig) -> None:
    """Measures, prints one table, and writes the figures."""
    folder = config.place.folder("held-out-pairs")
    rows: list[list[str]] = []
    figures: dict[str, object] = {}
    if "suzuki" in config.parts:
        keys = [(variant, str(pair)) for variant in DESCRIBED for pair in range(12)]
        pairs = run_each(keys, config.seeds, lambda key, tick: answer_pair(config, key[0], int(key[1]), tick))
        rows += _pair_rows(pairs)
        figures["suzuki"] = {f"{variant}, pair {pair}": found.yields for (variant, pair), found in pairs.items()}
    if "direct-arylation" in config.parts:
        splits = [(variant, str(seed)) for variant in NUMERIC for seed in range(SPLITS)]
        scores = run_each(splits, 1, lambda key, tick: answer_split(config.data, key[0], int(key[1]), tick))
        found = {variant: [scores[variant, str(seed)] for seed in range(SPLITS)] for variant in NUMERIC}
        rows.append(["yield of the argmax after 100 rows", "", ""])
        rows += _variant_rows(found, "categories")
        figures["direct-arylation"] = found
    with fresh_folder(folder):
        write_json(folder / RESULTS, {**provenance(config), "figures": figures})
    print_table("numbers in place of categories", ["", "mean", "difference, 95 %"], rows)
    say(f"figures: {folder}")


def descriptor_file(data: Path, column: str) -> Path:
    """Returns the file that describes a column of the Suzuki couplings."""
    return data / "suzuki_descriptors" / f"{column}.csv"


def answer_pair(config: HeldOutPairsConfig, variant: str, pair: int, tick: Callable[[], None]) -> PairAnswers:
    """Fits and trains on all pairs but one, and asks for that one."""
    path = config.data / "suzuki.csv"
    table = read_table(path, "yield", PAIR)
    kinds = ColumnKinds(descriptors={name: descriptor_file(config.data, name) for name in DESCRIBED[variant]})
    encoding = TableEncoding.of(table, "yield", PAIR, kinds)
    contexts = encoding.encode_contexts(table)
    pairs, truth = context_tensor(contexts), TruthTable.read(path, encoding)
    held = (contexts == pairs[pair]).all(dim=1)
    others = pairs[torch.arange(len(pairs)) != pair]
    seen = encode_rows(table, encoding)[(~held).nonzero().squeeze(1)]
    asked = RowProblem(network_for(encoding, PAIR_FIT, 0), pairs[pair : pair + 1], truth, "asked", encoding)
    request = asked.evaluation_observations(1, generator_from(0))
    choices = torch.cartesian_prod(*(torch.arange(size) for size in asked.sizes))
    landscape = _normalised(asked, request, choices)
    scores, argmax, passes = torch.zeros(len(choices)), [], []
    for seed in range(config.seeds):
        problem = RowProblem(_fitted(seen, encoding, seed), others, truth, "seen", encoding)
        found = problem.score(request, choices.unsqueeze(1)).squeeze(1)
        scores += found
        argmax.append(float(landscape[found.argmax()]))
        agent = GumbelAgent(problem, seed=seed).learn(config.timesteps)
        passes.append(float(_normalised(asked, request, agent.choose(request))[0]))
        tick()
    answers = (float(np.mean(argmax)), float(landscape[scores.argmax()]), float(np.mean(passes)))
    elsewhere = problem.evaluation_observations(len(others), generator_from(0))
    constant = _normalised(problem, elsewhere, choices.unsqueeze(1).expand(-1, len(others), -1)).mean(dim=1).argmax()
    return PairAnswers(dict(zip(ANSWERS, answers, strict=True)), float(landscape[constant]), landscape)


def _fitted(seen: TableRows, encoding: TableEncoding, seed: int) -> EstimatorNet:
    net = network_for(encoding, PAIR_FIT, seed)
    order = torch.randperm(len(seen), generator=generator_from(seed))
    few = round(PAIR_FIT.validation * len(seen))
    parts = seen[order[few:]], seen[order[:few]]
    fit_on_table(net, *parts, PAIR_FIT, generator_from(seed), lambda step, error: None)
    return net


def _normalised(problem: RowProblem, observation: Observation, choice: Tensor) -> Tensor:
    """Returns true scores on each context's own scale; a request's choices ``(choices, slots)`` count as many rows."""
    if choice.dim() == 2:
        return _normalised(problem, observation, choice.unsqueeze(1)).squeeze(1)
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


def _pair_rows(pairs: Mapping[tuple[str, str], PairAnswers]) -> list[list[str]]:
    known = [found for (variant, _), found in pairs.items() if variant == "one-hot"]
    hindsight = torch.stack([found.landscape for found in known]).mean(dim=0).max()
    rows = [
        ["normalised yield on a pair left out", "", ""],
        ["  best constant elsewhere", f"{np.mean([found.constant for found in known]):.3f}", ""],
        ["  best constant with hindsight", f"{float(hindsight):.3f}", ""],
    ]
    for answer in ANSWERS:
        rows.append([f" {answer}", "", ""])
        rows += _variant_rows(
            {v: [f.yields[answer] for (name, _), f in pairs.items() if name == v] for v in DESCRIBED}, "one-hot"
        )
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
