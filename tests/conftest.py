"""What all tests share with pytest."""

import gc


def pytest_collection_finish() -> None:
    """Whatever is there by now stays: the collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
