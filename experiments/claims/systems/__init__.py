"""Claims of papers, one module a system; see experiments.claims."""
