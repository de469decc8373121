"""Defend one checkpoint with RNP: ``rnp-jax defend --method rnp`` from a checkout.

``python scripts/defend_rnp.py --help`` lists the options.
"""

import sys

from rnp_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["defend", "--method", "rnp", *sys.argv[1:]]))
