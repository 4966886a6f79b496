"""`python -m broker`: the command line."""

from __future__ import annotations

from broker.cli import main

if __name__ == "__main__":
    main()
