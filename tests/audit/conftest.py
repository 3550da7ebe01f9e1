"""The small lake of the tests of `lake`."""

from tests.lake.conftest import routed

__all__ = ["routed"]
