"""What every kind of death leaves behind, counted: `python -m tests.deaths`."""
