"""``python -m stream_update.objects.allow`` prints ``data/river_types.json`` anew.

Run it when river's version changes, read the difference, and commit it::

    python -m stream_update.objects.allow > river_types.json
    mv river_types.json stream_update/data/

The classes are all those of river that can be part of an estimator; left out are the
packages below, which open files and sockets, plot, or wrap other libraries. Functions
cannot be found by looking, since most of them are no values in anybody's state: they
are listed here one by one.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any

import msgspec

from stream_update.objects.names import Frozen, name_of, plain
from stream_update.objects.quirks import OUTLAWS

__all__ = ["current"]

LEFT_OUT = (
    "river.api",
    "river.bandit.datasets",
    "river.bandit.envs",
    "river.bandit.evaluate",
    "river.checks",
    "river.compat",
    "river.datasets",
    "river.drift.datasets",
    "river.evaluate",
    "river.stream",
    "river.time_series",
    # Needs Python 3.14, and keeps compressors.
    "river.misc.zstd_classifier",
)

FUNCTIONS = (
    "builtins:str.lower",
    "copy:deepcopy",
    "math:exp",
    "math:expm1",
    "math:log",
    "math:log10",
    "math:log1p",
    "math:log2",
    "math:sqrt",
    "numpy:array",
    "numpy:ones",
    "random:Random.gauss",
    "river._river_rust.vectordict:euclidean_distance_dict",
    "river._river_rust.vectordict:euclidean_distance_tuple",
    "river.bandit.thompson:ThompsonSampling._clone_reward_obj_with_seed",
    "river.base.base:Base.clone",
    "river.drift.dummy:DummyDriftDetector._fixed_trigger",
    "river.drift.dummy:DummyDriftDetector._random_trigger",
    "river.drift.page_hinkley:PageHinkley._test_both",
    "river.drift.page_hinkley:PageHinkley._test_decrease",
    "river.drift.page_hinkley:PageHinkley._test_increase",
    "river.ensemble.bagging:LeveragingBaggingClassifier._leveraging_bag",
    "river.ensemble.bagging:LeveragingBaggingClassifier._leveraging_bag_half",
    "river.ensemble.bagging:LeveragingBaggingClassifier._leveraging_bag_me",
    "river.ensemble.bagging:LeveragingBaggingClassifier._leveraging_bag_wt",
    "river.ensemble.bagging:LeveragingBaggingClassifier._leveraging_subag",
    "river.feature_extraction.kernel_approx:RBFSampler._random_weights",
    "river.feature_extraction.vectorize:find_all_ngrams",
    "river.feature_extraction.vectorize:remove_stop_words",
    "river.feature_extraction.vectorize:strip_accents_unicode",
    "river.feature_extraction.vectorize:tokenize_using_regex_pattern",
    "river.forest.online_extra_trees:ExtraTrees._detection_mode_all",
    "river.forest.online_extra_trees:ExtraTrees._detection_mode_drop",
    "river.forest.online_extra_trees:ExtraTrees._detection_mode_off",
    "river.linear_model.pa:BasePA._calc_tau_0",
    "river.linear_model.pa:BasePA._calc_tau_1",
    "river.linear_model.pa:BasePA._calc_tau_2",
    "river.multiclass.occ:OutputCodeClassifier._next_code",
    "river.naive_bayes.gaussian:GaussianNB._make_gaussian",
    "river.preprocessing.random_projection:GaussianRandomProjector._rand_gauss",
    "river.preprocessing.random_projection:SparseRandomProjector._rand_weights_for_feature",
    "river.preprocessing.scale_target:TargetMinMaxScaler._scale",
    "river.preprocessing.scale_target:TargetMinMaxScaler._unscale",
    "river.preprocessing.scale_target:TargetStandardScaler._scale",
    "river.preprocessing.scale_target:TargetStandardScaler._unscale",
    "river.tree.splitter.ebst_splitter:EBSTNode._update_estimator_multivariate",
    "river.tree.splitter.ebst_splitter:EBSTNode._update_estimator_univariate",
    "river.tree.splitter.nominal_splitter_reg:NominalSplitterReg._update_estimator_multivariate",
    "river.tree.splitter.nominal_splitter_reg:NominalSplitterReg._update_estimator_univariate",
    "river.tree.splitter.qo_splitter:Slot._update_estimator_multivariate",
    "river.tree.splitter.qo_splitter:Slot._update_estimator_univariate",
    "river.utils.math:_manhattan_distance",
    "river.utils.math:minkowski_distance",
)

# Beside river's own.
CLASSES = ("statistics:NormalDist",)

REFERENCES = (
    "builtins:bool",
    "builtins:dict",
    "builtins:float",
    "builtins:int",
    "builtins:list",
    "builtins:set",
    "builtins:str",
    "builtins:tuple",
    "collections:Counter",
    "collections:OrderedDict",
    "collections:defaultdict",
    "collections:deque",
    "numbers:Integral",
    "numbers:Number",
    "numbers:Real",
)


def current() -> bytes:
    """The list for the river that is installed, as the bytes of the file."""
    river = importlib.import_module("river")
    classes = set(CLASSES)
    rust: set[str] = set()
    for module in _modules(river):
        for cls in _classes_of(module):
            abstract = inspect.isabstract(cls) or getattr(cls, "_is_protocol", False)
            if (plain(cls) or issubclass(cls, tuple)) and not abstract:
                classes.add(name_of(cls))
    extension = importlib.import_module("river._river_rust")
    for module in filter(inspect.ismodule, vars(extension).values()):
        rust.update(name_of(cls) for cls in vars(module).values() if isinstance(cls, type))
    found = Frozen(
        river=importlib.import_module("river.__version__").__version__,
        classes=_by_module(classes.difference(OUTLAWS)),
        rust=_by_module(rust),
        functions=_by_module(set(FUNCTIONS)),
        references=_by_module(set(REFERENCES)),
    )
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"


def _modules(river: Any) -> Iterator[Any]:
    for found in pkgutil.walk_packages(river.__path__, "river."):
        name = found.name
        private = any(part.startswith(("_", "test_")) for part in name.split("."))
        if not private and not any(name == out or name.startswith(out + ".") for out in LEFT_OUT):
            yield importlib.import_module(name)


def _classes_of(module: Any) -> Iterator[type]:
    """The classes that a module defines, with the classes inside them."""
    stack = list(vars(module).values())
    while stack:
        found = stack.pop()
        if isinstance(found, type) and found.__module__ == module.__name__:
            yield found
            inside = f"{found.__qualname__}."
            stack.extend(
                inner
                for inner in vars(found).values()
                if isinstance(inner, type) and inner.__qualname__.startswith(inside)
            )


def _by_module(names: set[str]) -> dict[str, list[str]]:
    listed: dict[str, list[str]] = {}
    for name in sorted(names):
        module, _, qualname = name.partition(":")
        listed.setdefault(module, []).append(qualname)
    return listed


if __name__ == "__main__":
    sys.stdout.buffer.write(current())
