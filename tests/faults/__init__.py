"""Faults on purpose: kills, damaged files, full disks, signals, broken estimators; ``make faults`` prints the table."""
