"""Comparing agents at equal budget: plan the runs, launch them, conclude what can be concluded, show it."""
