"""Toys and tables from the literature and from this project's origins, run with our selectors, ours beside theirs."""
