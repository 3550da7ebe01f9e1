"""Find names of sources in bytes, where they do not begin a longer name, as IM1 begins IM10."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable


class SourceNames:
    """Names to search for, and longer ones in which they are not.

    Attributes:
        max_bytes: of the longest name.
    """

    def __init__(self, names: Iterable[str], longer: Iterable[str] = ()) -> None:
        """Encode the names.

        Args:
            names: to search for.
            longer: names that begin with one of `names`, and may be in what is searched.
        """
        self._names = [_encoded(name) for name in names]
        self._longer: defaultdict[int, set[bytes]] = defaultdict(set)
        for name in map(_encoded, longer):
            self._longer[len(name)].add(name)
        self.max_bytes = max([0, *map(len, self._names), *self._longer])

    def are_in(self, data: bytes, *, is_last: bool = True) -> bool:
        """Return whether one of the names is in bytes.

        Args:
            data: a text, or a block of one.
            is_last: whether the text ends with the data; if not, what begins in the last `max_bytes`
                is left to the next block, which has to begin with them.
        """
        return any(name in data and self._is_in(name, data, is_last) for name in self._names)

    def _is_in(self, name: bytes, data: bytes, is_last: bool) -> bool:
        unread = 0 if is_last else self.max_bytes - len(name)
        end = max(0, len(data) - unread)
        start = data.find(name, 0, end)
        while start >= 0:
            if not any(data[start : start + size] in of for size, of in self._longer.items()):
                return True
            start = data.find(name, start + 1, end)
        return False


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
