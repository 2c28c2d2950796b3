"""The loops over events, as machine code: river's arithmetic in river's order.

Every sum runs over the features of an event in the order in which the event has them, each
operation is one IEEE operation (nothing is fused or reordered), and powers and exponentials
are those of the C library, as in Python. Exponents such as 0.5 come in an array: a compiler
that sees them as constants makes a square root of the power, whose last digit may differ.

An event is a row: ``length`` values from ``place`` on, whose slots stand in ``slots`` from
``first`` on. A slot is a row of ``table``, whose columns are below. Slots are given out in the
order in which river's dictionaries meet the names, so the first ``SEEN`` of them are those
that have been learned. ``mode`` is one of the three below. ``progress`` holds the row that is
being worked on and whether it is being learned, for when something raises.

Everything that is compiled, and every constant, is in this one file, because numba's cache on
disk looks at the age of the file that a function is in, and at nothing that it refers to.
"""

# An item of an array is of any type for the type checker.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit

__all__ = ["linear", "machine", "passive", "softmax"]

# Modes.
PREDICT, BOTH, LEARN = 0, 1, 2

# Whose powers: nobody's, Python's, numpy's.
OF_NOBODY, OF_PYTHON, OF_NUMPY = 0, 1, 2

# Columns of a table: three of the scaler, the last of its root, a weight, the optimizer's.
COUNT, LOW, HIGH, ROOT, WEIGHT, STATE, PENALTY = 0, 1, 2, 3, 4, 5, 8
WIDTH = 9
# Columns of the weights of one class or of the latent state: a weight, the optimizer's, a rank.
RANK = 4

# Kinds, in the array of kinds.
SCALER, LOSS, RATE, INTERCEPT_RATE, OPTIMIZER, LATENT_RATE, LATENT_OPTIMIZER = 0, 1, 2, 3, 4, 5, 6
CAREFUL, MODE, REGRESSION, NORMALISED, INTERCEPTED = 7, 8, 9, 10, 11
KINDS = 12

# Options, in the array of options; where several follow, at their place and behind it.
HALF, TWO, MINUS_ONE, L1, L2, CLIP, LATENT_L1, LATENT_L2 = 0, 1, 2, 3, 4, 5, 6, 7
LOSS_OPTIONS, RATES, INTERCEPT_RATES, OPTIMIZERS = 8, 10, 12, 14
LATENT_RATES, LATENT_OPTIMIZERS = 18, 20
OPTIONS = 24

# What is one number for the whole model.
INTERCEPT, STEPS, LATENT_STEPS, PENALTIES, SEEN = 0, 1, 2, 3, 4
NUMBERS = 5

UNSCALED, STANDARD, CENTRED, MIN_MAX, MAX_ABS = range(5)
CONSTANT, INVERSE, OPTIMAL = range(3)
LOG, HINGE, FOCAL, SQUARED, ABSOLUTE, CAUCHY, INSENSITIVE, QUANTILE, HUBER, POISSON = range(10)
(SGD, MOMENTUM, ADA_GRAD, RMS_PROP, ADA_DELTA, ADAM, AMS_GRAD, ADA_MAX, NADAM, FTRL) = range(10)

Loop = TypeVar("Loop", bound=Callable[..., Any])


def compiled(function: Loop) -> Loop:
    """Compile when first called, and keep the result on disk where some folder can be written."""
    try:
        made: Any = njit(cache=True)(function)
    except RuntimeError:
        made = njit(function)
    return cast("Loop", made)


def part(function: Loop) -> Loop:
    """What the loops below are made of."""
    made: Any = njit(function)
    return cast("Loop", made)


@part
def _squared(x: float, two: float, by_power: int) -> float:
    """A result that is too large is an error for Python's floats, and infinite for numpy's."""
    result = x**two
    if by_power != OF_NUMPY and math.isinf(result) and not math.isinf(x):
        raise OverflowError("Numerical result out of range")
    return result


@part
def _exp(x: float) -> float:
    result = math.exp(x)
    if math.isinf(result) and not math.isinf(x):
        raise OverflowError("math range error")
    return result


@part
def _sigmoid(x: float) -> float:
    if x < -30.0:
        return 0.0
    if x > 30.0:
        return 1.0
    return 1.0 / (1.0 + math.exp(-x))


@part
def _sign(x: float) -> float:
    if x > 0.0:
        return 1.0
    if x < 0.0:
        return -1.0
    return x


@part
def _clamped(x: float, least: float, most: float) -> float:
    if most < x:
        x = most
    if least > x:
        x = least
    return x


# Python's sum of floats keeps what rounding loses from 3.12 on (Neumaier's summation); there
# ``careful`` is 1.


@part
def _lost(total: float, x: float, careful: int) -> float:
    if not careful:
        return 0.0
    result = total + x
    if abs(total) >= abs(x):
        return (total - result) + x
    return (x - result) + total


@part
def _found(total: float, lost: float) -> float:
    if lost != 0.0 and math.isfinite(lost):
        return total + lost
    return total


# -- scalers


@part
def _scaled(kind: int, table: np.ndarray, j: int, x: float) -> float:
    if kind == STANDARD:
        return (x - table[j, LOW]) / table[j, ROOT] if table[j, HIGH] != 0.0 else 0.0
    if kind == CENTRED:
        return x - table[j, LOW]
    if kind == MIN_MAX:
        span = table[j, HIGH] - table[j, LOW]
        return (x - table[j, LOW]) / span if span != 0.0 else 0.0
    if kind == MAX_ABS:
        return x / table[j, HIGH] if table[j, HIGH] != 0.0 else 0.0
    return x


@part
def _learn_scale(kind: int, table: np.ndarray, j: int, x: float, half: float) -> None:
    """LOW and HIGH are a mean and a variance, or a minimum and a maximum."""
    if kind == STANDARD or kind == CENTRED:
        count = table[j, COUNT] + 1.0
        old = table[j, LOW]
        mean = old + (x - old) / count
        table[j, COUNT] = count
        table[j, LOW] = mean
        if kind == STANDARD:
            variance = table[j, HIGH]
            variance += ((x - old) * (x - mean) - variance) / count
            if variance < 0.0:
                raise ValueError("a variance below 0")
            table[j, HIGH] = variance
            table[j, ROOT] = variance**half
    elif kind == MIN_MAX:
        if x < table[j, LOW]:
            table[j, LOW] = x
        if x > table[j, HIGH]:
            table[j, HIGH] = x
    elif kind == MAX_ABS and abs(x) > table[j, HIGH]:
        table[j, HIGH] = abs(x)


# -- learning rates, losses, optimizers


@part
def _rate(kind: int, options: np.ndarray, at: int, steps: float) -> float:
    if kind == CONSTANT:
        return options[at]
    if kind == INVERSE:
        return options[at] / (steps + 1.0) ** options[at + 1]
    return 1.0 / (options[at] * (options[at + 1] + steps))


@part
def _mean(kind: int, raw: float) -> float:
    if kind <= FOCAL:
        return _sigmoid(raw)
    if kind == POISSON:
        return _exp(raw)
    return raw


@part
def _binary_gradient(kind: int, a: float, b: float, y: float, raw: float) -> float:
    """Of labels that are 0 and 1."""
    side = y * 2.0 - 1.0
    if kind == LOG:
        weight = a if y != 0.0 else b
        z = raw * side
        if z > 18.0:
            return weight * math.exp(-z) * -side
        if z < -18.0:
            return weight * -side
        return weight * -side / (math.exp(z) + 1.0)
    if kind == HINGE:
        return -side if side * raw <= a else 0.0
    return side * (_sigmoid(a * (side * raw) + b) - 1.0)


@part
def _gradient(kind: int, options: np.ndarray, y: float, raw: float) -> float:
    a, b = options[LOSS_OPTIONS], options[LOSS_OPTIONS + 1]
    if kind <= FOCAL:
        return _binary_gradient(kind, a, b, y, raw)
    difference = raw - y
    if kind == SQUARED:
        return 2.0 * difference
    if kind == ABSOLUTE:
        return 1.0 if raw > y else -1.0
    if kind == CAUCHY:
        return difference / (_squared(difference / a, options[TWO], OF_PYTHON) + 1.0)
    if kind == INSENSITIVE:
        side = y * 2.0 - 1.0
        if raw > side + a:
            return 1.0
        return -1.0 if raw + a < side else 0.0
    if kind == QUANTILE:
        return (1.0 if y < raw else 0.0) - a
    if kind == HUBER:
        if abs(difference) <= a:
            return difference
        return a if difference > 0.0 else -a
    return _exp(raw) - y


@part
def _corrected(kind: int, options: np.ndarray, at: int, rate: float, steps: float) -> float:
    """The learning rate of one step, with the bias of its averages taken out."""
    if kind == ADAM or (kind == AMS_GRAD and options[at + 3] != 0.0):
        rate *= (1.0 - options[at + 1] ** (steps + 1.0)) ** options[HALF]
        rate /= 1.0 - options[at] ** (steps + 1.0)
    elif kind == ADA_MAX:
        rate /= 1.0 - options[at] ** (steps + 1.0)
    return rate


@part
def _adam(
    kind: int, w: float, g: float, g2: float, own: np.ndarray,
    rate: float, steps: float, options: np.ndarray, at: int,
) -> float:  # fmt: skip
    beta_1, beta_2, eps = options[at], options[at + 1], options[at + 2]
    half = options[HALF]
    m = beta_1 * own[0] + (1.0 - beta_1) * g
    own[0] = m
    if kind == ADA_MAX:
        u = beta_2 * own[1]
        if abs(g) > u:
            u = abs(g)
        own[1] = u
        return w - rate * m / (u + eps)
    v = beta_2 * own[1] + (1.0 - beta_2) * g2
    own[1] = v
    if kind == NADAM:
        bias = 1.0 - beta_1 ** (steps + 1.0)
        v_hat = v / (1.0 - beta_2 ** (steps + 1.0))
        step = beta_1 * (m / bias) + (1.0 - beta_1) * g / bias
        return w - rate * step / (v_hat**half + eps)
    if kind == AMS_GRAD:
        if v > own[2]:
            own[2] = v
        v = own[2]
    return w - rate * m / (v**half + eps)


@part
def _stepped(
    kind: int, w: float, g: float, own: np.ndarray,
    rate: float, steps: float, options: np.ndarray, at: int, by_power: int,
) -> float:  # fmt: skip
    """A weight after one step; ``own`` are the numbers that the optimizer keeps beside it.

    ``by_power``: whether river squares with ``**``, as it does for dictionaries, and of whose
    numbers, or else with ``*`` where it can.
    """
    if kind == SGD:
        return w - rate * g
    half, two = options[HALF], options[TWO]
    if kind == MOMENTUM:
        own[0] = options[at] * own[0] + rate * g
        return w - own[0]
    if kind == ADA_GRAD:
        own[0] += _squared(g, two, by_power)
        return w - rate / (own[0] + options[at + 2]) ** half * g
    if kind == RMS_PROP:
        g2 = _squared(g, two, by_power) if by_power != OF_NOBODY else g * g
        own[0] = options[at] * own[0] + (1.0 - options[at]) * g2
        return w - rate / (own[0] + options[at + 2]) ** half * g
    if kind == ADA_DELTA:
        rho, eps = options[at], options[at + 2]
        own[0] = rho * own[0] + (1.0 - rho) * _squared(g, two, by_power)
        step = -((own[1] + eps) ** half) / (own[0] + eps) ** half * g
        own[1] = rho * own[1] + (1.0 - rho) * _squared(step, two, by_power)
        return w + step
    if kind == FTRL:
        alpha, beta, l1, l2 = options[at], options[at + 1], options[at + 2], options[at + 3]
        z, n = own[0], own[1]
        if abs(z) > l1:
            w = -(((beta + n**half) / alpha + l2) ** options[MINUS_ONE]) * (z - _sign(z) * l1)
        g2 = _squared(g, two, by_power)
        s = ((n + g2) ** half - n**half) / alpha
        own[0] = z + (g - s * w)
        own[1] = n + g2
        return w
    g2 = g * g if kind == ADAM and by_power == OF_NOBODY else _squared(g, two, by_power)
    return _adam(kind, w, g, g2, own, rate, steps, options, at)


# -- generalized linear models


@compiled
def linear(
    first: np.ndarray, place: np.ndarray, length: np.ndarray, slots: np.ndarray,
    values: np.ndarray, labels: np.ndarray, mode: int, table: np.ndarray, numbers: np.ndarray,
    kinds: np.ndarray, options: np.ndarray, said: np.ndarray, progress: np.ndarray,
) -> None:  # fmt: skip
    """Rows through a scaler and a generalized linear model; ``said`` takes what it predicts."""
    scaler, loss, optimizer = kinds[SCALER], kinds[LOSS], kinds[OPTIMIZER]
    half, l1, l2, clip = options[HALF], options[L1], options[L2], options[CLIP]
    by_power = OF_NOBODY
    z = np.empty(length.max() if len(length) else 0)
    for row in range(len(length)):
        progress[0], progress[1] = row, PREDICT
        begin, at, size = first[row], place[row], length[row]
        if mode != LEARN:
            seen = numbers[SEEN]
            total = 0.0
            for q in range(size):
                j = slots[begin + q]
                w = table[j, WEIGHT] if j < seen else 0.0
                total += w * _scaled(scaler, table, j, values[at + q])
            said[row] = _mean(loss, total + numbers[INTERCEPT])
        if mode == PREDICT:
            continue
        progress[1] = LEARN
        total = 0.0
        for q in range(size):
            j = slots[begin + q]
            x = values[at + q]
            _learn_scale(scaler, table, j, x, half)
            z[q] = _scaled(scaler, table, j, x)
            total += table[j, WEIGHT] * z[q]
            if j >= numbers[SEEN]:
                numbers[SEEN] = j + 1
        slope = _gradient(loss, options, labels[row], total + numbers[INTERCEPT])
        slope = _clamped(slope, -clip, clip)
        steps = numbers[STEPS]
        numbers[INTERCEPT] -= _rate(kinds[INTERCEPT_RATE], options, INTERCEPT_RATES, steps) * slope
        rate = _rate(kinds[RATE], options, RATES, steps)
        rate = _corrected(optimizer, options, OPTIMIZERS, rate, steps)
        for q in range(size):
            j = slots[begin + q]
            w = table[j, WEIGHT]
            g = z[q] * slope
            if l2 != 0.0:
                g += l2 * w
            if optimizer == SGD:  # the usual one needs no call
                table[j, WEIGHT] = w - rate * g
            else:
                table[j, WEIGHT] = _stepped(
                    optimizer, w, g, table[j, STATE:PENALTY], rate, steps, options, OPTIMIZERS,
                    by_power,
                )  # fmt: skip
        numbers[STEPS] = steps + 1.0
        if l1 != 0.0:
            rate = _rate(kinds[RATE], options, RATES, steps + 1.0)
            numbers[PENALTIES] += l1 * rate
            for q in range(size):
                _cut(table[slots[begin + q]], numbers[PENALTIES])


@part
def _cut(own: np.ndarray, most: float) -> None:
    """The cumulative L1 penalty of one weight."""
    before = own[WEIGHT]
    after = before
    if before > 0.0:
        after = before - (most + own[PENALTY])
        after = max(after, 0.0)
    elif before < 0.0:
        after = before + (most - own[PENALTY])
        after = min(after, 0.0)
    own[WEIGHT] = after
    own[PENALTY] += after - before


# -- passive-aggressive models


@part
def _dot(
    z: np.ndarray, slots: np.ndarray, begin: int, size: int, table: np.ndarray,
    seen: int, where: np.ndarray, careful: int,
) -> float:  # fmt: skip
    """The product of features and weights: over the features, or over the weights in the order
    in which they came, whichever are fewer; over the weights if they are equally many.
    """
    total, lost = 0.0, 0.0
    if size < seen:
        for q in range(size):
            j = slots[begin + q]
            if j < seen:
                x = z[q] * table[j, WEIGHT]
                lost += _lost(total, x, careful)
                total += x
        return _found(total, lost)
    for q in range(size):
        where[slots[begin + q]] = q + 1
    for j in range(seen):
        if where[j] > 0:
            x = z[where[j] - 1] * table[j, WEIGHT]
            lost += _lost(total, x, careful)
            total += x
    for q in range(size):
        where[slots[begin + q]] = 0
    return _found(total, lost)


@compiled
def passive(
    first: np.ndarray, place: np.ndarray, length: np.ndarray, slots: np.ndarray,
    values: np.ndarray, labels: np.ndarray, mode: int, table: np.ndarray, numbers: np.ndarray,
    kinds: np.ndarray, options: np.ndarray, said: np.ndarray, progress: np.ndarray,
) -> None:  # fmt: skip
    """Rows through a scaler and a passive-aggressive model."""
    scaler, regression, careful = kinds[SCALER], kinds[REGRESSION], kinds[CAREFUL]
    half, two, most, eps = options[HALF], options[TWO], options[CLIP], options[LOSS_OPTIONS]
    z = np.empty(length.max() if len(length) else 0)
    where = np.zeros(len(table), np.int64)
    for row in range(len(length)):
        progress[0], progress[1] = row, PREDICT
        begin, at, size = first[row], place[row], length[row]
        seen = int(numbers[SEEN])
        if mode != LEARN:
            for q in range(size):
                z[q] = _scaled(scaler, table, slots[begin + q], values[at + q])
            raw = _dot(z, slots, begin, size, table, seen, where, careful) + numbers[INTERCEPT]
            said[row] = raw if regression else _sigmoid(raw)
        if mode == PREDICT:
            continue
        progress[1] = LEARN
        for q in range(size):
            j = slots[begin + q]
            _learn_scale(scaler, table, j, values[at + q], half)
            z[q] = _scaled(scaler, table, j, values[at + q])
        raw = _dot(z, slots, begin, size, table, seen, where, careful) + numbers[INTERCEPT]
        side = labels[row] * 2.0 - 1.0
        if regression:
            loss = abs(raw - side) - eps
            side = _sign(labels[row] - raw)
        else:
            loss = 1.0 - side * raw
        loss = max(loss, 0.0)
        norm = math.sqrt(np.dot(z[:size], z[:size])) ** two
        if kinds[MODE] == 2:
            tau = loss / (norm + 0.5 / most)
        elif norm > 0.0:
            tau = loss / norm
            if kinds[MODE] == 1 and not tau < most:
                tau = most
        else:
            tau = 0.0
        step = tau * side
        for q in range(size):
            j = slots[begin + q]
            table[j, WEIGHT] += step * z[q]
            if j >= numbers[SEEN]:
                numbers[SEEN] = j + 1
        if kinds[INTERCEPTED]:
            numbers[INTERCEPT] += step


# -- softmax regression


@part
def _dot_by_rank(
    z: np.ndarray, slots: np.ndarray, begin: int, size: int, own: np.ndarray, filled: int,
    order: np.ndarray, careful: int,
) -> float:  # fmt: skip
    """The product of the weights of one class and the features: over the weights in the order
    in which the class met them if they are fewer, or else over the features.
    """
    count = 0
    for q in range(size):
        rank = own[slots[begin + q], RANK]
        if rank > 0.0:
            spot = count
            if filled < size:
                while spot > 0 and own[slots[begin + order[spot - 1]], RANK] > rank:
                    order[spot] = order[spot - 1]
                    spot -= 1
            order[spot] = q
            count += 1
    total, lost = 0.0, 0.0
    for spot in range(count):
        q = order[spot]
        x = own[slots[begin + q], 0] * z[q]
        lost += _lost(total, x, careful)
        total += x
    return _found(total, lost)


@part
def _shares(
    z: np.ndarray, slots: np.ndarray, begin: int, size: int, weights: np.ndarray,
    classes: np.ndarray, known: int, order: np.ndarray, careful: int, shares: np.ndarray,
) -> None:  # fmt: skip
    for label in range(known):
        shares[label] = _dot_by_rank(
            z, slots, begin, size, weights[label], int(classes[label, 1]), order, careful
        )
    most = shares[0] if known else 0.0
    for label in range(1, known):
        most = max(most, shares[label])
    total = 0.0
    for label in range(known):
        shares[label] = math.exp(shares[label] - most)
        total += shares[label]
    for label in range(known):
        shares[label] /= total


@compiled
def softmax(
    first: np.ndarray, place: np.ndarray, length: np.ndarray, slots: np.ndarray,
    values: np.ndarray, labels: np.ndarray, mode: int, table: np.ndarray, numbers: np.ndarray,
    kinds: np.ndarray, options: np.ndarray, said: np.ndarray, progress: np.ndarray,
    weights: np.ndarray, classes: np.ndarray, known: np.ndarray,
) -> None:  # fmt: skip
    """Rows through a scaler and a softmax regression.

    ``labels`` are numbers of classes, given out in the order in which the classes come.
    ``weights[class, slot]`` has a weight, the optimizer's numbers, and as the last one which
    one it is of the weights of the class: 0 before the class has met the feature, -1 if river
    keeps no weight for it yet. ``classes[class]`` has the
    steps of its optimizer, how many weights it has, and its share in the loss. ``known[row]``
    tells how many classes were known when ``said[row]`` was said, ``numbers[SEEN]`` how many
    slots have been learned, and ``numbers[INTERCEPT]`` how many classes.
    """
    scaler, optimizer, careful = kinds[SCALER], kinds[OPTIMIZER], kinds[CAREFUL]
    half, l2 = options[HALF], options[L2]
    longest = length.max() if len(length) else 0
    z = np.empty(longest)
    order = np.empty(longest, np.int64)
    shares = np.empty(len(weights))
    for row in range(len(length)):
        progress[0], progress[1] = row, PREDICT
        begin, at, size = first[row], place[row], length[row]
        count = int(numbers[INTERCEPT])
        if mode != LEARN:
            for q in range(size):
                z[q] = _scaled(scaler, table, slots[begin + q], values[at + q])
            _shares(z, slots, begin, size, weights, classes, count, order, careful, shares)
            known[row] = count
            said[row, :count] = shares[:count]
        if mode == PREDICT:
            continue
        progress[1] = LEARN
        for q in range(size):
            j = slots[begin + q]
            _learn_scale(scaler, table, j, values[at + q], half)
            z[q] = _scaled(scaler, table, j, values[at + q])
            if j >= numbers[SEEN]:
                numbers[SEEN] = j + 1
        _shares(z, slots, begin, size, weights, classes, count, order, careful, shares)
        truth = int(labels[row])
        if truth == count:
            shares[count] = 0.0
            count += 1
            numbers[INTERCEPT] = count
        for label in range(count):
            share = _clamped(shares[label], 1e-15, 1.0 - 1e-15)
            slope = classes[label, 2] * (share - (1.0 if label == truth else 0.0))
            steps = classes[label, 0]
            rate = _rate(kinds[RATE], options, RATES, steps)
            rate = _corrected(optimizer, options, OPTIMIZERS, rate, steps)
            for q in range(size):
                own = weights[label, slots[begin + q]]
                if own[RANK] <= 0.0:
                    # FTRL leaves a weight out of river's dictionary as long as it is 0.
                    own[RANK] = -1.0
                if own[RANK] < 0.0 and (optimizer != FTRL or abs(own[1]) > options[OPTIMIZERS + 2]):
                    classes[label, 1] += 1.0
                    own[RANK] = classes[label, 1]
                w = own[0]
                g = z[q] * slope + l2 * w
                own[0] = _stepped(
                    optimizer, w, g, own[1:RANK], rate, steps, options, OPTIMIZERS, OF_PYTHON
                )
            classes[label, 0] = steps + 1.0


# -- factorization machines


@part
def _interactions(
    z: np.ndarray, slots: np.ndarray, begin: int, size: int, latents: np.ndarray
) -> float:
    total = 0.0
    for one in range(size):
        v = latents[slots[begin + one]]
        for two in range(one + 1, size):
            u = latents[slots[begin + two]]
            total += np.dot(v, u) * (z[one] * z[two])
    return total


@compiled
def machine(
    first: np.ndarray, place: np.ndarray, length: np.ndarray, slots: np.ndarray,
    values: np.ndarray, labels: np.ndarray, mode: int, table: np.ndarray, numbers: np.ndarray,
    kinds: np.ndarray, options: np.ndarray, said: np.ndarray, progress: np.ndarray,
    latents: np.ndarray, factors: np.ndarray,
) -> None:  # fmt: skip
    """Rows through a scaler and a factorization machine.

    ``latents[slot]`` are the latent weights. River's optimizer of them keeps its numbers by
    factor and not by feature, and takes a step for each feature: ``factors``, by factor.
    """
    scaler, loss, careful = kinds[SCALER], kinds[LOSS], kinds[CAREFUL]
    optimizer, latent_optimizer = kinds[OPTIMIZER], kinds[LATENT_OPTIMIZER]
    half, two, clip = options[HALF], options[TWO], options[CLIP]
    by_power = OF_NUMPY if kinds[REGRESSION] else OF_PYTHON
    z = np.empty(length.max() if len(length) else 0)
    where = np.zeros(len(table), np.int64)
    sums = np.empty(latents.shape[1])
    for row in range(len(length)):
        progress[0], progress[1] = row, PREDICT
        begin, at, size = first[row], place[row], length[row]
        seen = int(numbers[SEEN])
        if mode != LEARN:
            for q in range(size):
                z[q] = _scaled(scaler, table, slots[begin + q], values[at + q])
            raw = numbers[INTERCEPT] + _dot(z, slots, begin, size, table, seen, where, careful)
            raw += _interactions(z, slots, begin, size, latents)
            said[row] = raw if kinds[REGRESSION] else _sigmoid(raw)
        if mode == PREDICT:
            continue
        progress[1] = LEARN
        for q in range(size):
            j = slots[begin + q]
            _learn_scale(scaler, table, j, values[at + q], half)
            z[q] = _scaled(scaler, table, j, values[at + q])
        if kinds[NORMALISED]:
            total, lost = 0.0, 0.0
            for q in range(size):
                x = _squared(z[q], two, OF_PYTHON)
                lost += _lost(total, x, careful)
                total += x
            norm = _found(total, lost) ** half
            for q in range(size):
                z[q] /= norm
        raw = numbers[INTERCEPT] + _dot(z, slots, begin, size, table, seen, where, careful)
        raw += _interactions(z, slots, begin, size, latents)
        slope = _clamped(_gradient(loss, options, labels[row], raw), -clip, clip)
        steps = numbers[STEPS]
        numbers[INTERCEPT] -= _rate(kinds[INTERCEPT_RATE], options, INTERCEPT_RATES, steps) * slope
        rate = _rate(kinds[RATE], options, RATES, steps)
        rate = _corrected(optimizer, options, OPTIMIZERS, rate, steps)
        for q in range(size):
            j = slots[begin + q]
            w = table[j, WEIGHT]
            g = slope * z[q] + options[L1] * _sign(w) + options[L2] * w
            table[j, WEIGHT] = _stepped(
                optimizer, w, g, table[j, STATE:PENALTY], rate, steps, options, OPTIMIZERS, by_power
            )
            if j >= numbers[SEEN]:
                numbers[SEEN] = j + 1
        numbers[STEPS] = steps + 1.0
        sums[:] = 0.0
        for q in range(size):
            for f in range(len(sums)):
                sums[f] += latents[slots[begin + q], f] * z[q]
        for q in range(size):
            v = latents[slots[begin + q]]
            steps = numbers[LATENT_STEPS]
            rate = _rate(kinds[LATENT_RATE], options, LATENT_RATES, steps)
            rate = _corrected(latent_optimizer, options, LATENT_OPTIMIZERS, rate, steps)
            x, square = z[q], z[q] ** two
            for f in range(len(sums)):
                g = slope * (x * sums[f] - v[f] * square)
                g = g + options[LATENT_L1] * _sign(v[f]) + options[LATENT_L2] * v[f]
                v[f] = _stepped(
                    latent_optimizer, v[f], g, factors[f], rate, steps, options,
                    LATENT_OPTIMIZERS, OF_NUMPY,
                )  # fmt: skip
            numbers[LATENT_STEPS] = steps + 1.0
