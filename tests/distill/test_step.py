"""The step's own arithmetic: what is computed for a run does not depend on the runs beside it."""

import pytest
import torch

from harness.distill.step import per_run_norm
from harness.threads import torch_threads


@pytest.mark.parametrize("threads", [1, 2])
def test_norms_do_not_depend_on_the_pack(threads: int) -> None:
    with torch_threads(threads):
        generator = torch.Generator().manual_seed(0)
        shapes = ((4,), (7, 5), (33,), (1000, 3), (70_001, 2))
        for _ in range(20):
            tensors = [torch.randn(6, *shape, generator=generator) for shape in shapes]
            whole = per_run_norm(tensors)
            for rows in ([0], [5], [2, 4], [5, 3, 1]):
                assert torch.equal(per_run_norm([tensor[rows] for tensor in tensors]), whole[rows])
        exact = torch.cat([tensor.flatten(1).double() for tensor in tensors], 1).norm(dim=1)
        torch.testing.assert_close(whole.double(), exact, rtol=1e-5, atol=0)


def test_norms_say_which_run_is_not_finite() -> None:
    tensor = torch.ones(3, 4)
    tensor[1, 2] = float("inf")
    assert torch.isfinite(per_run_norm([tensor, torch.ones(3, 2)])).tolist() == [True, False, True]
