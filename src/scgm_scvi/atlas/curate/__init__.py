"""From what a source says of its cells to what an atlas says: genes, counts, labels, quality."""
