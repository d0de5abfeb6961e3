"""A fixture for folders whose tests fork ranks or compute little: torch takes one thread. Import it in the folder's conftest."""

import pytest
import torch

__all__ = ["one_thread"]


@pytest.fixture(autouse=True)
def one_thread():
    """What is compiled for several threads would wait for them in a forked rank."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
