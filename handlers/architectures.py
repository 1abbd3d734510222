"""Models by the name of their architecture: weights are then all that an archive needs to bring.

Those that torchvision has for classifying images, segmenting them and detecting objects in them::

    handler:
      architecture: resnet18          # a model of torchvision
      architecture_options:
        num_classes: 10
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# They would fetch weights from the internet; the archive brings its own.
_NO_OPTIONS = ("weights", "weights_backbone")


def named_architecture(config: Any) -> tuple[str, dict[str, Any]] | None:
    """Name and options of the architecture in a model-config.yaml, None if it names none.

    Raises ValueError for what cannot be one.
    """
    section = config.get("handler") if isinstance(config, dict) else None
    if not isinstance(section, dict) or section.get("architecture") is None:
        return None
    name = section["architecture"]
    options = section.get("architecture_options") or {}
    if not isinstance(name, str):
        raise ValueError(f"handler.architecture must be a name such as resnet18, not {name!r}")
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise ValueError("handler.architecture_options must map names to values")
    for key in _NO_OPTIONS:
        if key in options:
            raise ValueError(
                f"handler.architecture_options: {key} is not allowed, the archive brings the "
                "weights as its serialized file"
            )
    return name, options


def make_architecture(name: str, options: dict[str, Any]) -> torch.nn.Module:
    """The model ``name`` of torchvision with random weights.

    Raises RuntimeError where torchvision is missing, ValueError for a name that it does not know or
    options that do not fit.
    """
    try:
        from torchvision import models
    except ImportError:
        raise RuntimeError(
            "handler.architecture needs torchvision: pip install 'flambeau[vision]'"
        ) from None
    names = models.list_models(module=models)
    on_backbones = [
        *models.list_models(module=models.segmentation),
        *models.list_models(module=models.detection),
    ]
    if name not in names and name not in on_backbones:
        raise ValueError(
            f"handler.architecture: torchvision has no model {name!r} for images; it has "
            f"{', '.join(names[:6])}, ..."
        )
    # Left to itself, a backbone would fetch weights.
    none = (
        {"weights": None, "weights_backbone": None} if name in on_backbones else {"weights": None}
    )
    try:
        return models.get_model(name, **none, **options)  # type: ignore[no-any-return]
    except TypeError as error:
        raise ValueError(f"handler.architecture_options do not fit {name}: {error}") from None
