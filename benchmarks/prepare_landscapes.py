"""Prepares the measured landscapes from clones of the public repositories that hold them; downloads nothing.

A table of preparations says for each file that is written which files of which repository it is made of, and how.
The SHA-256 of every source file is known: another one gives a warning, because an upstream repository may correct its
data, and an error only if the content cannot be read. No source is unpickled.
"""

import gzip
import json
import shlex
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.held_out_pairs import descriptor_file
from benchmarks.landscapes import LANDSCAPES
from benchmarks.valid_kernels import CONTEXT, FEATURES, SCORE, TABLE
from slot_rl.console import say
from slot_rl.io import sha256_of, whole_file, write_json
from slot_rl.places import check_free, claimed, fresh_folder
from slot_rl.provenance import provenance

RECORD = "sources.json"
"""The file beside the landscapes that says what they were made of."""
_POSITIONS = [f"p{place}" for place in range(1, 9)]
_SIX_DIGITS = "%.6g"
_MOST_DESCRIPTORS, _ALIKE = 10, 0.97

_UNREADABLE = (AttributeError, EOFError, LookupError, OSError, TypeError, ValueError, zlib.error)

_Reader = Callable[[Sequence[Path]], pd.DataFrame]


@dataclass(frozen=True)
class Repository:
    """A public repository with measurements.

    Attributes:
        url: Where it is cloned from.
        commit: The commit that the preparation was tried with.
    """

    url: str
    commit: str

    @property
    def name(self) -> str:
        """The name of its clone's folder."""
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class Preparation:
    """How one file is made.

    Attributes:
        file: The file that is written.
        repository: The repository with its sources.
        sources: The SHA-256 of each source file at the repository's commit, by its path there.
        read: Makes the table of the source files, given in the same order.
        digits: How numbers with a fraction are written; None for as many digits as they have.
    """

    file: Path
    repository: Repository
    sources: Mapping[str, str]
    read: _Reader
    digits: str | None = None

    def paths(self, clones: Path) -> list[Path]:
        """Returns the source files in a folder of clones."""
        return [clones / self.repository.name / source for source in self.sources]


@dataclass(frozen=True)
class PrepareLandscapesConfig:
    """Writes the measured landscapes from clones of their repositories; under a minute.

    Attributes:
        sources: Folder with the clones, each under its repository's name; docs/landscapes.md lists them.
        out: The folder to write to.
        force: Replace the landscapes that are already there.
    """

    sources: Path
    out: Path = Path("landscapes")
    force: bool = False


def prepare_landscapes(config: PrepareLandscapesConfig) -> None:
    """Reads the sources and writes all landscapes, or none.

    Raises:
        ValueError: If the folder is taken, or a source is missing or cannot be read.
    """
    _refuse_missing(config.sources)
    with claimed(config.out):
        check_free(config.out, config.force, RECORD)
        with fresh_folder(config.out):
            record = {str(each.file): _prepare(each, config) for each in PREPARATIONS}
            write_json(config.out / RECORD, {**provenance(config), "landscapes": record})
    say(f"written: {config.out}")


def _refuse_missing(clones: Path) -> None:
    missing = [each for each in REPOSITORIES if not (clones / each.name).is_dir()]
    if missing:
        lines = [shlex.join(["git", "clone", each.url, str(clones / each.name)]) for each in missing]
        names = ", ".join(each.name for each in missing)
        raise ValueError("\n".join([f"expected clones of {names} in {clones}, got none; they come with", *lines]))
    for preparation in PREPARATIONS:
        for path in preparation.paths(clones):
            if not path.is_file():
                commit = preparation.repository.commit
                raise ValueError(f"expected the file {path}, as in commit {commit}, got none")


def _prepare(preparation: Preparation, config: PrepareLandscapesConfig) -> dict[str, object]:
    """Writes one file and returns what it was made of."""
    paths, commit = preparation.paths(config.sources), preparation.repository.commit
    found = {source: sha256_of(path) for source, path in zip(preparation.sources, paths, strict=True)}
    for path, expected, got in zip(paths, preparation.sources.values(), found.values(), strict=True):
        if got != expected:
            say(f"warning: expected SHA-256 {expected} of {path}, as in commit {commit}, got {got}")
    try:
        table = preparation.read(paths)
    except _UNREADABLE as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        files = ", ".join(path.name for path in paths)
        raise ValueError(f"expected {files} in {paths[0].parent} as in commit {commit}, got {said}") from error
    _write(table, config.out / preparation.file, preparation.digits)
    say(f"{preparation.file}: {len(table):,} rows")
    return {"repository": asdict(preparation.repository), "sha256": found}


def _write(table: pd.DataFrame, path: Path, digits: str | None) -> None:
    path.parent.mkdir(exist_ok=True)
    with whole_file(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, compression="zstd", index=False)
        else:
            table.to_csv(temporary, index=False, float_format=digits)


def _columns(paths: Sequence[Path], names: Mapping[str, str]) -> pd.DataFrame:
    """Reads a CSV file's columns under new names."""
    return pd.read_csv(paths[0])[list(names)].rename(columns=names)


def _tf_bind_8(paths: Sequence[Path]) -> pd.DataFrame:
    """Reads the codes of 8-mers and their scores, where those that are their own reverse complement stand twice."""
    codes, scores = (np.load(path, allow_pickle=False) for path in paths)
    table = pd.DataFrame(np.array(list("ACGT"))[codes], columns=_POSITIONS)
    return table.assign(score=scores[:, 0]).drop_duplicates().sort_values(_POSITIONS)


def _factors(paths: Sequence[Path]) -> pd.DataFrame:
    """Reads the scores of all 8-mers for several transcription factors."""
    table = pd.concat([_both_strands(path) for path in paths])
    return table.astype({name: "category" for name in ("factor", *_POSITIONS)})


def _both_strands(path: Path) -> pd.DataFrame:
    """Reads one factor, whose file has one row for an 8-mer and its reverse complement, which bind alike."""
    table = pd.read_csv(path, sep="\t")
    scores = pd.concat([table.set_index(strand)["E-score"] for strand in ("8-mer", "8-mer.1")])
    scores = scores[~scores.index.duplicated()].sort_index()
    letters = pd.DataFrame(map(list, scores.index), columns=_POSITIONS)
    letters.insert(0, "factor", path.name.split("_")[0])
    return letters.assign(score=scores.to_numpy(np.float32))


def _kernels(paths: Sequence[Path]) -> pd.DataFrame:
    """Reads the times of a kernel's valid configurations on several GPUs, as JSON in gzip."""
    tables = []
    for path in paths:
        measured = pd.DataFrame(json.loads(gzip.decompress(path.read_bytes()))["cache"].values())
        table = measured[list(FEATURES)].assign(time_ms=measured["time"])
        table.insert(0, *CONTEXT, path.name.split(".")[0])
        tables.append(table.assign(**{SCORE: measured["time"].min() / measured["time"]}))
    return pd.concat(tables)


def _descriptors(paths: Sequence[Path], category: str) -> pd.DataFrame:
    """Reads computed numbers that describe categories: the first that differ from those before, yields unseen.

    A column is left out if it is constant, describes a vibration, or correlates with a chosen one by .97 or more.
    """
    table = pd.read_csv(paths[0]).rename(columns=lambda name: name.removeprefix(f"{category}_"))
    numbers = table.select_dtypes("number")
    alike = numbers.corr().abs()
    chosen: list[str] = []
    for name in map(str, numbers.columns):
        usable = numbers[name].nunique() > 1 and not name.startswith("vib_")
        if usable and (alike[name][chosen] < _ALIKE).all():
            chosen.append(name)
    return table[["SMILES", *chosen[:_MOST_DESCRIPTORS]]].rename(columns={"SMILES": category})


_BOOTGEN = Repository("https://github.com/kaist-silab/bootgen", "2cbe5eeb1502e3e04bb410789bc3b25572ebe119")
_FLEXS = Repository("https://github.com/samsinai/FLEXS", "dd409167b5575b51967d325b4e48aef3577a505f")
_GRAPH_FLA = Repository("https://github.com/COLA-Laboratory/GraphFLA", "9f86def1a12db76d26af16077ba28cb61ee0af5f")
_EDBO = Repository("https://github.com/b-shields/edbo", "9b41eac3f6d9e520547702fd5b0c7ef6441625a4")
_BENCHMARK_HUB = Repository(
    "https://github.com/AutoTuningAssociation/benchmark_hub", "8eeb99e7179e6838af95d392ac6c60cebfd8c434"
)
REPOSITORIES = (_BOOTGEN, _FLEXS, _GRAPH_FLA, _EDBO, _BENCHMARK_HUB)

_TF_BIND = {
    "x": "8957a728704d2e6c5dbba921dd9e16cbd76797489b081c5dc7f39ca23582d95d",
    "y": "a61dd97796a4173d3a2a3d016db44e5d42e1f1d6a39d9f1ad2465d2c6b94fcb7",
}
# Of the 41 reference alleles with a first replicate, sorted by their files' names, those that NumPy's
# default_rng(7).choice(41, 24, replace=False) gives; listed because later versions of NumPy may draw others.
_FACTORS = {
    "ARX": "301d23160c3f980ff970268ebb77eb8da703ef06b11da2eab2ecd6c2a8d1c96f",
    "EGR2": "dc1636c510d399b2db21d5e8e9d144faba2c7646a5cac522195136ea144b2ab2",
    "ESX1": "5f94a8523f75e1a29da31e4efc586d97a2e53bf04e2bf9e76e983415d6d03957",
    "GFI1B": "218366541c981caddb632da1c7a6be6f08aa04b4c5dfcdce4ef641e514b07674",
    "HOXB7": "69f641168ca17aefe8819518a5d887737d2c25b1475e61d1d2c2e6e1440289d7",
    "HOXC4": "f9f582ebd25dc3e77ac22a11e061e6866304ce1d0d72b173801f380a148e722a",
    "ISX": "f7ccedc8d31952f72c34892ef8fdb74eef61dce6123432e7cd0deb62fc6cf921",
    "KLF11": "b1314d579573a85705cf5ec96efc0053a95649b17fe9d153917b7e4fa9e64d3e",
    "KLF1": "4450dfef55600c20024b056d89b8998d92bfe07d55b0b538096eac1099483bd8",
    "NKX2-5": "ef01f9e3e89f4bf497d9b2956284b29da2f574061c6f5741ba680b74759afe92",
    "NKX2-8": "244f947a7ea6d4a0cbc4fb1f55c252a6c70a3929c363925431936b2bce1d5375",
    "NR1H4": "14f72d72a48637daf4656528e277789c57a664f62745e21a0efeae3ed142d61e",
    "NR2E3": "d507dc3028cce1fcd2f67d6ef7b685a1ab4a9d3a32f914ce5f8f968db7397cce",
    "OVOL2": "7bace4ae960f16daa9dfcee0ae2c579d24fc0a17d87d0cbaefe37349b7fd8ee0",
    "PAX4": "99570b5353480aa426f5adc65880ff007ff65bcd40117ecdf3d31849c6f1e116",
    "PAX7": "f8795713fa34205058baad4d6ab6ad39c0f1839a38a0e7b2dc1ebb456e2eb5de",
    "PHOX2B": "7f7ffd653ffadfd504194a60061084a795eb7d3706b5eaf6b35c16804a81e1fc",
    "PITX2": "d1044d7e10df72089df632bdbe50b1b7426278ec092b5dc1155a51a9b80f2b43",
    "POU3F4": "fe4d6c529a8a380445fe9b9f2f6e9daeca3b67de93a784a69ff556b5cf5f8bdf",
    "SIX6": "cf586a49b3409c5c525512dcef99d16db9f5d0c3dbca75b12aae111934bf114d",
    "SNAI2": "a2bd4adb9704935ce4e700df4111fb9e9d863fa0e203f54e10f877b3018f7fe4",
    "VSX2": "b84645946db59461d461efb26c61887f2982aea118fc88768824eaf35a9ebc52",
    "ZNF200": "eeb53500c760c0acf6977d58b8d08978a79d1f50b336c82308043ab2acb349ab",
    "ZNF655": "cf66b3800108b9e8df9add80984e6b2849ef4e83d0c3a3652b6ac05b7ec404c6",
}
_GPUS = {
    "A100": "156253bd3ba2d956496bae6cb57a8601883b9820b50ad5b1b90f02ac4f8ce5fd",
    "A4000": "657e9de1ba7a029324c71a62d13e1dd06a8ae5311af0255c15a086d0bbad6044",
    "A6000": "5a9c1e1bc9d6c0c5d8997fa4ea93517e1e26b5ce4449e1f81bc7bed793f76d1b",
    "MI250X": "bb0120691b702899148ec52c1c73b5168f5409bc3e98cc49873e2f0f8da18136",
    "W6600": "5d10249dbf24d1b60925d03013a7f1da9200a35578a140490dd61d5b4444f64f",
    "W7800": "50da9d5e88388d9d5d777654530c8416f9b928ca9bb6976d7df2481a1fc4bd8e",
}
_DESCRIBED = {
    "electrophile": "690df8016d5c7d04466978ea82ed0c81e3ac23514f91a144015d2a3d3caed4f4",
    "nucleophile": "59ec515157cb420251c7cd9a1fefce0cf362fb247e50007a94e6a47e3a0965d8",
    "ligand-random": "abb6bb5aa2792f1326e8369968a0975eba6ecea3a4daa30cc39a779e5534f425",
    "base": "73f792e6f50f80d36e6652b8f0769fcef50181256a72cf1fb02cb2b6c0e15c35",
    "solvent": "7d98be0588eda4e7b3ee2e4c3dab8fb6a12bc7ba6b5d41ff9dd04e336303916a",
}
_GB1 = {"Wu2016_GB1": "5794a0761f938cee3ed753ea25e2551782f15a3610763c44c11ec5c9dff2f998"}
_SUZUKI = {"suzuki": "cc1abd59e4f5f8f87721155bbdde7c6dcf95ff14d66484ca9e71c17c001c9768"}
_ARYLATION = {"direct_arylation": "2e07b31fdc537098feb11cbf53dacdbaeffcb946b565144d77edaeb8d97bddfd"}
_CATEGORIES = ("electrophile", "nucleophile", "ligand", "base", "solvent")
_ARYLATION_NUMBERS = {"Concentration": "concentration", "Temp_C": "temperature", "yield": "yield"}


def _file(landscape: str) -> Path:
    return Path(LANDSCAPES[landscape].file)


def _smiles(names: Iterable[str]) -> dict[str, str]:
    return {f"{name.capitalize()}_SMILES": name for name in names}


def _all(pattern: str, hashes: Mapping[str, str]) -> dict[str, str]:
    return {pattern.format(name): digest for name, digest in hashes.items()}


PREPARATIONS = (
    Preparation(
        _file("tfbind8"),
        _BOOTGEN,
        _all("design_bench_data/tf_bind_8-SIX6_REF_R1/tf_bind_8-{}-0.npy", _TF_BIND),
        _tf_bind_8,
        _SIX_DIGITS,
    ),
    Preparation(
        _file("tf-2000"),
        _FLEXS,
        _all("flexs/landscapes/data/tf_binding/{}_REF_R1_8mers.txt", _FACTORS),
        _factors,
    ),
    Preparation(
        _file("gb1-8000"),
        _GRAPH_FLA,
        _all("data/BioSequence/{}.csv", _GB1),
        partial(_columns, names={name: name for name in ("pos1", "pos2", "pos3", "pos4", "fitness")}),
    ),
    Preparation(
        _file("suzuki-80"),
        _EDBO,
        _all("experiments/data/{}/experiment_index.csv", _SUZUKI),
        partial(_columns, names={**_smiles(_CATEGORIES), "yield": "yield"}),
    ),
    *(
        Preparation(
            descriptor_file(Path(), category),
            _EDBO,
            {f"experiments/data/suzuki/{source}_dft.csv": digest},
            partial(_descriptors, category=category),
            _SIX_DIGITS,
        )
        for category, (source, digest) in zip(_CATEGORIES, _DESCRIBED.items(), strict=True)
    ),
    Preparation(
        _file("arylation-100"),
        _EDBO,
        _all("experiments/data/{}/experiment_index.csv", _ARYLATION),
        partial(_columns, names={**_smiles(("base", "ligand", "solvent")), **_ARYLATION_NUMBERS}),
    ),
    Preparation(
        Path(TABLE), _BENCHMARK_HUB, _all("cachefiles/dedispersion_milo/{}.json.gz", _GPUS), _kernels, _SIX_DIGITS
    ),
)
"""All landscapes that the docs measure on."""
