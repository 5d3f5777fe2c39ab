"""The evidence for what roam promises, one command away: `python -m tests.proof`."""
