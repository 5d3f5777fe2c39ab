"""`python -m roam`: the same as the console script `roam`."""

from __future__ import annotations

from .cli.main import main

if __name__ == "__main__":
    main()
