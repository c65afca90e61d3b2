"""What users ask for: attributes of cells, targets of genes, energies, how to sample."""
