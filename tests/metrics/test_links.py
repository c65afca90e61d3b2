import numpy as np
import pandas as pd
import pytest

from scgm_scvi.metrics import promoter_links

POSITIONS = pd.DataFrame(
    {
        "chrom": ["chr1", "chr1", "chr2", "chr1"],
        "start": [10_000, 20_000, 10_000, 90_000],
        "end": [15_000, 26_000, 10_500, 91_000],
        "strand": ["+", "-", "+", "+"],
    },
    index=["FWD", "REV", "TWO", "TWO"],
)


def linked(intervals, genes=("FWD", "REV", "TWO"), positions=POSITIONS, **kwargs):
    table = promoter_links(genes, intervals, positions, **kwargs)
    assert list(table) == ["gene", "interval", "distance"]
    return list(zip(table["gene"], table["interval"], table["distance"], strict=True))


def test_promoter_reaches_from_upstream_to_downstream_along_the_strand():
    # the last base before the window, the first in it, the last in it, the first after it
    forward = ["chr1:7900-8000", "chr1:7901-8001", "chr1:10500-10600", "chr1:10501-10601"]
    assert [i for _, i, _ in linked(forward, ["FWD"])] == forward[1:3]
    # the gene starts at base 25,999
    reverse = ["chr1:28000-28100", "chr1:27999-28099", "chr1:25400-25500", "chr1:25399-25499"]
    assert [i for _, i, _ in linked(reverse, ["REV"])] == reverse[1:3]
    assert linked(["chr1:9000-9200"]) == [("FWD", "chr1:9000-9200", -900)]
    assert linked(["chr1:26900-27098"]) == [("REV", "chr1:26900-27098", -1000)]


def test_body_reaches_to_the_end_of_the_gene():
    intervals = ["chr1:14900-15100", "chr1:15000-15100", "chr1:19900-20001", "chr1:19900-20000"]
    found = linked(intervals, body=True)
    assert [(g, i) for g, i, _ in found] == [("FWD", intervals[0]), ("REV", intervals[2])]
    assert found[0][2] == 5000
    assert linked(intervals) == []


def test_all_pairs_are_found():
    """Against every pair tried, with intervals of very different widths."""
    rng = np.random.default_rng(0)
    n = 300
    start, strand = rng.integers(0, 100_000, n), rng.choice(["+", "-"], n)
    positions = pd.DataFrame(
        {
            "chrom": rng.choice(["chr1", "chr2", "chr9"], n),
            "start": start,
            "end": start + rng.integers(1, 3000, n),
            "strand": strand,
        },
        index=[f"g{i}" for i in range(n)],
    )
    low = rng.integers(0, 100_000, 500)
    peaks = pd.DataFrame(
        {
            "chrom": rng.choice(["chr1", "chr2"], 500),
            "start": low,
            "end": low + rng.choice([100, 20_000], 500, p=[0.9, 0.1]),
        }
    ).drop_duplicates()
    names = peaks["chrom"] + "-" + peaks["start"].astype(str) + "-" + peaks["end"].astype(str)
    expected = []
    for gene, p in positions.iterrows():
        if p["strand"] == "+":
            window = range(p["start"] - 1500, p["start"] + 701)
        else:
            window = range(p["end"] - 1 - 700, p["end"] + 1500)
        for name, peak in zip(names, peaks.itertuples(), strict=True):
            inside = peak.start <= window[-1] and window[0] < peak.end
            if peak.chrom == p["chrom"] and inside:
                expected.append((gene, name))
    table = promoter_links(positions.index, names, positions, upstream=1500, downstream=700)
    assert len(expected) > 500
    assert list(zip(table["gene"], table["interval"], strict=True)) == expected


def test_gene_of_several_places_has_the_intervals_of_all_once():
    positions = pd.concat([POSITIONS, POSITIONS.loc[["TWO"]].assign(start=10_800, end=12_000)])
    found = linked(["chr2:9900-10100", "chr1:89900-90100"], ["TWO"], positions)
    assert found == [("TWO", "chr2:9900-10100", 0), ("TWO", "chr1:89900-90100", 0)]


def test_starts_of_transcription_alone_are_enough():
    starts = pd.DataFrame(
        {"chrom": "chr1", "start": [10_000, 20_000], "strand": ["+", "-"]}, index=["A", "B"]
    )
    found = linked(["chr1:8100-8200", "chr1:21900-22000"], ["A", "B"], starts)
    assert found == [("A", "chr1:8100-8200", -1850), ("B", "chr1:21900-22000", -1950)]
    with pytest.raises(ValueError, match="no column 'end'. body=True needs the far end"):
        linked(["chr1:8100-8200"], ["A"], starts, body=True)


@pytest.mark.parametrize("name", ["chr1_9900_10100", "chr1:9900-10100", "chr1-9900-10100"])
def test_names_of_intervals(name):
    assert linked([name]) == [("FWD", name, 0)]


def test_names_of_contigs_may_hold_separators():
    positions = POSITIONS.assign(chrom="chr1_KI270706v1_random")
    name = "chr1_KI270706v1_random_9900_10100"
    assert {g for g, _, _ in linked([name], positions=positions)} == {"FWD", "TWO"}


@pytest.mark.parametrize(
    ("genes", "intervals", "change", "kwargs", "message"),
    [
        (
            ["FWD"],
            ["chr1:1-2", "peak_7"],
            {},
            {},
            "1 of 2 names are not intervals.*'peak_7'.*chr1:",
        ),
        (["FWD"], ["chr1:200-100"], {}, {}, "'chr1:200-100' ends before it starts"),
        (["FWD"], ["chr1:1-2"] * 2, {}, {}, "'chr1:1-2' more than once"),
        (["FWD"], ["1:100-200"], {}, {}, "chromosomes 'chr1', and intervals '1': rename"),
        (["ENSG1"], ["chr1:1-2"], {}, {}, "None of the 1 genes .'ENSG1'.*both by symbols, or both"),
        (["FWD", "FWD"], ["chr1:1-2"], {}, {}, "'FWD' twice"),
        (["FWD"], ["chr1:1-2"], {"strand": 1}, {}, "strand of 'FWD' is '1'; it must be"),
        (["FWD"], ["chr1:1-2"], {}, {"upstream": -5}, "upstream is -5"),
    ],
)
def test_bad_input_is_named(genes, intervals, change, kwargs, message):
    with pytest.raises(ValueError, match=message):
        promoter_links(genes, intervals, POSITIONS.assign(**change), **kwargs)


def test_missing_column_is_named():
    with pytest.raises(ValueError, match="positions has no column 'chrom'"):
        promoter_links(["FWD"], ["chr1:1-2"], POSITIONS.drop(columns="chrom"))
