"""Python objects as plain data, and back, without ever running what the data says.

:func:`freeze` turns a model into a tree of plain values, :func:`thaw` turns the tree
back into a model, :func:`digest` tells whether two trees are of the same state.

Pickle is no choice here: a pickle is a program, and river's own pickles need
``getattr``, with which a program can do everything. In a tree there are only values.
What they become is decided by this package, and which classes may occur is an exact
list (:mod:`~stream_update.objects.names`) that is frozen and shipped.

A tree
======

======== ===========================================================================
format   1
leaves   values that never change, children before parents: ``[tag, part, ...]``
         (:mod:`~stream_update.objects.leaves`)
groups   objects that change, by kind: ``{kind, of, attributes, count, columns}``
         (:mod:`~stream_update.objects.kinds`)
root     a column of one value
======== ===========================================================================

A column is a list of None, bools, 64-bit integers, floats, text and bytes, and of
``[number]``, a reference to an object; or ``{"refs": [...]}``, nothing but references,
each as its difference to the one before. Objects are numbered from 0 in the order of
the groups, leaves from -1 downwards.
"""

from stream_update.objects.digests import digest, without_orders
from stream_update.objects.freezing import freeze
from stream_update.objects.thawing import thaw

__all__ = ["digest", "freeze", "thaw", "without_orders"]
