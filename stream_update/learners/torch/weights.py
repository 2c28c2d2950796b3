"""Weights and moments as bytes in the safetensors format: names, shapes, numbers, no code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from stream_update.errors import CorruptSnapshot
from stream_update.events import Tree
from stream_update.learners.torch.modules import Recipe, Shape
from stream_update.protocols import Precision

__all__ = [
    "answering",
    "check_size",
    "copy_weights",
    "moments_of",
    "read",
    "restore_moments",
    "rounded",
    "served",
    "weights_of",
    "whole",
    "write",
]

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}
HINT = "it was made with another configuration or another code of the module"


def write(tensors: Mapping[str, Any]) -> bytes:
    """The same tensors give the same bytes."""
    return bytes(
        safetensors.torch.save(
            {
                name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
                for name, tensor in tensors.items()
            }
        )
    )


def read(packed: Any, what: str) -> dict[str, Any]:
    """The inverse of :func:`write`; raises :class:`CorruptSnapshot`."""
    if not isinstance(packed, bytes):
        raise CorruptSnapshot(f"the {what} are no bytes but a {type(packed).__name__}")
    try:
        return dict(safetensors.torch.load(packed))
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise CorruptSnapshot(f"the {what} are no safetensors: {error}") from error


def weights_of(module: Any) -> dict[str, Any]:
    """Parameters, each once, and the buffers that a module counts among its state."""
    found = dict(module.named_parameters())
    kept = module.state_dict(keep_vars=True).keys()
    return found | {name: part for name, part in module.named_buffers() if name in kept}


def check_shapes(module: Any, found: Mapping[str, Any]) -> None:
    """Raise :class:`CorruptSnapshot` if these are no weights of such a module."""
    expected = weights_of(module)
    for name in sorted(expected.keys() ^ found.keys()):
        where = "the snapshot has no" if name in expected else "the module has no"
        raise CorruptSnapshot(f"{where} weight {name:.200}", hint=HINT)
    for name, tensor in expected.items():
        other = found[name]
        if other.shape != tensor.shape or other.dtype != tensor.dtype:
            raise CorruptSnapshot(
                f"weight {name} is {_kind(other)} in the snapshot and {_kind(tensor)} in the "
                "module of this configuration",
                hint=HINT,
            )


def copy_weights(module: Any, found: Mapping[str, Any]) -> None:
    """Raises :class:`CorruptSnapshot` if they do not fit; then nothing is changed."""
    check_shapes(module, found)
    with torch.no_grad():
        for name, tensor in weights_of(module).items():
            tensor.copy_(found[name])


def answering(learned: Tree) -> dict[str, Any]:
    """The weights that a network answers with, out of its dump: the average if there is one."""
    return read(learned["average" if "average" in learned else "weights"], "weights")


def served(learned: Tree, *, learns: bool) -> dict[str, Any]:
    """The weights that a learner has to begin with, out of a network's dump.

    Who only predicts does it as the trainer does: with the average if there is one. Raises
    :class:`CorruptSnapshot`, for such a one also if they are not all finite.
    """
    if learns:
        return read(learned["weights"], "weights")
    found = whole(answering(learned), learned)
    if name := non_finite(found):
        raise CorruptSnapshot(
            f"weight {name:.200} is NaN or infinite",
            reason="non-finite",
            hint="the model has diverged, or somebody made it so: look at its metrics",
        )
    return found


def rounded(found: Mapping[str, Any], precision: Precision) -> Tree:
    """Weights as they are published for who only predicts, and the names of those rounded.

    Only those of float32 are; one of them with a number that float16 does not have stays.
    """
    kind = HALVES.get(precision)
    smaller = {}
    for name, tensor in found.items() if kind is not None else ():
        small = tensor.to(kind)
        if tensor.dtype == torch.float32 and torch.equal(small.isfinite(), tensor.isfinite()):
            smaller[name] = small
    return {"weights": write({**found, **smaller}), "rounded": sorted(smaller)}


def whole(found: Mapping[str, Any], tree: Tree) -> dict[str, Any]:
    """The inverse of :func:`rounded`, as far as there is one, of what :func:`read` read."""
    names, halves = set(tree.get("rounded", ())), HALVES.values()
    return {
        name: tensor.float() if name in names and tensor.dtype in halves else tensor
        for name, tensor in found.items()
    }


def check_size(
    recipe: Recipe, shape: Shape, found: Mapping[str, Any], hidden: Sequence[int] | None = None
) -> None:
    """That a module of ours is as large as its weights, before there is memory for it.

    ``hidden`` are the sizes to which its layers have grown.
    """
    if not recipe.own:
        return
    other = {} if hidden is None else {"hidden": hidden}
    if len({**recipe.options, **other}.get("hidden", ())) > len(found):
        raise CorruptSnapshot("there are fewer weights than layers", hint=HINT)
    with torch.device("meta"):
        ghost = recipe.build(shape, **other)
    check_shapes(ghost, found)


def non_finite(found: Mapping[str, Any]) -> str:
    """The first of these that has a NaN or an infinity; empty if none has."""
    for name in sorted(found):
        if found[name].is_floating_point() and not bool(torch.isfinite(found[name]).all()):
            return name
    return ""


def moments_of(module: Any, optimizer: Any) -> dict[str, Any]:
    """What an optimizer remembers, as ``moment:parameter``."""
    return {
        f"{key}:{name}": held
        for name, parameter in module.named_parameters()
        for key, held in optimizer.state.get(parameter, {}).items()
        if torch.is_tensor(held)
    }


def restore_moments(module: Any, optimizer: Any, found: Mapping[str, Any]) -> None:
    """Give a fresh optimizer what another one remembered; raises :class:`CorruptSnapshot`."""
    parameters = dict(module.named_parameters())
    optimizer.state.clear()
    for full, held in found.items():
        key, _, name = full.partition(":")
        parameter = parameters.get(name)
        if parameter is None or held.shape not in {parameter.shape, torch.Size([])}:
            raise CorruptSnapshot(f"the optimizer's {full:.200} fits no parameter", hint=HINT)
        # A step is counted on the CPU wherever the parameters are.
        device = "cpu" if held.ndim == 0 else parameter.device
        optimizer.state[parameter][key] = held.to(device, copy=True)


def _kind(tensor: Any) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)}".removeprefix("torch.")
