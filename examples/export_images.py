"""Write labelled images of a data set as PNG files, a folder a class, as somebody has them who holds no data set.

    python examples/export_images.py cifar-10-batches-py images --number 500

It takes the first images of each class from the test part. ``rnp-jax --data`` reads the folder that it makes.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from rnp_jax import load_data


def main() -> None:
    """Reads the options and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="a name or a path, as --data takes it")
    parser.add_argument("folder", type=Path, help="folder to make")
    parser.add_argument("--number", type=int, default=500, help="images in all, the same number of each class")
    parser.add_argument("--split", default="test", help="part of the data set")
    parser.add_argument("--data-dir", help="folder of prepared TensorFlow Datasets")
    options = parser.parse_args()
    images = load_data(options.data, split=options.split, data_dir=options.data_dir)
    each = options.number // images.num_classes
    for label, name in enumerate(images.class_names):
        folder = options.folder / name
        folder.mkdir(parents=True)
        for index in np.flatnonzero(images.labels == label)[:each]:
            Image.fromarray(images.images[index].squeeze()).save(folder / f"{index:05d}.png")


if __name__ == "__main__":
    main()
