"""A name in a configuration becomes an object.

``use`` names an entry point (``drift``) or ``module:attribute``; the other keys of
the table are bound to the constructor's signature, so the constructor is the
schema. Tables inside a table that have a ``use`` of their own are built first;
``{ ref = "module:attribute" }`` stands for the attribute itself, not called.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, cast, get_args, get_origin, get_type_hints

from stream_update.errors import ConfigError, LineageMismatch
from stream_update.events import Tree
from stream_update.protocols import Learner, Log, Precision

__all__ = [
    "LEARNERS",
    "WRAPS",
    "build",
    "call",
    "check_options",
    "names",
    "open_log",
    "resolve",
    "restored",
    "rounds",
    "served",
    "sources",
]

LOGS = "stream_update.logs"
KAFKA_CLIENTS = {
    "kafka-python": "kafka",
    "librdkafka": "stream_update.log.librdkafka:LibrdkafkaLog",
}
"""The libraries that a ``kafka://`` address may be spoken to with."""
LEARNERS = "stream_update.learners"
WRAPS = "stream_update.wraps"
MAX_KIND = 200
DROPPED_KEYS = frozenset({"use", "factory", "allow"})
NAMING_KEYS = frozenset({"use", "factory", "ref", "allow", "module", "loss", "step"})
VERSIONED = frozenset({"river", "stream_update"})
"""Packages whose version says enough about their code."""


def names(group: str) -> list[str]:
    """The short names that are installed for a seam, ours and others'."""
    return sorted({point.name for point in entry_points(group=group)})


def open_log(url: str, kafka: Mapping[str, Any] | None = None) -> Log:
    """Connect to the log that an address names; ``kafka`` holds the client's own options,
    with those for consumers and producers only in tables of these names, and as ``client``
    one of :data:`KAFKA_CLIENTS`.
    """
    scheme = url.partition("://")[0]
    if scheme not in names(LOGS):
        raise ConfigError(
            f"log: there is no kind of log {scheme!r} (the address is {url!r})",
            hint=f"accepted: {', '.join(f'{name}://' for name in names(LOGS))}",
        )
    if scheme != "kafka":
        return cast("Log", resolve(scheme, "log", LOGS)(url))
    client = dict(kafka or {})
    chosen = client.pop("client", "kafka-python")
    if chosen not in KAFKA_CLIENTS:
        raise ConfigError(
            f"[kafka] client: there is no {chosen!r}", hint=f"one of {', '.join(KAFKA_CLIENTS)}"
        )
    maker = resolve(KAFKA_CLIENTS[chosen], "log", LOGS)
    consumer, producer = client.pop("consumer", {}), client.pop("producer", {})
    return cast("Log", maker(url, client=client, consumer=consumer, producer=producer))


def resolve(name: str, where: str, group: str | None = None) -> Any:
    """The object that ``name`` stands for; ``where`` is the key, for messages."""
    if ":" not in name:
        if group is not None:
            for point in entry_points(group=group):
                if point.name == name:
                    return point.load()
        known = ", ".join(names(group)) if group else ""
        raise ConfigError(
            f"{where}: there is no {name!r}",
            hint=f'write "module:attribute"{f", or one of: {known}" if known else ""}',
        )
    module_name, _, attribute = name.partition(":")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        missing = error.name or module_name
        raise ConfigError(
            f"{where}: {name!r} cannot be imported: {error}",
            hint=f"install the package that has {missing!r}, or run where it can be imported",
        ) from error
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            close = difflib.get_close_matches(part, dir(found), n=3)
            raise ConfigError(
                f"{where}: {module_name!r} has no {attribute!r}",
                hint=f"did you mean {', '.join(close)}?" if close else "check the spelling",
            ) from None
    return found


def restored(kind: str, tree: Tree, task: str, *, allow: Sequence[Any] = (), where: str) -> Learner:
    """The learner that serves, from a dump of a learner of this kind alone.

    ``"twin(river)"`` is a wrap around a learner: of a wrap only the part is taken that
    predicts. Both have to be installed under these names, because what was dumped never says
    what is to be imported. Raises :class:`LineageMismatch` that begins with ``where``.
    """
    if len(kind) > MAX_KIND:
        raise LineageMismatch(f"{where}: no learner is called {kind!r:.200}")
    *wraps, name = kind.replace(")", "").split("(")
    maker = _installed(name, LEARNERS, where)
    for serving in [_installed(wrap, WRAPS, where).serving for wrap in wraps]:
        tree = serving(tree)
    return cast("Learner", maker.restored(tree, task, allow=allow))


def served(kind: str, tree: Tree, precision: Precision, *, where: str) -> tuple[str, Tree]:
    """Of a dump of a learner of this kind what those need who only predict, and its kind.

    Raises :class:`ConfigError` that begins with ``where`` for a kind that has no weights to be
    rounded, if ``precision`` asks for that.
    """
    *wraps, name = kind.replace(")", "").split("(")
    for wrap in wraps:
        tree = _installed(wrap, WRAPS, where).serving(tree)
    maker = _installed(name, LEARNERS, where)
    if rounds(name):
        return name, maker.for_serving(tree, precision)
    if precision != "float32":
        raise ConfigError(
            f"{where}: learners of the kind {name!r} have no weights that could be {precision}",
            hint='"float32" publishes what predicts, in the numbers that it has',
        )
    return name, tree


def rounds(kind: str) -> bool:
    """Whether learners of this kind have weights of which fewer digits can be published."""
    name = kind.replace(")", "").split("(")[-1]
    return hasattr(_installed(name, LEARNERS, kind), "for_serving")


def _installed(name: str, group: str, where: str) -> Any:
    points = _points(group)
    for point in points:
        if point.name == name:
            return point.load()
    raise LineageMismatch(
        f"{where} has learners of the kind {name!r}, which is not installed here",
        hint=f"installed: {', '.join(sorted(points.names))}",
    )


@functools.cache
def _points(group: str) -> EntryPoints:
    """Read once: to look through all that is installed takes longer than to take a small model."""
    return entry_points(group=group)


def sources(*tables: Any) -> dict[str, str]:
    """The user's own modules that these tables name, each with the SHA-256 of its file.

    Everything but river and this package, as far as it has been imported from a file of
    Python source. What such a module imports in its turn is not looked at.
    """
    found: dict[str, str] = {}
    for name in sorted(set(_modules(tables))):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file is not None and file.endswith(".py") and Path(file).is_file():
            found[name] = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    return found


def _modules(value: Any, *, naming: bool = False) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _modules(item, naming=key in NAMING_KEYS)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _modules(item, naming=naming)
    elif naming and isinstance(value, str) and ":" in value:
        module = value.partition(":")[0]
        if module.split(".")[0] not in VERSIONED:
            yield module


def build(
    table: Mapping[str, Any],
    where: str,
    *,
    group: str | None = None,
    seed: int | None = None,
    given: Mapping[str, Any] | None = None,
    raw: Container[str] = (),
) -> Any:
    """Build the object that a table describes.

    ``given`` are arguments that the program supplies, for those parameters that the
    constructor has. ``seed`` goes to every constructor on the way that has a
    parameter ``seed`` which defaults to None and which the table leaves open: a
    learner with randomness of its own would not be a function of its events. What stands
    in the options named in ``raw`` is left to the constructor.
    """
    key = "use" if "use" in table else "factory"
    name = table.get(key)
    if not isinstance(name, str):
        raise ConfigError(f"{where}.{key}: expected a name such as module:attribute, got {name!r}")
    maker = resolve(name, f"{where}.{key}", group)
    if not callable(maker):
        raise ConfigError(f"{where}.{key}: {name!r} is a {type(maker).__name__}, not a callable")
    options = {
        option: value if option in raw else _value(value, f"{where}.{option}", seed)
        for option, value in table.items()
        if option not in DROPPED_KEYS
    }
    return _call(maker, name, options, where, seed, given or {})


def call(
    maker: Callable[..., Any],
    name: str,
    options: Mapping[str, Any],
    where: str,
    given: Mapping[str, Any],
) -> Any:
    """Call what has been resolved already, as :func:`build` does."""
    return _call(maker, name, dict(options), where, None, given)


def _value(value: Any, where: str, seed: int | None) -> Any:
    if isinstance(value, Mapping):
        if "ref" in value:
            return resolve(str(value["ref"]), f"{where}.ref")
        if "use" in value or "factory" in value:
            return build(value, where, seed=seed)
        return {key: _value(item, f"{where}.{key}", seed) for key, item in value.items()}
    if isinstance(value, list):
        return [_value(item, f"{where}[{index}]", seed) for index, item in enumerate(value)]
    return value


def _call(
    maker: Callable[..., Any],
    name: str,
    options: dict[str, Any],
    where: str,
    seed: int | None,
    given: Mapping[str, Any],
) -> Any:
    try:
        parameters = dict(inspect.signature(maker).parameters)
    except ValueError:
        parameters = {}
    positional: list[Any] = []
    takes_any = not parameters
    for parameter in parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL and parameter.name in options:
            value = options.pop(parameter.name)
            if not isinstance(value, list):
                raise ConfigError(f"{where}.{parameter.name}: expected a list")
            positional = value
        elif parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.name in given and parameter.name not in options:
            options[parameter.name] = given[parameter.name]
        elif (
            parameter.name == "seed"
            and seed is not None
            and parameter.default is None
            and "seed" not in options
        ):
            options["seed"] = seed
    accepted = [
        parameter.name
        for parameter in parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]
    if not takes_any:
        check_options(accepted, options, where, name, given)
    _check_texts(maker, parameters, options, where)
    try:
        return maker(*positional, **options)
    except ConfigError:
        raise
    except Exception as error:
        shown = ", ".join(
            f"{option} = {value!r}" for option, value in options.items() if option not in given
        )
        accepted = [option for option in accepted if option not in given]
        raise ConfigError(
            f"{where}: {name} refused its options: {error}",
            hint=f"given: {shown or 'nothing'}; it accepts: {', '.join(accepted) or 'anything'}",
        ) from error


def check_options(
    accepted: Sequence[str],
    options: Iterable[str],
    where: str,
    name: str,
    given: Container[str] = (),
) -> None:
    """Raise :class:`ConfigError` for an option that ``name`` does not have.

    What is ``given`` by the package is accepted, and not told of: no person writes it.
    """
    for option in options:
        if option not in accepted:
            accepted = [name for name in accepted if name not in given]
            close = difflib.get_close_matches(option, accepted, n=1)
            raise ConfigError(
                f"{where}.{option}: {name} has no such option"
                + (f"; did you mean {close[0]}?" if close else ""),
                hint=f"it accepts: {', '.join(accepted) or 'no options'}",
            )


def _check_texts(
    maker: Callable[..., Any],
    parameters: Mapping[str, inspect.Parameter],
    options: Mapping[str, Any],
    where: str,
) -> None:
    """Refuse a text where the annotation, or the default, leaves no room for one: many
    constructors would take it, and the model would break at its first event.
    """
    init = maker.__init__ if isinstance(maker, type) else maker  # type: ignore[misc]
    try:
        hints = get_type_hints(init)
    except (NameError, TypeError, AttributeError):  # annotations that mean nothing at run time
        return
    for option, value in options.items():
        default = parameters[option].default if option in parameters else None
        number = type(default) if type(default) in {int, float} else Any
        kinds = _kinds(hints.get(option, number))
        if isinstance(value, str) and not any(map(_may_be_text, kinds)):
            expected = " or ".join(kind.__name__ for kind in kinds if kind is not NoneType)
            raise ConfigError(f"{where}.{option}: expected {expected}, got {value!r}")


def _kinds(hint: Any) -> list[Any]:
    """The members of a union, without their parameters."""
    members = get_args(hint) if get_origin(hint) in {Union, UnionType} else [hint]
    return [get_origin(member) or member for member in members]


def _may_be_text(kind: Any) -> bool:
    return kind is Any or not isinstance(kind, type) or issubclass(str, kind)
