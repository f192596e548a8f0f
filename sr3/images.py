"""Images in and out: decoding what strangers send, tensors, and the one degradation.

Invariants: inside the package an image is uint8 RGB (height, width, 3) or float32
(batch, 3, height, width) in [-1, 1]; the low-resolution image is always made by Pillow's
antialiased bicubic and kept as 8 bit, and the condition is its 8-bit bicubic enlargement, as the
public SR3 code prepares its data.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Pixels = NDArray[np.uint8]


def resize(image: Pixels, size: int) -> Pixels:
    """(h, w, 3) uint8 -> (size, size, 3) uint8 by Pillow's bicubic, antialiased when reducing."""
    if image.shape[:2] == (size, size):
        return image
    resized = Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(resized)


def degrade(image: Pixels, size: int = 16) -> Pixels:
    """The one degradation: (..., h, w, 3) uint8 -> (..., size, size, 3) uint8."""
    return _each(image, size)


def enlarge(low_res: Pixels, size: int = 128) -> Pixels:
    """The bicubic enlargement that SR3 is conditioned on: (..., h, w, 3) -> (..., size, size, 3)."""
    return _each(low_res, size)


def _each(images: Pixels, size: int) -> Pixels:
    flat = images.reshape(-1, *images.shape[-3:])
    out = np.stack([resize(image, size) for image in flat])
    return out.reshape(*images.shape[:-3], size, size, 3)


def to_tensor(images: Pixels) -> Tensor:
    """(batch, h, w, 3) uint8 -> (batch, 3, h, w) float32 in [-1, 1]."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    return tensor.float() / 127.5 - 1


def to_uint8(images: Tensor) -> Pixels:
    """(batch, 3, h, w) in [-1, 1], clipped and rounded -> (batch, h, w, 3) uint8."""
    scaled = (images.detach().float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
