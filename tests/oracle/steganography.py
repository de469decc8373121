"""StegaStamp's networks and ISSBA's loss in plain torch, on trees of tensors with this package's names and layouts."""

import jax
import numpy as np
import torch
from torch.nn import functional


def to_torch(params):
    """The same tree of tensors, which learn."""
    return jax.tree.map(lambda leaf: torch.from_numpy(np.array(leaf)).requires_grad_(), params)


def convolve(x, layer, stride=1):
    """Zeros around, one more below and to the right of an even kernel."""
    size = layer["kernel"].shape[0]
    low, high = (size - 1) // 2, size // 2
    padded = functional.pad(x, (low, high, low, high))
    return functional.conv2d(padded, layer["kernel"].permute(3, 2, 0, 1), layer["bias"], stride)


def hide(params, images, secrets):
    """Residuals [B, H, W, C] of images of the size that the secret is spread over."""
    planes = (torch.tensordot(secrets - 0.5, params["secret_kernel"], 1) + params["secret_bias"]).relu()
    x = torch.cat([planes, images - 0.5], -1).permute(0, 3, 1, 2)
    levels = [convolve(x, params["down0"]).relu()]
    for i in range(1, 5):
        levels.append(convolve(levels[-1], params[f"down{i}"], 2).relu())
    y = levels[4]
    for i in (3, 2, 1, 0):
        height, width = levels[i].shape[2:]
        doubled = functional.interpolate(y, scale_factor=2)[:, :, :height, :width]
        joined = [levels[i], convolve(doubled, params[f"up{i}"]).relu(), *([x] if i == 0 else [])]
        y = convolve(torch.cat(joined, 1), params[f"merge{i}"]).relu()
    return convolve(y, params["residual"]).permute(0, 2, 3, 1)


def read(params, images):
    """Logits [B, S] of the hidden bits."""
    x = (images - 0.5).permute(0, 3, 1, 2)
    for i, stride in enumerate((2, 1, 2, 1, 2)):
        x = convolve(x, params[f"conv{i}"], stride).relu()
    return x.permute(0, 2, 3, 1).flatten(1) @ params["bits"]["kernel"] + params["bits"]["bias"]


def judge(params, images):
    """The critic's scores [B]."""
    x = (images - 0.5).permute(0, 3, 1, 2)
    for i in range(4):
        x = convolve(x, params[f"conv{i}"], 2).relu()
    return convolve(x, params["score"]).mean((1, 2, 3))


def gradients(residuals):
    """Mean absolute difference of neighbours at full, half and quarter size."""
    total = 0.0
    for scale in range(3):
        x = functional.avg_pool2d(residuals.permute(0, 3, 1, 2), 2**scale)
        total += x.diff(dim=2).abs().mean() + x.diff(dim=3).abs().mean()
    return total / 3


def pair_loss(networks, images, secrets, critic_weight):
    """What encoder and decoder learn from against a critic, once the residual shall not be seen."""
    residuals = hide(networks["encoder"], images, secrets)
    encoded = (images + residuals).clamp(0, 1)
    secret = functional.binary_cross_entropy_with_logits(read(networks["decoder"], encoded), secrets)
    loss = 2 * residuals.square().mean() + 1.5 * gradients(residuals) + 1.5 * secret
    return loss + critic_weight * judge(networks["critic"], encoded).mean() if critic_weight else loss
