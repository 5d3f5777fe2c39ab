"""What roam costs, measured beside what it replaces, in one run and as ratios: `python -m benchmarks`."""

__all__: list[str] = []
