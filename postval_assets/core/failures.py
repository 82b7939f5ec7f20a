"""The two kinds of failure. Here: the types. Not here: anything that catches or reports them."""

from __future__ import annotations


class PostvalError(Exception):
    """Base of the failures that are told to a person in one readable line."""


class Rejected(PostvalError):  # noqa: N818 - a verdict about an input, named as people say it
    """Final: this input will never be accepted as it is.

    The message says what was wrong, where, and what would be accepted.
    """


class Unavailable(PostvalError):  # noqa: N818
    """Worth retrying: something outside (a disk, a lock, a server) did not answer this time."""
