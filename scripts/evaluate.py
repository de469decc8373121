"""Measure ACC, ASR and RA of a checkpoint: ``rnp-jax evaluate`` from a checkout.

``python scripts/evaluate.py --help`` lists the options.
"""

import sys

from rnp_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
