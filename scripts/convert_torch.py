"""Convert a PyTorch checkpoint to orbax or safetensors, and back: ``rnp-jax convert`` from a checkout.

``python scripts/convert_torch.py --help`` lists the options.
"""

import sys

from rnp_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
