"""An encoder learns from features alone: what was masked is to be told from the rest."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from stream_update import plugins
from stream_update.errors import ConfigError, CorruptSnapshot
from stream_update.events import Tree
from stream_update.learners.torch import weights
from stream_update.learners.torch.growing import widen_inputs, widen_outputs
from stream_update.learners.torch.network import Network, drawing
from stream_update.learners.torch.optimizers import Optimizers

__all__ = ["Autoencoder", "Pretraining", "pretraining_of"]

APART = 1 << 40
"""Far from the seeds that the learner's own steps draw from."""


class Pretraining:
    """What ``pretrain`` says: a denoising autoencoder over the columns.

    Of each event every column is replaced with probability ``mask`` by its value in another
    event of the ``batch``, and a linear decoder behind the network's last hidden layer is to
    give the columns as they were; the loss is the mean squared error. Vincent et al. (2008),
    "Extracting and composing robust features with denoising autoencoders", have the
    principle; masking by values of the same column is that of VIME (Yoon et al. 2020) and
    SCARF (Bahri et al. 2022).

    ``optimizer`` is the learner's if it is left out, with moments of its own, and ``weight``
    scales its learning rate. With ``labelled`` the events of every mini-batch are learned in
    this way too, after their labels.
    """

    def __init__(
        self,
        learner: Optimizers,
        mask: float = 0.3,
        weight: float = 1.0,
        batch: int = 32,
        labelled: bool = False,  # noqa: FBT001, FBT002 - given by name
        optimizer: str | Mapping[str, Any] | None = None,
    ) -> None:
        if not 0 < mask < 1:
            raise ConfigError(f"learner.pretrain.mask: {mask!r} is not between 0 and 1")
        if not weight > 0:
            raise ConfigError(f"learner.pretrain.weight: {weight!r} is not positive")
        if type(batch) is not int or batch < 2:  # noqa: PLR2004
            raise ConfigError(
                f"learner.pretrain.batch: {batch!r} is no number of events, two or more",
                hint="what is masked is replaced by values of the others",
            )
        self.mask = mask
        self.batch = batch
        self.labelled = labelled
        self.optimizers = learner if optimizer is None else Optimizers(optimizer)
        self.lr = self.optimizers.lr * weight
        self.fingerprint: Tree = [
            mask, weight, batch, labelled, self.optimizers.name, self.optimizers.options,
        ]  # fmt: skip


def pretraining_of(table: Mapping[str, Any] | None, optimizers: Optimizers) -> Pretraining | None:
    """What ``pretrain`` configures. Raises :class:`ConfigError`."""
    if table is None:
        return None
    if not isinstance(table, Mapping):
        raise ConfigError(
            "learner.pretrain: expected a table", hint="pretrain = { mask = 0.3, batch = 32 }"
        )
    made: Pretraining = plugins.call(
        Pretraining, "pretrain", table, "learner.pretrain", {"learner": optimizers}
    )
    return made


class Autoencoder:
    """A network's hidden layers with a decoder of ``columns`` outputs behind them."""

    def __init__(self, options: Pretraining, network: Network, columns: int, seed: int) -> None:
        if network.last is None or network.last is network.first:
            raise ConfigError(
                "learner.pretrain: there is no hidden layer that could learn",
                hint='module = "mlp", or name the last layer of your own: last = "head"',
            )
        self._options = options
        self._network = network
        network.shared = True
        self._seed = seed
        device = next(network.module.parameters()).device
        with drawing(seed + APART):
            self._decoder = nn.Linear(network.last.in_features, columns).to(device)
        head = set(map(id, network.last.parameters()))
        self._whole = nn.ModuleList([network.module, self._decoder])
        self._parameters = [p for p in self._whole.parameters() if id(p) not in head]
        self._optimizer = options.optimizers.make([{"params": self._parameters, "lr": options.lr}])
        self.labelled = options.labelled
        self.steps = 0
        self.skipped = 0

    def follow(self) -> None:
        """The network has other hidden layers than before."""
        last = self._network.last
        widen_inputs(self._decoder, self._optimizer, last.in_features)
        head = set(map(id, last.parameters()))
        self._parameters[:] = [p for p in self._whole.parameters() if id(p) not in head]
        self._optimizer.param_groups[0]["params"] = list(self._parameters)
        self.grow(self._decoder.out_features)

    def grow(self, columns: int) -> None:
        """Follow the network, which has so many inputs by now."""
        if self._decoder.out_features < columns:
            widen_outputs(self._decoder, self._optimizer, columns)
        fresh = float(self._optimizer.defaults.get("initial_accumulator_value", 0.0))
        for parameter, state in self._optimizer.state.items():
            for name, held in state.items():
                if held.ndim and held.shape != parameter.shape:
                    value = fresh if name == "sum" else 0.0
                    wider = torch.full_like(parameter.detach(), value)
                    wider[tuple(slice(size) for size in held.shape)] = held
                    state[name] = wider

    def learn(self, inputs: Any) -> None:
        """One step; one whose loss is not finite is left out and counted."""
        seed = self._seed + APART + 1 + self.steps
        self.steps += 1
        self._network.module.train()
        for part in self._network.held:
            part.eval()
        with drawing(seed):
            masked = torch.rand(inputs.shape) < self._options.mask
            others = torch.randint(len(inputs), inputs.shape)
            elsewhere = inputs.gather(0, others.to(inputs.device))
            seen = torch.where(masked.to(inputs.device), elsewhere, inputs)
            for parameter in self._parameters:
                parameter.grad = None
            loss = functional.mse_loss(self._decoder(self._network.below(seen)), inputs)
            if not math.isfinite(loss.detach().item()):
                self.skipped += 1
                return
            loss.backward()
        self._optimizer.step()

    def dump(self) -> Tree:
        return {
            "steps": self.steps,
            "skipped": self.skipped,
            "decoder": weights.write(weights.weights_of(self._decoder)),
            "moments": weights.write(weights.moments_of(self._whole, self._optimizer)),
        }

    def load(self, tree: Tree) -> None:
        """Raises :class:`CorruptSnapshot`."""
        if not isinstance(tree, Mapping):
            raise CorruptSnapshot("there is no decoder", hint=weights.HINT)
        weights.copy_weights(self._decoder, weights.read(tree["decoder"], "decoder's weights"))
        moments = weights.read(tree["moments"], "decoder's moments")
        weights.restore_moments(self._whole, self._optimizer, moments)
        self.steps, self.skipped = int(tree["steps"]), int(tree["skipped"])
