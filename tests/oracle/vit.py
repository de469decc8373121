"""Small random image towers of the transformers library, and the folders that it saves them in."""

import importlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
import torch

from rnp_jax.models.vit import VitShape
from tests.oracle.vision import torchvision_models

torchvision_models()  # transformers imports it where it is installed
transformers = importlib.import_module("transformers")

Kind = Literal["clip", "clip_alone", "clip_projected", "vit", "vit_classifier"]
KINDS: tuple[Kind, ...] = ("clip", "clip_alone", "clip_projected", "vit", "vit_classifier")
SIZE, PATCH, WIDTH, PROJECTION = 12, 4, 8, 6

SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIZE,
    "patch_size": PATCH,
    "layer_norm_eps": 1e-2,  # so large that it matters
}
TEXT = {"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "vocab_size": 9}


def build(kind: Kind, seed: int = 0, **changes: Any) -> Any:
    """A tower with every parameter away from its default, in evaluation mode."""
    sizes = {**SIZES, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _make(kind, sizes)
        with torch.no_grad():
            for name, values in model.named_parameters():
                values.normal_(1 if "norm" in name and name.endswith("weight") else 0, 0.4)
    return model.eval()


def _make(kind: Kind, sizes: dict[str, Any]) -> Any:
    if kind.startswith("vit"):
        config = transformers.ViTConfig(**sizes)
        return transformers.ViTModel(config) if kind == "vit" else transformers.ViTForImageClassification(config)
    if kind == "clip":
        return transformers.CLIPModel(
            transformers.CLIPConfig(
                vision_config={**sizes, "projection_dim": 3},  # which a whole model does not use
                text_config=TEXT,
                projection_dim=PROJECTION,
            )
        )
    config = transformers.CLIPVisionConfig(**sizes, projection_dim=PROJECTION)
    alone = transformers.CLIPVisionModel, transformers.CLIPVisionModelWithProjection
    return alone[kind == "clip_projected"](config)


def shape_of(kind: Kind, **changes: Any) -> VitShape:
    """Our shape of ``build(kind)``."""
    fields: dict[str, Any] = {
        "family": "vit" if kind.startswith("vit") else "clip",
        "width": WIDTH,
        "depth": 2,
        "heads": 2,
        "hidden": 20,
        "patch": (PATCH, PATCH),
        "image_shape": (SIZE, SIZE, 3),
        "activation": "gelu" if kind.startswith("vit") else "quick_gelu",
        "epsilon": 1e-2,
        "projection": PROJECTION if kind in ("clip", "clip_projected") else None,
    }
    return VitShape(**{**fields, **changes})


def features(kind: Kind, model: Any, pixels: np.ndarray) -> np.ndarray:
    """The model's own features of normalised images [N, H, W, C]."""
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        if kind.startswith("vit"):
            tower = model if kind == "vit" else model.vit
            found = tower(x).last_hidden_state[:, 0]
        elif kind == "clip":
            found = model.get_image_features(pixel_values=x).pooler_output
        else:
            output = model(x)
            found = output.image_embeds if kind == "clip_projected" else output.pooler_output
    return found.numpy()


def hidden_states(kind: Kind, model: Any, pixels: np.ndarray) -> list[np.ndarray]:
    """What enters the first block [N, T, D], and what leaves each."""
    tower = {"clip": lambda: model.vision_model, "vit_classifier": lambda: model.vit}.get(kind, lambda: model)()
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        return [each.numpy() for each in tower(x, output_hidden_states=True).hidden_states]


def save(kind: Kind, model: Any, folder: Path, *, container: str = "safetensors") -> Path:
    """Saves as the library does (``safetensors``, ``parts``), or as older releases did (``bin``, ``bin_parts``)."""
    model.save_pretrained(folder, **({"max_shard_size": "1KB"} if container.endswith("parts") else {}))
    if container.startswith("bin"):
        for path in folder.glob("*.safetensors"):
            tensors = {key: torch.from_numpy(value) for key, value in safetensors.numpy.load_file(path).items()}
            torch.save(tensors, folder / path.name.replace("model", "pytorch_model").replace("safetensors", "bin"))
            path.unlink()
        for path in folder.glob("model.safetensors.index.json"):
            text = path.read_text().replace("model-", "pytorch_model-").replace(".safetensors", ".bin")
            (folder / "pytorch_model.bin.index.json").write_text(text)
            path.unlink()
    processor_of(kind).save_pretrained(folder)
    return folder


def processor_of(kind: Kind, size: int = SIZE) -> Any:
    """The library's image processor, on Pillow."""
    square = {"height": size, "width": size}
    if kind.startswith("vit"):
        return transformers.ViTImageProcessorPil(size=square)
    return transformers.CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size=square)


def prepare(kind: Kind, images: np.ndarray, size: int = SIZE) -> np.ndarray:
    """Normalised images [N, H, W, C] by the library's own processor."""
    values = processor_of(kind, size)(list(images), return_tensors="np")["pixel_values"]
    return np.asarray(values, np.float32).transpose(0, 2, 3, 1)
