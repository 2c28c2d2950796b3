"""Hidden layers get more units, and more of them, and what the network answers stays.

New units are drawn as those of a fresh layer are and have weights of 0 on their way out, and
new layers are the identity, as in Net2DeeperNet (Chen, Goodfellow and Shlens 2016, "Net2Net:
Accelerating learning via knowledge transfer"). Net2WiderNet makes new units of old ones, and
shares the weights of these on the way out between them, so that old weights change; with
weights of 0 (as in Evci et al. 2022, "GradMax", who put them on the way in) every old weight,
and what the optimizer remembers of it, keeps its bits. Units that were drawn differ from each
other and from the old ones, so no symmetry has to be broken by noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import count, pairwise
from typing import Any

import torch
from torch import nn

from stream_update.errors import ConfigError, CorruptSnapshot
from stream_update.learners.torch.growing import widen_inputs, widen_outputs
from stream_update.learners.torch.modules import Recipe

__all__ = ["check_deeper", "check_room", "hidden_sizes", "layers_of", "stretch"]

SILENT = (nn.Dropout, nn.Identity)
"""What changes no number of an answer."""
REPEATABLE = (nn.ReLU, nn.ReLU6, nn.Hardtanh)
"""Done twice, they do what they do once."""
ELEMENTWISE = (
    *SILENT, *REPEATABLE, nn.Tanh, nn.GELU, nn.SiLU, nn.Sigmoid, nn.LeakyReLU, nn.ELU, nn.SELU,
    nn.CELU, nn.Mish, nn.Softplus, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Softsign,
)  # fmt: skip


def layers_of(recipe: Recipe, module: Any) -> Any:
    """The sequential part of a module whose hidden layers can grow.

    Raises :class:`ConfigError` if there is none.
    """
    where = f"the part {recipe.chain!r}" if recipe.chain else "the module"
    try:
        chain = module.get_submodule(recipe.chain)
    except AttributeError:
        raise ConfigError(
            f"learner.chain: the module has no part {recipe.chain!r}",
            hint=f"it has: {', '.join(name for name, _ in module.named_children()) or 'none'}",
        ) from None
    if type(chain) is not nn.Sequential:
        raise ConfigError(
            f"learner.grow: {where} is a {type(chain).__name__}, and only the hidden layers of a "
            "torch.nn.Sequential grow",
            hint='name the part of your module that is one: chain = "body"; of ours mlp grows',
        )
    for name, layer in chain.named_children():
        if type(layer) is not nn.Linear and type(layer) not in ELEMENTWISE:
            raise ConfigError(
                f"learner.grow: {name!r} of {where} is a {type(layer).__name__}, and hidden layers "
                "grow where there are but linear layers and activations of each number alone"
            )
    linear = _linear(chain)
    if len(set(map(id, linear))) < max(2, len(linear)):
        raise ConfigError(
            f"learner.grow: {where} has no hidden layer: two linear layers at least, each its own",
            hint='module = "mlp"',
        )
    return chain


def _linear(chain: Any) -> list[Any]:
    return [layer for layer in chain if type(layer) is nn.Linear]


def hidden_sizes(chain: Any) -> list[int]:
    """How many units each hidden layer has: all linear ones but the last."""
    return [layer.out_features for layer in _linear(chain)[:-1]]


def check_room(chain: Any, sizes: Sequence[int], weights: int) -> None:
    """Raise :class:`CorruptSnapshot` if layers of these sizes have more than so many weights."""
    layers = _linear(chain)
    widths = [layers[0].in_features, *sizes, layers[-1].out_features]
    least = [*hidden_sizes(chain), *[1] * len(sizes)]
    if any(type(size) is not int or size < was for size, was in zip(sizes, least, strict=False)):
        raise CorruptSnapshot("it tells of smaller hidden layers than its module has")
    if (
        len(sizes) < len(layers) - 1
        or len(sizes) > weights
        or sum(a * b for a, b in pairwise(widths)) > weights
    ):
        raise CorruptSnapshot("it tells of larger hidden layers than its weights are")


def check_deeper(chain: Any) -> None:
    """Raise :class:`ConfigError` unless the identity is a layer like the last hidden one."""
    acting = [layer for _, layer in _between(chain) if type(layer) not in SILENT]
    if len(acting) > 1 or any(type(layer) not in REPEATABLE for layer in acting):
        names = ", ".join(type(layer).__name__ for layer in acting)
        raise ConfigError(
            f"learner.grow: deepen needs an activation that changes nothing when it is done "
            f"twice, and before the last layer there is {names}",
            hint='activation = "relu", or widen instead',
        )


def _between(chain: Any) -> Iterator[tuple[str, Any]]:
    """What stands behind the last hidden layer."""
    last = _linear(chain)[-2:]
    inside = False
    for name, layer in chain.named_children():
        if layer is last[1]:
            return
        if inside:
            yield name, layer
        inside = inside or layer is last[0]


def stretch(chain: Any, optimizer: Any, sizes: Sequence[int], seed: int) -> None:
    """Let the hidden layers have these sizes, of which none is smaller than it was.

    Layers that are new stand before the last one. What is drawn is drawn from ``seed``.
    ``optimizer`` is None if none knows the layers.
    """
    while len(hidden_sizes(chain)) < len(sizes):
        _deepen(chain, optimizer)
    layers = _linear(chain)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for layer, after, size in zip(layers, layers[1:], sizes, strict=False):
            old = layer.out_features
            if size == old:
                continue
            drawn = nn.Linear(layer.in_features, size, bias=layer.bias is not None)
            widen_outputs(layer, optimizer, size)
            widen_inputs(after, optimizer, size)
            with torch.no_grad():
                layer.weight[old:] = drawn.weight[old:]
                if layer.bias is not None:
                    layer.bias[old:] = drawn.bias[old:]


def _deepen(chain: Any, optimizer: Any) -> None:
    """One more layer before the last, which gives what it is given."""
    before, last = _linear(chain)[-2:]
    size, like = before.out_features, before.weight
    layer = nn.Linear(
        size, size, bias=before.bias is not None, device="meta", dtype=like.dtype
    ).to_empty(device=like.device)
    with torch.no_grad():
        nn.init.eye_(layer.weight)
        if layer.bias is not None:
            layer.bias.zero_()
    layer.train(before.training)
    number = len(hidden_sizes(chain))
    added = [(f"hidden{number}", layer)] + [
        (f"{'dropout' if isinstance(part, nn.Dropout) else 'activation'}{number}", deepcopy(part))
        for _, part in _between(chain)
    ]
    parts = list(chain.named_children())
    at = next(index for index, (_, part) in enumerate(parts) if part is last)
    taken = {name for name, _ in parts}
    for name, _ in parts[at:]:
        delattr(chain, name)
    for name, part in added:
        free = next(one for one in (name + "_" * n for n in count()) if one not in taken)
        taken.add(free)
        chain.add_module(free, part)
    for name, part in parts[at:]:
        chain.add_module(name, part)
    if optimizer is not None:
        _know(optimizer, list(layer.parameters()), list(before.parameters())[-1])


def _know(optimizer: Any, parameters: list[Any], behind: Any) -> None:
    """Let an optimizer learn further parameters, as it does one that it knows."""
    for group in optimizer.param_groups:
        for index, known in enumerate(group["params"]):
            if known is behind:
                group["params"][index + 1 : index + 1] = parameters
                return
