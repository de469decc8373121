"""Train a backdoored model: ``rnp-jax attack`` from a checkout.

``python scripts/train_backdoor.py --help`` lists the options.
"""

import sys

from rnp_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["attack", *sys.argv[1:]]))
