"""Texts become the hashed n-grams that an embedding is looked up for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np

from stream_update.errors import ConfigError
from stream_update.learners.torch.checks import bounds, whole

__all__ = ["Text"]

WORD = re.compile(r"\w+|[^\w\s]")
CACHED_WORDS = 20_000
LONGEST_CACHED = 20
MARK = "\0"
"""Before the n-grams of characters, so that they are not taken for words."""


class Text:
    """A field that holds a text.

    Words and single marks of punctuation, in lower case unless ``lowercase`` is false, make
    the ``word_ngrams`` from the first length to the second. Each word between ``<`` and ``>``
    has its ``char_ngrams`` likewise, as in Bojanowski et al. (2017), "Enriching word vectors
    with subword information". An n-gram's bucket is the CRC-32 of its UTF-8, modulo
    ``buckets``, and has a vector of ``dim`` numbers; a text is their mean. Of a text the first
    ``max_ngrams`` count. An empty list asks for no n-grams of that kind.
    """

    def __init__(
        self,
        buckets: int = 16_384,
        dim: int = 16,
        word_ngrams: Sequence[int] = (1, 2),
        char_ngrams: Sequence[int] = (3, 5),
        max_ngrams: int = 1000,
        lowercase: bool = True,  # noqa: FBT001, FBT002
    ) -> None:
        self.buckets = whole("buckets", buckets, 1 << 28)
        self.dim = whole("dim", dim)
        self._words = bounds("word_ngrams", word_ngrams, 8)
        self._characters = bounds("char_ngrams", char_ngrams, 16)
        if not self._words and not self._characters:
            raise ConfigError("word_ngrams: there are neither n-grams of words nor of characters")
        self._most = whole("max_ngrams", max_ngrams, 1 << 20)
        self._lowercase = lowercase
        self._known = lru_cache(CACHED_WORDS)(self._of_word)

    def read(self, value: Any) -> Any:
        """The buckets of a text's n-grams; raises :class:`ValueError` if it is none."""
        if not isinstance(value, str):
            raise ValueError(f"it is a {type(value).__name__}, and not a text")  # noqa: TRY004
        words = WORD.findall(value.lower() if self._lowercase else value)
        found: list[int] = []
        for word in words:
            if len(found) >= self._most:
                break
            # A cache of long words could take any amount of memory.
            of = self._known if len(word) <= LONGEST_CACHED else self._of_word
            found += of(word)
        for size in self._words:
            if size > 1 and len(found) < self._most:
                found += [
                    self._bucket(" ".join(words[at : at + size]))
                    for at in range(min(len(words) - size + 1, self._most))
                ]
        return np.array(found[: self._most], dtype=np.int64)

    def join(self, values: Sequence[Any]) -> tuple[Any, ...]:
        """All buckets in a row, and where those of each text begin; None is an empty text."""
        sizes = [0 if value is None else len(value) for value in values]
        starts = np.cumsum([0, *sizes], dtype=np.int64)[:-1]
        given = [value for value in values if value is not None]
        joined = np.concatenate(given) if given else np.zeros(0, dtype=np.int64)
        return joined, starts

    def _of_word(self, word: str) -> tuple[int, ...]:
        return tuple(map(self._bucket, self._within(word)))

    def _within(self, word: str) -> Iterator[str]:
        if 1 in self._words:
            yield word
        marked = f"<{word}>"
        for size in self._characters:
            for at in range(min(len(marked) - size + 1, self._most)):
                yield MARK + marked[at : at + size]

    def _bucket(self, ngram: str) -> int:
        return crc32(ngram.encode()) % self.buckets
