"""Two commands with one --out, and threads that share one policy: nothing is lost and nothing is mixed."""

import csv
import itertools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from operator import eq
from pathlib import Path
from random import Random

import pytest
import torch

from slot_rl.estimators import load_estimator
from slot_rl.io import read_json
from slot_rl.recommending import Recommender
from slot_rl.reevaluation import ReevaluationConfig, reevaluate
from slot_rl.seeding import generator_from
from tests.faults.conftest import Promise
from tests.helpers.forked import Forked, command

PAIRS = 50
"""Of each command; they start 0 to 2 seconds apart."""
REQUESTS, THREADS = 400, 8
SMALL = "--timesteps 6000 --eval-size 20 --width 16 --wandb disabled".split()
Call = Callable[[], None]


def training(seed: int, force: bool) -> Call:
    flags = ["--env", "SlotRL/PickValue-v0", *SMALL, "--seed", seed, *["--force"] * force]
    return command("train_agent.py", *flags, "--out", "run")


def fit(seed: int, force: bool) -> Call:
    flags = "--table table.csv --score y --model net --epochs 150 --patience 150".split()
    return command("pretrain_estimator.py", *flags, "--seed", seed, *["--force"] * force, "--out", "e")


def recommendation(seed: int, force: bool) -> Call:
    flags = ["trained", "--requests", "asked.csv", "--calls", 31, *["--force"] * force]
    return command("recommend.py", *flags, "--out", "answers.csv")


def campaign(seed: int, force: bool) -> Call:
    return command("campaign.py", *"--table start.csv --score y --batch 4 --out lab --seed".split(), seed)


def is_whole_run(place: Path, winner: int) -> bool:
    reevaluate(ReevaluationConfig(place / "run"))
    return all(read_json(place / "run" / name)["seed"] == winner for name in ("config.json", "summary.json"))


def is_whole_fit(place: Path, winner: int) -> bool:
    return bool(load_estimator(place / "e").card["seed"] == winner)


def are_whole_answers(place: Path, winner: int) -> bool:
    with (place / "answers.csv").open(newline="") as file:
        return len(list(csv.DictReader(file))) == REQUESTS


def is_whole_campaign(place: Path, winner: int) -> bool:
    return sorted(path.name for path in (place / "lab").iterdir()) == ["campaign.json", "measured_0.csv", "round_1.csv"]


COMMANDS: dict[str, tuple[Callable[[int, bool], Call], Callable[[Path, int], bool], str]] = {
    "train": (training, is_whole_run, "run"),
    "pretrain": (fit, is_whole_fit, "e"),
    "recommend": (recommendation, are_whole_answers, "answers.csv"),
    "campaign": (campaign, is_whole_campaign, "lab"),
}
"""What is started, whether what is there is whole, and where it is."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, a run on an estimator of it, and requests."""
    folder = tmp_path_factory.mktemp("home")
    rows = [(*cells, sum(map(ord, cells)) % 17) for cells in itertools.product("abcd", "efgh", "ijkl")]
    for name, part in (("table.csv", rows), ("start.csv", rows[::3])):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([("p", "q", "user", "y"), *part])
    (folder / "asked.csv").write_text("user\n" + "i\nj\nk\nl\n" * (REQUESTS // 4))
    flags = "--table table.csv --score y --context user --model net --epochs 2 --out est".split()
    train = ["--env", "SlotRL/Rows-v0", "--estimator", "est", *SMALL, "--out", "trained"]
    for call in (command("pretrain_estimator.py", *flags), command("train_agent.py", *train)):
        process = Forked(call, folder / "log", folder)
        assert process.wait() == 0, process.output
    return folder


def wrong_with(name: str, place: Path, offset: float, force: bool) -> str:
    """Starts a command twice; returns what is wrong with how that ended, nothing if all is well."""
    start, is_whole, out = COMMANDS[name]
    processes = []
    for seed in (1, 2):
        processes.append(Forked(start(seed, force), place / f"log {seed}", place))
        time.sleep(offset)
    codes = [process.wait() for process in processes]
    said = [" ".join(process.output.split()) for process in processes]
    after = force and name != "campaign" and codes == [0, 0]  # one came after the other
    if not after and sorted(codes) != [0, 2]:
        return f"exit codes {codes}: {said}"
    winner = 2 if after else codes.index(0) + 1
    held = f"for this command alone, got one that process {processes[winner - 1].pid} on "
    if not after and not any(text in said[2 - winner] for text in (held, "exists", "already begun")):
        return f"the refusal {said[2 - winner]}"
    left = {path.name for path in place.iterdir() if not path.is_symlink() and not path.name.startswith("log")}
    return "" if left == {out} and is_whole(place, winner) else f"not whole: {left}"


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_pairs_of_a_command(name: str, home: Path, tmp_path: Path, promise: Promise) -> None:
    dice, wrong = Random(name), []
    for number in range(PAIRS):
        (place := tmp_path / str(number)).mkdir()
        for given in home.iterdir():
            (place / given.name).symlink_to(given)
        offset = dice.uniform(0, 2)
        wrong += [f"{offset:.2f} s: {found}"] if (found := wrong_with(name, place, offset, number % 2 > 0)) else []
    promise("pairs of a command with one --out: none lost, none mixed", f"{PAIRS - len(wrong)} of {PAIRS}")
    assert not wrong, "\n".join(wrong)


def test_threads_that_share_a_policy_agree_with_one(home: Path, promise: Promise) -> None:
    recommender = Recommender.load(home / "trained", estimator=str(home / "est"))
    asked = [[{"user": user} for user in Random(number).choices("ijkl", k=5)] for number in range(80)]
    observations = [recommender.run.problem.sample(16, generator_from(number)) for number in range(80)]
    alone = [recommender(requests, calls=9) for requests in asked]
    chosen = [recommender.run.agent.choose(each) for each in observations]
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda requests: recommender(requests, calls=9), asked))
        chosen_together = list(pool.map(recommender.run.agent.choose, observations))
    same = sum(map(eq, alone, together)) + sum(map(torch.equal, chosen, chosen_together))
    promise(f"{THREADS} threads that share a policy answer as one", f"{same} of {2 * len(asked)}")
    assert same == 2 * len(asked)
