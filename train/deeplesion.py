"""The name that `train.verify` had: `python -m train.deeplesion verify DIR` goes on to work."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from train import verify


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `train.verify` without the word that once came first."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    return verify.main(given[1:] if given[:1] == ["verify"] else given)


if __name__ == "__main__":
    sys.exit(main())
