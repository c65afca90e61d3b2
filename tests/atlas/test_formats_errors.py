"""Files that cannot be read say which they are and what is wrong with them."""

import gzip
import io
import tarfile

import anndata as ad
import h5py
import numpy as np
import pytest
from atlas_truth import truth, write_10x_h5, write_cellxgene, write_loom, write_mtx, write_ucsc

from scgm_scvi.atlas.formats import (
    UnsupportedFormat,
    read_10x_h5,
    read_file,
    read_h5ad,
    read_loom,
    read_mtx,
    read_table,
)

KNOWN = truth()

WRITERS = {
    "h5ad": lambda d: write_cellxgene(KNOWN, d / "a.h5ad"),
    "10x": lambda d: write_10x_h5(KNOWN, d / "a.h5"),
    "loom": lambda d: write_loom(KNOWN, d / "a.loom"),
    "mtx": lambda d: write_mtx(KNOWN, d)[0],
    "mtx features": lambda d: write_mtx(KNOWN, d)[1],
    "plain mtx": lambda d: write_mtx(KNOWN, d, gz=False)[0],
    "table": lambda d: write_ucsc(KNOWN, d)[0],
}


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.97])
def test_a_cut_file_is_named(tmp_path, layout, share):
    path = WRITERS[layout](tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    matrix = path if layout != "mtx features" else path.with_name("matrix.mtx.gz")
    with pytest.raises(ValueError, match=path.name):
        for _ in read_file(matrix).blocks(10):
            pass


@pytest.mark.parametrize("layout", ["h5ad", "10x", "loom", "mtx", "table"])
def test_wrong_bytes_end_in_an_error_or_in_a_matrix_within_its_bounds(tmp_path, layout):
    """No traceback of another library, no crash, no index out of the matrix."""
    path = WRITERS[layout](tmp_path)
    content, rng = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(30):
        wrong = bytearray(content)
        at = int(rng.integers(len(wrong) - 64))
        wrong[at : at + 64] = rng.bytes(64)
        path.write_bytes(bytes(wrong))
        try:
            for block in read_file(path).blocks(30):
                assert block.indices.size == 0 or block.indices.max() < block.shape[1]
        except ValueError as e:
            refused += 1
            assert path.name in str(e)
    assert refused > 3


def test_a_missing_file_stays_a_missing_file(tmp_path):
    for read in (read_file, read_h5ad, read_10x_h5, read_loom, read_table):
        with pytest.raises(FileNotFoundError):
            read(tmp_path / "no.h5ad")


@pytest.mark.parametrize("name", ["a.rds", "a.xlsx", "a.zip", "a.bin", "a.tsv"])
def test_other_formats_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04\0\0 and so on")
    with pytest.raises(UnsupportedFormat, match=f"{name}.*h5ad, 10x h5, loom"):
        read_file(tmp_path / name)
    with h5py.File(tmp_path / "b.h5", "w") as f:
        f["bins"] = [1]
    with pytest.raises(UnsupportedFormat, match="b.h5.*'bins'"):
        read_file(tmp_path / "b.h5")


def test_matrices_that_contradict_themselves(tmp_path):
    path = write_10x_h5(KNOWN, tmp_path / "a.h5")
    with h5py.File(path, "a") as f:
        indices = f["matrix/indices"][()]
        indices[-1] = 90
        f["matrix/indices"][...] = indices
    with pytest.raises(ValueError, match=r"a.h5.*index 90, beyond its 90"):
        list(read_10x_h5(path).blocks(10))
    with h5py.File(path, "a") as f:
        f["matrix/indptr"][5] = 10**6
    with pytest.raises(ValueError, match="contradicts itself"):
        read_10x_h5(path)
    path = tmp_path / "b.h5ad"
    ad.AnnData(KNOWN.X, obs=KNOWN.obs, var=KNOWN.var).write_h5ad(path)
    with h5py.File(path, "a") as f:
        f["X"].attrs["shape"] = (120, 91)
    with pytest.raises(ValueError, match=r"/X is \(120, 91\), with 120 cells"):
        read_h5ad(path)


def test_no_genes_among_the_features(tmp_path):
    path = write_10x_h5(KNOWN, tmp_path / "a.h5", feature_type="Peaks")
    with pytest.raises(ValueError, match="none of its 90 features is a gene.*'Peaks'"):
        read_10x_h5(path)


def test_mtx_tables_that_do_not_fit(tmp_path):
    matrix, features, barcodes = write_mtx(KNOWN, tmp_path, gz=False)
    lines = barcodes.read_text().splitlines()
    # a line more that is no header, so all names would be one off
    barcodes.write_text("\n".join(["AAAC-1", *lines]))
    with pytest.raises(ValueError, match="do not belong together"):
        read_mtx(matrix, features, barcodes)
    barcodes.unlink()
    with pytest.raises(ValueError, match="needs barcodes.tsv.gz"):
        read_file(matrix)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("matrix coordinate", "matrix array", "general coordinate matrices"),
        (" general", " symmetric", "general coordinate matrices"),
        ("90 120 ", "90 120 1", "entries, and has"),
        ("90 120 ", "ninety 120 ", "three numbers"),
        ("\n1 1 ", "\n91 1 ", "at gene 91, cell 1, outside of 90 x 120"),
        ("\n1 1 ", "\n1 one ", "damaged"),
    ],
)
def test_mtx_contents(tmp_path, old, new, message):
    files = write_mtx(KNOWN, tmp_path, gz=False)
    text = files[0].read_text()
    if old == "\n1 1 ":  # whatever its first entry is
        first = text.splitlines()[3].split()
        old = f"\n{first[0]} {first[1]} "
        new = new.replace("\n1 ", f"\n{first[0]} ")
        message = message.replace("cell 1", f"cell {new.split()[1]}")
    assert old in text
    files[0].write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_mtx(*files)


TABLE = "gene\tc1\tc2\tc3\nA\t0\t1\t2\nB\t3\t0\t4\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\t4", "", r"line 3 \('B'\): has 2 values, where the header has 3"),
        ("\t4", "\t4\t5", r"line 3 \('B'\): has 4 values"),
        ("3\t0\t4", "3\t\t4", r"line 3 \('B'\): the value of cell 'c2' is empty"),
        ("3\t0\t4", "3\t.\t4", r"line 3 \('B'\): the value of cell 'c2' is '.', no number"),
        ("3\t0\t4", "3\t0\tNA", r"line 3 \('B'\): the value of cell 'c3' is 'NA', no finite"),
        ("3\t0\t4", "nan\t0\t4", r"line 3 \('B'\): the value of cell 'c1' is 'nan', no finite"),
        ("3\t0\t4", "3\tinf\t4", r"cell 'c2' is 'inf', no finite"),
        ("3\t0\t4", "3\t0\tx", r"cell 'c3' is 'x', no finite"),
        ("3\t0\t4", "3\t1.2.3\t4", r"cell 'c2' is '1.2.3', no finite"),
        ("c2\tc3", "c2\tc2", "cell 'c2' is there twice"),
        ("c1\tc2\tc3", "c1", "line 2: has 3 values"),
    ],
)
def test_tables_name_the_line_and_the_cell(tmp_path, old, new, message):
    assert old in TABLE
    path = tmp_path / "exprMatrix.tsv.gz"
    path.write_bytes(gzip.compress(TABLE.replace(old, new, 1).encode()))
    with pytest.raises(ValueError, match=f"{path.name}.*{message}"):
        read_table(path)


def test_a_table_without_lines(tmp_path):
    (tmp_path / "a.tsv").write_text("gene\tc1\n")
    with pytest.raises(ValueError, match="no line of values"):
        read_table(tmp_path / "a.tsv")


def tar_of(path, *members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content, options in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for key, value in options.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (("../../evil.h5ad", b"x", {}), "'../../evil.h5ad' leads out"),
        (("/tmp/evil.h5ad", b"x", {}), "leads out"),
        (("a/../../evil", b"x", {}), "leads out"),
        (("link.h5ad", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}), "is a link"),
        (("hard.h5ad", b"", {"type": tarfile.LNKTYPE, "linkname": "../x"}), "is a link"),
        (("pipe", b"", {"type": tarfile.FIFOTYPE}), "a device"),
        (("big.txt", b"0" * 5000, {}), "more than 4,000 bytes"),
    ],
)
def test_archives_that_are_not_trusted(tmp_path, member, message):
    path = tar_of(tmp_path / "a.tar.gz", member)
    with pytest.raises(ValueError, match=f"a.tar.gz.*{message}"):
        read_file(path, max_bytes=4000)
    assert list(tmp_path.iterdir()) == [path]


def test_archives_of_none_or_several(tmp_path):
    path = tar_of(tmp_path / "a.tar.gz", ("a.rds", b"x", {}))
    with pytest.raises(UnsupportedFormat, match="holds nothing that is read.*'a.rds'"):
        read_file(path)
    h5ad = write_cellxgene(KNOWN, tmp_path / "a.h5ad").read_bytes()
    path = tar_of(path, ("a.h5ad", h5ad, {}), ("b/b.h5ad", h5ad, {}))
    with pytest.raises(ValueError, match="2 files that can be read: 'a.h5ad', 'b/b.h5ad'"):
        read_file(path)
    path = tar_of(path, ("a.h5ad", h5ad, {}), ("a.h5ad", h5ad, {}))
    with pytest.raises(ValueError, match="'a.h5ad' is there twice"):
        read_file(path)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match="a.tar.gz"):
        read_file(path)


def test_a_gzip_bomb_stops_at_the_cap(tmp_path):
    path = tmp_path / "a.h5ad.gz"
    path.write_bytes(gzip.compress(b"\x89HDF\r\n\x1a\n" + bytes(10**7)))
    with pytest.raises(ValueError, match="more than 1,000,000 bytes"):
        read_file(path, max_bytes=10**6)
